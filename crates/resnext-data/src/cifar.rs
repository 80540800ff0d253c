//! CIFAR-10 and CIFAR-100: 32×32 RGB images, read from the official binary archives, packed or unpacked.

use crate::dataset::{CHANNELS, Dataset, Normalization, Splits};
use crate::error::{Error, Result, tar_problem};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

const SIDE: usize = 32;

/// The differences between the two data sets.
struct Kind {
    name: &'static str,
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    classes: usize,
    /// Label bytes before each image's pixels; the last one is the label used (CIFAR-100's fine label).
    label_bytes: usize,
    normalization: Normalization,
}

/// Reads CIFAR-10: 50,000 training and 10,000 test images in 10 classes. `path` is `cifar-10-binary.tar.gz`
/// or the folder it unpacks to.
///
/// # Errors
/// If a file is missing or truncated, or a label is out of range; the error names the file.
pub fn cifar10(path: &Path) -> Result<Splits> {
    read(
        path,
        &Kind {
            name: "CIFAR-10",
            folder: "cifar-10-batches-bin",
            train: &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            test: "test_batch.bin",
            names: "batches.meta.txt",
            classes: 10,
            label_bytes: 1,
            normalization: Normalization { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616] },
        },
    )
}

/// Reads CIFAR-100 with its 100 fine labels: 50,000 training and 10,000 test images. `path` is
/// `cifar-100-binary.tar.gz` or the folder it unpacks to.
///
/// # Errors
/// The same as [`cifar10`].
pub fn cifar100(path: &Path) -> Result<Splits> {
    read(
        path,
        &Kind {
            name: "CIFAR-100",
            folder: "cifar-100-binary",
            train: &["train.bin"],
            test: "test.bin",
            names: "fine_label_names.txt",
            classes: 100,
            label_bytes: 2,
            normalization: Normalization { mean: [0.5071, 0.4865, 0.4409], std: [0.2673, 0.2564, 0.2762] },
        },
    )
}

/// Whether a folder is that of the official archive of CIFAR-10 or CIFAR-100, or has it in it.
pub fn recognise(path: &Path) -> bool {
    const FILES: [&str; 2] = ["batches.meta.txt", "fine_label_names.txt"];
    const FOLDERS: [&str; 3] = [".", "cifar-10-batches-bin", "cifar-100-binary"];
    FOLDERS.iter().any(|folder| FILES.iter().any(|file| path.join(folder).join(file).is_file()))
}

fn read(path: &Path, kind: &Kind) -> Result<Splits> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let damaged = |problem| Error::Archive { path: path.to_path_buf(), problem };
    let wanted: Vec<&str> = kind.train.iter().copied().chain([kind.test, kind.names]).collect();
    let is_folder = std::fs::metadata(path).map_err(io)?.is_dir();
    let mut files =
        if is_folder { from_folder(path, kind.folder, &wanted)? } else { from_archive(path, &wanted)? };
    if let Some(missing) = [kind.names].iter().chain(&wanted).find(|&&file| !files.contains_key(file)) {
        let path = path.to_path_buf();
        let other = OTHERS.iter().find(|(file, name)| *name != kind.name && files.contains_key(*file));
        return Err(match other {
            Some((_, found)) => Error::OtherArchive { path, found, expected: kind.name },
            None => Error::MissingFile { path, file: missing.to_string() },
        });
    }
    // All of them are there.
    let mut take = |file: &str| files.remove(file).unwrap_or_default();

    let names = String::from_utf8_lossy(&take(kind.names)).into_owned();
    if names.contains('\0') {
        return Err(damaged(format!("{} is not UTF-8", kind.names)));
    }
    let names: Vec<String> = names
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(String::from)
        .collect();
    if names.len() != kind.classes {
        let (file, found, expected) = (kind.names, names.len(), kind.classes);
        return Err(damaged(format!("{file} names {found} classes, expected {expected}")));
    }
    let mut split = |batches: &[&str]| {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for &file in batches {
            records(path, file, &take(file), kind, &mut pixels, &mut labels)?;
        }
        Ok(Dataset::new(pixels, labels, (SIDE, SIDE), names.clone()))
    };
    Ok(Splits { train: split(kind.train)?, test: split(&[kind.test])?, normalization: kind.normalization })
}

/// Splits a file into records, each of label bytes and 3072 pixel bytes, and appends them to `labels` and
/// `pixels`.
fn records(
    path: &Path,
    file: &str,
    data: &[u8],
    kind: &Kind,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u32>,
) -> Result<()> {
    let record = kind.label_bytes + CHANNELS * SIDE * SIDE;
    let (path, file, classes) = (path.to_path_buf(), file.to_string(), kind.classes);
    if data.is_empty() || !data.len().is_multiple_of(record) {
        return Err(Error::Length { path, file, record, len: data.len() });
    }
    for (i, data) in data.chunks_exact(record).enumerate() {
        let label = data[kind.label_bytes - 1];
        if label as usize >= classes {
            return Err(Error::Label { path, file, record: i, label, classes });
        }
        labels.push(label as u32);
        pixels.extend_from_slice(&data[kind.label_bytes..]);
    }
    Ok(())
}

