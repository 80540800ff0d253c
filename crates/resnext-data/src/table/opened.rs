//! A parquet file, opened: its schema and the places of its columns.

use crate::decode::guard::caught;
use crate::photo_files::what;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::DataType;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What a parquet file begins and ends with.
const MARK: &[u8] = b"PAR1";

/// Opens a parquet file and reads its footer.
///
/// # Errors
/// What is wrong with it, in a clause that follows its name.
pub fn open(path: &Path) -> Result<SerializedFileReader<File>, String> {
    let io = |error: std::io::Error| format!("cannot be read: {error}");
    let mut file = File::open(path).map_err(io)?;
    let mut mark = Vec::new();
    (&mut file).take(MARK.len() as u64).read_to_end(&mut mark).map_err(io)?;
    if mark != MARK {
        return Err(not_parquet(path));
    }
    let len = file.metadata().map_err(io)?.len();
    // The footer's length and the mark follow the footer.
    let mut end = [0; MARK.len()];
    file.seek(SeekFrom::Start(len - MARK.len() as u64)).map_err(io)?;
    file.read_exact(&mut end).map_err(io)?;
    if end != MARK || len < 12 {
        return Err("is cut short: its last four bytes are not the mark PAR1; copy it again".into());
    }
    let reader = guarded(|| SerializedFileReader::new(file))?;
    for (index, group) in reader.metadata().row_groups().iter().enumerate() {
        // What a file claims is compared with its length before memory is taken for it.
        if !(0..=len as i64).contains(&group.num_rows()) {
            let rows = group.num_rows();
            return Err(damaged(&format!("its row group {index} claims {rows} rows in {len} bytes")));
        }
        for column in group.columns() {
            let (start, size) = guarded(|| Ok(column.byte_range()))?;
            if start.checked_add(size).is_none_or(|end| end > len) {
                return Err(damaged(&format!("its row group {index} lies beyond its end of {len} bytes")));
            }
        }
    }
    Ok(reader)
}

/// What a file is that does not begin as parquet does.
fn not_parquet(path: &Path) -> String {
    const POINTER: &[u8] = b"version https://git-lfs";
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(POINTER.len() as u64).read_to_end(&mut start));
    if read.is_ok() && start == POINTER {
        return "is a pointer of Git LFS in the place of the file: fetch it with git lfs pull".into();
    }
    format!("is not a parquet file: {}", what(path))
}

fn damaged(problem: &str) -> String {
    format!("is damaged: {problem}")
}

/// Calls the reader of parquet: its errors and panics become a clause of one line.
pub fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> Result<T, String> {
    let result = caught(read).map_err(|panic| damaged(&panic))?;
    result.map_err(|error| {
        let line: String = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        damaged(&line.chars().filter(|c| !c.is_control()).collect::<String>())
    })
}

/// The values of the next `rows` rows of a column, `None` where there is none. A column has values where its definition
/// level is `level`, the largest.
pub fn values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    level: i16,
    rows: usize,
) -> ParquetResult<Vec<Option<T::T>>> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let (read, ..) = reader.read_records(rows, Some(&mut levels), None, &mut values)?;
    if read != rows {
        return Err(ParquetError::General(format!("a column ends {} rows too early", rows - read)));
    }
    if level == 0 {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(levels.into_iter().map(|own| if own == level { values.next() } else { None }).collect())
}
