//! JPEG by libjpeg (MozJPEG's), the decoder that browsers and Pillow use.
//!
//! The functions of C are called directly: the safe crate around them does not tell of damaged data.

use super::colour::cmyk;
use super::error::PhotoError;
use super::guard::caught;
use super::raster::RGB;
use mozjpeg_sys::{
    J_COLOR_SPACE, JWRN_BOGUS_PROGRESSION, JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_MUST_RESYNC,
    jpeg_common_struct, jpeg_create_decompress, jpeg_decompress_struct, jpeg_destroy_decompress,
    jpeg_error_mgr, jpeg_mem_src, jpeg_read_header, jpeg_read_scanlines, jpeg_start_decompress,
    jpeg_std_error,
};
use std::cell::Cell;
use std::marker::PhantomData;
use std::os::raw::{c_int, c_ulong};

thread_local! {
    /// Whether this thread's decoder met damaged data.
    static DAMAGED: Cell<bool> = const { Cell::new(false) };
}

/// Decodes a file of `width`×`height` pixels to RGB, and says whether data were damaged or missing.
///
/// # Errors
/// [`PhotoError::Damaged`] with libjpeg's message.
pub fn decode(bytes: &[u8], width: usize, height: usize) -> Result<(Vec<u8>, bool), PhotoError> {
    DAMAGED.set(false);
    // A fatal error of libjpeg unwinds to here.
    let pixels = caught(|| pixels(bytes, width, height));
    let pixels =
        pixels.unwrap_or_else(Err).map_err(|error| PhotoError::damaged(format!("the JPEG file: {error}")))?;
    Ok((pixels, DAMAGED.get()))
}

/// Decodes a file of `size`, width and height, to a picture whose sides are divided by 2, 4 or 8: its width, height and RGB
/// pixels. `None` if libjpeg finds any fault with the file.
pub fn decode_reduced(bytes: &[u8], size: (usize, usize), by: usize) -> Option<(usize, usize, Vec<u8>)> {
    DAMAGED.set(false);
    let (width, height) = (size.0.div_ceil(by), size.1.div_ceil(by));
    let found = caught(|| {
        let mut decoder = Decoder::new(bytes)?;
        decoder.reduce(by);
        rows(decoder, size, (width, height))
    });
    let pixels = found.ok()?.ok()?;
    (!DAMAGED.get()).then_some((width, height, pixels))
}

fn pixels(bytes: &[u8], width: usize, height: usize) -> Result<Vec<u8>, String> {
    rows(Decoder::new(bytes)?, (width, height), (width, height))
}

/// Decodes a file of `size` to (width, height) pixels of RGB.
fn rows(
    mut decoder: Decoder,
    size: (usize, usize),
    (width, height): (usize, usize),
) -> Result<Vec<u8>, String> {
    if decoder.size() != size {
        return Err("it gives its size twice".into());
    }
    let inks = decoder.start();
    if decoder.output_size() != (width, height) {
        return Err("it has another size than expected".into());
    }
    let mut pixels = vec![0u8; width * height * RGB];
    let mut inked = vec![0u8; if inks { width * 4 } else { 0 }];
    for out in pixels.chunks_exact_mut(width * RGB) {
        if !inks {
            decoder.read_row(out)?;
            continue;
        }
        decoder.read_row(&mut inked)?;
        for (ink, out) in inked.as_chunks().0.iter().zip(out.chunks_exact_mut(RGB)) {
            // Files store the inks inverted, as Adobe's programs do.
            out.copy_from_slice(&cmyk(ink.map(|value: u8| 255 - value)));
        }
    }
    Ok(pixels)
}

/// libjpeg's state. Its addresses are kept by libjpeg, therefore they are on the heap.
struct Decoder<'a> {
    state: Box<jpeg_decompress_struct>,
    _manager: Box<jpeg_error_mgr>,
    /// The bytes per row of the output, once decoding has started.
    row: usize,
    /// libjpeg reads these by a pointer of its own.
    _bytes: PhantomData<&'a [u8]>,
}

