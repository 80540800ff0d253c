//! The networks that a study compares.

use super::kind::Kind;
use crate::network_name::{family, network_name, size};
use anyhow::{Context, Result, ensure};
use resnext_model::{Complexity, Config, Shortcut, Template, equal_complexity, path_width, width_for};
use serde::{Deserialize, Serialize};

/// How far the common complexity may be from the base network's, as a share, so that widths come out close to the
/// paper's rule.
const SLACK: f64 = 0.06;
/// The same for networks of twice the complexity, whose factor is to stay 2.
const SLACK_OF_TWICE: f64 = 0.02;

/// Identifiers that reports look for. Those of networks with C paths are `c` and the number.
pub const DEEPER: &str = "deeper";
pub const WIDER: &str = "wider";
pub const MORE_PATHS: &str = "more-paths";
pub const TWO_PATHS: &str = "two-paths";
/// The ending of the identifiers of networks without shortcuts.
pub const WITHOUT: &str = "-without";

/// A network of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedNetwork {
    /// The first part of the names of its runs' folders.
    pub id: String,
    /// Its name in reports.
    pub label: String,
    pub config: Config,
}

impl PlannedNetwork {
    fn new(id: impl Into<String>, about: &str, config: Config) -> Self {
        let size = size(&config);
        let label = if about.is_empty() { size } else { format!("{about}, {size}") };
        PlannedNetwork { id: id.into(), label, config }
    }

    /// The name of this network for `--model`, or else one that says what it is.
    pub fn model(&self) -> String {
        network_name(&self.config).unwrap_or_else(|| format!("{}, {}", family(&self.config), self.label))
    }
}

/// The networks of a study of `kind` about `base`, whose images are (h, w). `cardinalities` are those to compare;
/// the other studies take one of them beside cardinality 1.
pub fn of(
    kind: Kind,
    base: &Config,
    cardinalities: &[usize],
    image: (usize, usize),
) -> Result<Vec<PlannedNetwork>> {
    ensure!(
        cardinalities.windows(2).all(|pair| pair[0] < pair[1]) && cardinalities.first() != Some(&0),
        "cardinalities must be at least 1 and in ascending order, got {cardinalities:?}"
    );
    match kind {
        Kind::Cardinality => {
            ensure!(cardinalities.len() > 1, "a study of cardinality compares at least two");
            let networks = equally_complex(base, cardinalities, image)?;
            Ok(networks.into_iter().map(|own| PlannedNetwork::new(id(&own), "", own)).collect())
        }
        Kind::Capacity => capacity(base, cardinalities, image),
        Kind::Shortcuts => {
            let networks = pair(base, cardinalities, image)?;
            let both = |own: Config| {
                let without = Config { shortcut: Shortcut::None, ..own.clone() };
                let name = id(&own);
                [
                    PlannedNetwork::new(name.clone(), "with shortcuts", own),
                    PlannedNetwork::new(name + WITHOUT, "without shortcuts", without),
                ]
            };
            Ok(networks.into_iter().flat_map(both).collect())
        }
    }
}

fn id(config: &Config) -> String {
    format!("c{}", config.cardinality)
}

/// Networks like `base` with these numbers of paths, all of the same complexity.
fn equally_complex(base: &Config, cardinalities: &[usize], image: (usize, usize)) -> Result<Vec<Config>> {
    let template = |&cardinality: &usize| Template {
        width: path_width(base, cardinality),
        config: Config { cardinality, ..base.clone() },
    };
    let templates: Vec<Template> = cardinalities.iter().map(template).collect();
    let about = Complexity::of(base, image.0, image.1)?;
    Ok(equal_complexity(&templates, about, SLACK, image)?)
}

/// Two equally complex networks: one path, and the largest of `cardinalities`.
fn pair(base: &Config, cardinalities: &[usize], image: (usize, usize)) -> Result<Vec<Config>> {
    let many = cardinalities.last().copied().filter(|&many| many > 1);
    let many = many.context("this study compares one path with several: --cardinality must be at least 2")?;
    equally_complex(base, &[1, many], image)
}

/// Table 4: two networks of the base's complexity, then four of twice as much.
fn capacity(base: &Config, cardinalities: &[usize], image: (usize, usize)) -> Result<Vec<PlannedNetwork>> {
    let mut networks = pair(base, cardinalities, image)?.into_iter();
    let (Some(one), Some(many)) = (networks.next(), networks.next()) else { return Ok(Vec::new()) };
    let costs = [&one, &many].map(|own| Complexity::of(own, image.0, image.1));
    let [cost_of_one, cost_of_many] = costs;
    let (a, b) = (cost_of_one?, cost_of_many?);
    let twice = Complexity {
        parameters: a.parameters + b.parameters,
        multiply_adds: a.multiply_adds + b.multiply_adds,
    };
    let configs = [
        Config { depths: twice_as_deep(&one, &twice, image)?, ..one.clone() },
        one.clone(),
        Config { cardinality: 2, ..one.clone() },
        Config { cardinality: 2 * many.cardinality, ..many.clone() },
    ];
    // Widths of more stages are chosen anew; those of the base do not fit twice the complexity.
    let templates = configs.into_iter().map(|config| {
        let config = Config { widths: Vec::new(), ..config };
        Ok(Template { width: width_for(&config, &twice, image)?, config })
    });
    let larger = equal_complexity(&templates.collect::<Result<Vec<_>>>()?, twice, SLACK_OF_TWICE, image)?;
    let abouts = ["twice as complex by depth", "by width", "by two paths", "by twice the paths"];
    let ids = [DEEPER, WIDER, TWO_PATHS, MORE_PATHS];
    let larger = larger.into_iter().zip(ids).zip(abouts);
    let larger = larger.map(|((config, id), about)| PlannedNetwork::new(id, about, config));
    let base = [PlannedNetwork::new(id(&one), "base", one), PlannedNetwork::new(id(&many), "base", many)];
    Ok(base.into_iter().chain(larger).collect())
}

