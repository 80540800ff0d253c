//! Photos in a folder per class: layouts, splits, batches, and everything that can be wrong with them.

use resnext_data::transform::mix::Mix;
use resnext_data::transform::train::TrainTransform;
use resnext_data::{
    Batch, EvalTransform, ImageFolder, ImageLoader, ImageLoaderConfig, Interpolation, Normalization, Photo,
    Preparation, Resize, ValidationSplit,
};
use std::path::Path;

const NORMALIZATION: Normalization = Normalization { mean: [0.5, 0.4, 0.3], std: [0.2, 0.25, 0.3] };
const SPLIT: ValidationSplit = ValidationSplit { share: 0.2, seed: 1 };

/// Writes a noisy photo.
fn photo(path: &Path, salt: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let value = |i: usize| ((i * 2_654_435_761 + salt * 97) >> 7) as u8;
    Photo::new(20, 16, (0..20 * 16 * 3).map(value).collect()).unwrap().save(path).unwrap();
}

/// A folder with `counts` photos of the classes `a`, `b`, ….
fn classes(folder: &Path, counts: &[usize]) {
    for (class, &count) in counts.iter().enumerate() {
        let name = char::from(b'a' + class as u8).to_string();
        (0..count).for_each(|i| photo(&folder.join(&name).join(format!("{i}.png")), 100 * class + i));
    }
}

fn open(folder: &Path) -> Result<ImageFolder, String> {
    ImageFolder::open(folder, SPLIT).map_err(|error| error.to_string())
}

#[test]
fn training_and_validation_folders_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    for (train, validation) in [("train", "val"), ("Training", "validation"), ("train", "test")] {
        let path = folder.path().join(format!("{train}-{validation}"));
        classes(&path.join(train), &[3, 2]);
        classes(&path.join(validation), &[1, 2]);
        // What an archive or a notebook leaves behind is no class, and a text is no photo.
        std::fs::create_dir_all(path.join(train).join(".ipynb_checkpoints")).unwrap();
        std::fs::write(path.join(train).join("a/about.txt"), "text").unwrap();
        let set = open(&path).unwrap();
        assert_eq!((set.train.class_counts(), set.validation.class_counts()), (vec![3, 2], vec![1, 2]));
        assert_eq!(set.train.class_names(), ["a", "b"]);
        assert!(!set.split);
        assert!(set.train.path(4).ends_with("b/1.png") && set.train.label(4) == 1);
        for folder in [path.clone(), path.join(validation)] {
            let all = ImageFolder::validation_photos(&folder).unwrap();
            assert_eq!((all.class_counts(), all.class_names()), (vec![1, 2], set.train.class_names()));
        }
    }
}

#[test]
fn a_split_keeps_a_share_of_each_class_and_depends_on_the_seed_alone() {
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path(), &[20, 2, 10]);
    // A class may be called `train`.
    (0..5).for_each(|i| photo(&folder.path().join(format!("train/{i}.png")), i));
    let set = open(folder.path()).unwrap();
    assert!(set.split);
    assert_eq!(set.train.class_names(), ["a", "b", "c", "train"]);
    assert_eq!(set.validation.class_counts(), [4, 1, 2, 1]);
    assert_eq!(set.train.class_counts(), [16, 1, 8, 4]);
    let kept = |set: &ImageFolder| (0..8).map(|i| set.validation.path(i).to_path_buf()).collect::<Vec<_>>();
    assert!((0..set.train.len()).all(|i| !kept(&set).contains(&set.train.path(i).to_path_buf())));
    assert_eq!(kept(&set), kept(&open(folder.path()).unwrap()));
    let other = ImageFolder::open(folder.path(), ValidationSplit { seed: 2, ..SPLIT }).unwrap();
    assert_ne!(kept(&set), kept(&other));
    // Each class counts the same: 29 photos, 4 classes, 16 of the first.
    let weights = set.train.class_weights();
    assert!((weights[0] - 29.0 / 64.0).abs() < 1e-6, "{weights:?}");
}

