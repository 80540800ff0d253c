//! PNG files.

use super::File;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A chunk with its checksum.
pub fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb88320 } else { crc >> 1 };
    let crc = !body.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ byte as u32, |crc, _| step(crc)));
    [&(data.len() as u32).to_be_bytes(), &body[..], &crc.to_be_bytes()].concat()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A header: width, height, bits per sample, colour type, interlacing.
fn header(width: u32, height: u32, depth: u8, colour: u8, interlaced: u8) -> Vec<u8> {
    let sizes = [width.to_be_bytes(), height.to_be_bytes()].concat();
    chunk(b"IHDR", &[&sizes[..], &[depth, colour, 0, 0, interlaced]].concat())
}

fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
    [SIGNATURE, &chunks.concat()].concat()
}

/// Rows of one value, each behind the number of its filter.
fn rows(width: usize, height: usize, value: u8) -> Vec<u8> {
    let row = [vec![0], vec![value; width]].concat();
    row.repeat(height)
}

/// A grey image of 6×5 pixels of value 100, with other chunks before its pixels.
pub fn grey(before: &[Vec<u8>]) -> Vec<u8> {
    let pixels = chunk(b"IDAT", &zlib(&rows(6, 5, 100)));
    file(&[vec![header(6, 5, 8, 0, 0)], before.to_vec(), vec![pixels, chunk(b"IEND", &[])]].concat())
}

/// A directory of EXIF with one entry: tag, type, count and value.
pub fn exif(tag: u16, kind: u16, count: u32, value: u32) -> Vec<u8> {
    let entry =
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat();
    [&b"II\x2a\0\x08\0\0\0\x01\0"[..], &entry, &[0; 4]].concat()
}

