//! Decodes arbitrary bytes as a photo, then resizes, crops and normalises it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use resnext_data::{EvalTransform, Interpolation, Normalization, Photo, Resize};

fuzz_target!(|bytes: &[u8]| {
    let Ok(photo) = Photo::decode(bytes) else { return };
    let transform = EvalTransform {
        resize: Resize::Shorter(35),
        crop: (32, 40),
        interpolation: if bytes.len() % 2 == 0 { Interpolation::Bilinear } else { Interpolation::Bicubic },
        normalization: Normalization { mean: [0.5; 3], std: [0.25; 3] },
    };
    assert_eq!(transform.apply(&photo).len(), 32 * 40 * 3);
});
