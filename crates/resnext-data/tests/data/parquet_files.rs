//! Images in parquet files: the same pixels as from photos, whatever the file's packing; the same batches whatever the
//! threads; and everything that can be wrong with a file.

use parquet::basic::{Compression, Encoding};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use resnext_data::transform::train::TrainTransform;
use resnext_data::{
    Batch, ImageLoader, ImageLoaderConfig, ImageSet, Interpolation, Normalization, ParquetFiles, Photo,
    Preparation, ValidationSplit,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SPLIT: ValidationSplit = ValidationSplit { share: 0.25, seed: 1 };

/// What the library datasets writes.
const SCHEMA: &str =
    "optional group image { optional binary bytes; optional binary path (STRING); } optional int64 label;";
const WORDS: &str = "optional group image { optional binary bytes; optional binary path (STRING); } \
                     optional binary label (STRING);";

#[derive(Clone)]
enum Label {
    Number(i64),
    Word(&'static str),
    None,
}

/// An image's file and label. Without an image there is its path alone.
type Row = (Option<Vec<u8>>, Label);

/// A photo's file as PNG, in one colour.
fn png(colour: u8) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.png");
    Photo::new(6, 5, vec![colour; 90]).unwrap().save(&path).unwrap();
    std::fs::read(path).unwrap()
}

/// Rows from number `first`, with the labels 0, 1, 2, 0, …, each of its own colour.
fn rows(first: usize, count: usize) -> Vec<Row> {
    (first..first + count).map(|i| (Some(png(3 * i as u8)), Label::Number(i as i64 % 3))).collect()
}

fn named(names: &str) -> Option<String> {
    Some(format!(
        r#"{{"info": {{"features": {{"image": {{"_type": "Image"}}, "label": {{"_type": "ClassLabel", "names": {names}}}}}}}}}"#
    ))
}

fn colours() -> Option<String> {
    named(r#"["red", "green", "blue"]"#)
}

/// A parquet file of these row groups. Columns that rows do not know have their default.
fn parquet(
    schema: &str,
    metadata: Option<String>,
    groups: &[Vec<Row>],
    packing: WriterPropertiesBuilder,
) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {schema} }}")).unwrap());
    let metadata = metadata.map(|text| vec![KeyValue::new("huggingface".into(), text)]);
    let properties = Arc::new(packing.set_key_value_metadata(metadata).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let descriptor = writer.schema_descr().clone();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut columns = descriptor.columns().iter();
        while let Some(mut column) = group.next_column().unwrap() {
            let descriptor = columns.next().unwrap();
            let (name, level) = (descriptor.path().string(), descriptor.max_def_level());
            let repeated = vec![0; if descriptor.max_rep_level() > 0 { rows.len() } else { 0 }];
            let repeated = (!repeated.is_empty()).then_some(&repeated[..]);
            let levels = |there: &dyn Fn(&Row) -> bool| -> Vec<i16> {
                rows.iter().map(|row| if there(row) { level } else { level - 1 }).collect()
            };
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(writer) if name.ends_with("bytes") => {
                    let images: Vec<ByteArray> =
                        rows.iter().filter_map(|(image, _)| image.clone().map(ByteArray::from)).collect();
                    writer.write_batch(&images, Some(&levels(&|row| row.0.is_some())), repeated).unwrap();
                }
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    let word = |(_, label): &Row| match label {
                        Label::Word(word) => Some(ByteArray::from(*word)),
                        Label::Number(_) => Some(ByteArray::from("x.png")),
                        Label::None => None,
                    };
                    let words: Vec<ByteArray> = rows.iter().filter_map(word).collect();
                    writer.write_batch(&words, Some(&levels(&|row| word(row).is_some())), repeated).unwrap();
                }
                ColumnWriter::Int64ColumnWriter(writer) => {
                    let numbers: Vec<i64> = rows.iter().filter_map(number).collect();
                    writer
                        .write_batch(&numbers, Some(&levels(&|row| number(row).is_some())), repeated)
                        .unwrap();
                }
                ColumnWriter::Int32ColumnWriter(writer) => {
                    let numbers: Vec<i32> =
                        rows.iter().filter_map(number).map(|number| number as i32).collect();
                    writer
                        .write_batch(&numbers, Some(&levels(&|row| number(row).is_some())), repeated)
                        .unwrap();
                }
                ColumnWriter::DoubleColumnWriter(writer) => {
                    writer.write_batch(&vec![0.5; rows.len()], Some(&vec![level; rows.len()]), None).unwrap();
                }
                _ => panic!("{name}: no such column in these tests"),
            };
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn number((_, label): &Row) -> Option<i64> {
    match label {
        Label::Number(number) => Some(*number),
        _ => None,
    }
}