#[test]
fn what_is_left_out_of_the_classes_is_named_and_what_systems_leave_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    classes(path, &[3, 2]);
    let heic = [&[0, 0, 0, 24][..], b"ftypheic", &[0; 4], b"mif1heic"].concat();
    std::fs::write(path.join("a/p63.heic"), &heic).unwrap();
    std::fs::write(path.join("b/notes.txt"), "notes").unwrap();
    photo(&path.join("alone.png"), 1);
    for system in ["a/@eaDir/x/SYNO.png", "lost+found/9.png", "@eaDir/9.png", "b/._0.png", "b/Thumbs.db"] {
        photo(&path.join("9.png"), 9);
        std::fs::create_dir_all(path.join(system).parent().unwrap()).unwrap();
        std::fs::rename(path.join("9.png"), path.join(system)).unwrap();
    }
    let set = open(path).unwrap();
    assert_eq!(set.train.class_names(), ["a", "b"]);
    assert_eq!(set.train.len() + set.validation.len(), 5);
    let line = "left out 3 files: alone.png (a photo in no class's folder), p63.heic (a HEIC image), \
                notes.txt (not an image)";
    assert_eq!(set.left_out_line().unwrap(), line);
    std::fs::create_dir(path.join("c")).unwrap();
    std::fs::write(path.join("c/1.heic"), &heic).unwrap();
    let error = open(path).unwrap_err();
    assert!(
        error.contains("c has no photos") && error.ends_with("left out 1 file: 1.heic (a HEIC image)"),
        "{error}"
    );
}

#[test]
fn a_fingerprint_depends_on_names_labels_and_lengths() {
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path(), &[3, 2]);
    let fingerprint = || open(folder.path()).unwrap().train.fingerprint();
    let before = fingerprint();
    assert_eq!(before, fingerprint());
    let shown = open(folder.path()).unwrap().train.path(0).to_path_buf();
    Photo::new(5, 5, vec![7; 75]).unwrap().save(&shown).unwrap();
    let after = fingerprint();
    // What is before the comma is all that earlier versions wrote.
    let start = |line: &str| line.split(", ").next().unwrap().to_string();
    assert!(after != before && start(&after) == start(&before), "{before}, {after}");
}

#[test]
fn folders_that_nothing_can_be_learnt_from_get_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, expected: &[&str]| {
        let message = open(&folder.path().join(name)).unwrap_err();
        let all = expected.iter().all(|part| message.contains(part));
        assert!(all && message.contains(name) && message.lines().count() == 1, "{expected:?}: {message}");
    };
    refused("nowhere", &["cannot read"]);
    photo(&folder.path().join("flat/1.png"), 1);
    refused("flat", &["no folder per class", "CLASS/photo.jpg"]);
    classes(&folder.path().join("single"), &[3]);
    refused("single", &["one class only, a", "at least two"]);
    classes(&folder.path().join("hollow"), &[3, 3]);
    std::fs::create_dir_all(folder.path().join("hollow/c")).unwrap();
    let message = open(&folder.path().join("hollow")).unwrap_err();
    assert!(message.contains("hollow/c has no photos") && message.contains("remove the folder"), "{message}");
    classes(&folder.path().join("scarce"), &[3, 1]);
    refused("scarce", &["scarce/b has one photo only", "at least two"]);
    classes(&folder.path().join("differ/train"), &[2, 2, 2]);
    classes(&folder.path().join("differ/val"), &[1, 1]);
    refused("differ", &["differ/val has no folder c, which", "differ/train has"]);
    classes(&folder.path().join("more/train"), &[2, 2]);
    classes(&folder.path().join("more/val"), &[1, 1, 1]);
    refused("more", &["more/train has no folder c"]);
    let error = ImageFolder::open(folder.path(), ValidationSplit { share: 1.0, seed: 0 }).unwrap_err();
    assert!(error.to_string().contains("above 0 and below 1"));
}

