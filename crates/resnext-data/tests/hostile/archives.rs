//! Archives of CIFAR and tar shards.

use super::png::grey;
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, FlushCompress};
use resnext_data::{Shards, ValidationSplit, cifar};
use std::io::Write;
use std::path::Path;

/// A member of a tar file: its header with another name, type and size, and its bytes. `size` is what the header says.
fn member(name: &[u8], kind: u8, size: u64, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    header[100..107].copy_from_slice(b"0000644");
    match size < 1 << 33 {
        true => header[124..135].copy_from_slice(format!("{size:011o}").as_bytes()),
        false => {
            header[124] = 0x80;
            header[128..136].copy_from_slice(&size.to_be_bytes());
        }
    }
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar  \0");
    signed(&mut header);
    let mut out = [&header[..], bytes].concat();
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// Gives a header its checksum.
fn signed(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().map(|&byte| byte as u32).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn regular(name: &str, bytes: &[u8]) -> Vec<u8> {
    member(name.as_bytes(), b'0', bytes.len() as u64, bytes)
}

/// A header whose field at `at` is other bytes.
fn with_field(mut member: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    member[at..at + bytes.len()].copy_from_slice(bytes);
    signed(&mut member);
    member
}

const END: [u8; 1024] = [0; 1024];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `start`, then this many megabytes of zeros, packed without packing all of them: a block that follows a full flush may
/// be repeated.
fn packed_zeros(start: &[u8], megabytes: usize) -> Vec<u8> {
    let block = |bytes: &[u8]| {
        let (mut encoder, mut out) =
            (Compress::new(Compression::fast(), false), Vec::with_capacity(bytes.len() + 1024));
        encoder.compress_vec(bytes, &mut out, FlushCompress::Full).unwrap();
        out
    };
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    [&header[..], &block(start), &block(&vec![0; 1 << 20]).repeat(megabytes)].concat()
}

/// The members of a small CIFAR-10, of which `change` may replace one by its name.
fn batches(change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let names =
        ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
    let mut out = Vec::new();
    for name in names.into_iter().chain(["test_batch.bin"]) {
        out.extend(change(name, regular(&format!("cifar-10-batches-bin/{name}"), &[3; 3073])));
    }
    let classes = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
    out.extend(change("names", regular("cifar-10-batches-bin/batches.meta.txt", classes.as_bytes())));
    out.extend(END);
    out
}

/// What is read of archives of CIFAR-10, by name.
pub fn cifar() -> Vec<(String, String)> {
    let whole = || batches(|_, member| member);
    let replaced = |wanted: &'static str, by: Vec<u8>| {
        batches(move |name, member| if name == wanted { by.clone() } else { member })
    };
    let test = |bytes: &[u8]| replaced("test_batch.bin", regular("test_batch.bin", bytes));
    let names = |text: &[u8]| replaced("names", regular("batches.meta.txt", text));
    let before = |more: Vec<u8>| [more, whole()].concat();
    let huge = 1u64 << 40;
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let bomb = |header: &[u8]| packed_zeros(header, 300);
    let mut wrong_sum = whole();
    wrong_sum[0] ^= 1;
    let other_label = |label: u8| test(&[&[label][..], &[0; 3072]].concat());
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("the archive", gzip(&whole())),
        ("an empty file", Vec::new()),
        ("a text", b"Dear diary".to_vec()),
        ("a tar file that is not packed", whole()),
        ("an archive of nothing", gzip(&[])),
        ("an archive of zeros", gzip(&END)),
        ("an archive of a text", gzip(b"Dear diary, this is no tar file.")),
        ("an archive of noise", gzip(&(0..4096).map(|i: u32| ((i * i * 37) >> 3) as u8).collect::<Vec<_>>())),
        ("an archive cut in its packed bytes", cut(gzip(&whole()))),
        ("an archive cut in a member", gzip(&cut(whole()))),
        ("an archive with a wrong checksum", gzip(&wrong_sum)),
        ("an archive whose packed bytes have a wrong checksum", {
            let mut bytes = gzip(&whole());
            let at = bytes.len() - 8;
            bytes[at] ^= 1;
            bytes
        }),
        ("an archive by bzip2", b"BZh91AY&SY".to_vec()),
        ("an archive by xz", b"\xfd7zXZ\0\0\x04".to_vec()),
        ("a zip archive", b"PK\x03\x04".to_vec()),
        ("a web page", b"<!doctype html>".to_vec()),
        (
            "the Python version",
            gzip(&[regular("cifar-10-batches-py/data_batch_1", b"\x80"), END.to_vec()].concat()),
        ),
        (
            "the MATLAB version",
            gzip(&[regular("cifar-10-batches-mat/data_batch_1.mat", b"M"), END.to_vec()].concat()),
        ),
        ("CIFAR-100", gzip(&[regular("cifar-100-binary/train.bin", &[3; 3074]), END.to_vec()].concat())),
        (
            "names of classes with a byte order mark",
            gzip(&names(b"\xef\xbb\xbfa\nb\nc\nd\ne\nf\ng\nh\ni\nj\n")),
        ),
        ("names of classes in UTF-16", gzip(&names(b"a\0\nb\nc\nd\ne\nf\ng\nh\ni\nj\n"))),
        ("an archive with two packed parts", [gzip(&whole()), gzip(b"more")].concat()),
        ("an archive with noise behind it", [gzip(&whole()), vec![0x5a; 100]].concat()),
        (
            "a member of a terabyte",
            gzip(&replaced("test_batch.bin", member(b"test_batch.bin", b'0', huge, &[3; 3073]))),
        ),
        ("a member of 2⁶⁴ - 1 bytes", gzip(&before(member(b"notes", b'0', u64::MAX, b"x")))),
        ("a member before it that unpacks to 300 MiB", bomb(&member(b"notes", b'0', 300 << 20, &[]))),
        ("a long name of 300 MiB", bomb(&member(b"././@LongLink", b'L', 300 << 20, &[]))),
        ("a size that is no number", gzip(&before(with_field(regular("notes", b"x"), 124, b"many bytes ")))),
        ("names that climb", gzip(&before(regular("../../../etc/passwd", b"root")))),
        (
            "a link in the place of a batch",
            gzip(&replaced("test_batch.bin", member(b"test_batch.bin", b'2', 0, &[]))),
        ),
        (
            "a folder in the place of a batch",
            gzip(&replaced("test_batch.bin", member(b"test_batch.bin/", b'5', 0, &[]))),
        ),
        ("a batch that is missing", gzip(&replaced("data_batch_3.bin", Vec::new()))),
        ("a batch that is there twice", gzip(&before(regular("test_batch.bin", &[4; 2 * 3073])))),
        ("a batch of no bytes", gzip(&test(&[]))),
        ("a batch of a byte too few", gzip(&test(&[3; 3072]))),
        ("a batch of a byte too many", gzip(&test(&[3; 3074]))),
        ("a label of 10", gzip(&other_label(10))),
        ("a label of 255", gzip(&other_label(255))),
        ("no names of classes", gzip(&names(b""))),
        ("nine names of classes", gzip(&names(b"a\nb\nc\nd\ne\nf\ng\nh\ni\n"))),
        ("names of classes that are not UTF-8", gzip(&names(b"\xff\nb\nc\nd\ne\nf\ng\nh\ni\nj\n"))),
        ("names of classes by Windows", gzip(&names(b"a\r\nb\r\nc\r\nd\r\ne\r\nf\r\ng\r\nh\r\ni\r\nj\r\n"))),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cifar.tar.gz");
    let outcome = |(name, bytes): (&str, Vec<u8>)| {
        std::fs::write(&path, bytes).unwrap();
        let line = match cifar::cifar10(&path) {
            Ok(splits) => {
                let classes = splits.test.class_names().join(" ");
                format!("{} and {} images of {classes}", splits.train.len(), splits.test.len())
            }
            Err(error) => error.to_string(),
        };
        (name.to_string(), without(&line, folder.path()))
    };
    files.into_iter().map(outcome).collect()
}

/// What is read of a folder with one shard, by the shard's name.
pub fn shards() -> Vec<(String, String)> {
    let photo = grey(&[]);
    let sample = |key: &str, label: &str| {
        [regular(&format!("{key}.png"), &photo), regular(&format!("{key}.cls"), label.as_bytes())].concat()
    };
    let others = || [sample("1", "1"), sample("2", "0"), sample("3", "1")].concat();
    let with = |first: Vec<u8>| [first, others(), END.to_vec()].concat();
    let whole = || with(sample("0", "0"));
    let label = |text: &str| with(sample("0", text));
    let pax = |records: &[u8]| member(b"pax", b'x', records.len() as u64, records);
    let long = |name: &[u8]| member(b"././@LongLink", b'L', name.len() as u64, name);
    let long_name = |ending: &str| [b"a/".repeat(148), format!("0.{ending}\0").into_bytes()].concat();
    let octal = |number: usize| format!("{number:011o}").into_bytes();
    let sparse = [(386, 0), (398, photo.len()), (483, photo.len())];
    let sparse = sparse
        .into_iter()
        .fold(member(b"0.png", b'S', photo.len() as u64, &photo), |member, (at, number)| {
            with_field(member, at, &octal(number))
        });
    let mut wrong_sum = whole();
    wrong_sum[148] ^= 1;
    let photo_and_label = |photo: Vec<u8>| with([photo, regular("0.cls", b"0")].concat());
    let size = |size: u64| photo_and_label(member(b"0.png", b'0', size, &photo));
    let shards: Vec<(&str, Vec<u8>)> = vec![
        ("a shard", whole()),
        ("an empty file", Vec::new()),
        ("a text", b"Dear diary".to_vec()),
        ("zeros", END.to_vec()),
        ("a packed shard", gzip(&whole())),
        ("a zip archive", [&b"PK\x03\x04"[..], &[0; 2000]].concat()),
        (
            "noise and zeros",
            [(0..2048u32).map(|i| ((i * i * 37) >> 3) as u8).collect::<Vec<_>>(), END.to_vec()].concat(),
        ),
        ("a shard cut in a member", whole()[..1800].to_vec()),
        ("a shard without its end mark", whole()[..whole().len() - 1024].to_vec()),
        ("a shard with half of its end mark", whole()[..whole().len() - 512].to_vec()),
        ("a shard with a wrong checksum", wrong_sum),
        ("a size of 2⁶³", size(1 << 63)),
        ("a size of 2⁶⁴ - 1", size(u64::MAX)),
        ("a size beyond its end", size(1 << 30)),
        (
            "a size that is no number",
            photo_and_label(with_field(regular("0.png", &photo), 124, b"many bytes ")),
        ),
        ("a size of zero", size(0)),
        (
            "a name that climbs",
            with([regular("../../etc/0.png", &photo), regular("../../etc/0.cls", b"0")].concat()),
        ),
        ("a name from the root", with([regular("/etc/0.png", &photo), regular("/etc/0.cls", b"0")].concat())),
        ("a name without bytes", photo_and_label(regular("", &photo))),
        (
            "a name that is not UTF-8",
            with(
                [member(b"\xff.png", b'0', photo.len() as u64, &photo), member(b"\xff.cls", b'0', 1, b"0")]
                    .concat(),
            ),
        ),
        ("a name in capitals", with([regular("0.PNG", &photo), regular("0.CLS", b"0")].concat())),
        (
            "a name of 300 bytes",
            with(
                [
                    long(&long_name("png")),
                    regular("cut", &photo),
                    long(&long_name("cls")),
                    regular("cut", b"0"),
                ]
                .concat(),
            ),
        ),
        ("a name of control characters", with(regular("\u{1b}[31m\n.png", &photo))),
        ("a long name of 2⁴⁰ bytes", with(member(b"././@LongLink", b'L', 1 << 40, b"a"))),
        ("a long name of no file", [long(b"0.png\0").as_slice(), &END].concat()),
        (
            "two long names of one file",
            with([long(b"0.png\0"), long(b"00.png\0"), regular("0.png", &photo)].concat()),
        ),
        ("a size by PAX", with([pax(b"12 size=999\n"), regular("0.png", &photo)].concat())),
        ("PAX of noise", photo_and_label([pax(b"\xff\xfe\x00=="), regular("0.png", &photo)].concat())),
        ("PAX for all", with([member(b"pax", b'g', 9, b"9 a=b\n..."), sample("0", "0")].concat())),
        ("a link in the place of a photo", photo_and_label(member(b"0.png", b'2', 0, &[]))),
        ("a hard link in the place of a photo", photo_and_label(member(b"0.png", b'1', 0, &[]))),
        ("a device in the place of a photo", photo_and_label(member(b"0.png", b'3', 0, &[]))),
        ("a folder in the place of a photo", photo_and_label(member(b"0.png/", b'5', 0, &[]))),
        ("a sparse photo", photo_and_label(sparse)),
        (
            "a sparse photo without its map",
            photo_and_label(member(b"0.png", b'S', photo.len() as u64, &photo)),
        ),
        (
            "what macOS adds",
            with(
                [
                    regular("._0.png", b"attributes"),
                    sample("0", "0"),
                    regular("__MACOSX/0.png", b"attributes"),
                    regular(".DS_Store", b"places"),
                ]
                .concat(),
            ),
        ),
        ("no label", with(regular("0.png", &photo))),
        ("no photo", with(regular("0.cls", b"0"))),
        ("two photos", photo_and_label([regular("0.png", &photo), regular("0.jpg", &photo)].concat())),
        ("two labels", with([sample("0", "0"), regular("0.cls", b"1")].concat())),
        (
            "the parts of a sample apart",
            with([regular("0.png", &photo), sample("9", "1"), regular("0.cls", b"0")].concat()),
        ),
        ("notes alone", with([regular("0.json", b"{}"), regular("1.txt", b"x")].concat())),
        ("a label of words", label("cat")),
        ("a label below 0", label("-1")),
        ("a label of 2³²", label("4294967296")),
        ("a label of 2²⁰", label("1048576")),
        ("a label of no bytes", label("")),
        ("a label with a new line", label(" 0\r\n")),
        ("a label of many digits", label(&"1".repeat(100_000))),
        (
            "a label that is not UTF-8",
            with([regular("0.png", &photo), member(b"0.cls", b'0', 2, b"\xff\xfe")].concat()),
        ),
        ("one class", [sample("0", "0"), sample("1", "0"), END.to_vec()].concat()),
        (
            "a class with one photo",
            [sample("0", "0"), sample("1", "1"), sample("2", "1"), END.to_vec()].concat(),
        ),
        ("a photo that is none", photo_and_label(regular("0.png", b"Dear diary"))),
        (
            "a photo that claims 65535×65535",
            photo_and_label(regular(
                "0.png",
                &super::png::files().into_iter().find(|(name, _)| name.contains("65535×65535")).unwrap().1,
            )),
        ),
    ];
    let mut found = Vec::new();
    for (name, bytes) in shards {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tar"), bytes).unwrap();
        found.push((name.to_string(), without(&opened(folder.path()), folder.path())));
    }
    for (name, text) in
        [("names of too few classes", &b"cat\n"[..]), ("names that are not UTF-8", b"\xff\n\xfe\n")]
    {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tar"), whole()).unwrap();
        std::fs::write(folder.path().join("classes.txt"), text).unwrap();
        found.push((name.to_string(), without(&opened(folder.path()), folder.path())));
    }
    found
}

/// The number of images of each class, and what is wrong with the first photo that cannot be decoded.
fn opened(folder: &Path) -> String {
    let shards = match Shards::open(folder, ValidationSplit { share: 0.5, seed: 0 }) {
        Ok(shards) => shards,
        Err(error) => return error.to_string(),
    };
    let sets = [&shards.train, &shards.validation];
    let mut errors = sets.iter().flat_map(|set| (0..set.len()).filter_map(|i| set.photo(i).err()));
    let line = format!("{:?} and {:?} photos", shards.train.class_counts(), shards.validation.class_counts());
    errors.next().map_or(line.clone(), |error| format!("{line}; {error}"))
}

/// A line without the folder's path, which differs from run to run.
fn without(line: &str, folder: &Path) -> String {
    line.replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), "the folder")
}
