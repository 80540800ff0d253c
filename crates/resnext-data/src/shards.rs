//! Images in tar files, in the layout of WebDataset: consecutive members of one name and different endings are a
//! sample, such as `000042.jpg` and its label in `000042.cls`.

use crate::error::{Error, Result, tar_problem};
use crate::image_set::{ImageSet, Member};
use crate::photo_files::{is_photo, is_system_file};
use crate::validation_split::ValidationSplit;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The training and validation images of tar shards.
///
/// The shards are indexed once, by their headers alone, and an image is read from its place when it is needed.
/// Memory is a few numbers per image whatever the size of the shards, an epoch is shuffled over all of them, and
/// its length is known.
#[derive(Debug, Clone)]
pub struct Shards {
    /// The training images.
    pub train: ImageSet,
    /// The validation images.
    pub validation: ImageSet,
    /// Whether `validation` was split off, because no shard is for validation.
    pub split: bool,
}

/// The file beside the shards that has a class name per line, in the order of the labels.
const CLASS_NAMES: &str = "classes.txt";

/// How the names of shards for validation begin.
const VALIDATION: [&str; 3] = ["val", "test", "dev"];

impl Shards {
    /// Indexes the `.tar` files in a folder, or one such file. Those whose names begin with `val`, `test` or `dev` are for
    /// validation; a share of the others is if there are none. Class names are in a file `classes.txt` beside
    /// them; without it, classes are called by their numbers.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Shard`] if one is no tar file or cut short, a sample
    /// has no image, two images or no label, a label is not a number or has no class name, or a class has no
    /// images for training or none for validation.
    pub fn open(path: &Path, split: ValidationSplit) -> Result<Self> {
        let files = if path.is_dir() { tar_files(path)? } else { vec![path.to_path_buf()] };
        Shards::open_files(&files, path, split)
    }

    /// Indexes these files. In messages they are called `name`.
    ///
    /// # Errors
    /// The same as [`open`](Self::open).
    pub fn open_files(files: &[PathBuf], name: &Path, split: ValidationSplit) -> Result<Self> {
        split.validate()?;
        let Some(first) = files.first() else { return Err(failed(name, "has no .tar files".into())) };
        let shards: Arc<[PathBuf]> = files.into();
        let names = class_names(first.parent().unwrap_or(Path::new("")))?;
        let (mut train, mut validation) = (Vec::new(), Vec::new());
        for (index, path) in shards.iter().enumerate() {
            let file = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            let of = if VALIDATION.iter().any(|start| file.starts_with(start)) {
                &mut validation
            } else {
                &mut train
            };
            add_shard(path, index as u32, names.as_ref().map(Vec::len), of)?;
        }
        if train.is_empty() && validation.is_empty() {
            return Err(failed(name, "has no images in its .tar files".into()));
        }
        let labels = train.iter().chain(&validation).map(|(_, label)| *label);
        let numbers = || (0..=labels.max().unwrap_or(0)).map(|label| label.to_string()).collect();
        let all: Arc<[String]> = names.unwrap_or_else(numbers).into();
        let set = |members| ImageSet::in_shards(members, Arc::clone(&shards), Arc::clone(&all));
        let (train, validation, split) =
            split.complete(set(train), set(validation)).map_err(|problem| failed(name, problem))?;
        Ok(Shards { train, validation, split })
    }

    /// Whether a path is a tar file, or a folder that has some.
    pub fn recognise(path: &Path) -> bool {
        is_tar(path) || tar_files(path).is_ok_and(|files| !files.is_empty())
    }
}

fn failed(path: &Path, problem: String) -> Error {
    Error::Shard { path: path.to_path_buf(), problem }
}

/// Whether a path is a file with the ending of a tar file.
fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tar")) && path.is_file()
}

