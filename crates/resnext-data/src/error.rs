//! The error type of this crate.

use std::path::PathBuf;

/// An error from reading, decoding or loading images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error from the operating system, or from unpacking.
        source: std::io::Error,
    },
    /// A file that the data set needs is missing from the archive or folder.
    #[error("{path} does not contain {file}: expected the official binary archive, as .tar.gz or unpacked")]
    MissingFile {
        /// The archive or folder.
        path: PathBuf,
        /// The name of the missing file.
        file: String,
    },
    /// An archive or folder is not one of CIFAR, or is damaged.
    #[error(
        "{} is not a CIFAR archive, or is damaged: {problem}; expected the official .tar.gz, or its folder",
        path.display()
    )]
    Archive {
        /// The archive or folder.
        path: PathBuf,
        /// The fault, in a clause.
        problem: String,
    },
    /// An archive or folder is another data set of CIFAR's, or another version of it.
    #[error("{} is {found}, expected the binary version of {expected}", path.display())]
    OtherArchive {
        /// The archive or folder.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// A file's length is not a positive multiple of the record length.
    #[error(
        "{file} in {path} is cut short or not a CIFAR file: \
         expected a positive multiple of {record} bytes, got {len}"
    )]
    Length {
        /// The archive or folder.
        path: PathBuf,
        /// The file.
        file: String,
        /// Bytes per record.
        record: usize,
        /// The file's length in bytes.
        len: usize,
    },
    /// A label is out of range.
    #[error("{file} in {path}: record {record} has label {label}, expected one below {classes}")]
    Label {
        /// The archive or folder.
        path: PathBuf,
        /// The file.
        file: String,
        /// The index of the record, from 0.
        record: usize,
        /// The label found.
        label: u8,
        /// The number of classes.
        classes: usize,
    },
    /// A photo could not be read, decoded or written.
    #[error("{}: {reason}", path.display())]
    Photo {
        /// The file.
        path: PathBuf,
        /// The reason, in a clause.
        reason: String,
    },
    /// A folder is no image folder, or one that nothing can be learnt from.
    #[error("{} {problem}", path.display())]
    ImageFolder {
        /// The folder.
        path: PathBuf,
        /// The fault, and what would be right.
        problem: String,
    },
    /// A tar shard is damaged or has another layout.
    #[error("{} {problem}", path.display())]
    Shard {
        /// The shard, or the folder of the shards.
        path: PathBuf,
        /// The fault, and what would be right.
        problem: String,
    },
    /// A parquet file is damaged, or has other columns or labels than images need.
    #[error("{} {problem}", path.display())]
    Parquet {
        /// The file, or the folder of the files.
        path: PathBuf,
        /// The fault, and what would be right.
        problem: String,
    },
    /// A worker that was given a photo panicked or ended early, which is a bug in it.
    #[error("{}: the worker failed: {reason}", path.display())]
    Worker {
        /// The photo's file.
        path: PathBuf,
        /// The panic's message and place.
        reason: String,
    },
    /// A setting of how images are prepared, in training or evaluation, is out of range.
    #[error("preparation of images: {0}")]
    Transform(String),
    /// A [`Loader`](crate::Loader) cannot be built from these settings.
    #[error("loader: {0}")]
    Loader(String),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of reading a tar file. Its text may repeat the file's bytes, which are left out unless they are plain.
pub(crate) fn tar_problem(error: &std::io::Error) -> String {
    let text = error.to_string();
    let plain = |c: char| !c.is_control() && c != char::REPLACEMENT_CHARACTER;
    match text.chars().all(plain) {
        true => text,
        false => text.split(':').next().unwrap_or_default().chars().filter(|&c| plain(c)).collect(),
    }
}
