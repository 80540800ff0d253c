//! The memory that decoding takes, against the limit.

use resnext_data::{Photo, PhotoError};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts the bytes that each thread holds.
struct Counting;

fn count(more: usize, less: usize) {
    let held = (HELD.get() + more).saturating_sub(less);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call is passed on to the system's allocator as it is; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's own.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's own.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's own.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What decoders hold whatever the image's size: tables and windows.
const CONSTANT: usize = 400_000;

/// The bytes that a file needs by its own account are enough, and are not exceeded.
fn check(name: &str, bytes: &[u8]) {
    let needed = match Photo::decode_within(bytes, 0) {
        Err(PhotoError::Size { needed, .. }) => needed,
        other => panic!("{name}: {:?}", other.map(|photo| photo.width())),
    };
    assert!(matches!(Photo::decode_within(bytes, needed - 1), Err(PhotoError::Size { .. })), "{name}");
    let before = HELD.get();
    PEAK.set(before);
    let photo = Photo::decode_within(bytes, needed).unwrap();
    let peak = PEAK.get() - before + bytes.len();
    assert!(peak <= needed as usize + CONSTANT, "{name}: {peak} bytes, not {needed}");
    assert!(
        photo.pixels().len() * 4 > (needed as usize).saturating_sub(2 * bytes.len()),
        "{name}: {needed} is too much"
    );
}

#[test]
fn decoding_takes_no_more_memory_than_it_checks_for() {
    let folder = tempfile::tempdir().unwrap();
    // At most 125 colours, so that writing a GIF need not look for a palette.
    let pixels = (0..800 * 600 * 3).map(|i: usize| (i * i / 7 % 5) as u8 * 50).collect();
    let photo = Photo::new(800, 600, pixels).unwrap();
    let written = |ending: &str| {
        let path = folder.path().join("photo").with_extension(ending);
        photo.save(&path).unwrap();
        std::fs::read(path).unwrap()
    };
    for ending in ["jpg", "png", "gif", "webp", "bmp", "tiff", "ppm", "qoi"] {
        check(ending, &written(ending));
    }
    // Turned by a quarter: a JPEG with an EXIF segment.
    let jpeg = written("jpg");
    let exif = b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let turned = [&jpeg[..2], exif, &jpeg[2..]].concat();
    assert_eq!(Photo::decode(&turned).unwrap().width(), 600);
    check("turned jpg", &turned);
}

/// A PNG of 800×600 pixels of this colour type and depth, with more than one row per filter and no picture to speak of.
fn png(colour: png::ColorType, depth: png::BitDepth) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, 800, 600);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    encoder.set_compression(png::Compression::Fast);
    let len = colour.samples() * if depth == png::BitDepth::Sixteen { 2 } else { 1 } * 800 * 600;
    let pixels: Vec<u8> = (0..len).map(|i| (i / 3 % 251) as u8).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    out
}

/// Samples beside the three that a photo keeps, and wider ones, are never in memory for all pixels.
#[test]
fn transparency_and_sixteen_bits_take_no_more_memory_than_is_checked_for() {
    use png::BitDepth::{Eight, Sixteen};
    use png::ColorType::{Grayscale, GrayscaleAlpha, Rgb, Rgba};
    for (colour, depth) in
        [(Rgba, Eight), (Rgba, Sixteen), (Rgb, Sixteen), (GrayscaleAlpha, Sixteen), (Grayscale, Eight)]
    {
        check(&format!("{colour:?} {depth:?}"), &png(colour, depth));
    }
    let samples =
        |channels: usize| (0..800 * 600 * channels).map(|i| (i / 5 % 251) as u8).collect::<Vec<_>>();
    let folder = tempfile::tempdir().unwrap();
    for ending in ["webp", "tiff", "bmp", "qoi", "pam"] {
        let path = folder.path().join("photo").with_extension(ending);
        image::save_buffer(&path, &samples(4), 800, 600, image::ColorType::Rgba8).unwrap();
        check(&format!("{ending} with alpha"), &std::fs::read(path).unwrap());
    }
}

/// Files with one scan per component, and progressive ones, keep all coefficients.
#[test]
fn coefficients_count() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (file, least) in [("cases/noninterleaved_22.jpg", 3 + 3), ("files/444-progressive.jpg", 3 + 6)] {
        let bytes = std::fs::read(golden.join(file)).unwrap();
        let Err(PhotoError::Size { width, height, needed, .. }) = Photo::decode_within(&bytes, 0) else {
            panic!("{file}");
        };
        assert!(needed >= least * width * height, "{file}: {needed}");
    }
}