fn packing() -> WriterPropertiesBuilder {
    WriterProperties::builder().set_compression(Compression::SNAPPY)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn labels(set: &ImageSet) -> Vec<u32> {
    (0..set.len()).map(|index| set.label(index)).collect()
}

/// The first value of each image.
fn colours_of(set: &ImageSet) -> Vec<u8> {
    (0..set.len()).map(|index| set.photo(index).unwrap().pixels()[0]).collect()
}

#[test]
fn files_of_the_hub_give_the_images_labels_and_names_that_were_written() {
    let zstd = Compression::ZSTD(Default::default());
    let packings = [
        packing(),
        packing().set_compression(zstd).set_dictionary_enabled(false),
        packing()
            .set_compression(Compression::UNCOMPRESSED)
            .set_write_batch_size(2)
            .set_data_page_size_limit(50),
        packing()
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_write_batch_size(1)
            .set_data_page_size_limit(1),
        packing()
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::DELTA_BYTE_ARRAY)
            .set_column_encoding("label".into(), Encoding::DELTA_BINARY_PACKED),
    ];
    for packing in packings {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, groups: &[Vec<Row>]| {
            write(folder.path(), name, &parquet(SCHEMA, colours(), groups, packing.clone()))
        };
        write("data/train-00000-of-00002.parquet", &[rows(0, 7), rows(7, 1), rows(8, 4)]);
        write("data/train-00001-of-00002.parquet", &[rows(12, 6)]);
        write("data/validation-00000-of-00001.parquet", &[rows(18, 3)]);
        let test = write("data/test-00000-of-00001.parquet", &[rows(0, 3)]);
        assert!(ParquetFiles::recognise(folder.path()) && ParquetFiles::recognise(&test));
        let files = ParquetFiles::open(folder.path(), SPLIT).unwrap();
        assert_eq!(files.train.class_names(), ["red", "green", "blue"]);
        assert_eq!(labels(&files.train), (0..18).map(|i| i % 3).collect::<Vec<_>>());
        assert_eq!(colours_of(&files.train), (0..18).map(|i| 3 * i).collect::<Vec<u8>>());
        assert_eq!((colours_of(&files.validation), files.split), (vec![54, 57, 60], false));
        let line = files.left_out_line().unwrap();
        assert_eq!(line, "left out 1 file: test-00000-of-00001.parquet (a test set)");
        let names = files.train.names(&[0, 7, 13]);
        let ends = [
            "train-00000-of-00002.parquet: row 0",
            "train-00000-of-00002.parquet: row 7",
            "train-00001-of-00002.parquet: row 1",
        ];
        assert!(names.iter().zip(ends).all(|(name, end)| name.ends_with(end)), "{names:?}");
        // Without files for validation those of the test set are taken, and without these a share of each class is kept.
        std::fs::remove_file(folder.path().join("data/validation-00000-of-00001.parquet")).unwrap();
        let files = ParquetFiles::open(folder.path(), SPLIT).unwrap();
        assert_eq!((files.validation.len(), files.split, files.left_out.len()), (3, false, 0));
        std::fs::remove_file(test).unwrap();
        let files = ParquetFiles::open(&folder.path().join("data"), SPLIT).unwrap();
        assert_eq!((files.validation.class_counts(), files.split), (vec![2, 2, 2], true));
        let mut all = [colours_of(&files.train), colours_of(&files.validation)].concat();
        all.sort();
        assert_eq!(all, (0..18).map(|i| 3 * i).collect::<Vec<u8>>());
    }
}

