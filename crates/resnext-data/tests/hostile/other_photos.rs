//! GIF, BMP, WebP, ICO, QOI and PNM files, and files of formats that are not read.

use super::File;
use super::png::grey;

/// A GIF of this canvas, with the bytes that follow its global palette of two colours.
fn gif(width: u16, height: u16, rest: &[u8]) -> Vec<u8> {
    let sizes = [width.to_le_bytes(), height.to_le_bytes()].concat();
    [b"GIF89a", &sizes[..], &[0x80, 0, 0], &[10, 20, 30, 200, 210, 220], rest].concat()
}

/// A frame of a GIF: its place, its size, and its data behind the size of its codes.
fn gif_frame(left: u16, top: u16, width: u16, height: u16, bits: u8, data: &[u8]) -> Vec<u8> {
    let place: Vec<u8> = [left, top, width, height].iter().flat_map(|value| value.to_le_bytes()).collect();
    [&[0x2c][..], &place, &[0, bits, data.len() as u8], data, &[0, 0x3b]].concat()
}

/// Codes of three bits, and of four from the fifth on, for 4 pixels of colour 1: clear, 1, 1, 1, 1, end.
const FOUR_PIXELS: &[u8] = &[0x4c, 0x12, 0x05];

/// A BMP of 24 bits with this width, height, number of planes, bits, compression and colours, and 2×2 pixels.
fn bmp(width: i32, height: i32, planes: u16, bits: u16, compression: u32, colours: u32) -> Vec<u8> {
    let header = [
        &40u32.to_le_bytes()[..],
        &width.to_le_bytes(),
        &height.to_le_bytes(),
        &planes.to_le_bytes(),
        &bits.to_le_bytes(),
        &compression.to_le_bytes(),
        &[0; 12],
        &colours.to_le_bytes(),
        &[0; 4],
    ]
    .concat();
    let pixels = [1, 2, 3, 4, 5, 6, 0, 0].repeat(2);
    [b"BM", &[70, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0][..], &header, &pixels].concat()
}