fn config(threads: usize) -> ImageLoaderConfig {
    ImageLoaderConfig { batch_size: 4, repeats: 1, mix: None, seed: 7, threads, strict: false }
}

fn training() -> Preparation {
    Preparation::Training(TrainTransform::new((12, 10), Interpolation::Bilinear, NORMALIZATION))
}

fn evaluation() -> Preparation {
    Preparation::Evaluation(EvalTransform {
        resize: Resize::Shorter(14),
        crop: (12, 10),
        interpolation: Interpolation::Bilinear,
        normalization: NORMALIZATION,
    })
}

fn batches(loader: &ImageLoader, epoch: u64, skip: usize) -> Vec<Batch> {
    loader.epoch(epoch, skip).collect::<Result<_, _>>().unwrap()
}

#[test]
fn batches_of_photos_do_not_depend_on_threads_and_resume_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path(), &[9, 6, 4]);
    let set = open(folder.path()).unwrap().train;
    assert_eq!(set.len(), 15);
    let mix = Mix { mixup: 0.2, cutmix: 1.0, probability: 0.7, switch: 0.5, until: Some(5) };
    for (repeats, mix) in [(1, None), (3, Some(mix))] {
        let of = |threads, batch_size| {
            let config = ImageLoaderConfig { repeats, mix, batch_size, ..config(threads) };
            ImageLoader::new(set.clone(), training(), config).unwrap()
        };
        let one = batches(&of(1, 4), 3, 0);
        assert_eq!(one.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [4, 4, 4, 3]);
        assert!(one.iter().all(|batch| batch.images.len() == batch.labels.len() * 12 * 10 * 3));
        assert_eq!(one.iter().any(|batch| batch.mixed.is_some()), mix.is_some());
        assert_eq!(one, batches(&of(2, 4), 3, 0));
        assert_eq!(one, batches(&of(7, 4), 3, 0));
        assert_ne!(one, batches(&of(1, 4), 4, 0));
        assert_eq!(one[2..], batches(&of(3, 4), 3, 8));
        assert!(batches(&of(2, 4), 3, 15).is_empty());
        // Nothing is mixed any more from epoch 5 on.
        assert!(batches(&of(2, 4), 5, 0).iter().all(|batch| batch.mixed.is_none()));
        // Each image is there once, or three times with different crops.
        let all = batches(&of(2, 15), 3, 0);
        let mut counts = [0; 3];
        all[0].labels.iter().for_each(|&label| counts[label as usize] += 1);
        if repeats == 1 {
            assert_eq!(counts, [7, 5, 3]);
        } else {
            assert!(counts.iter().all(|count| count % 3 == 0), "{counts:?}");
            let images: Vec<&[f32]> = all[0].images.chunks_exact(360).collect();
            assert!(images[0] != images[1] && images[1] != images[2]);
        }
        // Dropping the iterator early must neither block nor leave threads at work.
        drop(of(2, 4).epoch(0, 0));
    }
}

#[test]
fn evaluation_sees_the_same_pixels_as_predict() {
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path(), &[9, 6]);
    let set = open(folder.path()).unwrap().train;
    let loader = ImageLoader::new(set.clone(), evaluation(), config(2)).unwrap();
    let all = batches(&loader, 0, 0);
    let inputs: Vec<f32> = all.iter().flat_map(|batch| batch.images.clone()).collect();
    let Preparation::Evaluation(transform) = evaluation() else { unreachable!() };
    let expected: Vec<f32> =
        (0..set.len()).flat_map(|i| transform.apply(&Photo::open(set.path(i)).unwrap())).collect();
    assert_eq!(inputs, expected);
    assert_eq!(all, batches(&loader, 9, 0));
}

