//! JPEG files.

use super::File;
use super::png::exif;
use std::path::Path;

/// A segment: its marker and its contents.
fn segment(marker: u8, contents: &[u8]) -> Vec<u8> {
    [&[0xff, marker][..], &(contents.len() as u16 + 2).to_be_bytes(), contents].concat()
}

/// A frame of the kind of `marker`: bits, height, width and the sampling factors of its components.
fn frame(marker: u8, bits: u8, height: u16, width: u16, sampling: &[u8]) -> Vec<u8> {
    let components = sampling.iter().enumerate().flat_map(|(i, &factors)| [i as u8 + 1, factors, 0]);
    let sizes = [height.to_be_bytes(), width.to_be_bytes()].concat();
    segment(marker, &[&[bits][..], &sizes, &[sampling.len() as u8], &components.collect::<Vec<_>>()].concat())
}

/// The start of a scan of components 1 to `count`, and some data.
fn scan(count: u8) -> Vec<u8> {
    let components = (1..=count).flat_map(|i| [i, 0]);
    let contents = [&[count][..], &components.collect::<Vec<_>>(), &[0, 63, 0]].concat();
    [segment(0xda, &contents), vec![0x12; 40]].concat()
}

fn file(parts: &[Vec<u8>]) -> Vec<u8> {
    [&[0xff, 0xd8][..], &parts.concat(), &[0xff, 0xd9]].concat()
}

/// A real file of the golden ones.
fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/files").join(name)).unwrap()
}

/// A real file with further segments behind its first two bytes.
fn with(parts: &[Vec<u8>]) -> Vec<u8> {
    let whole = golden("420.jpg");
    [&whole[..2], &parts.concat(), &whole[2..]].concat()
}

fn app1(contents: &[u8]) -> Vec<u8> {
    segment(0xe1, &[b"Exif\0\0", contents].concat())
}

