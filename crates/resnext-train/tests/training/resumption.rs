//! Checkpoints, and runs that go on from them.

use super::*;

#[test]
fn a_resumed_run_is_the_same_bits_as_one_that_was_not_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    for accumulate in [1, 2] {
        let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
        let (mut whole, mut watch) = (trainer(accumulate), record(usize::MAX));
        assert_eq!(whole.run(&NOISE, &mut watch).unwrap(), Outcome::Finished);

        let mut losses = Vec::new();
        let mut epochs = Vec::new();
        let mut first = record(2);
        assert_eq!(trainer(accumulate).run(&NOISE, &mut first).unwrap(), Outcome::Stopped);
        losses.extend(first.losses);
        epochs.extend(first.epochs);
        loop {
            let checkpoint = Checkpoint::load(&file, &Device::Cpu).unwrap();
            let mut resumed = trainer(accumulate);
            resumed.restore(&checkpoint, &file).unwrap();
            let mut watch = record(3);
            let outcome = resumed.run(&NOISE, &mut watch).unwrap();
            losses.extend(watch.losses);
            epochs.extend(watch.epochs);
            if outcome == Outcome::Finished {
                assert_eq!(weights(&resumed.checkpoint()), weights(&whole.checkpoint()));
                break;
            }
        }
        assert_eq!(losses, watch.losses);
        assert_eq!(epochs, watch.epochs);
    }
}

/// Equal checkpoints are equal files, with or without the optimizer's state, however much metadata they have.
#[test]
fn checkpoints_of_the_same_state_have_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let saved = |name: &str| -> [Vec<u8>; 2] {
        let mut trainer = trainer(1);
        trainer.set_metadata((0..8).map(|i| (format!("key {i}"), format!("value \"{i}\" é"))).collect());
        let (whole, weights) = (folder.path().join(name), folder.path().join(format!("{name}.weights")));
        trainer.checkpoint().save(&whole).unwrap();
        trainer.checkpoint().save_weights(&weights).unwrap();
        [whole, weights].map(|path| std::fs::read(path).unwrap())
    };
    let first = saved("first");
    for other in ["second", "third", "fourth"] {
        assert!(first == saved(other), "{other} has other bytes");
    }
}

/// A run that resumes within an epoch goes on from its sums of losses, and compares with its best top-1.
#[test]
fn numbers_of_a_checkpoint_are_read_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let numbers: Vec<f64> = (1..4000).map(|i| 40.0 * f64::from(i).sqrt().sin().abs()).collect();
    let mut checkpoint = trainer(1).checkpoint();
    checkpoint.recipe = serde_json::json!(numbers);
    checkpoint.save(&file).unwrap();
    let read = Checkpoint::load(&file, &Device::Cpu).unwrap().recipe;
    let wrong = numbers.iter().zip(read.as_array().unwrap()).filter(|(n, r)| r.as_f64() != Some(**n)).count();
    assert_eq!(wrong, 0, "of {}", numbers.len());
}

/// Mixed precision gives losses close to f32's but not equal to them, the same bits after an interruption,
/// and files in f32.
#[test]
fn mixed_precision_trains_like_f32_and_resumes_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let of = |amp| trainer_of(TrainConfig { amp, lr: 0.002, ..config(1) });
    let (mut wide, mut whole, mut again) = (record(usize::MAX), record(usize::MAX), record(usize::MAX));
    of(Amp::Off).run(&NOISE, &mut wide).unwrap();
    let checkpointing = TrainConfig { amp: Amp::Bf16, grad_checkpoint: true, lr: 0.002, ..config(1) };
    trainer_of(checkpointing).run(&NOISE, &mut again).unwrap();
    let mut trainer = of(Amp::Bf16);
    trainer.run(&NOISE, &mut whole).unwrap();
    assert_ne!(wide.losses, whole.losses);
    assert_eq!(again.losses, whole.losses);
    for (wide, mixed) in wide.losses.iter().zip(&whole.losses) {
        assert!((wide / mixed - 1.0).abs() < 0.1, "{wide} in f32, {mixed} with bf16");
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!((mean(&wide.losses) / mean(&whole.losses) - 1.0).abs() < 0.03, "{:?}", whole.losses);

    let mut first = record(3);
    of(Amp::Bf16).run(&NOISE, &mut first).unwrap();
    let stopped = Checkpoint::load(&file, &Device::Cpu).unwrap();
    let Checkpoint { tensors, momentum, average, .. } = &stopped;
    let saved = tensors.values().chain(momentum.values()).chain(average.values());
    assert!(saved.into_iter().all(|t| t.dtype() == DType::F32));
    let (mut resumed, mut second) = (of(Amp::Bf16), record(usize::MAX));
    resumed.restore(&stopped, &file).unwrap();
    resumed.run(&NOISE, &mut second).unwrap();
    assert_eq!([first.losses, second.losses].concat(), whole.losses);
    assert_eq!(weights(&resumed.checkpoint()), weights(&trainer.checkpoint()));
}