/// Labels may be texts, also of required columns of other names, and integers without names.
#[test]
fn labels_are_integers_or_texts() {
    let folder = tempfile::tempdir().unwrap();
    let words = |all: &[&'static str]| -> Vec<Row> {
        all.iter().map(|word| (Some(png(1)), Label::Word(word))).collect()
    };
    let plain = packing().set_dictionary_enabled(false);
    let train = parquet(WORDS, None, &[words(&["hen", "cat"]), words(&["dog", "cat", "hen"])], plain);
    write(folder.path(), "words/train.parquet", &train);
    write(
        folder.path(),
        "words/val.parquet",
        &parquet(WORDS, None, &[words(&["dog", "hen", "cat"])], packing()),
    );
    let files = ParquetFiles::open(&folder.path().join("words"), SPLIT).unwrap();
    assert_eq!(files.train.class_names(), ["cat", "dog", "hen"]);
    assert_eq!((labels(&files.train), labels(&files.validation)), (vec![2, 0, 1, 0, 2], vec![1, 2, 0]));

    // Other names, no nulls, 32 bits, and a column that is nothing of it.
    let schema = "required double weight; required group img { required binary path; required binary bytes; } \
                  required int32 labels;";
    let path = write(folder.path(), "numbers/0000.parquet", &parquet(schema, None, &[rows(0, 9)], packing()));
    let files = ParquetFiles::open(&path, SPLIT).unwrap();
    assert_eq!(files.train.class_names(), ["0", "1", "2"]);
    write(folder.path(), "numbers/classes.txt", b"red\ngreen\nblue\n");
    let files = ParquetFiles::open(&path, SPLIT).unwrap();
    assert_eq!(files.train.class_names(), ["red", "green", "blue"]);
    assert_eq!(files.train.class_counts(), [2, 2, 2]);
    write(folder.path(), "numbers/classes.txt", b"red\ngreen\n");
    let message = ParquetFiles::open(&path, SPLIT).unwrap_err().to_string();
    assert!(message.ends_with("has labels up to 2, but only 2 names in its classes.txt"), "{message}");
}

fn training() -> Preparation {
    let normalization = Normalization { mean: [0.5; 3], std: [0.25; 3] };
    Preparation::Training(TrainTransform::new((4, 4), Interpolation::Bilinear, normalization))
}

fn loader(set: &ImageSet, threads: usize, strict: bool) -> ImageLoader {
    let config = ImageLoaderConfig { batch_size: 16, repeats: 1, mix: None, seed: 5, threads, strict };
    ImageLoader::new(set.clone(), training(), config).unwrap()
}

fn batches(loader: &ImageLoader, epoch: u64, skip: usize) -> Vec<Batch> {
    loader.epoch(epoch, skip).collect::<resnext_data::Result<_>>().unwrap()
}

/// A file of 96 MB when it is unpacked, twice what an order draws from at a time, sorted by class.
fn sorted_file(folder: &Path) -> PathBuf {
    let row = |i: usize| {
        let mut image = png(i as u8);
        // Zeros, which pack well and which decoders do not look at.
        image.resize(1 << 20, 0);
        (Some(image), Label::Number(i as i64 / 32))
    };
    let groups: Vec<Vec<Row>> =
        (0..4).map(|group| (24 * group..24 * (group + 1)).map(row).collect()).collect();
    let packing = packing().set_dictionary_enabled(false).set_write_batch_size(4);
    write(folder, "train.parquet", &parquet(SCHEMA, colours(), &groups, packing))
}

