//! Labelled images in files, decoded when they are needed.

use crate::class_weights::class_weights;
use crate::decode::error::PhotoError;
use crate::error::{Error, Result};
use crate::fnv::fnv1a;
use crate::photo::{Photo, read};
use crate::random_stream::shuffled;
use crate::table::order::mixed;
use crate::table::rows::{Row, Tables};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Labelled images in files, each decoded when it is needed: a set of any size takes the memory of its paths,
/// or of a few numbers per image in a shard or parquet file.
#[derive(Debug, Clone)]
pub struct ImageSet {
    images: Vec<Image>,
    shards: Arc<[PathBuf]>,
    tables: Arc<Tables>,
    class_names: Arc<[String]>,
    /// The hash of the images' lengths, once it is known.
    lengths: Arc<OnceLock<u64>>,
}

#[derive(Debug, Clone)]
struct Image {
    place: Place,
    label: u32,
}

/// Where an image's bytes are.
#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Shard(Member),
    Row(Row),
}

/// An image within a larger file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// The index of the file.
    pub shard: u32,
    /// Where the image starts in it, in bytes.
    pub offset: u64,
    /// The length of the image in bytes.
    pub len: u64,
}

impl ImageSet {
    /// A set of files, each with its label: an index into `class_names`.
    ///
    /// # Errors
    /// [`Error::Loader`] if a label has no class name.
    pub fn new(files: Vec<(PathBuf, u32)>, class_names: Arc<[String]>) -> Result<Self> {
        if let Some((path, label)) = files.iter().find(|(_, label)| *label as usize >= class_names.len()) {
            let (path, classes) = (path.display(), class_names.len());
            return Err(Error::Loader(format!("{path} has label {label}, expected one below {classes}")));
        }
        let images = files.into_iter().map(|(path, label)| Image { place: Place::File(path), label });
        Ok(ImageSet::of(images.collect(), class_names))
    }

    /// A set of images within `shards`, whose labels and places have been checked.
    pub(crate) fn in_shards(
        members: Vec<(Member, u32)>,
        shards: Arc<[PathBuf]>,
        class_names: Arc<[String]>,
    ) -> Self {
        let images = members.into_iter().map(|(member, label)| Image { place: Place::Shard(member), label });
        ImageSet { shards, ..ImageSet::of(images.collect(), class_names) }
    }

    /// A set of rows of `tables`, whose labels have been checked.
    pub(crate) fn in_tables(rows: Vec<(Row, u32)>, tables: Arc<Tables>, class_names: Arc<[String]>) -> Self {
        let images = rows.into_iter().map(|(row, label)| Image { place: Place::Row(row), label });
        ImageSet { tables, ..ImageSet::of(images.collect(), class_names) }
    }

    fn of(images: Vec<Image>, class_names: Arc<[String]>) -> Self {
        let (shards, tables) = (Arc::from([]), Arc::default());
        ImageSet { images, shards, tables, class_names, lengths: Arc::default() }
    }

