//! Networks of equal complexity: the widths at which networks of different cardinality, depth or shape have the
//! same number of parameters and of multiply-adds (section 4 and table 2 of the paper).
//!
//! The paper chooses d, the width of a path, so that a block has about as many parameters as one of ResNet-50:
//! C·(256·d + 9·d² + d·256), here [`path_width`]. An integer d is too coarse for that wherever paths are narrow:
//! with 16 paths, 7 channels give 7 % too few parameters and 8 channels 7 % too many. And equal blocks do not make
//! equal networks, because a grouped block is wider inside, which costs multiply-adds where a stage begins, and
//! saves parameters where it ends. [`equal_complexity`] therefore chooses a width for each stage, near the one that
//! the rule asks for.
//!
//! ```
//! use resnext_model::{Complexity, Config, Template, equal_complexity, path_width};
//!
//! let base = Config::by_name("resnet20_1x17d")?;
//! let complexity = Complexity::of(&base, 32, 32)?;
//! let templates: Vec<Template> = [1, 8]
//!     .map(|cardinality| Template {
//!         width: path_width(&base, cardinality),
//!         config: Config { cardinality, ..base.clone() },
//!     })
//!     .into();
//! let networks = equal_complexity(&templates, complexity, 0.06, (32, 32))?;
//! let [one, eight] = [&networks[0], &networks[1]].map(|network| Complexity::of(network, 32, 32).unwrap());
//! assert!(one.deviation(&eight) < 0.02);
//! # Ok::<(), resnext_model::Error>(())
//! ```

use crate::config::Config;
use crate::error::{Error, Result};
use crate::summary::Summary;

/// How far a network's parameters and multiply-adds may be from the common ones, as a share of those. Any two
/// networks are then within twice as much of each other: within 2 %.
const TOLERANCE: f64 = 0.00985;

/// How far a stage's width may be from the rule's, as a factor.
const LARGEST_DISTORTION: f64 = 1.35;

/// The step in which common complexities are tried, as a share of the wanted one.
const STEP: f64 = 0.005;

/// The cost of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Complexity {
    /// The number of trainable parameters.
    pub parameters: f64,
    /// The number of multiply-adds for one image.
    pub multiply_adds: f64,
}

impl Complexity {
    /// The complexity of a network for images of `h`×`w` pixels.
    ///
    /// # Errors
    /// The errors of [`Config::validate`].
    pub fn of(config: &Config, h: usize, w: usize) -> Result<Self> {
        let summary = Summary::new(config, h, w)?;
        Ok(Complexity {
            parameters: summary.parameters() as f64,
            multiply_adds: summary.multiply_adds() as f64,
        })
    }

    /// `factor` times as much of both.
    pub fn times(&self, factor: f64) -> Self {
        Complexity { parameters: self.parameters * factor, multiply_adds: self.multiply_adds * factor }
    }

    /// The larger of the two relative differences from `other`, from 0.
    pub fn deviation(&self, other: &Complexity) -> f64 {
        let relative = |own: f64, other: f64| (own / other - 1.0).abs();
        relative(self.parameters, other.parameters).max(relative(self.multiply_adds, other.multiply_adds))
    }
}

/// A network whose widths are to be chosen.
#[derive(Debug, Clone)]
pub struct Template {
    /// Everything but the widths.
    pub config: Config,
    /// Channels per path in the first stage, a real number, as the rule asks for them; they double from stage to
    /// stage.
    pub width: f64,
}

/// The d at which a block of `cardinality` paths has as many parameters in its convolutions as one of `base`: the
/// real solution of C·(2·256·d + 9·d²) = C₀·(2·256·d₀ + 9·d₀²), where 256 stands for the output channels of the
/// first stage. Rounded, it is the paper's table 2 for a ResNet-50.
pub fn path_width(base: &Config, cardinality: usize) -> f64 {
    let outer = base.channels().first().map_or(0.0, |&channels| channels as f64);
    let d = base.base_width as f64;
    let parameters = base.cardinality as f64 * (2.0 * outer * d + 9.0 * d * d);
    // 9·d² + 2·outer·d - parameters/C = 0
    (-outer + (outer * outer + 9.0 * parameters / cardinality.max(1) as f64).sqrt()) / 9.0
}

/// The real width of a path in the first stage at which a network like `config` has the complexity `wanted`, judged
/// by the mean of both relative differences: where [`path_width`] does not apply, because depths differ.
///
/// # Errors
/// The errors of [`Config::validate`], and if not even a path of one channel is narrow enough.
pub fn width_for(config: &Config, wanted: &Complexity, (h, w): (usize, usize)) -> Result<f64> {
    let excess = |width: usize| -> Result<f64> {
        let Complexity { parameters, multiply_adds } = Complexity::of(&plain(config, width), h, w)?;
        Ok(parameters / wanted.parameters + multiply_adds / wanted.multiply_adds - 2.0)
    };
    let mut below = 1;
    if excess(below)? > 0.0 {
        return Err(Error::Config(format!(
            "{} paths of one channel each are more complex already than the wanted {:.0} parameters and {:.0} \
             multiply-adds",
            config.cardinality, wanted.parameters, wanted.multiply_adds
        )));
    }
    while excess(below + 1)? <= 0.0 {
        below += 1;
    }
    let (low, high) = (excess(below)?, excess(below + 1)?);
    Ok(below as f64 - low / (high - low))
}