fn webp(chunks: &[u8]) -> Vec<u8> {
    [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", chunks].concat()
}

/// A chunk of WebP that says it has `len` bytes.
fn riff(kind: &[u8; 4], len: u32, data: &[u8]) -> Vec<u8> {
    [&kind[..], &len.to_le_bytes(), data].concat()
}

/// An ICO with one entry for `data`, which it says has `len` bytes at `offset`.
fn ico(count: u16, len: u32, offset: u32, data: &[u8]) -> Vec<u8> {
    let entry = [&[6, 5, 0, 0, 1, 0, 32, 0][..], &len.to_le_bytes(), &offset.to_le_bytes()].concat();
    [&[0, 0, 1, 0][..], &count.to_le_bytes(), &entry, data].concat()
}

fn qoi(width: u32, height: u32, channels: u8, data: &[u8]) -> Vec<u8> {
    [b"qoif", &width.to_be_bytes()[..], &height.to_be_bytes(), &[channels, 0], data].concat()
}

pub fn files() -> Vec<File> {
    let png = grey(&[]);
    let len = png.len() as u32;
    let canvas = [&[10, 0, 0, 0][..], &[0xff; 6]].concat();
    let vp8l = |bits: u32| [&[0x2f][..], &bits.to_le_bytes(), &[0x55; 20]].concat();
    let named: [(&'static str, &[u8]); 27] = [
        ("an empty file", b""),
        ("one byte", b"\0"),
        ("a thousand zeros", &[0; 1000]),
        ("a text", b"Dear diary, today I am a photo."),
        ("a web page", b"<!DOCTYPE html><html><body>Log in</body></html>"),
        ("a pointer of git lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        ("a drawing behind a prolog", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("a pfm", b"PF\n2 2\n-1.0\n"),
        ("a dib", b"\x28\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\x18\0"),
        ("an x bitmap", b"#define im_width 8\n#define im_height 1\n"),
        ("a gzip archive", b"\x1f\x8b\x08\0\0\0\0\0"),
        ("a zip archive", b"PK\x03\x04\x14\0\0\0\0\0"),
        ("a program", b"\x7fELF\x02\x01\x01\0"),
        ("a heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("an avif", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1A"),
        ("a film", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"),
        ("a box of four billion bytes", b"\xff\xff\xff\xffftyp"),
        ("a jpeg xl", b"\xff\x0a\xfa\x1f"),
        ("a jpeg 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
        ("a drawing", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("a document", b"%PDF-1.7"),
        ("a photoshop document", b"8BPS\0\x01"),
        ("an exr", b"v/1\x01\x02\0\0\0"),
        ("a dds", b"DDS |\0\0\0"),
        ("a fits", b"SIMPLE  =                    T"),
        ("a djvu", b"AT&TFORM"),
        ("a raw file of fuji", b"FUJIFILMCCD-RAW 0201"),
    ];
    let mut files: Vec<File> = named.into_iter().map(|(name, bytes)| (name, bytes.to_vec())).collect();
    files.extend([
        ("gif", gif(2, 2, &gif_frame(0, 0, 2, 2, 2, FOUR_PIXELS))),
        ("gif, its header alone", gif(2, 2, &[])),
        ("gif cut in its header", b"GIF89a\x02\0".to_vec()),
        ("gif of no pixels", gif(0, 0, &gif_frame(0, 0, 2, 2, 2, FOUR_PIXELS))),
        ("gif of 65535×65535", gif(65535, 65535, &gif_frame(0, 0, 2, 2, 2, FOUR_PIXELS))),
        ("gif with a frame beyond its canvas", gif(2, 2, &gif_frame(60000, 60000, 2, 2, 2, FOUR_PIXELS))),
        ("gif with a frame of no pixels", gif(2, 2, &gif_frame(0, 0, 0, 0, 2, FOUR_PIXELS))),
        ("gif with a frame of part of its canvas", gif(8, 8, &gif_frame(0, 0, 2, 2, 2, FOUR_PIXELS))),
        ("gif with codes of 13 bits", gif(2, 2, &gif_frame(0, 0, 2, 2, 13, FOUR_PIXELS))),
        ("gif with too few pixels", gif(2, 2, &gif_frame(0, 0, 2, 2, 2, &[0x4c]))),
        ("gif with an unknown block", gif(2, 2, &[0x77; 10])),
        ("gif without an end", gif(2, 2, &gif_frame(0, 0, 2, 2, 2, FOUR_PIXELS)[..15])),
        ("bmp", bmp(2, 2, 1, 24, 0, 0)),
        ("bmp, its first two bytes", b"BM".to_vec()),
        ("bmp cut in its header", bmp(2, 2, 1, 24, 0, 0)[..30].to_vec()),
        ("bmp from the top down", bmp(2, -2, 1, 24, 0, 0)),
        ("bmp of no columns", bmp(0, 2, 1, 24, 0, 0)),
        ("bmp of negative width", bmp(-2, 2, 1, 24, 0, 0)),
        ("bmp of the smallest height", bmp(2, i32::MIN, 1, 24, 0, 0)),
        ("bmp of 2147483647×2147483647", bmp(i32::MAX, i32::MAX, 1, 24, 0, 0)),
        ("bmp that claims 4000×4000 and has 4 pixels", bmp(4000, 4000, 1, 24, 0, 0)),
        ("bmp of no planes", bmp(2, 2, 0, 24, 0, 0)),
        ("bmp of 3 bits", bmp(2, 2, 1, 3, 0, 0)),
        ("bmp of 8 bits and four billion colours", bmp(2, 2, 1, 8, 0, u32::MAX)),
        ("bmp of run lengths of noise", bmp(2, 2, 1, 8, 1, 1)),
        ("bmp of compression 99", bmp(2, 2, 1, 24, 99, 0)),
        ("bmp of JPEG", bmp(2, 2, 1, 0, 4, 0)),
        ("webp, its header alone", webp(&[])),
        ("webp of four billion bytes", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff".to_vec()),
        ("webp of an unknown chunk", webp(&riff(b"ABCD", 4, b"what"))),
        ("webp, lossy, of noise", webp(&riff(b"VP8 ", 30, &[0x9d; 30]))),
        ("webp, lossy, of no bytes", webp(&riff(b"VP8 ", 0, &[]))),
        ("webp, lossless, of noise", webp(&riff(b"VP8L", 25, &vp8l(0)))),
        ("webp, lossless, of 16384×16384 of noise", webp(&riff(b"VP8L", 25, &vp8l(0x0fff_ffff)))),
        ("webp of a canvas of 16777216×16777216", webp(&riff(b"VP8X", 10, &canvas))),
        ("webp of a canvas alone", webp(&riff(b"VP8X", 10, &[0, 0, 0, 0, 5, 0, 0, 4, 0, 0]))),
        ("webp of an animation without frames", webp(&riff(b"VP8X", 10, &[2, 0, 0, 0, 5, 0, 0, 4, 0, 0]))),
        ("ico", ico(1, len, 22, &png)),
        ("ico of no pictures", ico(0, 0, 0, &[])),
        ("ico of 65535 pictures that it lacks", ico(65535, len, 22, &png)),
        ("ico whose picture is behind its end", ico(1, len, u32::MAX, &png)),
        ("ico whose picture is its header", ico(1, len, 0, &png)),
        ("ico whose picture has no bytes", ico(1, 0, 22, &png)),
        ("ico whose picture is noise", ico(1, 60, 22, &[0x9d; 60])),
        ("qoi", qoi(2, 2, 3, &[0xfe, 9, 99, 199, 0xc2, 0, 0, 0, 0, 0, 0, 0, 1])),
        ("qoi of no pixels", qoi(0, 0, 3, &[0; 8])),
        ("qoi of 4294967295×4294967295", qoi(u32::MAX, u32::MAX, 4, &[0; 8])),
        ("qoi of 7 channels", qoi(2, 2, 7, &[0xfe, 9, 99, 199, 0xc2])),
        ("qoi that ends early", qoi(200, 200, 3, &[0xfe, 9, 99, 199])),
        ("ppm", b"P6 2 1 255 \x09\x63\xc7\x09\x63\xc7".to_vec()),
        ("ppm of words", b"P3 two one 255".to_vec()),
        ("ppm of no pixels", b"P6 0 0 255 ".to_vec()),
        ("ppm of a negative width", b"P6 -2 1 255 abcdef".to_vec()),
        ("ppm of 10²⁰ columns", b"P6 100000000000000000000 1 255 abc".to_vec()),
        ("ppm of 65535×65535", b"P6 65535 65535 255 abc".to_vec()),
        ("ppm of largest value 0", b"P6 2 1 0 abcdef".to_vec()),
        ("ppm of largest value 99999", b"P6 2 1 99999 abcdef".to_vec()),
        ("ppm that ends early", b"P6 200 100 255 abc".to_vec()),
        ("ppm of a comment without an end", b"P6 # a comment".to_vec()),
        ("ppm, its first two bytes", b"P6".to_vec()),
        ("pbm that ends early", b"P4 64 64 ab".to_vec()),
        ("pgm of a value above its largest", b"P5 2 1 3 \x01\xff".to_vec()),
        (
            "pam of an unknown kind",
            b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE ODD\nENDHDR\nabcdef".to_vec(),
        ),
        ("pam of depth 0", b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 0\nMAXVAL 255\nENDHDR\n".to_vec()),
        ("pam without an end of its header", b"P7\nWIDTH 2\nHEIGHT 1\n".to_vec()),
    ]);
    files
}
