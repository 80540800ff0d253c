//! Valid and damaged archives, the loader's determinism, and the difficulty of the generated data set.

#[path = "hostile/mod.rs"]
mod hostile;
#[path = "data/image_folder.rs"]
mod image_folder;
#[path = "data/parquet_files.rs"]
mod parquet_files;
#[path = "data/shards.rs"]
mod shards;
#[path = "data/transforms.rs"]
mod transforms;

use resnext_data::transform::mix::{Mix, Mixed};
use resnext_data::{Augmentation, Batch, Dataset, Loader, LoaderConfig, cifar, synthetic};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RECORD: usize = 3073;
const NAMES: &[u8] = b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";

/// A folder of CIFAR-10 files with two records each; `change` may damage them.
fn folder(change: impl Fn(&str, &mut Vec<u8>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for i in 1..=6 {
        let name = if i == 6 { "test_batch.bin".to_string() } else { format!("data_batch_{i}.bin") };
        let mut data = vec![i as u8; 2 * RECORD];
        change(&name, &mut data);
        std::fs::write(folder.path().join(name), data).unwrap();
    }
    std::fs::write(folder.path().join("batches.meta.txt"), NAMES).unwrap();
    folder
}

fn archive_of(folder: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    tar.append_dir_all("cifar-10-batches-bin", folder).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

fn write(folder: &Path, name: &str, data: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().write_all(data).unwrap();
    path
}

#[test]
fn folder_and_archive_read_the_same() {
    let good = folder(|_, data| data[RECORD] = 9);
    let other = tempfile::tempdir().unwrap();
    let archive = write(other.path(), "cifar.tar.gz", &archive_of(good.path()));
    let (a, b) = (cifar::cifar10(good.path()).unwrap(), cifar::cifar10(&archive).unwrap());
    assert_eq!((&a.train, &a.test), (&b.train, &b.test));
    assert_eq!((a.train.len(), a.test.len()), (10, 2));
    assert_eq!((a.train.label(0), a.train.label(1), a.train.class_names()[9].as_str()), (1, 9, "truck"));
    assert_eq!(a.train.image(2)[0], 2);
}

#[test]
fn bad_archives_get_one_clear_line() {
    let message = |path: &Path| cifar::cifar10(path).unwrap_err().to_string();
    let out = tempfile::tempdir().unwrap();
    assert!(message(&out.path().join("nowhere")).contains("nowhere"));
    assert!(message(out.path()).contains("does not contain batches.meta.txt"));
    assert!(
        message(
            folder(|name, data| if name == "data_batch_3.bin" {
                data[RECORD] = 10
            })
            .path()
        )
        .contains("data_batch_3.bin in")
    );
    let label = message(
        folder(|name, data| {
            if name == "test_batch.bin" {
                data[RECORD] = 10
            }
        })
        .path(),
    );
    assert!(label.contains("record 1 has label 10, expected one below 10"), "{label}");
    assert!(message(folder(|_, data| data.truncate(RECORD + 5)).path()).contains("cut short"));
    assert!(
        message(folder(|_, data| data.clear()).path()).contains("positive multiple of 3073 bytes, got 0")
    );
    let whole = archive_of(folder(|_, _| ()).path());
    for (name, data) in
        [("half", &whole[..whole.len() / 2]), ("text", &b"<html>not found</html>"[..]), ("empty", &[])]
    {
        let text = message(&write(out.path(), name, data));
        assert!(text.contains(name) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn real_cifar_10_has_its_published_statistics() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/cifar-10-binary.tar.gz");
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return;
    }
    let splits = cifar::cifar10(&path).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (50_000, 10_000));
    let (own, published) = (splits.train.normalization(), splits.normalization);
    for c in 0..3 {
        assert!(
            (own.mean[c] - published.mean[c]).abs() < 1e-3 && (own.std[c] - published.std[c]).abs() < 1e-3
        );
    }
}

fn config(threads: usize) -> LoaderConfig {
    let augmentation = Augmentation::cifar();
    LoaderConfig { batch_size: 7, shuffle: true, augmentation, mix: None, seed: 5, threads }
}

fn loader(dataset: Dataset, config: LoaderConfig) -> Loader {
    let normalization = dataset.normalization();
    Loader::new(Arc::new(dataset), normalization, config).unwrap()
}

#[test]
fn batches_do_not_depend_on_threads_and_resume_anywhere() {
    let set = synthetic::splits(1, 50, 1).train;
    let batches =
        |threads, epoch| loader(set.clone(), config(threads)).epoch(epoch, 0).collect::<Vec<Batch>>();
    let one = batches(1, 3);
    assert_eq!(one.len(), 8);
    assert_eq!(one[7].labels.len(), 1);
    assert_eq!(one, batches(2, 3));
    assert_eq!(one, batches(5, 3));
    assert_ne!(one, batches(1, 4));
    let rest: Vec<Batch> = loader(set.clone(), config(3)).epoch(3, 35).collect();
    assert_eq!(rest, one[5..]);
    // With another batch size the same images follow, each changed in the same way.
    let larger = LoaderConfig { batch_size: 20, ..config(2) };
    let rest: Vec<Batch> = loader(set.clone(), larger).epoch(3, 35).collect();
    assert_eq!(rest.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [15]);
    let (labels, images): (Vec<_>, Vec<_>) =
        one[5..].iter().map(|batch| (batch.labels.clone(), batch.images.clone())).unzip();
    assert_eq!((rest[0].labels.clone(), rest[0].images.clone()), (labels.concat(), images.concat()));
    assert_eq!(loader(set.clone(), config(1)).epoch(3, 50).count(), 0);
    let mut counts = [0; 10];
    one.iter().flat_map(|batch| &batch.labels).for_each(|&label| counts[label as usize] += 1);
    assert_eq!(counts, [5; 10]);
    // Dropping the iterator early must not block.
    drop(loader(set, config(2)).epoch(0, 0));
}

/// Mixed images in memory and photos are mixed in the same way, which depends on the place in the epoch alone.
#[test]
fn mixed_batches_have_targets_and_resume_anywhere() {
    let set = synthetic::splits(1, 50, 1).train;
    let mix = Mix { mixup: 0.4, cutmix: 1.0, probability: 0.8, switch: 0.5, until: Some(5) };
    let mixed = |threads| {
        let plain = Augmentation::default();
        loader(set.clone(), LoaderConfig { augmentation: plain, mix: Some(mix), ..config(threads) })
    };
    let one: Vec<Batch> = mixed(1).epoch(3, 0).collect();
    assert_eq!(one, mixed(3).epoch(3, 0).collect::<Vec<_>>());
    assert_eq!(one[2..], mixed(2).epoch(3, 14).collect::<Vec<_>>());
    let plain = LoaderConfig { augmentation: Augmentation::default(), ..config(1) };
    let plain: Vec<Batch> = loader(set.clone(), plain).epoch(3, 0).collect();
    let (mut blended, mut unmixed) = (0, 0);
    for (batch, plain) in one.iter().zip(&plain) {
        let Some(targets) = batch.targets(10) else {
            unmixed += 1;
            assert_eq!(batch, plain);
            continue;
        };
        let Mixed { labels, own } = batch.mixed.clone().unwrap();
        assert_ne!(batch.images, plain.images);
        for (i, row) in targets.chunks_exact(10).enumerate() {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
            let (first, second) = (batch.labels[i] as usize, labels[i] as usize);
            assert!((row[first] - if first == second { 1.0 } else { own }).abs() < 1e-6, "{row:?}");
            // The partner is the image before; the target is the share of the pixels.
            assert_eq!(labels[i], batch.labels[(i + batch.labels.len() - 1) % batch.labels.len()]);
        }
        let share = |i: usize, p: usize| batch.images[i * 3072 + p] == plain.images[i * 3072 + p];
        let kept = (0..3072).filter(|&p| share(1, p)).count() as f32 / 3072.0;
        blended += usize::from(kept < own - 0.05);
    }
    // Of seven batches of more than one image some are blended, some are pasted, and some stay as they are. The
    // last image is alone.
    assert!(blended > 0 && unmixed >= 2 && one.len() - blended - unmixed > 0, "{blended} {unmixed}");
    assert!(one.last().unwrap().mixed.is_none());
    assert!(mixed(1).epoch(5, 0).all(|batch| batch.mixed.is_none()));
}

#[test]
fn without_augmentation_pixels_are_normalised_and_in_order() {
    let set = synthetic::splits(1, 20, 1).train;
    let plain = LoaderConfig { shuffle: false, augmentation: Augmentation::default(), ..config(2) };
    let batch = loader(set.clone(), plain).epoch(0, 0).next().unwrap();
    let normalization = set.normalization();
    let want = (set.image(2)[1024 + 33] as f32 / 255.0 - normalization.mean[1]) / normalization.std[1];
    assert!((batch.images[2 * 3072 + 33 * 3 + 1] - want).abs() < 1e-5);
    assert_eq!(batch.labels, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_batch_size_of_zero_is_refused() {
    let set = synthetic::splits(1, 20, 1).train;
    let normalization = set.normalization();
    let error =
        Loader::new(Arc::new(set), normalization, LoaderConfig { batch_size: 0, ..config(1) }).unwrap_err();
    assert!(error.to_string().contains("must be at least 1"));
}

/// Softmax regression on pixels, as the linear model.
#[test]
fn a_linear_model_fails_on_the_generated_set() {
    let splits = synthetic::splits(3, 4000, 1000);
    let plain = LoaderConfig { augmentation: Augmentation::default(), batch_size: 100, ..config(1) };
    let (train, test) = (loader(splits.train, plain), loader(splits.test, plain));
    let mut weight = vec![0f32; 10 * 3072];
    let scores = |weight: &[f32], x: &[f32]| -> Vec<f32> {
        weight.chunks_exact(3072).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    for epoch in 0..8 {
        for batch in train.epoch(epoch, 0) {
            for (x, &label) in batch.images.chunks_exact(3072).zip(&batch.labels) {
                let scores = scores(&weight, x);
                let max = scores.iter().copied().fold(f32::MIN, f32::max);
                let total: f32 = scores.iter().map(|s| (s - max).exp()).sum();
                for (k, w) in weight.chunks_exact_mut(3072).enumerate() {
                    let g = (scores[k] - max).exp() / total - if k == label as usize { 1.0 } else { 0.0 };
                    w.iter_mut().zip(x).for_each(|(w, x)| *w -= 1e-4 * g * x);
                }
            }
        }
    }
    let mut right = 0;
    for batch in test.epoch(0, 0) {
        for (x, &label) in batch.images.chunks_exact(3072).zip(&batch.labels) {
            let scores = scores(&weight, x);
            right += usize::from((0..10).all(|k| scores[k] <= scores[label as usize]));
        }
    }
    assert!(right < 400, "a linear model got {right} of 1000 right");
}

#[test]
fn a_fingerprint_tells_sets_of_the_same_size_apart() {
    let set = |seed| synthetic::splits(seed, 20, 1).train.fingerprint();
    assert_eq!(set(1), set(1));
    assert_ne!(set(1), set(2));
    assert!(set(1).starts_with("20 images of 32×32 in 10 classes ("), "{}", set(1));
}
