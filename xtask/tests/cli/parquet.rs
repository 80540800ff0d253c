//! Training on photos in parquet files, as from a folder.

use super::photo_folder::{ok, photos};
use super::xtask;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SCHEMA: &str = "message schema { \
    optional group image { optional binary bytes; optional binary path (STRING); } optional int64 label; }";
const NAMES: &str = r#"{"info": {"features": {"image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["blue", "green", "red"]}}}}"#;

/// Packs the photos of a folder per class, as the hub does.
fn pack(folder: &Path, file: &Path) {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for (label, class) in ["blue", "green", "red"].into_iter().enumerate() {
        let entries = std::fs::read_dir(folder.join(class)).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        labels.extend(paths.iter().map(|_| label as i64));
        images.extend(paths.iter().map(|path| ByteArray::from(std::fs::read(path).unwrap())));
    }
    let metadata = vec![KeyValue::new("huggingface".to_string(), NAMES.to_string())];
    let properties = WriterProperties::builder().set_key_value_metadata(Some(metadata)).build();
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let file = std::fs::File::create(file).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for rows in [0..images.len() / 2, images.len() / 2..images.len()] {
        let mut group = writer.next_row_group().unwrap();
        let mut first = true;
        while let Some(mut column) = group.next_column().unwrap() {
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    // The image, then its path.
                    let values =
                        if first { images[rows.clone()].to_vec() } else { vec!["x".into(); rows.len()] };
                    writer.write_batch(&values, Some(&vec![2; rows.len()]), None).unwrap();
                }
                ColumnWriter::Int64ColumnWriter(writer) => {
                    writer.write_batch(&labels[rows.clone()], Some(&vec![1; rows.len()]), None).unwrap();
                }
                _ => unreachable!("the schema has no such column"),
            };
            first = false;
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_files_give_the_run_of_the_folder_they_were_packed_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    photos(&path.join("photos/train"), [8, 8, 4]);
    photos(&path.join("photos/val"), [3, 2, 4]);
    std::fs::write(path.join("photos/train/green/5.png"), "no photo").unwrap();
    std::fs::create_dir_all(path.join("hub/data")).unwrap();
    pack(&path.join("photos/train"), &path.join("hub/data/train-00000-of-00001.parquet"));
    pack(&path.join("photos/val"), &path.join("hub/data/validation-00000-of-00001.parquet"));
    pack(&path.join("photos/val"), &path.join("hub/data/test-00000-of-00001.parquet"));

    let quick = ["--model", "resnext11_4x4d", "--size", "16", "--epochs", "2"];
    let train =
        |data: &str, out: &str| xtask(path, &[&["train", "--data", data, "--out", out][..], &quick].concat());
    ok(&train("photos", "folder"));
    let output = train("hub", "parquet");
    let said = ok(&output);
    assert!(said.contains("20 photos of 3 classes for training, 9 for validation\n"), "{said}");
    assert!(said.contains("left out: 1 photo that cannot be read"), "{said}");
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    let row = "left out: hub/data/train-00000-of-00001.parquet: row 9, an image of 8 bytes: not an image";
    assert_eq!(warned.matches(row).count(), 1, "{warned}");
    assert!(warned.contains("hub: left out 1 file: test-00000-of-00001.parquet (a test set)\n"), "{warned}");
    // The same images in the same order: all but the times is the same.
    let figures = |run: &str| -> Vec<Vec<String>> {
        let csv = std::fs::read_to_string(path.join(run).join("metrics.csv")).unwrap();
        let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        let kept = |column: &usize| !rows[0][*column].contains("seconds");
        rows.iter()
            .map(|row| (0..row.len()).filter(kept).map(|column| row[column].to_string()).collect())
            .collect()
    };
    assert_eq!(figures("parquet"), figures("folder"));
    let page = std::fs::read_to_string(path.join("parquet/report.html")).unwrap();
    assert!(page.contains("<li>hub/data/train-00000-of-00001.parquet: row 9, an image of 8 bytes"), "{page}");

    // Evaluation finds the files where the run had them, or those of a pattern; so does resumption.
    let eval = |more: &[&str]| ok(&xtask(path, &[&["eval", "parquet"][..], more].concat()));
    let own = eval(&[]);
    assert!(own.contains("9 test images of folder") && own.contains("green"), "{own}");
    let top1 = |said: &str| said.split("top-1 ").nth(1).unwrap().split(" %").next().unwrap().to_string();
    assert_eq!(top1(&eval(&["--data", "hub/data/[tv]*.parquet"])), top1(&own));
    assert_eq!(top1(&eval(&["--data", "photos"])), top1(&own));
    ok(&xtask(path, &["train", "--resume", "parquet", "--epochs", "3"]));
    ok(&train("hub/data/[tv]*n-*.parquet", "pattern"));
    ok(&xtask(path, &["train", "--resume", "pattern", "--epochs", "3"]));
    assert_eq!(figures("pattern"), figures("parquet"));

    let predicted = ok(&xtask(path, &["predict", "photos/val/red/0.png", "--weights", "parquet"]));
    assert!(["red", "green", "blue"].iter().any(|class| predicted.contains(class)), "{predicted}");
    let args = ["data", "preview", "--data", "hub", "--size", "24", "--crops", "2", "--out", "sheet.png"];
    let said = ok(&xtask(path, &args));
    assert!(said.contains("row 1: blue") && said.contains("row 3: red"), "{said}");
    let one = [
        "data",
        "speed",
        "--data",
        "hub/data/train-00000-of-00001.parquet",
        "--threads",
        "2",
        "--seconds",
        "0",
    ];
    assert!(ok(&xtask(path, &one)).contains("images/s"));

    std::fs::remove_file(path.join("hub/data/test-00000-of-00001.parquet")).unwrap();
    let strict = [&["train", "--data", "hub", "--strict", "--out", "strict"][..], &quick].concat();
    super::refused(
        xtask(path, &strict),
        "train-00000-of-00001.parquet: row 9, an image of 8 bytes: not an image",
    );
}