#[test]
fn batches_do_not_depend_on_threads_and_resume_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = sorted_file(folder.path());
    let set = ParquetFiles::open(&path, ValidationSplit { share: 0.01, seed: 1 }).unwrap().train;
    assert_eq!(set.len(), 93);
    let one = batches(&loader(&set, 1, false), 2, 0);
    assert_eq!(one.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [16, 16, 16, 16, 16, 13]);
    for threads in [2, 5] {
        // Opened again: nothing that is in memory decides the order.
        let set = ParquetFiles::open(&path, ValidationSplit { share: 0.01, seed: 1 }).unwrap().train;
        assert_eq!(one, batches(&loader(&set, threads, false), 2, 0));
        assert_eq!(one[2..], batches(&loader(&set, threads, false), 2, 32));
    }
    assert_ne!(one, batches(&loader(&set, 2, false), 3, 0));
    // Every image is there once, and the first batch mixes the classes of a sorted file.
    let mut counts = [0; 3];
    one.iter().flat_map(|batch| &batch.labels).for_each(|&label| counts[label as usize] += 1);
    assert_eq!(counts, [31, 31, 31]);
    let mut colours: Vec<f32> =
        one.iter().flat_map(|batch| batch.images.chunks(48).map(|image| image[0])).collect();
    colours.sort_by(f32::total_cmp);
    colours.dedup();
    assert_eq!(colours.len(), 93);
    assert!((0..3).all(|class| one[0].labels.contains(&class)), "{:?}", one[0].labels);
}

#[test]
fn a_broken_image_is_named_by_its_row_counted_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut group = rows(4, 20);
    group[3].0 = Some(b"no photo".to_vec());
    group[5].0 = None;
    let bytes = parquet(SCHEMA, colours(), &[rows(0, 4), group], packing());
    let path = write(folder.path(), "train.parquet", &bytes);
    write(folder.path(), "val.parquet", &parquet(SCHEMA, colours(), &[rows(0, 3)], packing()));
    let set = ParquetFiles::open(folder.path(), SPLIT).unwrap().train;
    for threads in [1, 3] {
        let loader = loader(&set, threads, false);
        assert_eq!(batches(&loader, 0, 0).iter().map(|batch| batch.labels.len()).sum::<usize>(), 24);
        let mut lines = loader.unreadable();
        lines.sort();
        let path = path.display();
        let expected = [
            format!("{path}: row 7, an image of 8 bytes: not an image"),
            format!("{path}: row 9 has no bytes: expected those of an image file, not its path alone"),
        ];
        assert!(
            lines.len() == 2 && lines.iter().zip(&expected).all(|(l, e)| l.starts_with(e.as_str())),
            "{lines:#?}"
        );
    }
    let strict = loader(&set, 2, true).epoch(0, 0).find_map(Result::err).unwrap().to_string();
    assert!(strict.contains("train.parquet: row "), "{strict}");
    assert!(set.photo(0).is_ok(), "other rows of the file can be read");
}

/// The line about a file, which names it.
fn refusal(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = write(folder, name, bytes);
    let message = ParquetFiles::open(path.parent().unwrap(), SPLIT).unwrap_err().to_string();
    assert!(message.lines().count() == 1 && message.starts_with(&path.display().to_string()), "{message}");
    message.replace(&path.display().to_string(), "")
}