/// The numbers of blocks at which a network like `config` comes closest to the complexity `wanted`: from as many as
/// it has to three times as many.
fn twice_as_deep(config: &Config, wanted: &Complexity, (h, w): (usize, usize)) -> Result<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for &depth in &config.depths {
        let extend = |depths: Vec<usize>| {
            (depth..=3 * depth).map(move |own| depths.iter().copied().chain([own]).collect::<Vec<_>>())
        };
        all = all.into_iter().flat_map(extend).collect();
    }
    let mut best = (f64::INFINITY, config.depths.clone());
    for depths in all {
        let deeper = Config { depths: depths.clone(), ..config.clone() };
        let deviation = Complexity::of(&deeper, h, w)?.deviation(wanted);
        if deviation < best.0 {
            best = (deviation, depths);
        }
    }
    Ok(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: (usize, usize) = (32, 32);

    fn base() -> Config {
        Config::by_name("resnet20_1x17d").unwrap()
    }

    fn cost(network: &PlannedNetwork) -> Complexity {
        Complexity::of(&network.config, IMAGE.0, IMAGE.1).unwrap()
    }

    #[test]
    fn cardinalities_are_compared_at_equal_complexity() {
        let networks = of(Kind::Cardinality, &base(), &[1, 2, 4, 8, 16, 32], IMAGE).unwrap();
        let ids: Vec<&str> = networks.iter().map(|network| network.id.as_str()).collect();
        assert_eq!(ids, ["c1", "c2", "c4", "c8", "c16", "c32"]);
        for network in &networks {
            assert!(cost(network).deviation(&cost(&networks[0])) < 0.02, "{network:?}");
            assert!(network.label.starts_with(&format!("{}×", network.config.cardinality)));
        }
        let error = of(Kind::Cardinality, &base(), &[4, 2], IMAGE).unwrap_err().to_string();
        assert!(error.contains("ascending order, got [4, 2]"), "{error}");
    }

    #[test]
    fn capacity_doubles_the_complexity_in_four_ways() {
        let networks = of(Kind::Capacity, &base(), &[8], IMAGE).unwrap();
        let ids: Vec<&str> = networks.iter().map(|network| network.id.as_str()).collect();
        assert_eq!(ids, ["c1", "c8", DEEPER, WIDER, TWO_PATHS, MORE_PATHS]);
        let once = cost(&networks[0]);
        for network in &networks[2..] {
            assert!(cost(network).deviation(&once.times(2.0)) < 0.05, "{network:?}");
        }
        let blocks = |i: usize| networks[i].config.depths.iter().sum::<usize>();
        assert!(blocks(2) > blocks(0) && blocks(3) == blocks(0));
        assert_eq!(networks[5].config.cardinality, 16);
    }

    #[test]
    fn networks_without_shortcuts_are_otherwise_the_same() {
        let networks = of(Kind::Shortcuts, &base(), &[8], IMAGE).unwrap();
        let ids: Vec<&str> = networks.iter().map(|network| network.id.as_str()).collect();
        assert_eq!(ids, ["c1", "c1-without", "c8", "c8-without"]);
        for pair in networks.chunks(2) {
            let with = Config { shortcut: Shortcut::Projection, ..pair[1].config.clone() };
            assert_eq!((&with, pair[1].config.shortcut), (&pair[0].config, Shortcut::None));
        }
        assert!(of(Kind::Shortcuts, &base(), &[1], IMAGE).is_err());
    }

    #[test]
    fn a_network_has_its_name_where_there_is_one() {
        let model = |config: Config| PlannedNetwork::new("x", "", config).model();
        assert_eq!(model(base()), "resnet20_1x17d");
        let many = Config { cardinality: 8, base_width: 4, classes: 7, ..base() };
        assert_eq!(model(many.clone()), "resnext20_8x4d");
        let odd = Config { widths: vec![4, 7, 16], ..many };
        assert_eq!(model(odd), "resnext20, 8×(4, 7, 16)d");
        let without = Config { shortcut: Shortcut::None, ..base() };
        assert_eq!(model(without), "resnet20, 1×17d");
    }
}