/// A run of form (a), converted to form (c) with its running statistics and momentum, continues as it would
/// have in (a) up to rounding. Converting back gives the same bits.
#[test]
fn a_run_goes_on_in_another_form_with_its_momentum() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let of = |form: Form| {
        let model = Config { form, ..model() };
        Trainer::new(&model, config(1), serde_json::Value::Null, &Device::Cpu).unwrap()
    };
    let (mut whole, mut stayed) = (of(Form::A), record(usize::MAX));
    whole.run(&NOISE, &mut stayed).unwrap();
    of(Form::A).run(&NOISE, &mut record(2)).unwrap();
    let stopped = Checkpoint::load(&file, &Device::Cpu).unwrap();
    assert!(stopped.momentum.contains_key("layer1.0.paths.3.conv3.weight"));
    for form in [Form::B, Form::C] {
        let converted = stopped.clone().into_form(form).unwrap();
        let back = converted.clone().into_form(Form::A).unwrap();
        assert!(weights(&back) == weights(&stopped), "other bits after form ({form})");
        let mut resumed = of(form);
        resumed.restore(&converted, &file).unwrap();
        let mut changed = record(usize::MAX);
        resumed.run(&NOISE, &mut changed).unwrap();
        for (stayed, changed) in stayed.losses[2..].iter().zip(&changed.losses) {
            assert!((stayed / changed - 1.0).abs() < 1e-3, "form {form}: {changed}, in form a {stayed}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_model_changes_nothing() {
    let file = Path::new("other.safetensors");
    let mut trainer = trainer(1);
    let before = weights(&trainer.checkpoint());
    let other =
        Trainer::new(&Config { classes: 5, ..model() }, config(1), serde_json::Value::Null, &Device::Cpu)
            .unwrap();
    let error = trainer.restore(&other.checkpoint(), file).unwrap_err().to_string();
    assert!(error.contains("other.safetensors does not fit"), "{error}");
    let variables = resnext_model::Variables::new(0, DType::F32, &Device::Cpu);
    resnext_model::ResNext::new(&model(), variables.builder()).unwrap();
    let error = assign(&variables.all(), &other.checkpoint().tensors, file).unwrap_err().to_string();
    assert!(error.contains("expected 4 classes, file has 5: fc.weight"), "{error}");
    let error = assign(&variables.all(), &BTreeMap::new(), file).unwrap_err().to_string();
    assert!(error.contains("missing: bn1.bias") && error.ends_with(", …"), "{error}");
    assert_eq!(weights(&trainer.checkpoint()), before);
}

#[test]
fn bad_files_get_one_clear_line_and_a_failed_save_keeps_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.safetensors");
    let checkpoint = trainer(1).checkpoint();
    checkpoint.save(&file).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let message = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Checkpoint::load(&file, &Device::Cpu).unwrap_err().to_string()
    };
    for bytes in [&whole[..whole.len() / 2], &whole[..100], b"<html>", b"", &[255; 64]] {
        let text = message(bytes);
        assert!(text.contains("not a complete safetensors file") && !text.contains('\n'), "{text}");
    }
    let plain = safetensors::serialize(&checkpoint.tensors, None).unwrap();
    assert!(message(&plain).contains("a plain weights file"));
    assert_eq!(Weights::open(&file).unwrap().shapes().count(), checkpoint.tensors.len());

    // If the temporary file cannot be created, the old file stays and nothing is left behind.
    std::fs::write(&file, &whole).unwrap();
    std::fs::create_dir(file.with_extension("tmp")).unwrap();
    assert!(replace_file(&file, b"new").unwrap_err().to_string().contains("cannot write"));
    assert_eq!(std::fs::read(&file).unwrap(), whole);
    assert!(checkpoint.save(&folder.path().join("no/such/folder.safetensors")).is_err());
}