pub fn files() -> Vec<File> {
    let tables = segment(0xdb, &[&[0][..], &[1; 64]].concat());
    // One code of one bit, for value 0.
    let codes = |class: u8| segment(0xc4, &[&[class, 1][..], &[0; 15], &[0]].concat());
    let whole = golden("420.jpg");
    let of = |sampling: &[u8]| file(&[frame(0xc0, 8, 16, 16, sampling), scan(sampling.len() as u8)]);
    let kind = |marker: u8| file(&[frame(marker, 8, 16, 16, &[0x11]), scan(1)]);
    let sized = |height: u16, width: u16| file(&[frame(0xc0, 8, height, width, &[0x11; 3]), scan(3)]);
    let ordinary = [tables.clone(), codes(0), codes(0x10)].concat();
    let length = |length: u16| [&[0xff, 0xd8, 0xff, 0xe0][..], &length.to_be_bytes(), &whole[2..]].concat();
    let progressive = [frame(0xc2, 8, 16000, 16000, &[0x11]), ordinary.clone(), scan(1).repeat(300)].concat();
    let small = [frame(0xc2, 8, 16, 16, &[0x11]), ordinary.clone(), scan(1).repeat(3000)].concat();
    let damaged = |from: usize| {
        let mut bytes = whole.clone();
        bytes[from..from + 40].iter_mut().for_each(|byte| *byte ^= 0x5a);
        bytes
    };
    vec![
        ("jpeg, its first two bytes", vec![0xff, 0xd8]),
        ("jpeg, its first three bytes", vec![0xff, 0xd8, 0xff]),
        ("jpeg that ends at once", file(&[])),
        ("jpeg without a frame", file(&[scan(1)])),
        ("jpeg without a scan", file(&[frame(0xc0, 8, 16, 16, &[0x11])])),
        (
            "jpeg that ends within its frame",
            [&[0xff, 0xd8][..], &frame(0xc0, 8, 16, 16, &[0x11])[..8]].concat(),
        ),
        ("jpeg of no columns", sized(16, 0)),
        ("jpeg of no rows", sized(0, 16)),
        ("jpeg that claims 65535×65535", sized(65535, 65535)),
        ("jpeg that claims 20000×13000", sized(13000, 20000)),
        (
            "jpeg that claims 3000×3000 and has 40 bytes",
            file(&[ordinary.clone(), frame(0xc0, 8, 3000, 3000, &[0x11; 3]), scan(3)]),
        ),
        (
            "jpeg, progressive, that claims 65535×65535",
            file(&[frame(0xc2, 8, 65535, 65535, &[0x11; 3]), scan(3)]),
        ),
        ("jpeg, progressive, of 16000×16000 in 300 scans", file(&[progressive])),
        ("jpeg, progressive, of 16×16 in 3000 scans", file(&[small])),
        ("jpeg without tables", of(&[0x11])),
        ("jpeg without codes", file(&[tables.clone(), frame(0xc0, 8, 16, 16, &[0x11]), scan(1)])),
        (
            "jpeg with tables and codes that say nothing",
            file(&[ordinary.clone(), frame(0xc0, 8, 16, 16, &[0x11]), scan(1)]),
        ),
        (
            "jpeg with more codes than there can be",
            file(&[
                tables.clone(),
                segment(0xc4, &[&[0][..], &[255; 16]].concat()),
                frame(0xc0, 8, 16, 16, &[0x11]),
                scan(1),
            ]),
        ),
        ("jpeg of sampling 0", of(&[0x00])),
        ("jpeg of sampling 15", of(&[0xff])),
        ("jpeg of no components", of(&[])),
        ("jpeg of 2 components", of(&[0x11; 2])),
        ("jpeg of 255 components", of(&[0x11; 255])),
        (
            "jpeg with a scan of components it does not have",
            file(&[ordinary.clone(), frame(0xc0, 8, 16, 16, &[0x11]), scan(4)]),
        ),
        ("jpeg of 12 bits", file(&[frame(0xc1, 12, 16, 16, &[0x11]), scan(1)])),
        ("jpeg, lossless", kind(0xc3)),
        ("jpeg, hierarchical", kind(0xc5)),
        ("jpeg with arithmetic coding", kind(0xc9)),
        ("jpeg, progressive, with arithmetic coding", kind(0xca)),
        ("jpeg-ls", kind(0xf7)),
        (
            "jpeg with two frames",
            file(&[
                frame(0xc0, 8, 16, 16, &[0x11]),
                frame(0xc0, 8, 9000, 9000, &[0x11]),
                ordinary.clone(),
                scan(1),
            ]),
        ),
        (
            "jpeg with a second frame behind the first",
            with(&[])[..whole.len() - 2].iter().copied().chain(sized(9000, 9000)).collect(),
        ),
        ("jpeg with a segment of length 0", length(0)),
        ("jpeg with a segment of length 1", length(1)),
        ("jpeg with a segment beyond its end", length(65535)),
        ("jpeg of padding alone", [vec![0xff, 0xd8], vec![0xff; 5000]].concat()),
        ("jpeg of restart markers alone", [vec![0xff, 0xd8], [0xff, 0xd0].repeat(500)].concat()),
        ("jpeg cut in its scan", whole[..whole.len() - 150].to_vec()),
        ("jpeg without its end mark", whole[..whole.len() - 2].to_vec()),
        ("jpeg with damage in its scan", damaged(whole.len() - 150)),
        ("jpeg with damage in its tables", damaged(40)),
        ("jpeg with a film behind its end", [&whole[..], b"a film, say"].concat()),
        ("jpeg with EXIF that turns it", with(&[app1(&exif(274, 3, 1, 6))])),
        ("jpeg with EXIF of orientation 0", with(&[app1(&exif(274, 3, 1, 0))])),
        ("jpeg with EXIF of a text as orientation", with(&[app1(&exif(274, 2, 1, 6))])),
        ("jpeg with EXIF of four billion orientations", with(&[app1(&exif(274, 3, u32::MAX, 6))])),
        ("jpeg with EXIF that points to itself", with(&[app1(b"II\x2a\0\0\0\0\0")])),
        ("jpeg with EXIF of neither byte order", with(&[app1(b"XX\x2a\0\x08\0\0\0")])),
        ("jpeg with EXIF of 65535 entries that it lacks", with(&[app1(b"II\x2a\0\x08\0\0\0\xff\xff")])),
        ("jpeg with empty EXIF", with(&[app1(&[])])),
        (
            "jpeg with XMP that turns it",
            with(&[segment(0xe1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=\"6\"/>")]),
        ),
        (
            "jpeg with XMP of no number",
            with(&[segment(0xe1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=\"up\"/>")]),
        ),
        ("jpeg with a hundred segments of EXIF", with(&vec![app1(&[0xaa; 600]); 100])),
    ]
}
