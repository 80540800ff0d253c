//! The header of a JPEG file: everything before its pixels.

use super::error::PhotoError;
use super::segments::{END, SCAN, segments};

/// The frame and the first scan of a JPEG file.
pub struct Header {
    /// Width in pixels.
    pub width: u64,
    /// Height in pixels.
    pub height: u64,
    /// Whether scans refine each other, so that all coefficients are in memory until the last.
    pub progressive: bool,
    /// The components' sampling factors, across and down.
    pub sampling: Vec<(u8, u8)>,
    /// The components of the first scan.
    pub in_first_scan: usize,
    /// Where the first scan's data begin.
    pub data: usize,
    /// Whether the scan may have restart markers.
    pub restarts: bool,
    /// Whether no decoder can doubt that the components are grey, or YCbCr: identifiers, JFIF and Adobe's segment agree.
    pub agreed_colours: bool,
}

/// The marker of Adobe's segment, which says what the components are.
const ADOBE: u8 = 0xee;
/// The marker of the segment that sets the restart interval.
const RESTARTS: u8 = 0xdd;

impl Header {
    /// Reads the segments as far as the first scan.
    ///
    /// # Errors
    /// [`PhotoError::Unsupported`], which names the kind of a JPEG that is not read; [`PhotoError::Damaged`].
    pub fn read(bytes: &[u8]) -> Result<Self, PhotoError> {
        let (mut frame, mut restarts, mut adobe) = (None, false, false);
        for segment in segments(bytes, 2) {
            match segment.marker {
                0xc4 | 0xc8 | 0xcc => {}
                0xc0..=0xcf | 0xf7 if frame.is_none() => {
                    frame = Some(Frame::read(segment.marker, segment.contents)?);
                }
                RESTARTS => restarts |= segment.contents.iter().any(|&byte| byte != 0),
                // Of 1 in its last byte, the components are YCbCr, as without it.
                ADOBE if segment.contents.starts_with(b"Adobe") => {
                    adobe |= segment.contents.get(11) != Some(&1)
                }
                SCAN => {
                    let Frame { width, height, progressive, sampling, usual_names } = frame
                        .ok_or_else(|| PhotoError::damaged("the JPEG file has no frame before its pixels"))?;
                    let in_first_scan = segment.contents.first().copied().unwrap_or(0) as usize;
                    return Ok(Header {
                        width,
                        height,
                        progressive,
                        sampling,
                        in_first_scan,
                        data: segment.end,
                        restarts,
                        agreed_colours: usual_names && !adobe,
                    });
                }
                END => break,
                _ => {}
            }
        }
        Err(PhotoError::damaged("the JPEG file ends before its pixels"))
    }
}

impl Header {
    /// Whether the sampling is one of those that nearly all encoders write: no subsampling, or chroma with half the
    /// width, the height or both. In a small image, the pixels at the edge, whose chroma is upsampled in different
    /// ways, would matter.
    pub fn is_usual(&self) -> bool {
        const LEAST: u64 = 64;
        if self.width < LEAST || self.height < LEAST {
            return false;
        }
        match self.sampling[..] {
            [luma] => luma == (1, 1),
            [luma, (1, 1), (1, 1)] => matches!(luma, (1 | 2, 1 | 2)),
            _ => false,
        }
    }

    /// The bytes per pixel that all coefficients take.
    pub fn coefficient_bytes(&self) -> f64 {
        let area = |&(h, v): &(u8, u8)| h as f64 * v as f64;
        let h = self.sampling.iter().map(|&(h, _)| h).max().unwrap_or(1) as f64;
        let v = self.sampling.iter().map(|&(_, v)| v).max().unwrap_or(1) as f64;
        2.0 * self.sampling.iter().map(area).sum::<f64>() / (h * v)
    }
}

struct Frame {
    width: u64,
    height: u64,
    progressive: bool,
    sampling: Vec<(u8, u8)>,
    /// Whether the components are one, or three with the identifiers 1, 2 and 3.
    usual_names: bool,
}

impl Frame {
    fn read(marker: u8, contents: &[u8]) -> Result<Self, PhotoError> {
        let refused = |kind: &str| Err(PhotoError::unsupported(format!("a JPEG with {kind}")));
        match marker {
            0xc0..=0xc2 => {}
            0xc3 | 0xcb => return refused("lossless compression"),
            0xf7 => return refused("JPEG-LS compression"),
            0xc9 | 0xca => return refused("arithmetic coding"),
            _ => return refused("hierarchical coding"),
        }
        let [precision, h1, h0, w1, w0, count, components @ ..] = contents else {
            return Err(PhotoError::damaged("the JPEG file's frame is cut short"));
        };
        if *precision != 8 {
            return refused(&format!("{precision} bits per sample"));
        }
        let (width, height) = (u16::from_be_bytes([*w1, *w0]) as u64, u16::from_be_bytes([*h1, *h0]) as u64);
        if height == 0 {
            return refused("its height after the pixels");
        }
        let sampling: Vec<(u8, u8)> =
            components.chunks_exact(3).take(*count as usize).map(|c| (c[1] >> 4, c[1] & 15)).collect();
        let valid = |&(h, v): &(u8, u8)| (1..=4).contains(&h) && (1..=4).contains(&v);
        if sampling.len() != *count as usize || !sampling.iter().all(valid) {
            return Err(PhotoError::damaged("the JPEG file's frame is damaged"));
        }
        match sampling.len() {
            1 | 3 | 4 => {
                let usual_names =
                    sampling.len() == 1 || components.chunks_exact(3).map(|c| c[0]).take(3).eq(1..=3);
                Ok(Frame { width, height, progressive: marker == 0xc2, sampling, usual_names })
            }
            count => refused(&format!("{count} components")),
        }
    }
}
