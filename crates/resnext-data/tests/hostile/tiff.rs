//! TIFF files.

use super::File;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

const SHORT: u16 = 3;
const LONG: u16 = 4;

/// A tag with its type and values.
type Tag = (u16, u16, Vec<u32>);

/// A little-endian file: the pixels' bytes at position 8, then the directory.
fn file(tags: &[Tag], pixels: &[u8]) -> Vec<u8> {
    let mut tail = Vec::new();
    let directory = 8 + pixels.len() + pixels.len() % 2;
    let values_at = directory + 2 + 12 * tags.len() + 4;
    let mut entries = Vec::new();
    for (tag, kind, values) in tags {
        let bytes: Vec<u8> = match *kind {
            SHORT => values.iter().flat_map(|&value| (value as u16).to_le_bytes()).collect(),
            1 => values.iter().map(|&value| value as u8).collect(),
            _ => values.iter().flat_map(|&value| value.to_le_bytes()).collect(),
        };
        let mut value = [0; 4];
        match value.get_mut(..bytes.len()) {
            Some(inline) => inline.copy_from_slice(&bytes),
            None => {
                value = ((values_at + tail.len()) as u32).to_le_bytes();
                tail.extend(bytes);
            }
        }
        let count = (values.len() as u32).to_le_bytes();
        entries.extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count, &value].concat());
    }
    let mut out = [b"II\x2a\0", &(directory as u32).to_le_bytes()[..], pixels].concat();
    out.resize(directory, 0);
    out.extend((tags.len() as u16).to_le_bytes());
    [out, entries, vec![0; 4], tail].concat()
}

/// The tags of a grey image of 6×5 pixels in one strip.
fn tags() -> Vec<Tag> {
    vec![
        (256, SHORT, vec![6]),
        (257, SHORT, vec![5]),
        (258, SHORT, vec![8]),
        (259, SHORT, vec![1]),
        (262, SHORT, vec![1]),
        (273, LONG, vec![8]),
        (277, SHORT, vec![1]),
        (278, SHORT, vec![5]),
        (279, LONG, vec![30]),
    ]
}

/// That image with other tags: a tag of the same number is replaced, one without values removed.
fn with(changes: &[(u16, u16, &[u32])]) -> Vec<u8> {
    file(&changed(changes), &[100; 30])
}