    /// The images at these indices, as a set of their own.
    pub(crate) fn select(&self, indices: impl Iterator<Item = usize>) -> Self {
        let images = indices.map(|index| self.images[index].clone()).collect();
        ImageSet { images, lengths: Arc::default(), ..self.clone() }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The class names, indexed by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The label of image `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn label(&self, index: usize) -> u32 {
        self.images[index].label
    }

    /// The file that image `index` is, or is in.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn path(&self, index: usize) -> &Path {
        match &self.images[index].place {
            Place::File(path) => path,
            Place::Shard(member) => &self.shards[member.shard as usize],
            Place::Row(row) => self.tables.file(*row),
        }
    }

    /// The order of the images in an epoch of training, a permutation that depends on nothing but the set, the seed and the
    /// epoch.
    pub(crate) fn shuffled(&self, seed: u64, epoch: u64) -> Vec<usize> {
        if self.tables.is_empty() {
            return shuffled(seed, epoch, self.len());
        }
        let block = |index: usize| match self.images[index].place {
            Place::Row(row) => Some(row.block),
            _ => None,
        };
        let mut blocks: Vec<(Range<usize>, u64)> = Vec::new();
        for index in 0..self.len() {
            match blocks.last_mut().filter(|(images, _)| block(images.start) == block(index)) {
                Some((images, _)) => images.end = index + 1,
                None => {
                    let bytes = block(index).map_or(0, |block| self.tables.block_bytes(block));
                    blocks.push((index..index + 1, bytes));
                }
            }
        }
        mixed(seed, epoch, &blocks)
    }

    /// The names of images in messages: their files, their names within a shard, or their rows, counted from 0. Each shard
    /// is read once for them.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    pub fn names(&self, indices: &[usize]) -> Vec<String> {
        let mut wanted: BTreeMap<u32, BTreeMap<u64, String>> = BTreeMap::new();
        for &index in indices {
            if let Place::Shard(Member { shard, offset, .. }) = self.images[index].place {
                wanted.entry(shard).or_default().insert(offset, String::new());
            }
        }
        wanted.iter_mut().for_each(|(&shard, members)| member_names(&self.shards[shard as usize], members));
        let name = |&index: &usize| {
            let path = self.path(index).display();
            match &self.images[index].place {
                Place::File(_) => path.to_string(),
                Place::Shard(Member { shard, offset, .. }) => format!("{path}: {}", wanted[shard][offset]),
                Place::Row(row) => format!("{path}: row {}", self.tables.number(*row)),
            }
        };
        indices.iter().map(name).collect()
    }

    /// Reads and decodes image `index`.
    ///
    /// # Errors
    /// [`Error::Photo`], which names the file, if it cannot be read or is not an image.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn photo(&self, index: usize) -> Result<Photo> {
        self.decode(index, Photo::decode)
    }

    /// Reads image `index` and decodes it by `decode`, which is given the bytes of its file.
    ///
    /// # Errors
    /// [`Error::Photo`], which names the file, if it cannot be read or `decode` refuses it.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn decode<T>(
        &self,
        index: usize,
        decode: impl FnOnce(&[u8]) -> std::result::Result<T, PhotoError>,
    ) -> Result<T> {
        let path = self.path(index);
        let failed = |reason: String| Error::Photo { path: path.to_path_buf(), reason };
        let decoded = |bytes: &[u8], name: &dyn Fn() -> String| {
            decode(bytes).map_err(|error| failed(format!("{}{error}", name())))
        };
        match self.images[index].place {
            Place::File(_) => decoded(&read(path).map_err(failed)?, &String::new),
            Place::Shard(member) => {
                let Member { len, offset, .. } = member;
                let name = || format!("{}, the image of {len} bytes at byte {offset}: ", member.name(path));
                let bytes = member.read(path).map_err(|error| failed(format!("{}{error}", name())))?;
                decoded(&bytes, &name)
            }
            Place::Row(row) => {
                let number = self.tables.number(row);
                let images = self.tables.images(row.block);
                let bytes =
                    images.image(row.row).map_err(|reason| failed(format!("row {number} {reason}")))?;
                decoded(bytes, &|| format!("row {number}, an image of {} bytes: ", bytes.len()))
            }
        }
    }

    /// A line that tells this set from others: its size, a hash of the classes, the labels and the names of the files
    /// with their folders, and a hash of the images' lengths in bytes. Files are not read, but asked for their lengths, once.
    ///
    /// What is before the last comma is the whole fingerprint of earlier versions.
    pub fn fingerprint(&self) -> String {
        let name = |path: &Path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            format!("{folder}/{file}")
        };
        let place = |place: &Place| match place {
            Place::File(path) => name(path),
            Place::Shard(Member { shard, offset, len }) => {
                format!("{}:{offset}+{len}", name(&self.shards[*shard as usize]))
            }
            Place::Row(row) => format!("{}:{}", name(self.tables.file(*row)), self.tables.number(*row)),
        };
        let classes = self.class_names.iter().flat_map(|name| name.bytes().chain([0]));
        let images = self.images.iter().flat_map(|image| {
            place(&image.place).into_bytes().into_iter().chain([0]).chain(image.label.to_le_bytes())
        });
        let names = fnv1a(classes.chain(images));
        let lengths =
            *self.lengths.get_or_init(|| fnv1a(self.images.iter().flat_map(|image| self.length(image))));
        let (images, classes) = (self.len(), self.class_names.len());
        format!("{images} photos in {classes} classes ({names:016x}), lengths {lengths:016x}")
    }

    /// A hash of the bytes of up to 256 images spread over the set, and of their lengths, with which two processes see
    /// whether their files are the same. An image that cannot be read counts as one without bytes.
    pub fn content_hash(&self) -> u64 {
        let step = self.len().div_ceil(256).max(1);
        let bytes = (0..self.len()).step_by(step).flat_map(|index| {
            let path = self.path(index);
            let bytes = match self.images[index].place {
                Place::File(_) => read(path).unwrap_or_default(),
                Place::Shard(member) => member.read(path).unwrap_or_default(),
                Place::Row(row) => {
                    self.tables.images(row.block).image(row.row).map(<[u8]>::to_vec).unwrap_or_default()
                }
            };
            (bytes.len() as u64).to_le_bytes().into_iter().chain(bytes)
        });
        fnv1a(bytes)
    }

    /// The bytes of an image's length; 0 of a file that is not there any more. Of a row, whose length is not known before it
    /// is unpacked, the packed length of all images of its row group.
    fn length(&self, image: &Image) -> [u8; 8] {
        let len = match &image.place {
            Place::File(path) => std::fs::metadata(path).map_or(0, |data| data.len()),
            Place::Shard(member) => member.len,
            Place::Row(row) => self.tables.packed_bytes(*row),
        };
        len.to_le_bytes()
    }

    /// The number of images of each class, indexed by label.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        self.images.iter().for_each(|image| counts[image.label as usize] += 1);
        counts
    }

    /// The weight of each class's images in the loss, as [`class_weights`] computes it.
    pub fn class_weights(&self) -> Vec<f32> {
        class_weights(&self.class_counts())
    }
}

/// Fills in the names of the members of a shard that begin at the given bytes. A name comes from the file, so it must not
/// break a line.
fn member_names(path: &Path, wanted: &mut BTreeMap<u64, String>) {
    let mut missing = wanted.len();
    let mut find = || -> std::io::Result<()> {
        let mut archive = tar::Archive::new(BufReader::new(File::open(path)?));
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            if let Some(name) = wanted.get_mut(&entry.raw_file_position()) {
                *name = entry.path()?.to_string_lossy().escape_debug().to_string();
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        Ok(())
    };
    // A shard that was indexed can be read; one that has changed since gives no names.
    let _ = find();
}

impl Member {
    /// The image's name in its shard.
    fn name(&self, path: &Path) -> String {
        let mut wanted = BTreeMap::from([(self.offset, String::new())]);
        member_names(path, &mut wanted);
        wanted.into_values().next().unwrap_or_default()
    }

    /// Reads the image's bytes from its shard.
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        // The length was checked against the file's when it was indexed; the buffer grows while reading in case
        // the file has changed.
        let mut bytes = Vec::new();
        file.take(self.len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == self.len {
            return Ok(bytes);
        }
        Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file has become shorter"))
    }
}
