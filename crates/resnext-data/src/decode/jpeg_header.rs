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
}

impl Header {
    /// Reads the segments as far as the first scan.
    ///
    /// # Errors
    /// [`PhotoError::Unsupported`], which names the kind of a JPEG that is not read; [`PhotoError::Damaged`].
    pub fn read(bytes: &[u8]) -> Result<Self, PhotoError> {
        let mut frame = None;
        for segment in segments(bytes, 2) {
            match segment.marker {
                0xc4 | 0xc8 | 0xcc => {}
                0xc0..=0xcf | 0xf7 if frame.is_none() => {
                    frame = Some(Frame::read(segment.marker, segment.contents)?);
                }
                SCAN => {
                    let Frame { width, height, progressive, sampling } = frame
                        .ok_or_else(|| PhotoError::damaged("the JPEG file has no frame before its pixels"))?;
                    let in_first_scan = segment.contents.first().copied().unwrap_or(0) as usize;
                    return Ok(Header {
                        width,
                        height,
                        progressive,
                        sampling,
                        in_first_scan,
                        data: segment.end,
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

    /// The number of scans.
    pub fn scans(&self, bytes: &[u8]) -> u64 {
        1 + segments(bytes, self.data).filter(|segment| segment.marker == SCAN).count() as u64
    }
}

struct Frame {
    width: u64,
    height: u64,
    progressive: bool,
    sampling: Vec<(u8, u8)>,
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
            1 | 3 | 4 => Ok(Frame { width, height, progressive: marker == 0xc2, sampling }),
            count => refused(&format!("{count} components")),
        }
    }
}
