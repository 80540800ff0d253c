//! What can be wrong with a data set.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file the data set needs is not in the archive or folder.
    #[error("{path} holds no {file}: expected the official binary archive, as .tar.gz or unpacked")]
    MissingFile {
        /// The archive or folder.
        path: PathBuf,
        /// The file looked for.
        file: String,
    },
    /// A file is not a whole number of records.
    #[error(
        "{file} in {path} is cut short or not a CIFAR file: expected a positive multiple of {record} bytes, got {len}"
    )]
    Length {
        /// The archive or folder.
        path: PathBuf,
        /// The file.
        file: String,
        /// Bytes a record.
        record: usize,
        /// Bytes found.
        len: usize,
    },
    /// A label no class has.
    #[error("{file} in {path}: record {record} has label {label}, expected one below {classes}")]
    Label {
        /// The archive or folder.
        path: PathBuf,
        /// The file.
        file: String,
        /// Which record, from 0.
        record: usize,
        /// What it says.
        label: u8,
        /// The number of classes.
        classes: usize,
    },
    /// A photo that could not be read or written.
    #[error("{}: {reason}", path.display())]
    Photo {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// An evaluation transform that can't be computed.
    #[error("evaluation transform: {0}")]
    Transform(String),
    /// A loader that could not give a batch.
    #[error("loader: {0}")]
    Loader(String),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
