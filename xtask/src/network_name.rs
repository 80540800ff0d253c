//! The names of networks.

use resnext_model::{BlockKind, Config};

/// The name that `--model` takes for a network of this configuration, whatever its number of classes, the form of its
/// blocks and its initialisation; `None` if it has none.
pub fn network_name(config: &Config) -> Option<String> {
    let Config { cardinality, base_width, .. } = config;
    let systematic = format!("{}_{cardinality}x{base_width}d", family(config));
    let mut names = Config::preset_names().iter().map(ToString::to_string).chain([systematic]);
    names.find(|name| {
        Config::by_name(name).is_ok_and(|known| {
            let Config { classes, form, zero_init_last, .. } = *config;
            Config { classes, form, zero_init_last, ..known } == *config
        })
    })
}

/// The family and the number of layers, such as `resnext29`.
pub fn family(config: &Config) -> String {
    let per_block = match config.block {
        BlockKind::Bottleneck => 3,
        BlockKind::Basic => 2,
    };
    let layers = 2 + per_block * config.depths.iter().sum::<usize>();
    format!("{}{layers}", if config.cardinality == 1 { "resnet" } else { "resnext" })
}

/// A name in words of a network that may have none for `--model`.
pub fn described(config: &Config) -> String {
    network_name(config).unwrap_or_else(|| format!("{}, {}", family(config), size(config)))
}

/// C×d as in the paper, such as `8×4d`; with each stage's d where it does not double, such as `8×(4, 7, 16)d`.
pub fn size(config: &Config) -> String {
    if config.widths.is_empty() {
        return format!("{}×{}d", config.cardinality, config.base_width);
    }
    let widths: Vec<String> = config.widths.iter().map(ToString::to_string).collect();
    format!("{}×({})d", config.cardinality, widths.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_a_network_is_built_by_is_found_again() {
        for name in ["resnet18", "resnext50_32x4d", "resnext20_1x17d", "resnext50_16x8d", "seresnext50_32x4d"]
        {
            let Ok(config) = Config::by_name(name) else { panic!("{name}") };
            let own = Config { classes: 3, ..config.clone() };
            let found = network_name(&own);
            let same = found.as_ref().map(|found| Config::by_name(found).unwrap());
            // A relative of timm's that is no preset has no systematic name; it is then described.
            assert!(same.is_none_or(|same| same == config), "{name}: {found:?}");
            assert!(found.is_some() || name.starts_with("se"), "{name}");
        }
        let stages = Config { widths: vec![4, 7, 16], ..Config::by_name("resnext20_8x4d").unwrap() };
        assert_eq!(network_name(&stages), None);
        assert_eq!(described(&stages), "resnext20, 8×(4, 7, 16)d");
    }
}