/// Chooses the width of each stage of each template so that all networks have the same complexity: any two are
/// within 2 % in parameters and in multiply-adds, for images of (h, w) pixels. The common complexity is `about` or,
/// if that makes widths come closer to those of the rule, one that differs from it by up to `slack`, a share, in
/// either number. Among all solutions, the largest factor between a stage's width and the rule's is the smallest.
///
/// # Errors
/// [`Error::Config`] if there is no such choice with widths within 35 % of the rule's, or a template is invalid.
pub fn equal_complexity(
    templates: &[Template],
    about: Complexity,
    slack: f64,
    image: (usize, usize),
) -> Result<Vec<Config>> {
    let all = templates.iter().map(|template| candidates(template, image)).collect::<Result<Vec<_>>>()?;
    let steps = (slack / STEP).floor() as i32;
    let mut shifts: Vec<(i32, i32)> =
        (-steps..=steps).flat_map(|p| (-steps..=steps).map(move |m| (p, m))).collect();
    // The first of equally good solutions stays, which is the closest to `about`.
    shifts.sort_by_key(|&(p, m)| p.abs().max(m.abs()));
    let mut best: Option<(f64, Vec<&Candidate>)> = None;
    for (p, m) in shifts {
        let target = Complexity {
            parameters: about.parameters * (1.0 + STEP * f64::from(p)),
            multiply_adds: about.multiply_adds * (1.0 + STEP * f64::from(m)),
        };
        let mut worst: f64 = 1.0;
        let mut chosen = Vec::with_capacity(all.len());
        for candidates in &all {
            // They are in the order of their distortion.
            match candidates.iter().find(|own| own.complexity.deviation(&target) <= TOLERANCE) {
                Some(candidate) => chosen.push(candidate),
                None => break,
            }
            worst = chosen.iter().map(|own| own.distortion).fold(worst, f64::max);
        }
        let better = best.as_ref().is_none_or(|(known, _)| worst < known - 1e-9);
        if chosen.len() == all.len() && better {
            best = Some((worst, chosen));
        }
    }
    let Some((_, chosen)) = best else { return Err(no_solution(templates)) };
    Ok(templates
        .iter()
        .zip(chosen)
        .map(|(template, own)| with_widths(&template.config, &own.widths))
        .collect())
}

fn no_solution(templates: &[Template]) -> Error {
    let narrowest = templates.iter().min_by(|a, b| a.width.total_cmp(&b.width));
    let why = narrowest.map_or(String::new(), |template| {
        format!(
            "; the narrowest paths, {} of them, would have {:.1} channels, of which only whole ones can be had. \
             Choose a wider base network, or fewer paths",
            template.config.cardinality, template.width
        )
    });
    Error::Config(format!("no widths make these networks equally complex within 2 %{why}"))
}

/// Widths that a template may get.
struct Candidate {
    complexity: Complexity,
    /// The largest factor between a stage's width and the rule's, at least 1.
    distortion: f64,
    widths: Vec<usize>,
}

/// All choices of widths near the rule's, the least distorted first.
fn candidates(Template { config, width }: &Template, (h, w): (usize, usize)) -> Result<Vec<Candidate>> {
    let stages = config.depths.len();
    // With more stages, fewer steps each: their number is multiplied.
    let steps = if stages > 3 { 7 } else { 15 };
    let ones = vec![1; stages];
    let least = Complexity::of(&with_widths(config, &ones), h, w)?;
    let mut all = vec![Candidate { complexity: least, distortion: 1.0, widths: Vec::new() }];
    for s in 0..stages {
        let wanted = width * f64::from(1 << s);
        let mut own = Vec::new();
        for width in choices(wanted, steps) {
            let widths: Vec<usize> = (0..stages).map(|t| if t == s { width } else { 1 }).collect();
            // A stage's cost does not depend on the widths inside of other stages.
            own.push((width, Complexity::of(&with_widths(config, &widths), h, w)?));
        }
        let extended = all.iter().flat_map(|before| {
            own.iter().map(|(width, complexity)| Candidate {
                complexity: Complexity {
                    parameters: before.complexity.parameters + complexity.parameters - least.parameters,
                    multiply_adds: before.complexity.multiply_adds + complexity.multiply_adds
                        - least.multiply_adds,
                },
                distortion: before.distortion.max(factor(*width as f64, wanted)),
                widths: before.widths.iter().copied().chain([*width]).collect(),
            })
        });
        all = extended.collect();
    }
    all.sort_by(|a, b| a.distortion.total_cmp(&b.distortion));
    Ok(all)
}

