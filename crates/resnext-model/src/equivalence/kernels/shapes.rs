//! The shapes on which kernels are proved: those of every layer of every preset, and random ones.

use super::definition::Definition;
use crate::config::{Config, ConvSize};
use crate::error::Result;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use resnext_ops::Conv2dConfig;

/// Where a layer stands, which decides how inference runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    /// The first convolution, which reads images.
    First,
    /// Any other convolution.
    Inner,
    /// The last layer, a 1×1 convolution of a single pixel that writes f32.
    Last,
}

/// The key that distinguishes two layers: place, channels in and out, kernel, stride and groups.
pub(super) type Layer = (Place, usize, usize, usize, usize, usize);

/// The layers of all these networks, without repetitions.
pub(super) fn layers(networks: &[&str]) -> Result<Vec<Layer>> {
    let mut keys = std::collections::BTreeSet::new();
    for name in networks {
        let config = Config::by_name(name)?;
        let key = |place, size: ConvSize| {
            let ConvSize { input, output, kernel, stride, groups, .. } = size;
            (place, input, output, kernel, stride, groups)
        };
        for (i, layer) in config.stem_layers().into_iter().enumerate() {
            keys.insert(key(if i == 0 { Place::First } else { Place::Inner }, layer.size));
        }
        for size in config.blocks().iter().flatten() {
            keys.extend(size.convs().into_iter().map(|conv| key(Place::Inner, conv)));
            if size.changes_shape() {
                keys.insert(key(Place::Inner, size.projection(config.shortcut)));
            }
        }
        keys.insert((Place::Last, config.features(), config.classes, 1, 1, 1));
    }
    Ok(keys.into_iter().collect())
}

/// A layer on a small map of random sides, so that tiles of pixels have every remainder.
pub(super) fn on_random_map(rng: &mut ChaCha8Rng, layer: Layer) -> (Place, Definition) {
    let (place, input, output, kernel, stride, groups) = layer;
    let mut side = |most: usize| match place {
        Place::Last => 1,
        _ => rng.random_range(1..=most * stride),
    };
    // Large layers on fewer pixels, since each takes more products; small ones on more than the kernels' blocks of pixels.
    let most = match input / groups * output * kernel * kernel {
        0..=0x1000 => 20,
        0x1001..=0x10_0000 => 5,
        _ => 3,
    };
    let map = (side(most), side(most + 2));
    let config = Conv2dConfig { stride, padding: kernel / 2, dilation: 1, groups };
    (place, Definition { batch: 2, input, output, map, kernel, config })
}

/// A random shape: odd and even channels, whole vectors and remainders, any stride, padding and dilation.
pub(super) fn random(rng: &mut ChaCha8Rng) -> Definition {
    let groups = *[1, 1, 1, 2, 3, 8].choose(rng).unwrap_or(&1);
    let wide = |rng: &mut ChaCha8Rng| match rng.random_range(0..3) {
        0 => rng.random_range(1..=40),
        1 => 8 * rng.random_range(1..=9),
        _ => *[4, 8, 16, 32, 64].choose(rng).unwrap_or(&4),
    };
    let group_in = wide(rng);
    // As many channels out as in, in half of the cases, as in grouped 3×3 convolutions.
    let group_out = if rng.random() { group_in } else { wide(rng) };
    let kernel = *[1, 1, 2, 3, 3, 3, 5, 7].choose(rng).unwrap_or(&3);
    let usual = rng.random::<bool>();
    let config = Conv2dConfig {
        stride: rng.random_range(1..=if usual { 2 } else { 3 }),
        padding: if usual { kernel / 2 } else { rng.random_range(0..=2) },
        dilation: if usual { 1 } else { rng.random_range(1..=2) },
        groups,
    };
    let extent = config.dilation * (kernel - 1) + 1;
    let least = extent.saturating_sub(2 * config.padding).max(1);
    let map = (least + rng.random_range(0..=7), least + rng.random_range(0..=12));
    let batch = rng.random_range(1..=3);
    Definition { batch, input: group_in * groups, output: group_out * groups, map, kernel, config }
}