fn changed(changes: &[(u16, u16, &[u32])]) -> Vec<Tag> {
    let mut all = tags();
    all.retain(|(tag, ..)| changes.iter().all(|(changed, ..)| changed != tag));
    all.extend(
        changes
            .iter()
            .filter(|change| !change.2.is_empty())
            .map(|&(tag, kind, values)| (tag, kind, values.to_vec())),
    );
    all.sort_by_key(|(tag, ..)| *tag);
    all
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// The image in a compression, with these bytes for its strip.
fn packed(compression: u32, bytes: &[u8]) -> Vec<u8> {
    file(&changed(&[(259, SHORT, &[compression]), (279, LONG, &[bytes.len() as u32])]), bytes)
}

pub fn files() -> Vec<File> {
    let whole = with(&[]);
    let directory = u32::from_le_bytes([whole[4], whole[5], whole[6], whole[7]]) as usize;
    let set = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let next = set(directory + 2 + 12 * 9, &(directory as u32).to_le_bytes());
    let noise: Vec<u8> = (0..200).map(|i: u32| (i * i * 37 % 251) as u8).collect();
    let big = |offset: u64, count: u64| {
        [b"II\x2b\0\x08\0\0\0", &offset.to_le_bytes()[..], &count.to_le_bytes(), &[0; 60]].concat()
    };
    let same_strip: Vec<u32> = vec![8; 4000];
    vec![
        ("tiff", with(&[])),
        ("tiff, its first four bytes", b"II\x2a\0".to_vec()),
        ("tiff of both byte orders", b"IM\x2a\0\x08\0\0\0".to_vec()),
        ("tiff whose directory is its header", set(4, &[0; 4])),
        ("tiff whose directory is behind its end", set(4, &[0xff; 4])),
        ("tiff whose directory is its last byte", set(4, &(whole.len() as u32 - 1).to_le_bytes())),
        ("tiff whose next directory is the same one", next),
        ("tiff with 65535 entries that it lacks", set(directory, &[0xff; 2])),
        ("tiff without entries", set(directory, &[0; 2])),
        ("tiff cut in its directory", whole[..directory + 30].to_vec()),
        ("tiff cut in its pixels", [&whole[..20]].concat()),
        ("tiff without a width", with(&[(256, SHORT, &[])])),
        ("tiff of no columns", with(&[(256, SHORT, &[0])])),
        ("tiff of no rows", with(&[(257, SHORT, &[0])])),
        ("tiff that claims 65535×65535", with(&[(256, LONG, &[65535]), (257, LONG, &[65535])])),
        (
            "tiff that claims 4294967295×4294967295",
            with(&[(256, LONG, &[u32::MAX]), (257, LONG, &[u32::MAX])]),
        ),
        (
            "tiff that claims 4000×4000 and has 30 pixels",
            with(&[(256, LONG, &[4000]), (257, LONG, &[4000]), (278, LONG, &[4000])]),
        ),
        (
            "tiff with one strip as all of 4000",
            file(
                &changed(&[
                    (257, LONG, &[4000]),
                    (278, SHORT, &[1]),
                    (273, LONG, &same_strip),
                    (279, LONG, &vec![6; 4000]),
                ]),
                &[100; 30],
            ),
        ),
        ("tiff without strips", with(&[(273, LONG, &[])])),
        ("tiff with too few strips", with(&[(278, SHORT, &[1])])),
        ("tiff with strips of no rows", with(&[(278, SHORT, &[0])])),
        ("tiff with strips of four billion rows", with(&[(278, LONG, &[u32::MAX])])),
        ("tiff whose strip is behind its end", with(&[(273, LONG, &[1 << 30])])),
        ("tiff whose strip is too short", with(&[(279, LONG, &[7])])),
        ("tiff whose strip has four billion bytes", with(&[(279, LONG, &[u32::MAX])])),
        ("tiff whose strip has no length", with(&[(279, LONG, &[])])),
        (
            "tiff with tiles of 0×0",
            with(&[(322, SHORT, &[0]), (323, SHORT, &[0]), (324, LONG, &[8]), (325, LONG, &[30])]),
        ),
        (
            "tiff with tiles of 4294967295×4294967295",
            with(&[
                (322, LONG, &[u32::MAX]),
                (323, LONG, &[u32::MAX]),
                (324, LONG, &[8]),
                (325, LONG, &[30]),
            ]),
        ),
        (
            "tiff with a tile of 60000×60000",
            with(&[(322, LONG, &[60000]), (323, LONG, &[60000]), (324, LONG, &[8]), (325, LONG, &[30])]),
        ),
        (
            "tiff with tiles of 1×1 that it lacks",
            with(&[(322, SHORT, &[1]), (323, SHORT, &[1]), (324, LONG, &[8]), (325, LONG, &[30])]),
        ),
        ("tiff of 65535 samples", with(&[(277, SHORT, &[65535])])),
        ("tiff of no samples", with(&[(277, SHORT, &[0])])),
        ("tiff of 3 bits", with(&[(258, SHORT, &[3])])),
        ("tiff of 32 bits", with(&[(258, SHORT, &[32])])),
        ("tiff of unequal bits", with(&[(258, SHORT, &[8, 8, 16]), (277, SHORT, &[3]), (262, SHORT, &[2])])),
        ("tiff of floating-point samples", with(&[(258, SHORT, &[32]), (339, SHORT, &[3])])),
        ("tiff of signed samples", with(&[(339, SHORT, &[2])])),
        ("tiff of samples of format 77", with(&[(339, SHORT, &[77])])),
        ("tiff of colours of kind 99", with(&[(262, SHORT, &[99])])),
        ("tiff, a camera's raw file", with(&[(262, SHORT, &[32803])])),
        ("tiff of a palette that it lacks", with(&[(262, SHORT, &[3])])),
        ("tiff with an index behind its palette", with(&[(262, SHORT, &[3]), (320, SHORT, &[0xff00; 6])])),
        ("tiff of inks other than CMYK", with(&[(262, SHORT, &[5]), (277, SHORT, &[4]), (332, SHORT, &[2])])),
        (
            "tiff of YCbCr with subsampling 3×0",
            with(&[(262, SHORT, &[6]), (277, SHORT, &[3]), (530, SHORT, &[3, 0])]),
        ),
        ("tiff with predictor 9", with(&[(317, SHORT, &[9])])),
        ("tiff with 40 extra samples", with(&[(338, SHORT, &[0; 40])])),
        ("tiff of compression 0", packed(0, &[100; 30])),
        ("tiff of Zstandard", packed(50000, &noise)),
        ("tiff of a fax of group 3", packed(3, &noise)),
        (
            "tiff of a fax of group 4 of noise",
            file(&changed(&[(258, SHORT, &[1]), (259, SHORT, &[4]), (279, LONG, &[200])]), &noise),
        ),
        ("tiff of old JPEG", packed(6, &noise)),
        ("tiff of JPEG of noise", packed(7, &noise)),
        ("tiff of LZW of noise", packed(5, &noise)),
        ("tiff of PackBits of noise", packed(32773, &noise)),
        ("tiff of PackBits that ends early", packed(32773, &[0x81, 100])),
        ("tiff of Deflate of noise", packed(8, &noise)),
        ("tiff of Deflate that is a bomb", packed(8, &zlib(&vec![100; 16 << 20]))),
        ("tiff of Deflate that ends early", packed(8, &zlib(&[100; 7]))),
        ("tiff with its bits reversed beyond its end", with(&[(266, SHORT, &[2]), (279, LONG, &[u32::MAX])])),
        (
            "tiff of planes that it lacks",
            with(&[(262, SHORT, &[2]), (277, SHORT, &[3]), (258, SHORT, &[8; 3]), (284, SHORT, &[2])]),
        ),
        ("tiff with orientation 6", with(&[(274, SHORT, &[6])])),
        ("tiff with orientation 300", with(&[(274, SHORT, &[300])])),
        ("tiff whose width is a text", with(&[(256, 2, &[6])])),
        ("bigtiff whose directory is behind its end", big(u64::MAX, 1)),
        ("bigtiff with 2⁶⁴ - 1 entries", big(16, u64::MAX)),
        ("tiff of noise behind its header", [&b"II\x2a\0\x08\0\0\0"[..], &noise].concat()),
    ]
}
