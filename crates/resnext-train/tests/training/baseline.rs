//! Inceptions and VGG go through the same loop, checkpoints and evaluation.

use super::fill;
use candle_core::{Device, Tensor};
use resnext_model::{Architecture, Config, Form, Head, Pretrained};
use resnext_train::*;
use std::collections::BTreeMap;

/// Six images of noise (3, 75, 75), the smallest that Inception-v3 takes, in batches of 3.
struct Photos;

impl Photos {
    fn batches(&self, salt: u64, skip: usize) -> Batches<'_> {
        Box::new((skip / 3..2).map(move |batch| {
            let images = fill(3 * 3 * 75 * 75, 10 * salt + batch as u64).into_iter().map(|v| v as f32);
            let images = Tensor::from_vec(images.collect(), (3, 3, 75, 75), &Device::Cpu)?;
            Ok((images, Tensor::new(&[0u32, 1, batch as u32], &Device::Cpu)?))
        }))
    }
}

impl Data for Photos {
    fn images_per_epoch(&self) -> usize {
        6
    }
    fn batch_size(&self) -> usize {
        3
    }
    fn image_size(&self) -> (usize, usize) {
        (75, 75)
    }
    fn fingerprint(&self) -> String {
        "photos".into()
    }
    fn train(&self, epoch: usize, skip: usize) -> Batches<'_> {
        self.batches(epoch as u64 + 1, skip)
    }
    fn test(&self) -> Batches<'_> {
        self.batches(0, 0)
    }
}

/// Keeps the losses and the last checkpoint, and stops after `stop_after` batches.
struct Watch {
    losses: Vec<f64>,
    tests: Vec<Metrics>,
    last: Option<Checkpoint>,
    stop_after: usize,
}

impl Watch {
    fn new(stop_after: usize) -> Self {
        Watch { losses: Vec::new(), tests: Vec::new(), last: None, stop_after }
    }
}

impl Observer for Watch {
    fn on_batch(&mut self, report: &BatchReport) {
        self.losses.push(report.loss);
    }
    fn on_epoch(&mut self, report: &EpochReport) -> Result<()> {
        self.tests.push(report.test.clone());
        Ok(())
    }
    fn save(&mut self, checkpoint: &Checkpoint, _: bool) -> Result<()> {
        self.last = Some(checkpoint.clone());
        Ok(())
    }
    fn should_stop(&self) -> bool {
        self.losses.len() >= self.stop_after
    }
}

fn named(name: &str) -> Architecture {
    Architecture::by_name(name).unwrap().with_classes(2)
}

fn config() -> TrainConfig {
    TrainConfig { epochs: 1, lr: 0.01, ..Default::default() }
}

fn trainer(network: &Architecture, config: TrainConfig) -> Result<Trainer> {
    Trainer::new(network, config, serde_json::json!({}), &Device::Cpu)
}

#[test]
fn a_baseline_is_trained_resumed_and_recognised() {
    let network = named("inception_v3");
    let mut whole = Watch::new(usize::MAX);
    trainer(&network, config()).unwrap().run(&Photos, &mut whole).unwrap();
    assert!(whole.losses.len() == 2 && whole.losses.iter().all(|loss| loss.is_finite()));
    assert_eq!(whole.tests[0].count, 6);

    let mut first = Watch::new(1);
    trainer(&network, config()).unwrap().run(&Photos, &mut first).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    first.last.unwrap().save(&file).unwrap();
    let stopped = Checkpoint::load(&file, &Device::Cpu).unwrap();
    assert_eq!(stopped.model, network);
    // Other programs find the network in the file.
    assert_eq!(Pretrained::open(&file).unwrap().network, network);
    let mut resumed = trainer(&network, config()).unwrap();
    resumed.restore(&stopped, &file).unwrap();
    let mut second = Watch::new(usize::MAX);
    resumed.run(&Photos, &mut second).unwrap();
    assert_eq!([first.losses, second.losses].concat(), whole.losses);
    let (whole, second) = (whole.last.unwrap(), second.last.unwrap());
    for (name, tensor) in &whole.tensors {
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(bits(tensor) == bits(&second.tensors[name]), "{name}");
    }

    // With a fresh last layer, weights of another number of classes will do.
    let head = |tensors: &BTreeMap<String, Tensor>| tensors["fc.weight"].to_vec2::<f32>().unwrap();
    let mut tensors = whole.tensors.clone();
    tensors.remove("fc.weight");
    let before = head(&resumed.checkpoint().tensors);
    resumed.start_from(&tensors, Head::Fresh, &file).unwrap();
    assert_eq!(head(&resumed.checkpoint().tensors), before);
    // Another network's checkpoint is refused, and so are forms of blocks that there are none of.
    let mut other = trainer(&named("resnet18"), config()).unwrap();
    let error = other.restore(&stopped, &file).unwrap_err().to_string();
    assert!(error.contains("does not fit the network"), "{error}");
    let error = stopped.into_form(Form::A).unwrap_err().to_string();
    assert!(error.contains("expected a ResNet or ResNeXt, got inception_v3"), "{error}");
}

#[test]
fn settings_about_stages_and_small_images_are_refused() {
    let refused = |change: fn(&mut TrainConfig)| {
        let mut config = config();
        change(&mut config);
        trainer(&named("vgg16_bn"), config).unwrap_err().to_string()
    };
    assert_eq!(
        refused(|config| config.freeze = "stem".parse().unwrap()),
        "freezing parts is for ResNets and ResNeXts, which have stages of blocks: vgg16_bn is trained without it"
    );
    assert!(refused(|config| config.freeze_norms = true).starts_with("frozen batch norms is for"));
    assert!(refused(|config| config.drop_path = 0.1).starts_with("stochastic depth (drop path)"));
    assert!(refused(|config| config.layer_decay = 0.7).starts_with("layer decay"));
    assert!(refused(|config| config.grad_checkpoint = true).starts_with("gradient checkpointing"));
    // A ResNet has them all.
    let all = TrainConfig { freeze: "stem".parse().unwrap(), drop_path: 0.1, layer_decay: 0.7, ..config() };
    trainer(&Config::by_name("resnext11_4x4d").unwrap().into(), all).unwrap();
    // 75 pixels leave Inception-v4's last map one pixel, which is enough for batches of 3.
    let v4 = trainer(&named("inception_v4"), config()).unwrap();
    v4.check(&Photos).unwrap();
    let error = v4.check(&Small).unwrap_err().to_string();
    assert_eq!(error, "images of 40×75 are too small for the network: choose larger ones");
}

/// As [`Photos`], with images that are said to be smaller.
struct Small;

impl Data for Small {
    fn images_per_epoch(&self) -> usize {
        6
    }
    fn batch_size(&self) -> usize {
        3
    }
    fn image_size(&self) -> (usize, usize) {
        (40, 75)
    }
    fn fingerprint(&self) -> String {
        "small".into()
    }
    fn train(&self, _: usize, _: usize) -> Batches<'_> {
        Box::new(std::iter::empty())
    }
    fn test(&self) -> Batches<'_> {
        Box::new(std::iter::empty())
    }
}
