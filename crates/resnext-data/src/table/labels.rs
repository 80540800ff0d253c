//! The labels of a row group, read without its images.

use super::columns::Columns;
use super::opened::{guarded, values};
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::collections::BTreeMap;
use std::fs::File;

/// The labels of some rows.
pub enum Labels {
    /// Numbers of classes.
    Numbers(Vec<i64>),
    /// Names of classes: for each row the position of its name among those seen so far.
    Words(Vec<u32>),
}

/// The names that labels have been seen to be, each with its position.
pub type Words = BTreeMap<Vec<u8>, u32>;

/// Rows that are read at a time.
const ROWS: usize = 1 << 16;

/// Reads the labels of row group `group`, whose first row is row `first` of the file.
///
/// # Errors
/// What is wrong with them, in a clause that follows the file's name.
pub fn labels(
    file: &SerializedFileReader<File>,
    columns: &Columns,
    (group, first): (usize, u64),
    words: &mut Words,
) -> Result<Labels, String> {
    let rows = file.metadata().row_group(group).num_rows() as usize;
    let name = &columns.label_name;
    let lacking = |found: usize| {
        format!("has in row {} no {name}: expected the class of every image", first + found as u64)
    };
    let reader = guarded(|| file.get_row_group(group)?.get_column_reader(columns.label))?;
    let level = file.metadata().file_metadata().schema_descr().column(columns.label).max_def_level();
    let (mut numbers, mut positions) = (Vec::new(), Vec::new());
    match reader {
        ColumnReader::Int32ColumnReader(mut reader) => {
            while numbers.len() < rows {
                let more = guarded(|| values(&mut reader, level, ROWS.min(rows - numbers.len())))?;
                add(more, &mut numbers, i64::from).map_err(lacking)?;
            }
        }
        ColumnReader::Int64ColumnReader(mut reader) => {
            while numbers.len() < rows {
                let more = guarded(|| values(&mut reader, level, ROWS.min(rows - numbers.len())))?;
                add(more, &mut numbers, |number| number).map_err(lacking)?;
            }
        }
        ColumnReader::ByteArrayColumnReader(mut reader) => {
            while positions.len() < rows {
                let more = guarded(|| values(&mut reader, level, ROWS.min(rows - positions.len())))?;
                add(more, &mut positions, |word: ByteArray| position(words, word.data())).map_err(lacking)?;
            }
            return Ok(Labels::Words(positions));
        }
        _ => return Err(format!("has in its column {name} neither integers nor texts")),
    }
    Ok(Labels::Numbers(numbers))
}

/// Adds the labels of more rows.
///
/// # Errors
/// The number of labels before the first that is missing.
fn add<V, T>(more: Vec<Option<V>>, labels: &mut Vec<T>, mut of: impl FnMut(V) -> T) -> Result<(), usize> {
    for label in more {
        labels.push(of(label.ok_or(labels.len())?));
    }
    Ok(())
}

/// The position of a name among those seen so far.
fn position(words: &mut Words, word: &[u8]) -> u32 {
    let next = words.len() as u32;
    match words.get(word) {
        Some(&position) => position,
        None => *words.entry(word.to_vec()).or_insert(next),
    }
}
