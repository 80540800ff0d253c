//! Images in parquet files, in the layout of the Hugging Face hub: a struct of bytes and path, and a label.

use crate::error::{Error, Result};
use crate::image_set::ImageSet;
use crate::photo_files::left_out_line;
use crate::shards::{CLASS_LIMIT, class_names};
use crate::table::columns::{Columns, columns, printable};
use crate::table::files::{Found, divided, in_folder, is_parquet};
use crate::table::labels::{Labels, Words, labels};
use crate::table::opened::open;
use crate::table::rows::{Row, Tables};
use crate::validation_split::ValidationSplit;
use parquet::basic::Compression;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::FileReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The training and validation images of parquet files.
///
/// The files are indexed once, by their labels alone. Images are read in blocks of rows when they are needed; in training, in
/// a random order in which few blocks are in use at a time. Memory is 64 MiB of images and a few numbers per image, whatever
/// the size of the files, if their pages, the smallest units that can be unpacked, are not larger.
#[derive(Debug, Clone)]
pub struct ParquetFiles {
    /// The training images.
    pub train: ImageSet,
    /// The validation images.
    pub validation: ImageSet,
    /// Whether `validation` was split off, because no file is for validation.
    pub split: bool,
    /// Files for tests beside those for validation.
    pub left_out: Vec<PathBuf>,
}

impl ParquetFiles {
    /// Indexes a parquet file, or those of a folder and of its folders `train`, `validation` and `test`, or else of its
    /// folder `data`. Files whose names begin with `validation` (or `val`, `valid`, `dev`) are for validation, or those that
    /// begin with `test` if there are none; without either, a share of the others is.
    ///
    /// Images are in the column `image`, or the only one of its kind, labels in the column `label`, or the only one of its
    /// kind. Labels are the names of classes, or integers: their names are in the file's metadata, where the library datasets
    /// writes them, or in a file `classes.txt` in the folder; without names, classes are called by their numbers.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read; [`Error::Parquet`] if a file is damaged, has another schema, images without
    /// bytes, a label that is missing or out of range or other classes than another file, or if there are no training images
    /// or no images of a class for training or validation.
    pub fn open(path: &Path, split: ValidationSplit) -> Result<Self> {
        let files = if path.is_dir() { in_folder(path)? } else { vec![path.to_path_buf()] };
        ParquetFiles::open_files(&files, path, split)
    }

    /// Indexes these files. In messages they are called `name`.
    ///
    /// # Errors
    /// The same as [`open`](Self::open).
    pub fn open_files(files: &[PathBuf], name: &Path, split: ValidationSplit) -> Result<Self> {
        split.validate()?;
        let Found { train, validation, left_out } = divided(files).map_err(|file| {
            let problem = "does not say by its name what it is for, as other files do: expected a name that begins with \
                           train, validation or test";
            failed(&file, problem.into())
        })?;
        if train.is_empty() {
            return Err(failed(
                name,
                "has no parquet files for training, such as train-00000-of-00001.parquet".into(),
            ));
        }
        let mut index = Index::default();
        let mut train_rows = index.add_all(&train)?;
        let mut validation_rows = index.add_all(&validation)?;
        if let Some(words) = &index.words {
            // Labels so far are in the order in which their names were met.
            let mut labels = vec![0; words.len()];
            sorted(words).into_iter().zip(0..).for_each(|((_, met), label)| labels[met as usize] = label);
            train_rows.iter_mut().chain(&mut validation_rows).for_each(|row| row.1 = labels[row.1 as usize]);
        }
        let names = index.class_names(name)?;
        let tables = Arc::new(index.tables);
        let set = |rows| ImageSet::in_tables(rows, Arc::clone(&tables), Arc::clone(&names));
        let (train, validation) = (set(train_rows), set(validation_rows));
        let (train, validation, split) =
            split.complete(train, validation).map_err(|problem| failed(name, problem))?;
        Ok(ParquetFiles { train, validation, split, left_out })
    }

    /// Whether a path is a parquet file, or a folder in which [`open`](Self::open) finds one.
    pub fn recognise(path: &Path) -> bool {
        match path.is_dir() {
            true => in_folder(path).is_ok_and(|files| !files.is_empty()),
            false => is_parquet(path) && path.is_file(),
        }
    }

    /// One line that counts the files that were left out and names the first of them; `None` if there are none.
    pub fn left_out_line(&self) -> Option<String> {
        let files = self.left_out.iter().map(|file| (file.clone(), "a test set".to_string()));
        left_out_line(&files.collect::<Vec<_>>())
    }
}

fn failed(path: &Path, problem: String) -> Error {
    Error::Parquet { path: path.to_path_buf(), problem }
}

/// What has been read of files so far.
#[derive(Default)]
struct Index {
    tables: Tables,
    /// The first file and its columns, with which those of the others must agree.
    first: Option<(PathBuf, Columns)>,
    /// The names that labels are, if they are names.
    words: Option<Words>,
    /// The number of classes, if labels are numbers.
    classes: u32,
}

impl Index {
    /// Adds the rows of files, each with its label.
    fn add_all(&mut self, files: &[PathBuf]) -> Result<Vec<(Row, u32)>> {
        let mut rows = Vec::new();
        for path in files {
            self.add(path, &mut rows).map_err(|problem| failed(path, problem))?;
        }
        Ok(rows)
    }

