//! The recipes of this repository, which are part of the program.

/// Name and text of each file in `recipes/`.
const RECIPES: [(&str, &str); 11] = [
    ("synthetic", include_str!("../../recipes/synthetic.toml")),
    ("cifar10", include_str!("../../recipes/cifar10.toml")),
    ("cifar100", include_str!("../../recipes/cifar100.toml")),
    ("folder", include_str!("../../recipes/folder.toml")),
    ("fine-tune", include_str!("../../recipes/fine-tune.toml")),
    ("paper-cifar10", include_str!("../../recipes/paper-cifar10.toml")),
    ("paper-imagenet", include_str!("../../recipes/paper-imagenet.toml")),
    ("torchvision-v2", include_str!("../../recipes/torchvision-v2.toml")),
    ("timm-a1", include_str!("../../recipes/timm-a1.toml")),
    ("timm-a2", include_str!("../../recipes/timm-a2.toml")),
    ("timm-a3", include_str!("../../recipes/timm-a3.toml")),
];

/// The text of the recipe of this name.
pub fn text(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names of all recipes.
pub fn names() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;
    use resnext_data::Resize;
    use resnext_train::{DecayOf, LambConfig, Loss, OptimizerConfig, SgdConfig};

    #[test]
    fn every_file_is_a_recipe_that_says_where_it_comes_from() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<String> =
            files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_string()).collect();
        files.sort();
        let mut known: Vec<&str> = names().collect();
        known.sort();
        assert_eq!(files, known);
        for name in names() {
            assert!(text(name).unwrap().starts_with("# "), "{name} does not say what it is");
            let recipe = Recipe::named(name).unwrap();
            recipe.network(10).unwrap();
            recipe.training(&[2; 10]).unwrap();
            // A run stores the same recipe.
            let again: Recipe = toml::from_str(&toml::to_string(&recipe).unwrap()).unwrap();
            assert_eq!(again, recipe, "{name}");
        }
    }

    /// Steps per epoch in [`published_recipes_have_the_published_figures`]: enough that rounding does not matter.
    const STEPS: usize = 100;

    /// The settings that a paper or a reference publishes.
    struct Published {
        name: &'static str,
        model: &'static str,
        epochs: usize,
        /// Images per optimizer step.
        images: usize,
        optimizer: OptimizerConfig,
        decay_of: DecayOf,
        /// Epochs and the rates there.
        rates: &'static [(f64, f64)],
        loss: Loss,
        smoothing: f64,
        drop_path: f64,
        /// The parameters of mixup and CutMix.
        mix: Option<(f64, f64)>,
        /// Training crop, evaluation crop, and the side that photos are resized to for it.
        sizes: Option<(usize, usize, usize)>,
        /// Policy, colour jitter, erasing and repeats.
        augmentation: Option<(Option<&'static str>, f64, f64, usize)>,
    }

    #[test]
    fn published_recipes_have_the_published_figures() {
        let sgd = |weight_decay, nesterov| {
            OptimizerConfig::Sgd(SgdConfig { momentum: 0.9, nesterov, weight_decay })
        };
        let lamb = |weight_decay| OptimizerConfig::Lamb(LambConfig { weight_decay, ..Default::default() });
        let bce = Loss::Bce { threshold: Some(0.2) };
        let rsb = |name, epochs, rates, mixup, weight_decay| Published {
            name,
            model: "resnext50_32x4d",
            epochs,
            images: 2048,
            optimizer: lamb(weight_decay),
            decay_of: DecayOf::Weights,
            rates,
            loss: bce,
            smoothing: 0.0,
            drop_path: 0.05,
            mix: Some((mixup, 1.0)),
            sizes: Some((224, 224, 235)),
            augmentation: Some((Some("rand-m7-mstd0.5-inc1"), 0.0, 0.0, 3)),
        };
        let all = [
            Published {
                name: "paper-imagenet",
                model: "resnext50_32x4d",
                epochs: 100,
                images: 256,
                optimizer: sgd(1e-4, true),
                decay_of: DecayOf::All,
                rates: &[(0.0, 0.1), (29.9, 0.1), (30.0, 0.01), (60.0, 1e-3), (89.9, 1e-3), (90.0, 1e-4)],
                loss: Loss::CrossEntropy,
                smoothing: 0.0,
                drop_path: 0.0,
                mix: None,
                sizes: Some((224, 224, 256)),
                augmentation: Some((None, 0.4, 0.0, 1)),
            },
            Published {
                name: "paper-cifar10",
                model: "resnext29_8x64d",
                epochs: 300,
                images: 128,
                optimizer: sgd(5e-4, true),
                decay_of: DecayOf::All,
                rates: &[(0.0, 0.1), (149.9, 0.1), (150.0, 0.01), (224.9, 0.01), (225.0, 1e-3)],
                loss: Loss::CrossEntropy,
                smoothing: 0.0,
                drop_path: 0.0,
                mix: None,
                sizes: None,
                augmentation: None,
            },
            Published {
                name: "torchvision-v2",
                model: "resnext101_64x4d",
                epochs: 600,
                images: 1024,
                optimizer: sgd(2e-5, false),
                decay_of: DecayOf::Weights,
                rates: &[(5.0, 0.5), (302.5, 0.25), (600.0, 0.0)],
                loss: Loss::CrossEntropy,
                smoothing: 0.1,
                drop_path: 0.0,
                mix: Some((0.2, 1.0)),
                sizes: Some((176, 224, 232)),
                augmentation: Some((Some("trivial"), 0.0, 0.1, 4)),
            },
            Published {
                smoothing: 0.1,
                ..rsb("timm-a1", 600, &[(5.0, 5e-3), (302.5, 2.5e-3), (600.0, 1e-6)], 0.2, 0.01)
            },
            rsb("timm-a2", 300, &[(5.0, 5e-3), (152.5, 2.5e-3), (300.0, 1e-6)], 0.1, 0.02),
            Published {
                drop_path: 0.0,
                sizes: Some((160, 224, 235)),
                augmentation: Some((Some("rand-m6-mstd0.5-inc1"), 0.0, 0.0, 1)),
                ..rsb("timm-a3", 100, &[(5.0, 8e-3), (52.5, 4e-3), (100.0, 1e-6)], 0.1, 0.02)
            },
        ];
        for published in all {
            let name = published.name;
            let recipe = Recipe::named(name).unwrap();
            let training = recipe.training(&[]).unwrap();
            assert_eq!(recipe.model, published.model, "{name}");
            assert_eq!(recipe.epochs, published.epochs, "{name}");
            assert_eq!(recipe.batch_size * recipe.accumulate, published.images, "{name}");
            assert_eq!(training.optimizer, published.optimizer, "{name}");
            assert_eq!(training.decay_of, published.decay_of, "{name}");
            assert_eq!(
                (training.loss, training.label_smoothing, training.drop_path),
                (published.loss, published.smoothing, published.drop_path),
                "{name}"
            );
            for &(epoch, rate) in published.rates {
                let step = (epoch * STEPS as f64).round() as usize;
                let own = training.schedule.learning_rate(training.lr, step, recipe.epochs * STEPS);
                assert!(
                    (own - rate).abs() <= 1e-3 * rate + 1e-8,
                    "{name}: {own} at epoch {epoch}, not {rate}"
                );
            }
            assert_eq!(recipe.mix.map(|mix| (mix.mixup, mix.cutmix)), published.mix, "{name}");
            assert!(recipe.mix.is_none_or(|mix| (mix.probability, mix.switch) == (1.0, 0.5)), "{name}");
            let Some((size, test_size, resized)) = published.sizes else { continue };
            let photos = recipe.photos.unwrap();
            let evaluation = photos.evaluation().unwrap();
            assert_eq!(photos.training(true).unwrap().size, (size, size), "{name}");
            assert_eq!(evaluation.crop, (test_size, test_size), "{name}");
            assert_eq!(evaluation.resize, Resize::Shorter(resized), "{name}");
            let own = (photos.policy.as_deref(), photos.jitter, photos.erase, photos.repeats);
            assert_eq!(Some(own), published.augmentation, "{name}");
        }
        // torchvision's average: every 32 steps with a decay of 1 - 2e-5·(1024·32/600).
        let ema = Recipe::named("torchvision-v2").unwrap().ema;
        assert!((ema.powi(32) - (1.0 - 2e-5 * 1024.0 * 32.0 / 600.0)).abs() < 1e-5, "{}", ema.powi(32));
        assert_eq!(Recipe::named("paper-imagenet").unwrap().photos.unwrap().lighting, 0.1);
    }

    #[test]
    fn names_and_keys_that_are_unknown_are_named() {
        let error = Recipe::named("paper-cifar").unwrap_err().to_string();
        assert!(error.contains("paper-cifar") && error.contains("synthetic, cifar10, "), "{error}");
        let text = text("synthetic").unwrap().replace("augment =", "augmented =");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my.toml");
        std::fs::write(&file, &text).unwrap();
        let error = format!("{:#}", Recipe::read(&file).unwrap_err());
        assert!(error.contains("my.toml, line 7: unknown field `augmented`"), "{error}");
        std::fs::write(&file, text.replace("augmented", "augment") + "\n[adamw]\nbetas = [0.9, 0.99]\n")
            .unwrap();
        let error = format!("{:#}", Recipe::read(&file).unwrap_err());
        assert!(error.contains("keep one of the tables [sgd], [adamw] and [lamb]"), "{error}");
    }
}