/// The tar files in a folder, sorted by name.
fn tar_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io { path: folder.to_path_buf(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if is_tar(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The class names of a folder; `None` if it has no file of them.
pub(crate) fn class_names(folder: &Path) -> Result<Option<Vec<String>>> {
    let path = folder.join(CLASS_NAMES);
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    Ok(Some(text.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()).collect()))
}

/// A sample that is being read.
struct Sample {
    key: String,
    image: Option<Member>,
    label: Option<u32>,
}

/// The most bytes of a label.
const LABEL_LIMIT: u64 = 64;

/// Labels above this are not class numbers.
pub(crate) const CLASS_LIMIT: u32 = 1 << 20;

/// Adds the samples of a shard. `named` is the number of classes that have names, if they have.
fn add_shard(path: &Path, shard: u32, named: Option<usize>, samples: &mut Vec<(Member, u32)>) -> Result<()> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(io)?;
    let total = file.metadata().map_err(io)?.len();
    if !ends_with_mark(&mut file, total).map_err(io)? {
        let last = last_whole(file, total)
            .map_or(String::new(), |name| format!("; its last complete member is {name}"));
        let problem = "is cut short, or not a tar file: its end marker, 512 zero bytes, is missing";
        return Err(failed(path, format!("{problem}{last}")));
    }
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut sample: Option<Sample> = None;
    let mut last: Option<PathBuf> = None;
    for entry in archive.entries_with_seek().map_err(|error| broken(path, None, &error))? {
        let broken = |error: std::io::Error| broken(path, last.as_deref(), &error);
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        let name = entry.path().map_err(broken)?.into_owned();
        if kind.is_gnu_sparse() {
            return Err(failed(
                path,
                format!("has {} as a sparse file: pack it without --sparse", shown(&name)),
            ));
        }
        // An archive made on macOS has a file of attributes beside each file, of the same ending.
        if !kind.is_file() || name.iter().any(|part| is_system_file(Path::new(part))) {
            continue;
        }
        let (key, ending) = key_and_ending(&name);
        if sample.as_ref().is_none_or(|sample| sample.key != key) {
            finish(path, sample.take(), samples)?;
            sample = Some(Sample { key: key.clone(), image: None, label: None });
        }
        let Some(sample) = &mut sample else { continue };
        let (offset, len) = (entry.raw_file_position(), entry.size());
        if offset.saturating_add(len) > total {
            return Err(failed(path, format!("is cut short within {}", shown(&name))));
        }
        if ending == "cls" {
            let mut text = String::new();
            (&mut entry).take(LABEL_LIMIT).read_to_string(&mut text).map_err(broken)?;
            let label = text.trim().parse().ok().filter(|&label| label < CLASS_LIMIT).ok_or_else(|| {
                let (name, text) = (shown(&name), text.trim());
                failed(path, format!("{name}: expected the number of a class, got {text:?}"))
            })?;
            if let Some(classes) = named.filter(|&classes| label as usize >= classes) {
                let name = shown(&name);
                return Err(failed(
                    path,
                    format!(
                        "{name}: label {label}, expected one below {classes}, the number of names in \
                         {CLASS_NAMES}"
                    ),
                ));
            }
            if sample.label.replace(label).is_some() {
                return Err(failed(
                    path,
                    format!("sample {} has two labels: expected one", key.escape_debug()),
                ));
            }
        } else if is_photo(&name) && sample.image.replace(Member { shard, offset, len }).is_some() {
            return Err(failed(path, format!("sample {} has two images: expected one", key.escape_debug())));
        }
        last = Some(name);
    }
    finish(path, sample, samples)
}

/// The error of a shard whose bytes after the member `last` are no tar file's.
fn broken(path: &Path, last: Option<&Path>, error: &std::io::Error) -> Error {
    let after = last.map_or(String::new(), |name| format!(", after the member {}", shown(name)));
    failed(path, format!("is not a tar file, or is damaged: {}{after}", tar_problem(error)))
}

/// The last member of a file of `total` bytes that is all there.
fn last_whole(file: File, total: u64) -> Option<String> {
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut last = None;
    for entry in archive.entries_with_seek().ok()? {
        let Ok(entry) = entry else { break };
        if entry.raw_file_position().saturating_add(entry.size()) > total {
            break;
        }
        last = entry.path().ok().map(|name| shown(&name));
    }
    last
}

/// A member's name in an error. It comes from a file, so it must not break the line.
fn shown(name: &Path) -> String {
    name.to_string_lossy().escape_debug().to_string()
}

/// Whether a tar file ends with a block of zeros.
fn ends_with_mark(file: &mut File, total: u64) -> std::io::Result<bool> {
    let mut block = [1; 512];
    if total < 512 {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(total - 512))?;
    file.read_exact(&mut block)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(block.iter().all(|&byte| byte == 0))
}

/// A member's name up to the first dot of its last part, and the rest in lower case.
fn key_and_ending(name: &Path) -> (String, String) {
    let text = name.to_string_lossy();
    let file = text.rfind('/').map_or(0, |slash| slash + 1);
    let dot = text[file..].find('.').map_or(text.len(), |dot| file + dot);
    (text[..dot].to_string(), text[dot..].trim_start_matches('.').to_lowercase())
}

/// Adds a complete sample. One without image and label, such as a file of notes, is passed over.
fn finish(path: &Path, sample: Option<Sample>, samples: &mut Vec<(Member, u32)>) -> Result<()> {
    let Some(Sample { key, image, label }) = sample else { return Ok(()) };
    let key = key.escape_debug();
    match (image, label) {
        (Some(image), Some(label)) => samples.push((image, label)),
        (Some(_), None) => {
            return Err(failed(path, format!("sample {key} has no label: expected {key}.cls")));
        }
        (None, Some(_)) => {
            return Err(failed(path, format!("sample {key} has no image: expected {key}.jpg")));
        }
        (None, None) => {}
    }
    Ok(())
}
