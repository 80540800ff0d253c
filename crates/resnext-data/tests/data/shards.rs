//! Images in tar shards: the same pixels as from files, and everything that can be wrong with a shard.

use resnext_data::{ImageSet, Photo, Shards, ValidationSplit};
use std::path::Path;

const SPLIT: ValidationSplit = ValidationSplit { share: 0.25, seed: 1 };

/// A photo's file as PNG, in one colour.
fn png(colour: u8) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.png");
    Photo::new(6, 5, vec![colour; 90]).unwrap().save(&path).unwrap();
    std::fs::read(path).unwrap()
}

/// A tar file of these members.
fn shard(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A shard of `count` samples from number `first`, with the labels 0, 1, 2, 0, …, each of its own colour.
fn samples(first: usize, count: usize) -> Vec<u8> {
    let members: Vec<(String, Vec<u8>)> = (first..first + count)
        .flat_map(|i| {
            // A name beyond the 100 bytes of a plain header, and notes that are neither image nor label.
            let key = format!("{}/{i:06}", "a-folder-with-a-long-name".repeat(5));
            let label = format!("{}\n", i % 3).into_bytes();
            [
                (format!("{key}.cls"), label),
                (format!("{key}.json"), b"{}".to_vec()),
                (format!("{key}.png"), png(10 * i as u8)),
            ]
        })
        .collect();
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    shard(&members)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

#[test]
fn shards_give_the_images_labels_and_names_that_were_packed() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "train-000.tar", &samples(0, 7));
    write(folder.path(), "train-001.tar", &samples(7, 5));
    write(folder.path(), "val-000.tar", &samples(12, 3));
    write(folder.path(), "classes.txt", b"red\ngreen\nblue\n");
    assert!(Shards::recognise(folder.path()));
    let shards = Shards::open(folder.path(), SPLIT).unwrap();
    assert_eq!((shards.train.len(), shards.validation.len(), shards.split), (12, 3, false));
    assert_eq!(shards.train.class_names(), ["red", "green", "blue"]);
    for i in 0..12 {
        assert_eq!(shards.train.label(i) as usize, i % 3);
        assert_eq!(shards.train.photo(i).unwrap().pixels()[0], 10 * i as u8);
    }
    assert_eq!(shards.validation.photo(2).unwrap().pixels()[0], 140);
    // Some of the files, or one alone, have the same class names.
    let some = ["train-001.tar", "val-000.tar"].map(|name| folder.path().join(name));
    let shards_of_two = Shards::open_files(&some, folder.path(), SPLIT).unwrap();
    assert_eq!((shards_of_two.train.len(), shards_of_two.validation.len()), (5, 3));
    assert!(Shards::recognise(&folder.path().join("train-000.tar")));
    let one = Shards::open(&folder.path().join("train-000.tar"), SPLIT).unwrap();
    assert_eq!((one.train.len() + one.validation.len(), one.split), (7, true));
    assert_eq!(one.train.class_names(), ["red", "green", "blue"]);
    // Without shards for validation a share of each class is kept, and without names classes have numbers.
    std::fs::remove_file(folder.path().join("val-000.tar")).unwrap();
    std::fs::remove_file(folder.path().join("classes.txt")).unwrap();
    let split = Shards::open(folder.path(), SPLIT).unwrap();
    assert_eq!((split.validation.class_counts(), split.split), (vec![1, 1, 1], true));
    assert_eq!(split.train.class_names(), ["0", "1", "2"]);
    assert_ne!(split.train.fingerprint(), shards.train.fingerprint());
}

