//! Why a photo could not be decoded.

use super::limits::PIXEL_LIMIT;

/// Why bytes could not be decoded as a photo. The messages are one line, without the file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PhotoError {
    /// The bytes are not an image.
    #[error("not an image: {0}")]
    NotAnImage(String),
    /// An image of a format or kind that is not read, which the message names.
    #[error("{0}")]
    Unsupported(String),
    /// The file is damaged.
    #[error("a damaged image: {0}")]
    Damaged(String),
    /// The image has no pixels, too many, or needs more memory than it may take.
    #[error("{}", size_line(*width, *height, *needed, *limit))]
    Size {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The bytes that decoding would take, the file's own included.
        needed: u64,
        /// The bytes that it may take.
        limit: u64,
    },
    /// The decoder panicked, which is a bug of it.
    #[error("the decoder failed: {0}")]
    Panicked(String),
}

/// The message of [`PhotoError::Size`]: what is wrong of the two.
fn size_line(width: u64, height: u64, needed: u64, limit: u64) -> String {
    match (1..=PIXEL_LIMIT).contains(&width.saturating_mul(height)) {
        true => format!("{width}×{height} pixels need {needed} bytes of memory, expected at most {limit}"),
        false => format!("{width}×{height} pixels, expected from 1 to {PIXEL_LIMIT}"),
    }
}

impl PhotoError {
    /// An image of a `kind` that is not read, such as `"a JPEG with arithmetic coding"`.
    pub fn unsupported(kind: impl std::fmt::Display) -> Self {
        PhotoError::Unsupported(format!("{kind}, which is not read: convert it to PNG or an ordinary JPEG"))
    }

    /// A damaged image, because of a decoder's error.
    ///
    /// A decoder's message may be several lines long, or repeat its cause.
    pub fn damaged(error: impl std::fmt::Display) -> Self {
        let text = error.to_string();
        PhotoError::Damaged(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