#[test]
fn other_schemas_are_refused_in_one_clear_line() {
    const IMAGE: &str = "expected a struct of bytes and path, as the library datasets writes it";
    const ONE: &str = "optional group image { optional binary bytes; }";
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("required int64 label;".into(), format!(" has no column image: {IMAGE}; its columns are label")),
        (
            "required binary image; required int64 label;".into(),
            format!(" has in its column image values of the type BYTE_ARRAY: {IMAGE}"),
        ),
        (
            "optional group image { optional binary path; } required int64 label;".into(),
            format!(" has in its column image a struct of path without bytes: {IMAGE}"),
        ),
        (
            "optional group image { optional int64 bytes; } required int64 label;".into(),
            " has in image.bytes values of the type INT64, expected bytes".into(),
        ),
        (
            "repeated group image { optional binary bytes; } required int64 label;".into(),
            format!(" has in its column image lists of images: {IMAGE}"),
        ),
        (
            "optional group left { optional binary bytes; } optional group right { optional binary bytes; }"
                .into(),
            " has several columns of images, left, right: rename the one to use to image".into(),
        ),
        (
            format!("{ONE} required int64 class;"),
            " has no column label: expected one of integers or texts; its columns are image, class".into(),
        ),
        (
            format!("{ONE} required double label;"),
            " has in its column label values of the type DOUBLE: expected an integer or a text per image"
                .into(),
        ),
        (
            format!("{ONE} repeated int64 label;"),
            " has in its column label lists: expected an integer or a text per image".into(),
        ),
    ];
    for (schema, expected) in cases {
        let bytes = parquet(&schema, None, &[rows(0, 3)], packing());
        assert_eq!(refusal(folder.path(), "a/train.parquet", &bytes), expected);
    }
    // Two columns of classes, as CIFAR-100 has on the hub.
    let two =
        r#"{"info": {"features": {"coarse": {"_type": "ClassLabel"}, "fine": {"_type": "ClassLabel"}}}}"#;
    let bytes = parquet(
        &format!("{ONE} required int64 coarse; required int64 fine;"),
        Some(two.into()),
        &[rows(0, 3)],
        packing(),
    );
    let line = refusal(folder.path(), "a/train.parquet", &bytes);
    assert_eq!(line, " has several columns of labels, coarse, fine: rename the one to use to label");
    let bytes = parquet(SCHEMA, Some("{".into()), &[rows(0, 3)], packing());
    let line = refusal(folder.path(), "a/train.parquet", &bytes);
    assert!(line.starts_with(" has metadata huggingface that are not JSON: "), "{line}");
}

#[test]
fn bad_labels_and_images_without_bytes_are_refused_in_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |names: Option<String>, groups: &[Vec<Row>], expected: &str| {
        let line = refusal(folder.path(), "a/train.parquet", &parquet(SCHEMA, names, groups, packing()));
        assert_eq!(line, expected);
    };
    let with = |label: Label| vec![rows(0, 3), vec![(Some(png(1)), Label::Number(0)), (Some(png(1)), label)]];
    let expected = " has in row 4 no label: expected the class of every image";
    refused(colours(), &with(Label::None), expected);
    let expected = " has in row 4 the label 3, expected one from 0 to 2, as its metadata name 3 classes";
    refused(colours(), &with(Label::Number(3)), expected);
    let expected = " has in row 4 the label -1, expected one from 0 to 2, as its metadata name 3 classes; -1 stands for \
                    no label, as in test sets without them";
    refused(colours(), &with(Label::Number(-1)), expected);
    let expected =
        " has in row 4 the label 4294967296, expected the number of a class, from 0 and below 1048576";
    refused(None, &with(Label::Number(1 << 32)), expected);
    let paths: Vec<Row> = (0..6).map(|i| (None, Label::Number(i % 3))).collect();
    let expected = " has only the paths of images, no bytes, in its column image: write it with the bytes, as push_to_hub \
                    of the library datasets does";
    refused(colours(), &[paths], expected);
    let words = parquet(
        WORDS,
        None,
        &[vec![(Some(png(1)), Label::Word("a")), (Some(png(1)), Label::None)]],
        packing(),
    );
    let expected = " has in row 1 no label: expected the class of every image";
    assert_eq!(refusal(folder.path(), "a/train.parquet", &words), expected);
}