#[test]
fn a_broken_photo_is_named_counted_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path(), &[6, 6]);
    std::fs::write(folder.path().join("a/3.png"), "no photo").unwrap();
    let set = ImageFolder::open(folder.path(), ValidationSplit { share: 0.01, seed: 3 }).unwrap().train;
    assert!((0..set.len()).any(|i| set.path(i).ends_with("a/3.png")));
    let loader = |preparation, strict, threads| {
        let config = ImageLoaderConfig { strict, ..config(threads) };
        ImageLoader::new(set.clone(), preparation, config).unwrap()
    };
    // In training its place is taken, so that batches keep their size; whatever the threads, by the same one.
    let train = loader(training(), false, 2);
    let all = batches(&train, 1, 0);
    assert_eq!(all.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(all, batches(&loader(training(), false, 5), 1, 0));
    batches(&train, 2, 0);
    let [problem] = &train.unreadable()[..] else { panic!("{:?}", train.unreadable()) };
    assert!(problem.contains("a/3.png") && problem.contains("not an image"), "{problem}");
    // In evaluation its batch is smaller.
    let test = loader(evaluation(), false, 2);
    let sizes: usize = batches(&test, 0, 0).iter().map(|batch| batch.labels.len()).sum();
    assert_eq!((sizes, test.unreadable().len()), (9, 1));
    // It is fatal if asked for.
    let error = loader(training(), true, 2).epoch(0, 0).find_map(Result::err).unwrap().to_string();
    assert!(error.contains("a/3.png"), "{error}");
    // A class without a single photo cannot be learnt, which is known when all have been tried.
    for i in (0..set.len()).filter(|&i| set.label(i) == 0) {
        std::fs::write(set.path(i), "no photo").unwrap();
    }
    let mut epoch = loader(training(), false, 2).epoch(0, 0);
    let mut all: Vec<_> = epoch.by_ref().collect();
    let error = all.pop().unwrap().unwrap_err().to_string();
    assert!(error.contains("none of the 5 images of class a can be read"), "{error}");
    assert!(all.len() == 3 && all.iter().all(Result::is_ok) && epoch.next().is_none());
    assert_eq!(batches(&loader(evaluation(), false, 2), 0, 0).len(), 2);
    // A set without a single photo must not go on for ever.
    for i in 0..set.len() {
        std::fs::write(set.path(i), "no photo").unwrap();
    }
    let error = loader(training(), false, 2).epoch(0, 0).find_map(Result::err).unwrap().to_string();
    assert!(error.contains("none of 10 images can be read"), "{error}");
    assert_eq!(loader(evaluation(), false, 2).epoch(0, 0).count(), 0);
}

#[test]
fn settings_that_make_no_batches_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path(), &[2, 2]);
    let set = open(folder.path()).unwrap().train;
    let refused = |config, expected: &str| {
        let error = ImageLoader::new(set.clone(), training(), config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(ImageLoaderConfig { batch_size: 0, ..config(1) }, "batch size must be at least 1");
    refused(config(0), "threads must be at least 1");
    let mix = Mix { mixup: -1.0, cutmix: 0.0, probability: 1.0, switch: 0.5, until: None };
    refused(ImageLoaderConfig { mix: Some(mix), ..config(1) }, "mixup must be from 0 to 8, got -1");
}

/// Two processes with folders of the same names see whether their photos are the same ones.
#[test]
fn a_content_hash_reads_the_photos() {
    let folder = tempfile::tempdir().unwrap();
    for (name, salt) in [("first", 0), ("same", 0), ("other", 7)] {
        classes(&folder.path().join(name).join("photos"), &[4, 4]);
        photo(&folder.path().join(name).join("photos/a/2.png"), salt);
    }
    let train = |name: &str| open(&folder.path().join(name).join("photos")).unwrap().train;
    let (first, same, other) = (train("first"), train("same"), train("other"));
    assert_eq!(first.fingerprint(), other.fingerprint());
    assert_eq!(first.content_hash(), same.content_hash());
    assert_ne!(first.content_hash(), other.content_hash());
}