/// A run that goes on with another batch size, within an epoch and with gradients accumulated, sees every
/// image of the epoch once, and its schedule goes on from the same place.
#[test]
fn another_batch_size_continues_by_image() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    for (batch_size, batches) in [(6, 3), (20, 1), (1, 18), (7, 3)] {
        trainer(1).run(&NOISE, &mut record(2)).unwrap();
        let mut resumed = trainer(1);
        resumed.restore(&Checkpoint::load(&file, &Device::Cpu).unwrap(), &file).unwrap();
        assert_eq!(resumed.progress().images, 12);
        // The labels that follow are those that an uninterrupted run sees.
        let labels = |data: Noise| -> Vec<u32> {
            data.train(0, 12).flat_map(|batch| batch.unwrap().1.to_vec1::<u32>().unwrap()).collect()
        };
        assert_eq!(labels(Noise(batch_size)), labels(NOISE));
        let mut watch = record(usize::MAX);
        assert_eq!(resumed.run(&Noise(batch_size), &mut watch).unwrap(), Outcome::Finished);
        assert_eq!(watch.losses.len(), batches + 30usize.div_ceil(batch_size), "batches of {batch_size}");
        assert_eq!(watch.epochs[0].0.count, 30);
        let per_class: Vec<usize> = watch.epochs[0].0.per_class.iter().map(|&(_, seen)| seen).collect();
        assert_eq!(per_class, [8, 8, 7, 7]);
        if batch_size == 6 {
            let mut whole = trainer(1);
            whole.run(&NOISE, &mut record(usize::MAX)).unwrap();
            assert_eq!(weights(&resumed.checkpoint()), weights(&whole.checkpoint()));
        }
    }
}

/// A checkpoint that an earlier version wrote has no count of images, and continues all the same.
#[test]
fn an_average_that_begins_on_resumption_is_warmed_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let plain = TrainConfig { ema: 0.0, ..config(1) };
    trainer_of(plain).run(&NOISE, &mut record(3)).unwrap();
    let mut checkpoint = Checkpoint::load(&file, &Device::Cpu).unwrap();
    checkpoint.progress.images = 0;
    let mut resumed = trainer_of(TrainConfig { ema: 0.999, ..config(1) });
    resumed.restore(&checkpoint, &file).unwrap();
    assert_eq!((resumed.progress().images, resumed.progress().average_from), (18, 3));
    resumed.run(&NOISE, &mut record(1)).unwrap();
    // The first step of an average keeps 2/11 of its initial value, whatever the run has done before.
    let Checkpoint { tensors, average, progress, .. } = resumed.checkpoint();
    assert_eq!((progress.step, progress.average_from), (4, 3));
    let name = "layer1.0.conv1.weight";
    let want = ((&checkpoint.tensors[name] * (2.0 / 11.0)).unwrap()
        + (&tensors[name] * (9.0 / 11.0)).unwrap())
    .unwrap();
    let worst = (want - &average[name]).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    assert!(worst.to_scalar::<f32>().unwrap() < 1e-6);
}

/// Every optimizer and every random or stateful setting continues with the same bits after an interruption.
#[test]
fn every_setting_resumes_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("last.safetensors");
    let record = |stop_after| Recorder { losses: vec![], epochs: vec![], file: &file, stop_after };
    let adamw = OptimizerConfig::AdamW(AdamWConfig::default());
    let lamb = OptimizerConfig::Lamb(LambConfig::default());
    let bce = Loss::Bce { threshold: Some(0.2) };
    let plain = config(2);
    let configs = [
        TrainConfig { optimizer: adamw, lr: 0.002, clip: Some(Clip::Norm(0.5)), ..plain.clone() },
        TrainConfig { optimizer: lamb, lr: 0.005, loss: bce, decay_of: DecayOf::Weights, ..plain.clone() },
        TrainConfig { drop_path: 0.5, clip: Some(Clip::Value(0.01)), layer_decay: 0.5, ..plain.clone() },
        TrainConfig { freeze: "stem,layer1".parse().unwrap(), freeze_norms: true, ..plain.clone() },
    ];
    let mut all: Vec<Vec<f64>> = Vec::new();
    for config in configs {
        let (mut whole, mut watch) = (trainer_of(config.clone()), record(usize::MAX));
        whole.run(&NOISE, &mut watch).unwrap();
        let mut first = record(2);
        trainer_of(config.clone()).run(&NOISE, &mut first).unwrap();
        let mut resumed = trainer_of(config.clone());
        resumed.restore(&Checkpoint::load(&file, &Device::Cpu).unwrap(), &file).unwrap();
        let mut second = record(usize::MAX);
        resumed.run(&NOISE, &mut second).unwrap();
        assert_eq!([first.losses, second.losses].concat(), watch.losses, "{config:?}");
        assert_eq!(weights(&resumed.checkpoint()), weights(&whole.checkpoint()), "{config:?}");
        all.push(watch.losses);
    }
    let (mut plain, mut watch) = (trainer_of(plain), record(usize::MAX));
    plain.run(&NOISE, &mut watch).unwrap();
    assert!(
        all.iter().all(|losses| *losses != watch.losses && losses.len() == 10),
        "a setting has no effect"
    );
    // The state of one optimizer is not taken for another's.
    let checkpoint = plain.checkpoint();
    let mut other = trainer_of(TrainConfig { optimizer: adamw, ..config(1) });
    let error = other.restore(&checkpoint, &file).unwrap_err().to_string();
    assert!(error.contains("its optimizer is another one"), "{error}");
}
