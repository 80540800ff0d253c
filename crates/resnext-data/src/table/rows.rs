//! The images of parquet files, of which some blocks of rows are in memory at a time.

use super::opened::{guarded, values};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::ByteArrayType;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::SerializedPageReader;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// About how many bytes of images a block has, unless its row group has fewer or a single image more. A small block makes for
/// a good shuffle; but of a page, which a file's writer chose, all images are unpacked for a few.
const BLOCK_BYTES: u64 = 3 << 20;

/// The most bytes of images that are kept in memory, beside those of one block.
const KEPT_BYTES: usize = 64 << 20;

/// The images of parquet files. All that read one of them share the blocks in memory.
#[derive(Debug, Default)]
pub struct Tables {
    files: Vec<PathBuf>,
    groups: Vec<Group>,
    blocks: Vec<Block>,
    kept: Mutex<Kept>,
    /// Locked while a block is read: one at a time, so that the memory for it does not depend on the number of threads.
    reading: Mutex<()>,
}

/// The images of a row group.
#[derive(Debug)]
struct Group {
    file: u32,
    /// The first row's number in the file.
    first: u64,
    rows: usize,
    column: ColumnChunkMetaData,
}

/// Consecutive rows of a row group, which are read together.
#[derive(Debug)]
struct Block {
    group: u32,
    rows: Range<usize>,
}

/// A row of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The index of the block.
    pub block: u32,
    /// The row's position in the block.
    pub row: u32,
}

impl Tables {
    /// Adds a file without images and returns its number.
    pub fn add_file(&mut self, path: PathBuf) -> u32 {
        self.files.push(path);
        self.files.len() as u32 - 1
    }

    /// Adds a row group of `rows` images, the first of which is row `first` of the file, and returns its rows.
    pub fn add_group(&mut self, file: u32, first: u64, rows: usize, column: ColumnChunkMetaData) -> Vec<Row> {
        let blocks = (bytes(&column).div_ceil(BLOCK_BYTES) as usize).clamp(1, rows.max(1));
        let mut added = Vec::with_capacity(rows);
        for i in 0..blocks {
            let own = rows * i / blocks..rows * (i + 1) / blocks;
            let block = self.blocks.len() as u32;
            added.extend((0..own.len() as u32).map(|row| Row { block, row }));
            self.blocks.push(Block { group: self.groups.len() as u32, rows: own });
        }
        self.groups.push(Group { file, first, rows, column });
        added
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The file that a row is in.
    pub fn file(&self, row: Row) -> &Path {
        &self.files[self.group(row.block).file as usize]
    }

    /// A row's number in its file, from 0.
    pub fn number(&self, row: Row) -> u64 {
        let first = self.group(row.block).first + self.blocks[row.block as usize].rows.start as u64;
        first + u64::from(row.row)
    }

    /// About how many bytes the images of a block have.
    pub fn block_bytes(&self, block: u32) -> u64 {
        let group = self.group(block);
        bytes(&group.column) * self.blocks[block as usize].rows.len() as u64 / group.rows.max(1) as u64
    }

    /// The packed bytes of the row group that a row is in. They are other ones if an image is another one, as good as always.
    pub fn packed_bytes(&self, row: Row) -> u64 {
        self.group(row.block).column.compressed_size() as u64
    }

    fn group(&self, block: u32) -> &Group {
        &self.groups[self.blocks[block as usize].group as usize]
    }

    /// The images of a block, from memory or from its file.
    pub fn images(&self, block: u32) -> Arc<Images> {
        if let Some(images) = locked(&self.kept).get(block) {
            return images;
        }
        let _reading = locked(&self.reading);
        // Another thread may have read it meanwhile.
        if let Some(images) = locked(&self.kept).get(block) {
            return images;
        }
        let (group, Block { rows, .. }) = (self.group(block), &self.blocks[block as usize]);
        let images = Arc::new(Images::read(&self.files[group.file as usize], group, rows));
        locked(&self.kept).insert(block, Arc::clone(&images));
        images
    }
}

/// The unpacked bytes of a row group's images.
fn bytes(column: &ColumnChunkMetaData) -> u64 {
    column.uncompressed_size().max(0) as u64
}

/// Blocks in memory, of which those that were not used for the longest time make place for others.
#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<u32, (Arc<Images>, u64)>,
    /// The blocks by the time of their last use.
    by_use: BTreeMap<u64, u32>,
    uses: u64,
    bytes: usize,
}

impl Kept {
    fn get(&mut self, block: u32) -> Option<Arc<Images>> {
        let (images, used) = self.blocks.get_mut(&block)?;
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, block);
        Some(Arc::clone(images))
    }

    fn insert(&mut self, block: u32, images: Arc<Images>) {
        self.uses += 1;
        self.bytes += images.bytes.len();
        self.by_use.insert(self.uses, block);
        self.blocks.insert(block, (images, self.uses));
        while self.bytes > KEPT_BYTES && self.blocks.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.bytes -= self.blocks.remove(&oldest).map_or(0, |(images, _)| images.bytes.len());
        }
    }
}

/// The images of a block.
#[derive(Debug)]
pub struct Images {
    bytes: Vec<u8>,
    /// Where each row's image is in `bytes`; `None` if the row has none. An error if the block could not be read.
    places: Result<Vec<Option<Range<usize>>>, String>,
}

impl Images {
    fn read(path: &Path, group: &Group, rows: &Range<usize>) -> Self {
        let mut bytes = Vec::new();
        let places = places(path, group, rows, &mut bytes);
        Images { bytes, places }
    }

    /// The bytes of a row's image.
    ///
    /// # Errors
    /// Why there are none, in a clause.
    pub fn image(&self, row: u32) -> Result<&[u8], String> {
        match self.places.as_ref().map(|places| &places[row as usize]) {
            Ok(Some(place)) => Ok(&self.bytes[place.clone()]),
            Ok(None) => Err("has no bytes: expected those of an image file, not its path alone".into()),
            Err(problem) => Err(format!("cannot be read: the file {problem}")),
        }
    }
}

/// Reads the images of some rows of a group into `bytes`.
fn places(
    path: &Path,
    group: &Group,
    rows: &Range<usize>,
    bytes: &mut Vec<u8>,
) -> Result<Vec<Option<Range<usize>>>, String> {
    let file = Arc::new(File::open(path).map_err(|error| format!("cannot be opened: {error}"))?);
    let images = guarded(|| {
        let pages = SerializedPageReader::new(file, &group.column, group.rows, None)?;
        let column = group.column.column_descr_ptr();
        let level = column.max_def_level();
        let mut reader = ColumnReaderImpl::<ByteArrayType>::new(column, Box::new(pages));
        reader.skip_records(rows.start)?;
        values(&mut reader, level, rows.len())
    })?;
    // Images are copied, because each of them would hold its whole page in memory: once, if rows have the same one.
    let mut seen: HashMap<(usize, usize), Range<usize>> = HashMap::new();
    let mut place = |image: &[u8]| {
        let copied = seen.entry((image.as_ptr() as usize, image.len())).or_insert_with(|| {
            bytes.extend_from_slice(image);
            bytes.len() - image.len()..bytes.len()
        });
        copied.clone()
    };
    Ok(images.iter().map(|image| image.as_ref().map(|image| place(image.data()))).collect())
}

/// Locks a mutex, also one whose thread panicked: what it holds is complete between statements, or only a cache.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