    fn add(&mut self, path: &Path, rows: &mut Vec<(Row, u32)>) -> std::result::Result<(), String> {
        let file = open(path)?;
        let metadata = file.metadata();
        let columns = columns(metadata.file_metadata())?;
        match &self.first {
            Some((first, expected)) => agree(&columns, first, expected)?,
            None => self.first = Some((path.to_path_buf(), columns.clone())),
        }
        let groups = metadata.row_groups();
        check_images(groups, &columns)?;
        let number = self.tables.add_file(path.to_path_buf());
        let mut words = self.words.take().unwrap_or_default();
        let mut first = 0;
        for (index, group) in groups.iter().enumerate() {
            for column in [columns.image, columns.label] {
                check_codec(group.column(column).compression())?;
            }
            let labels = match labels(&file, &columns, (index, first), &mut words)? {
                Labels::Words(labels) => labels,
                Labels::Numbers(numbers) => numbers
                    .into_iter()
                    .zip(first..)
                    .map(|(number, row)| self.class(number, row, &columns))
                    .collect::<std::result::Result<_, _>>()?,
            };
            let image = group.column(columns.image).clone().into_builder().clear_statistics().build();
            let image = image.map_err(|error| format!("is damaged: {error}"))?;
            let added = self.tables.add_group(number, first, labels.len(), image);
            rows.extend(added.into_iter().zip(labels));
            first += group.num_rows() as u64;
        }
        if columns.words {
            self.words = Some(words);
        }
        Ok(())
    }

    /// A label that is a number.
    fn class(&mut self, number: i64, row: u64, columns: &Columns) -> std::result::Result<u32, String> {
        let known = columns.names.as_ref().map(Vec::len);
        let classes = known.unwrap_or(CLASS_LIMIT as usize);
        let class = u32::try_from(number).ok().filter(|&class| (class as usize) < classes);
        self.classes = self.classes.max(class.map_or(0, |class| class + 1));
        class.ok_or_else(|| {
            let expected = match known {
                Some(0) | None => format!("the number of a class, from 0 and below {classes}"),
                Some(classes) => {
                    format!("one from 0 to {}, as its metadata name {classes} classes", classes - 1)
                }
            };
            let none =
                if number == -1 { "; -1 stands for no label, as in test sets without them" } else { "" };
            format!("has in row {row} the {} {number}, expected {expected}{none}", columns.label_name)
        })
    }

    /// The names of the classes.
    fn class_names(&self, name: &Path) -> Result<Arc<[String]>> {
        if let Some(words) = &self.words {
            return Ok(sorted(words).into_iter().map(|(name, _)| name).collect());
        }
        if let Some((_, Columns { names: Some(names), .. })) = &self.first {
            return Ok(names.clone().into());
        }
        let folder = if name.is_dir() { name } else { name.parent().unwrap_or(Path::new("")) };
        let numbers = || (0..self.classes).map(|label| label.to_string()).collect();
        let names = class_names(folder)?.unwrap_or_else(numbers);
        if names.len() < self.classes as usize {
            let problem = format!(
                "has labels up to {}, but only {} names in its classes.txt",
                self.classes - 1,
                names.len()
            );
            return Err(failed(name, problem));
        }
        Ok(names.into())
    }
}

/// The names that labels are, sorted, each with its position among those that were met.
fn sorted(words: &Words) -> Vec<(String, u32)> {
    words.iter().map(|(word, &met)| (printable(&String::from_utf8_lossy(word)), met)).collect()
}

/// Checks that a file has the columns and classes of another one.
fn agree(own: &Columns, other: &Path, expected: &Columns) -> std::result::Result<(), String> {
    let other = other.display();
    for (own, expected) in [(&own.image_name, &expected.image_name), (&own.label_name, &expected.label_name)]
    {
        if own != expected {
            return Err(format!("has a column {own}, but {other} has {expected}: expected the same columns"));
        }
    }
    if own.words != expected.words {
        let kind = |words| if words { "texts" } else { "integers" };
        let (own, expected) = (kind(own.words), kind(expected.words));
        return Err(format!("has labels that are {own}, but those of {other} are {expected}"));
    }
    let names = |columns: &Columns| match &columns.names {
        Some(names) => names.join(", "),
        None => "without names".into(),
    };
    if own.names != expected.names {
        let (own, expected) = (names(own), names(expected));
        return Err(format!(
            "has the classes {own}, but {other} has {expected}: expected the same ones in the same order"
        ));
    }
    Ok(())
}

/// Refuses a file without any image's bytes, if it says so: images themselves are not looked at.
fn check_images(groups: &[RowGroupMetaData], columns: &Columns) -> std::result::Result<(), String> {
    let lacks_all = |group: &RowGroupMetaData| {
        let nulls =
            group.column(columns.image).statistics().and_then(|statistics| statistics.null_count_opt());
        nulls == Some(group.num_rows() as u64)
    };
    let mut groups = groups.iter().filter(|group| group.num_rows() > 0).peekable();
    if groups.peek().is_some() && groups.all(lacks_all) {
        return Err(format!(
            "has only the paths of images, no bytes, in its column {}: write it with the bytes, as push_to_hub of the \
             library datasets does",
            columns.image_name
        ));
    }
    Ok(())
}

/// Refuses what is packed in a way that is not read.
fn check_codec(codec: Compression) -> std::result::Result<(), String> {
    match codec {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) => Ok(()),
        other => {
            let name = other.to_string();
            let name = name.split('(').next().unwrap_or_default();
            Err(format!(
                "is packed with {name}, which is not read: write it with snappy, zstd or no compression"
            ))
        }
    }
}
