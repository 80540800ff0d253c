//! Photos in a folder per class, torchvision's `ImageFolder`, with or without a validation folder.

use crate::error::{Error, Result};
use crate::image_set::ImageSet;
use crate::photo_files::{PHOTO_ENDINGS, is_photo};
use crate::validation_split::ValidationSplit;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TRAIN_FOLDERS: [&str; 2] = ["train", "training"];
/// `test` is last: it is taken for validation only if there is nothing else.
const VALIDATION_FOLDERS: [&str; 4] = ["val", "validation", "valid", "test"];

/// Photos in a folder per class, which is named after it. The folders are in `train` and `val` (or `training`
/// and `validation`, `valid` or `test`), or directly in one folder, of which a share is then kept for
/// validation. Labels follow the alphabetical order of the classes.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    /// The training photos.
    pub train: ImageSet,
    /// The validation photos.
    pub validation: ImageSet,
    /// Whether `validation` was split off, because the folder has none.
    pub split: bool,
}

impl ImageFolder {
    /// Lists the photos of a folder, without reading them. Names that start with a dot, and files that are no
    /// photos by their ending ([`PHOTO_ENDINGS`]), are passed over; folders within a class belong to it.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read; [`Error::ImageFolder`] if there is no folder per class, only
    /// one class or a class without photos, if the classes for training and validation differ, or if a class
    /// has too few photos to be split.
    pub fn open(path: &Path, split: ValidationSplit) -> Result<Self> {
        split.validate()?;
        let folders = subfolders(path)?;
        let Some((train, validation)) = split_folders(&folders)? else {
            let (images, names) = classes(path)?;
            return halves(path, images, names, split);
        };
        let (images, names) = classes(train)?;
        let Some(validation) = validation else { return halves(train, images, names, split) };
        let (validation_images, validation_names) = classes(validation)?;
        for (folder, own, other_folder, other) in
            [(validation, &validation_names, train, &names), (train, &names, validation, &validation_names)]
        {
            if let Some(missing) = other.iter().find(|name| !own.contains(name)) {
                return Err(failed(
                    folder,
                    format!(
                        "has no folder {missing}, which {} has: training and validation need photos of the \
                         same classes",
                        other_folder.display()
                    ),
                ));
            }
        }
        let names: Arc<[String]> = names.into();
        Ok(ImageFolder {
            train: ImageSet::new(images, Arc::clone(&names))?,
            validation: ImageSet::new(validation_images, names)?,
            split: false,
        })
    }

    /// All photos for evaluation: those of the folder for validation in `path` if it has one, or else of `path` itself,
    /// which then has a folder per class.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), but for those of a split.
    pub fn validation_photos(path: &Path) -> Result<ImageSet> {
        let folders = subfolders(path)?;
        let is_validation = |folder: &&PathBuf| {
            VALIDATION_FOLDERS.iter().any(|name| name_of(folder).eq_ignore_ascii_case(name))
        };
        let validation = match folders.iter().find(is_validation) {
            Some(folder) if !subfolders(folder)?.is_empty() => folder,
            _ => path,
        };
        let (images, names) = classes(validation)?;
        ImageSet::new(images, names.into())
    }

    /// Whether `path` looks like such a folder: it is a folder with at least one folder in it.
    pub fn recognise(path: &Path) -> bool {
        subfolders(path).is_ok_and(|folders| !folders.is_empty())
    }
}

fn failed(path: &Path, problem: String) -> Error {
    Error::ImageFolder { path: path.to_path_buf(), problem }
}

/// The folders for training and, if there is one, for validation; `None` if the folders are classes. A class
/// may be called `train`, too: it then holds photos rather than folders.
fn split_folders(folders: &[PathBuf]) -> Result<Option<(&PathBuf, Option<&PathBuf>)>> {
    let named = |names: &[&str]| {
        names.iter().find_map(|name| folders.iter().find(|folder| name_of(folder).eq_ignore_ascii_case(name)))
    };
    let Some(train) = named(&TRAIN_FOLDERS) else { return Ok(None) };
    if subfolders(train)?.is_empty() {
        return Ok(None);
    }
    Ok(Some((train, named(&VALIDATION_FOLDERS))))
}

/// Photos with their labels.
type Labelled = Vec<(PathBuf, u32)>;

/// The photos of each class in a folder, and the names of the classes.
fn classes(path: &Path) -> Result<(Labelled, Vec<String>)> {
    let folders = subfolders(path)?;
    if folders.len() < 2 {
        let mut problem = match &folders[..] {
            [] => "has no folder per class: expected CLASS/photo.jpg, or train/CLASS/photo.jpg".to_string(),
            [only] => format!("has one class only, {}: expected at least two folders", name_of(only)),
            _ => String::new(),
        };
        if let Some(file) = packed_images(path, &folders)? {
            problem += &format!("; {} is not read: unpack its images into such folders", file.display());
        }
        return Err(failed(path, problem));
    }
    let (mut images, mut names) = (Vec::new(), Vec::new());
    for folder in folders {
        let mut photos = Vec::new();
        add_photos(&folder, &mut photos)?;
        if photos.is_empty() {
            let endings = PHOTO_ENDINGS[..3].join(", .");
            return Err(failed(
                &folder,
                format!("has no photos (.{endings} …): add some, or remove the folder of this class"),
            ));
        }
        let label = names.len() as u32;
        images.extend(photos.into_iter().map(|photo| (photo, label)));
        names.push(name_of(&folder));
    }
    Ok((images, names))
}

/// A file in `path` or one of its folders that holds images in a form that is not read.
fn packed_images(path: &Path, folders: &[PathBuf]) -> Result<Option<PathBuf>> {
    const ENDINGS: [&str; 7] = [".parquet", ".arrow", ".tfrecord", ".tar.gz", ".tgz", ".tar.zst", ".zip"];
    for folder in [path].into_iter().chain(folders.iter().map(PathBuf::as_path)) {
        let mut files = entries(folder)?.into_iter();
        let packed = |file: &PathBuf| ENDINGS.iter().any(|end| name_of(file).to_lowercase().ends_with(end));
        if let Some(file) = files.find(packed) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Keeps a share of the photos of each class for validation.
fn halves(path: &Path, images: Labelled, names: Vec<String>, split: ValidationSplit) -> Result<ImageFolder> {
    let all = ImageSet::new(images, names.into())?;
    let (train, validation) = split.divide(&all).map_err(|class| {
        let problem = "has one photo only: expected at least two, one for training and one for validation";
        failed(&path.join(class), problem.into())
    })?;
    Ok(ImageFolder { train, validation, split: true })
}

/// The last part of a path.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A folder's entries, sorted, without those that a user does not see.
fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?.path();
        let name = name_of(&entry);
        if !name.starts_with('.') && name != "__MACOSX" {
            entries.push(entry);
        }
    }
    entries.sort();
    Ok(entries)
}

fn subfolders(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(path)?.into_iter().filter(|entry| entry.is_dir()).collect())
}

/// Adds the photos in a folder and in its own folders. Links to folders are not followed, because they may
/// lead back here.
fn add_photos(path: &Path, photos: &mut Vec<PathBuf>) -> Result<()> {
    for entry in entries(path)? {
        if entry.is_dir() && !entry.is_symlink() {
            add_photos(&entry, photos)?;
        } else if is_photo(&entry) && !entry.is_dir() {
            photos.push(entry);
        }
    }
    Ok(())
}