#[test]
fn files_of_other_classes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let train = parquet(SCHEMA, colours(), &[rows(0, 6)], packing());
    let path = write(folder.path(), "train.parquet", &train);
    let refused = |bytes: &[u8], expected: &str| {
        let line =
            refusal(folder.path(), "validation.parquet", bytes).replace(&path.display().to_string(), "train");
        assert_eq!(line, expected);
    };
    let lime = named(r#"["red", "lime", "blue"]"#);
    refused(
        &parquet(SCHEMA, lime, &[rows(0, 3)], packing()),
        " has the classes red, lime, blue, but train has red, green, blue: expected the same ones in the same order",
    );
    refused(
        &parquet(SCHEMA, None, &[rows(0, 3)], packing()),
        " has the classes without names, but train has red, green, blue: expected the same ones in the same order",
    );
    let word = vec![(Some(png(1)), Label::Word("red"))];
    refused(
        &parquet(WORDS, None, &[word], packing()),
        " has labels that are texts, but those of train are integers",
    );
    let other = SCHEMA.replace("image", "img");
    refused(
        &parquet(&other, colours(), &[rows(0, 3)], packing()),
        " has a column img, but train has image: expected the same columns",
    );
    // The same names, but images of other classes.
    write(folder.path(), "validation.parquet", &parquet(SCHEMA, colours(), &[rows(0, 2)], packing()));
    let line = ParquetFiles::open(folder.path(), SPLIT).unwrap_err().to_string();
    assert!(line.contains("has no validation images of class blue (label 2)"), "{line}");
    std::fs::rename(folder.path().join("validation.parquet"), folder.path().join("more.parquet")).unwrap();
    let line = ParquetFiles::open(folder.path(), SPLIT).unwrap_err().to_string();
    let expected = "more.parquet does not say by its name what it is for, as other files do";
    assert!(line.contains(expected), "{line}");
    std::fs::remove_file(folder.path().join("more.parquet")).unwrap();
    std::fs::rename(path, folder.path().join("validation.parquet")).unwrap();
    let line = ParquetFiles::open(folder.path(), SPLIT).unwrap_err().to_string();
    assert!(
        line.ends_with("has no parquet files for training, such as train-00000-of-00001.parquet"),
        "{line}"
    );
}

#[test]
fn damaged_files_get_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let whole = parquet(SCHEMA, colours(), &[rows(0, 6), rows(6, 6)], packing());
    let refused = |bytes: &[u8], expected: &str| {
        let line = refusal(folder.path(), "a/train.parquet", bytes);
        assert!(line.starts_with(expected), "{expected}: {line}");
    };
    let cut = " is cut short: its last four bytes are not the mark PAR1";
    for len in [4, 5, 11, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..len], cut);
    }
    refused(b"PAR1PAR1", cut);
    refused(b"", " is not a parquet file: empty");
    refused(b"Dear diary", " is not a parquet file: not an image");
    refused(&png(1), " is not a parquet file: holds a PNG image");
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n";
    refused(pointer, " is a pointer of Git LFS in the place of the file: fetch it with git lfs pull");
    // A piece of the middle is missing.
    refused(&[&whole[..100], &whole[400..]].concat(), " is damaged: ");
    assert!(ParquetFiles::open(Path::new("nowhere.parquet"), SPLIT).is_err());
}

/// No bytes make the reader panic, and what it says is one line.
#[test]
fn changed_bytes_give_an_error_or_images() {
    let folder = tempfile::tempdir().unwrap();
    let packings =
        [packing(), packing().set_writer_version(WriterVersion::PARQUET_2_0).set_dictionary_enabled(false)];
    for packing in packings {
        let whole = parquet(SCHEMA, colours(), &[rows(0, 6), rows(6, 6)], packing);
        for at in (0..whole.len()).step_by(7) {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                let path = write(folder.path(), "train.parquet", &bytes);
                match ParquetFiles::open(&path, SPLIT) {
                    Ok(files) => {
                        for set in [files.train, files.validation] {
                            let errors = (0..set.len()).filter_map(|index| set.photo(index).err());
                            errors.for_each(|error| {
                                assert_eq!(error.to_string().lines().count(), 1, "{error}")
                            });
                        }
                    }
                    Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
                }
            }
        }
    }
}