/// The files by their names. Of those in [`OTHERS`] only the names are kept.
type Files = HashMap<String, Vec<u8>>;

/// Files by which other data sets and other versions are known.
const OTHERS: [(&str, &str); 6] = [
    ("data_batch_1", "the Python version of CIFAR-10"),
    ("data_batch_1.mat", "the MATLAB version of CIFAR-10"),
    ("data_batch_1.bin", "CIFAR-10"),
    ("train", "the Python version of CIFAR-100"),
    ("train.mat", "the MATLAB version of CIFAR-100"),
    ("train.bin", "CIFAR-100"),
];

/// What an archive is that is not packed as it should be, by its first bytes.
const PACKINGS: [(&[u8], &str); 7] = [
    (b"BZh", "it is packed by bzip2, not by gzip"),
    (b"\xfd7zXZ\0", "it is packed by xz, not by gzip"),
    (b"\x28\xb5\x2f\xfd", "it is packed by Zstandard, not by gzip"),
    (b"PK", "it is a zip archive"),
    (b"7z\xbc\xaf", "it is a 7-Zip archive"),
    (b"Rar!", "it is a RAR archive"),
    (b"<", "it is a web page"),
];

/// Reads the `wanted` files that exist in `path`, or in the archive's top-level folder `inner` below it.
fn from_folder(path: &Path, inner: &str, wanted: &[&str]) -> Result<Files> {
    let nested = path.join(inner);
    let folder = if nested.is_dir() { nested } else { path.to_path_buf() };
    let mut files = Files::new();
    for &name in wanted {
        let file = folder.join(name);
        if file.is_file() {
            let data = std::fs::read(&file).map_err(|source| Error::Io { path: file, source })?;
            files.insert(name.to_string(), data);
        }
    }
    for (name, _) in OTHERS {
        if !files.contains_key(name) && folder.join(name).is_file() {
            files.insert(name.to_string(), Vec::new());
        }
    }
    Ok(files)
}

/// The most bytes that an archive may unpack to. Those of CIFAR have 185 MB.
const UNPACKED_LIMIT: u64 = 1 << 28;

/// Reads the `wanted` files of a `.tar.gz` or a tar file, matched by file name without folders.
fn from_archive(path: &Path, wanted: &[&str]) -> Result<Files> {
    const MARK: &[u8] = b"ustar";
    const MARK_AT: usize = 257;
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let start = file.fill_buf().map_err(io)?;
    if let Some((_, problem)) = PACKINGS.iter().find(|(packing, _)| start.starts_with(packing)) {
        return Err(Error::Archive { path: path.to_path_buf(), problem: problem.to_string() });
    }
    let unpacked: Box<dyn Read> = match start.get(MARK_AT..MARK_AT + MARK.len()) == Some(MARK) {
        true => Box::new(file),
        false => Box::new(flate2::read::GzDecoder::new(file)),
    };
    let mut archive = tar::Archive::new(unpacked.take(UNPACKED_LIMIT));
    let members = members(&mut archive, wanted);
    let mut rest = archive.into_inner();
    // The checksum is at the end.
    let end = std::io::copy(&mut rest, &mut std::io::sink());
    let problem = match (members, end) {
        (Err(problem), _) if rest.limit() > 0 => problem,
        // A missing file may lie beyond the limit.
        _ if rest.limit() == 0 => format!("it unpacks to more than {UNPACKED_LIMIT} bytes"),
        (Ok(files), Ok(_)) => return Ok(files),
        (Ok(_), Err(error)) => tar_problem(&error),
        (Err(problem), _) => problem,
    };
    Err(Error::Archive { path: path.to_path_buf(), problem })
}

/// The `wanted` members of an archive, as far as it has them.
///
/// # Errors
/// A text that says what is wrong with the archive.
fn members(archive: &mut tar::Archive<impl Read>, wanted: &[&str]) -> std::result::Result<Files, String> {
    let broken = |error: std::io::Error| tar_problem(&error);
    let mut files = Files::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.file_name().map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name else { continue };
        if !wanted.contains(&name.as_str()) {
            if OTHERS.iter().any(|(other, _)| *other == name) && entry.header().entry_type().is_file() {
                files.insert(name, Vec::new());
            }
            continue;
        }
        // Grow the buffer while reading: the header's size is untrusted, so it must not set an allocation.
        let mut data = Vec::new();
        let expected = entry.size();
        entry.read_to_end(&mut data).map_err(broken)?;
        if data.len() as u64 != expected {
            return Err(format!("it ends inside {name}"));
        }
        files.insert(name, data);
        if wanted.iter().all(|&file| files.contains_key(file)) {
            break;
        }
    }
    Ok(files)
}