impl<'a> Decoder<'a> {
    /// Reads the header. A fatal error unwinds, here and in the other functions.
    fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let mut manager = Box::new(error_manager());
        // SAFETY: zero is valid for all fields, which are numbers, pointers, options and enums that begin at 0.
        let mut state: Box<jpeg_decompress_struct> = Box::new(unsafe { std::mem::zeroed() });
        state.common.err = &mut *manager;
        let mut decoder = Decoder { state, _manager: manager, row: 0, _bytes: PhantomData };
        // SAFETY: state and manager are on the heap and live as long as the decoder, whose drop destroys what is
        // created here, even if it was created only in part; the bytes outlive the decoder by its lifetime.
        let found = unsafe {
            jpeg_create_decompress(&mut *decoder.state);
            jpeg_mem_src(&mut decoder.state, bytes.as_ptr(), bytes.len() as c_ulong);
            jpeg_read_header(&mut decoder.state, 1)
        };
        if found == 1 { Ok(decoder) } else { Err("it has no picture".into()) }
    }

    /// Width and height in pixels.
    fn size(&self) -> (usize, usize) {
        (self.state.image_width as usize, self.state.image_height as usize)
    }

    /// Divides the sides of the picture by 1, 2, 4 or 8, before decoding has started.
    fn reduce(&mut self, by: usize) {
        (self.state.scale_num, self.state.scale_denom) = (1, by as u32);
    }

    /// Width and height of what is decoded, once decoding has started.
    fn output_size(&self) -> (usize, usize) {
        (self.state.output_width as usize, self.state.output_height as usize)
    }

    /// Starts decoding. Returns whether rows are inks, four bytes per pixel, or else RGB.
    fn start(&mut self) -> bool {
        let inks = matches!(self.state.jpeg_color_space, J_COLOR_SPACE::JCS_CMYK | J_COLOR_SPACE::JCS_YCCK);
        self.state.out_color_space = if inks { J_COLOR_SPACE::JCS_CMYK } else { J_COLOR_SPACE::JCS_RGB };
        // SAFETY: the header was read, and all of the file is in memory, so libjpeg never waits for more.
        unsafe { jpeg_start_decompress(&mut self.state) };
        self.row = self.state.output_width as usize * if inks { 4 } else { RGB };
        inks
    }

    /// Decodes the next row.
    fn read_row(&mut self, row: &mut [u8]) -> Result<(), String> {
        assert!(self.row > 0 && row.len() == self.row, "a row is {} bytes long", self.row);
        let mut pointer = row.as_mut_ptr();
        // SAFETY: libjpeg writes one row of `self.row` bytes, the output's width times its samples per pixel, which
        // is the length of `row`. It writes none, and warns, if there are no more rows.
        match unsafe { jpeg_read_scanlines(&mut self.state, &mut pointer, 1) } {
            1 => Ok(()),
            _ => Err("it has fewer rows than it says".into()),
        }
    }
}

impl Drop for Decoder<'_> {
    fn drop(&mut self) {
        // SAFETY: the state was created by `jpeg_create_decompress`, or is still zero, which libjpeg allows.
        unsafe { jpeg_destroy_decompress(&mut self.state) }
    }
}

/// libjpeg's standard manager, except that a fatal error unwinds instead of ending the process, and that warnings are
/// noted instead of printed.
fn error_manager() -> jpeg_error_mgr {
    // SAFETY: the struct is plain data of C, for which zero is valid, and `jpeg_std_error` fills in its functions.
    let mut manager = unsafe {
        let mut manager = std::mem::zeroed();
        jpeg_std_error(&mut manager);
        manager
    };
    manager.error_exit = Some(unwind);
    manager.emit_message = Some(note);
    manager
}

/// Ends decoding with libjpeg's message.
extern "C-unwind" fn unwind(common: &mut jpeg_common_struct) {
    // SAFETY: libjpeg calls this with the manager that it was given, which outlives the decoder.
    let message = unsafe { common.err.as_ref() }.and_then(|manager| {
        let mut buffer = [0u8; 80];
        let format = manager.format_message?;
        // SAFETY: the standard function writes a C string of at most 80 bytes into the buffer, which its type in
        // Rust calls shared. The buffer is ours alone, and is read only afterwards.
        unsafe {
            let format: unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &mut [u8; 80]) =
                std::mem::transmute(format);
            format(common, &mut buffer);
        }
        let text = buffer.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    });
    // Unlike a panic, this calls no hook and prints nothing.
    std::panic::resume_unwind(Box::new(message.unwrap_or_else(|| "a fatal error of libjpeg".into())))
}

/// Notes a warning about the pixels' data.
extern "C-unwind" fn note(common: &mut jpeg_common_struct, level: c_int) {
    // SAFETY: as in `unwind`.
    let code = unsafe { common.err.as_ref() }.map_or(0, |manager| manager.msg_code);
    let damage = [JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_MUST_RESYNC, JWRN_BOGUS_PROGRESSION];
    if level < 0 && damage.iter().any(|&damage| damage as c_int == code) {
        DAMAGED.set(true);
    }
}