pub fn files() -> Vec<File> {
    let end = chunk(b"IEND", &[]);
    let image = |header: Vec<u8>, data: Vec<u8>| file(&[header, chunk(b"IDAT", &data), end.clone()]);
    let changed = |at: usize, byte: u8| {
        let mut bytes = grey(&[]);
        bytes[at] = byte;
        bytes
    };
    let pixels = zlib(&rows(6, 5, 100));
    let huge = [&[0x7f, 0xff, 0xff, 0xff][..], b"tEXt", &[b'a'; 20]].concat();
    let behind = |more: &[u8]| [&grey(&[])[..], more].concat();
    let palette = |colours: usize| chunk(b"PLTE", &[9, 99, 199].repeat(colours));
    let indexed = |before: &[Vec<u8>], value: u8| {
        let data = chunk(b"IDAT", &zlib(&rows(6, 5, value)));
        file(&[vec![header(6, 5, 8, 3, 0)], before.to_vec(), vec![data, end.clone()]].concat())
    };
    let bomb = zlib(&vec![0; 16 << 20]);
    vec![
        ("png, the signature alone", SIGNATURE.to_vec()),
        ("png, the signature as a mail program changes it", [b"\x89PNG\n\x1a\n", &grey(&[])[8..]].concat()),
        ("png without a header", file(&[chunk(b"IDAT", &pixels), end.clone()])),
        ("png that ends within its header", grey(&[])[..20].to_vec()),
        ("png of no columns", image(header(0, 5, 8, 0, 0), pixels.clone())),
        ("png of no rows", image(header(6, 0, 8, 0, 0), pixels.clone())),
        ("png that claims 65535×65535", image(header(65535, 65535, 8, 0, 0), pixels.clone())),
        ("png that claims 4294967295×1", image(header(u32::MAX, 1, 8, 0, 0), pixels.clone())),
        (
            "png that claims 2147483647×2147483647",
            image(header(i32::MAX as u32, i32::MAX as u32, 16, 6, 1), pixels.clone()),
        ),
        ("png that claims 16384×16384 of 16 bits", image(header(16384, 16384, 16, 6, 0), pixels.clone())),
        ("png that claims 4000×4000 and has 30 pixels", image(header(4000, 4000, 8, 2, 0), pixels.clone())),
        ("png of 3 bits", image(header(6, 5, 3, 0, 0), pixels.clone())),
        ("png of colour type 5", image(header(6, 5, 8, 5, 0), pixels.clone())),
        ("png of interlacing 7", image(header(6, 5, 8, 0, 7), pixels.clone())),
        ("png, interlaced, with the rows of one that is not", image(header(6, 5, 8, 0, 1), pixels.clone())),
        ("png with filter 9", image(header(6, 5, 8, 0, 0), zlib(&[9, 1, 1, 1, 1, 1, 1].repeat(5)))),
        ("png with fewer rows than it says", image(header(6, 5, 8, 0, 0), zlib(&rows(6, 3, 100)))),
        ("png with more rows than it says", image(header(6, 5, 8, 0, 0), zlib(&rows(6, 500, 100)))),
        ("png whose pixels are a zip bomb", image(header(6, 5, 8, 0, 0), bomb.clone())),
        (
            "png whose pixels are noise",
            image(header(6, 5, 8, 0, 0), (0..99).map(|i| (i * 37) as u8).collect()),
        ),
        ("png whose pixels are cut", image(header(6, 5, 8, 0, 0), pixels[..pixels.len() / 2].to_vec())),
        ("png without pixels", file(&[header(6, 5, 8, 0, 0), end.clone()])),
        ("png with an empty chunk of pixels", image(header(6, 5, 8, 0, 0), Vec::new())),
        ("png that ends at once", file(std::slice::from_ref(&end))),
        ("png with two headers", grey(&[header(60, 50, 8, 0, 0)])),
        ("png with a chunk of 2147483647 bytes", file(&[header(6, 5, 8, 0, 0), huge])),
        ("png with a wrong checksum of its header", changed(8 + 8 + 13, 0)),
        ("png with a wrong checksum of its pixels", changed(grey(&[]).len() - 13, 0)),
        ("png with a chunk of an unknown, critical kind", grey(&[chunk(b"ABCD", b"what?")])),
        (
            "png with a compressed text that is a bomb",
            grey(&[chunk(b"zTXt", &[b"a\0\0", &bomb[..]].concat())]),
        ),
        (
            "png with a colour profile that is a bomb",
            grey(&[chunk(b"iCCP", &[b"a\0\0", &bomb[..]].concat())]),
        ),
        ("png with EXIF that turns it", grey(&[chunk(b"eXIf", &exif(274, 3, 1, 6))])),
        ("png with EXIF of orientation 9", grey(&[chunk(b"eXIf", &exif(274, 3, 1, 9))])),
        ("png with EXIF of four billion values", grey(&[chunk(b"eXIf", &exif(274, 3, u32::MAX, 6))])),
        (
            "png with EXIF whose directory is its own header",
            grey(&[chunk(b"eXIf", b"II\x2a\0\0\0\0\0\x01\0")]),
        ),
        (
            "png with EXIF whose directory is far behind it",
            grey(&[chunk(b"eXIf", b"II\x2a\0\xff\xff\xff\x7f")]),
        ),
        ("png with a palette", indexed(&[palette(4)], 3)),
        ("png with an index behind its palette", indexed(&[palette(4)], 200)),
        ("png without its palette", indexed(&[], 0)),
        ("png with a palette of 300 colours", indexed(&[palette(300)], 0)),
        ("png with more transparencies than colours", indexed(&[palette(2), chunk(b"tRNS", &[0; 200])], 0)),
        ("png of an animation of four billion frames", grey(&[chunk(b"acTL", &[0xff; 8])])),
        ("png of Apple's own kind", file(&[chunk(b"CgBI", &[0; 4]), header(6, 5, 8, 0, 0)])),
        ("png with a film behind its end", behind(b"a film, say")),
        ("png with another png behind its end", behind(&grey(&[]))),
        (
            "png of noise behind its header",
            behind(&[])[..33].iter().copied().chain((0..200).map(|i| (i * 91) as u8)).collect(),
        ),
    ]
}
