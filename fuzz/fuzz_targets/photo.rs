//! Decodes arbitrary bytes as a photo, then resizes, crops and normalises it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use resnext_data::{EvalTransform, Interpolation, Normalization, Photo, PhotoError, Resize};

/// The most bytes that a photo may take. It is less than `Photo::decode` allows, so that claimed sizes take no time.
const MEMORY: u64 = 16 << 20;

fuzz_target!(|bytes: &[u8]| {
    let photo = match Photo::decode_within(bytes, MEMORY) {
        Ok(photo) => photo,
        // A panic of a decoder is caught, so that a user sees one line. Here it is to be seen.
        Err(PhotoError::Panicked(reason)) => panic!("{reason}"),
        Err(error) => return assert!(!error.to_string().chars().any(char::is_control), "{error}"),
    };
    let transform = EvalTransform {
        resize: Resize::Shorter(35),
        crop: (32, 40),
        interpolation: if bytes.len() % 2 == 0 { Interpolation::Bilinear } else { Interpolation::Bicubic },
        normalization: Normalization { mean: [0.5; 3], std: [0.25; 3] },
    };
    assert_eq!(transform.apply(&photo).len(), 32 * 40 * 3);
});