/// At most about `steps` widths around `wanted`, with its two neighbours.
fn choices(wanted: f64, steps: usize) -> Vec<usize> {
    let (low, high) = ((wanted / LARGEST_DISTORTION).ceil(), (wanted * LARGEST_DISTORTION).floor());
    let between = (0..steps).map(|i| low + (high - low) * i as f64 / (steps - 1) as f64);
    let all = between.chain([wanted.floor(), wanted.ceil()]).map(|width| width.round().max(1.0) as usize);
    let mut all: Vec<usize> = all.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The factor between two widths, at least 1.
fn factor(a: f64, b: f64) -> f64 {
    (a / b).max(b / a)
}

/// `config` with paths of this width in the first stage, which doubles from stage to stage.
fn plain(config: &Config, width: usize) -> Config {
    Config { base_width: width, widths: Vec::new(), ..config.clone() }
}

/// `config` with these widths, which are left out where they double from stage to stage.
fn with_widths(config: &Config, widths: &[usize]) -> Config {
    let first = widths.first().copied().unwrap_or(1);
    let doubling = widths.iter().enumerate().all(|(s, &width)| width == first << s);
    Config { widths: if doubling { Vec::new() } else { widths.to_vec() }, ..plain(config, first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Config {
        Config::by_name(name).unwrap()
    }

    fn cardinalities(base: &Config, all: &[usize]) -> Vec<Template> {
        let template = |&cardinality: &usize| Template {
            width: path_width(base, cardinality),
            config: Config { cardinality, ..base.clone() },
        };
        all.iter().map(template).collect()
    }

    /// The paper's table 2.
    #[test]
    fn widths_of_paths_are_those_of_the_papers_table_2() {
        let base = named("resnet50");
        let widths = [1, 2, 4, 8, 32].map(|c| path_width(&base, c).round());
        assert_eq!(widths, [64.0, 40.0, 24.0, 14.0, 4.0]);
        // The table has no 16, for which an integer is as bad either way.
        assert!((path_width(&base, 16) - 7.5).abs() < 0.02);
        // 9·40² + 512·40 = 34,880 parameters in each of two paths are as many as 69,760 in one.
        let half = Config { cardinality: 2, base_width: 40, ..base };
        assert!((path_width(&half, 1) - 64.08).abs() < 0.01);
    }

    #[test]
    fn networks_of_all_cardinalities_have_equal_complexity() {
        let all = [1, 2, 4, 8, 16, 32];
        for (name, side) in [("resnet20_1x17d", 32), ("resnet29_1x64d", 32), ("resnet50", 224)] {
            let base = named(name);
            let about = Complexity::of(&base, side, side).unwrap();
            let networks = equal_complexity(&cardinalities(&base, &all), about, 0.06, (side, side)).unwrap();
            assert_eq!(networks.iter().map(|own| own.cardinality).collect::<Vec<_>>(), all, "{name}");
            let costs: Vec<_> = networks.iter().map(|own| Complexity::of(own, side, side).unwrap()).collect();
            for a in &costs {
                assert!(a.deviation(&about) < 0.07, "{name}: {a:?} is far from {about:?}");
                for b in &costs {
                    assert!(a.deviation(b) <= 0.02, "{name}: {a:?} beside {b:?}");
                }
            }
            for (network, c) in networks.iter().zip(all) {
                let wanted = path_width(&base, c);
                for (s, blocks) in network.blocks().iter().enumerate() {
                    let factor = factor(blocks[0].path as f64, wanted * f64::from(1 << s));
                    assert!(factor < LARGEST_DISTORTION, "{name}, {c} paths, stage {s}: {factor}");
                }
            }
        }
    }

    #[test]
    fn a_wanted_complexity_is_met_at_any_depth() {
        let base = named("resnet20_1x17d");
        let twice = Complexity::of(&base, 32, 32).unwrap().times(2.0);
        let deeper = Config { depths: vec![4, 4, 4], ..base };
        let width = width_for(&deeper, &twice, (32, 32)).unwrap();
        assert!((12.0..24.0).contains(&width), "{width}");
        let networks = equal_complexity(&[Template { config: deeper, width }], twice, 0.0, (32, 32)).unwrap();
        let deviation = Complexity::of(&networks[0], 32, 32).unwrap().deviation(&twice);
        assert!(deviation <= 0.01, "{deviation}");
    }

    #[test]
    fn paths_that_would_be_too_narrow_are_refused_with_the_reason() {
        let base = named("resnext11_4x4d");
        let about = Complexity::of(&base, 32, 32).unwrap();
        let error = equal_complexity(&cardinalities(&base, &[1, 64]), about, 0.06, (32, 32)).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("64 of them") && message.contains("wider base network"), "{message}");
        let many = Config { cardinality: 4096, ..base };
        let message = width_for(&many, &about, (32, 32)).unwrap_err().to_string();
        assert!(message.contains("4096 paths of one channel"), "{message}");
    }
}