#[test]
fn damaged_shards_get_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8], expected: &str| {
        let path = folder.path().join(name);
        write(&path, "train.tar", bytes);
        let message = Shards::open(&path, SPLIT).unwrap_err().to_string();
        assert!(message.contains(expected) && message.lines().count() == 1, "{expected}: {message}");
        assert!(message.contains("train.tar"), "{message}");
    };
    let whole = samples(0, 12);
    for cut in [600, 5000, whole.len() - 1024] {
        refused("cut", &whole[..cut], "cut short");
    }
    // A piece of the middle is missing.
    let hole = [&whole[..20_000], &whole[20_700..]].concat();
    refused("hole", &hole, "or is damaged");
    refused("hole", &hole, ", after the member a-folder");
    refused("hole", &hole, "/000003.cls");
    refused("cut", &whole[..20_000], "; its last complete member is a-folder");
    refused("text", b"<html>not found</html>", "not a tar file");
    refused("empty", b"", "not a tar file");
    let image = png(1);
    refused("label", &shard(&[("1.png", &image)]), "sample 1 has no label: expected 1.cls");
    refused("image", &shard(&[("1.cls", b"0")]), "sample 1 has no image");
    refused(
        "word",
        &shard(&[("1.png", &image), ("1.cls", b"cat")]),
        "expected the number of a class, got \"cat\"",
    );
    refused("two", &shard(&[("1.png", &image), ("1.jpg", &image), ("1.cls", b"0")]), "two images");
    let one = folder.path().join("one");
    write(&one, "train.tar", &shard(&[("1.png", &image), ("1.cls", b"0")]));
    assert!(Shards::open(&one, SPLIT).unwrap_err().to_string().contains("one class only"));
    let named = folder.path().join("named");
    write(&named, "train.tar", &whole);
    write(&named, "classes.txt", b"a\nb\n");
    let message = Shards::open(&named, SPLIT).unwrap_err().to_string();
    let expected = "000002.cls: label 2, expected one below 2, the number of names in classes.txt";
    assert!(message.contains("train.tar") && message.contains(expected), "{message}");
}

#[test]
fn training_and_validation_shards_need_the_same_classes() {
    let folder = tempfile::tempdir().unwrap();
    let image = png(1);
    let members = |labels: &[&'static str]| -> Vec<u8> {
        let members: Vec<(String, &[u8])> = labels
            .iter()
            .enumerate()
            .flat_map(|(i, label)| [(format!("{i}.png"), &image[..]), (format!("{i}.cls"), label.as_bytes())])
            .collect();
        shard(&members.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect::<Vec<_>>())
    };
    let refused = |name: &str, train: &[&'static str], val: &[&'static str], expected: &str| {
        let path = folder.path().join(name);
        write(&path, "train.tar", &members(train));
        write(&path, "val.tar", &members(val));
        write(&path, "classes.txt", b"cat\ndog\nhen\n");
        let message = Shards::open(&path, SPLIT).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(name), "{expected}: {message}");
    };
    refused("more", &["0", "1"], &["0", "1", "2"], "has no training images of class hen (label 2)");
    refused("less", &["0", "1", "2"], &["0", "2"], "has no validation images of class dog (label 1)");
}

/// The names of all members of sets in one shard, sorted.
fn shards_names(sets: &[&ImageSet]) -> Vec<String> {
    let of = |set: &&ImageSet| set.names(&(0..set.len()).rev().collect::<Vec<_>>());
    let mut names: Vec<String> = sets.iter().flat_map(of).collect();
    names.sort();
    names.iter().map(|name| name.split_once("train.tar: ").unwrap().1.to_string()).collect()
}

#[test]
fn a_broken_image_in_a_shard_is_named_by_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let image = png(1);
    let members: Vec<(String, &[u8])> = (0..8)
        .flat_map(|i| {
            let bytes: &[u8] = if i == 0 { b"no photo" } else { &image };
            [(format!("{i}.png"), bytes), (format!("{i}.cls"), if i % 2 == 0 { b"0" } else { b"1" })]
        })
        .collect();
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    write(folder.path(), "train.tar", &shard(&members));
    let set = Shards::open(folder.path(), SPLIT).unwrap();
    let all = [&set.train, &set.validation];
    let names = shards_names(&all);
    assert_eq!(names, (0..8).map(|i| format!("{i}.png")).collect::<Vec<_>>());
    let errors = all.iter().flat_map(|set| (0..set.len()).filter_map(|i| set.photo(i).err()));
    let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert!(error.contains("train.tar: 0.png, the image of 8 bytes at byte 512: not an image"), "{error}");
}
