//! Photos in a folder per class, torchvision's `ImageFolder`, with or without a validation folder.

use crate::error::{Error, Result};
use crate::image_set::ImageSet;
use crate::photo_files::{PHOTO_ENDINGS, PhotoFiles, is_photo, is_system_file, left_out_line, what};
use crate::table::files::is_parquet;
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
    /// The files that are no photos or in no class's folder, each with what it is, such as "a HEIC image". Files that
    /// systems leave in folders are not among them.
    pub left_out: Vec<(PathBuf, String)>,
}

impl ImageFolder {
    /// Lists the photos of a folder, without reading them. Names that start with a dot, and those that systems leave in
    /// folders ([`is_system_file`]), are passed over; files that are no photos by their ending ([`PHOTO_ENDINGS`]) are
    /// listed as left out; folders within a class belong to it.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read; [`Error::ImageFolder`] if there is no folder per class, only
    /// one class or a class without photos, if the classes for training and validation differ, or if a class
    /// has too few photos to be split.
    pub fn open(path: &Path, split: ValidationSplit) -> Result<Self> {
        split.validate()?;
        let folders = subfolders(path)?;
        let Some((train, validation)) = split_folders(&folders)? else {
            return halves(path, classes(path)?, split);
        };
        let of_train = classes(train)?;
        let Some(validation) = validation else { return halves(train, of_train, split) };
        let Classes { images, names, mut left_out } = of_train;
        let Classes { images: validation_images, names: validation_names, left_out: more } =
            classes(validation)?;
        left_out.extend(more);
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
            left_out,
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
        let Classes { images, names, .. } = classes(validation)?;
        ImageSet::new(images, names.into())
    }

    /// One line that counts the files that were left out and names the first of them; `None` if there are none.
    pub fn left_out_line(&self) -> Option<String> {
        left_out_line(&self.left_out)
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

/// What is in a folder of classes.
struct Classes {
    /// Photos with their labels.
    images: Vec<(PathBuf, u32)>,
    /// The classes' names.
    names: Vec<String>,
    left_out: Vec<(PathBuf, String)>,
}

/// The photos of each class in a folder, and the names of the classes.
fn classes(path: &Path) -> Result<Classes> {
    let folders = subfolders(path)?;
    if folders.len() < 2 {
        let mut problem = match &folders[..] {
            [] => "has no folder per class: expected CLASS/photo.jpg, or train/CLASS/photo.jpg".to_string(),
            [only] => format!("has one class only, {}: expected at least two folders", name_of(only)),
            _ => String::new(),
        };
        if let Some(file) = packed_images(path, &folders)? {
            problem += &match is_parquet(&file) {
                true => format!("; {} is read if its own folder is named", file.display()),
                false => format!("; {} is not read: unpack its images into such folders", file.display()),
            };
        }
        return Err(failed(path, problem));
    }
    let (mut images, mut names, mut left_out) = (Vec::new(), Vec::new(), outside(path)?);
    for folder in folders {
        let files = visible(PhotoFiles::list(&folder)?, &folder);
        if let Some((path, reason)) = files.unreadable.into_iter().next() {
            return Err(failed(&path, reason));
        }
        if files.photos.is_empty() {
            let endings = PHOTO_ENDINGS[..3].join(", .");
            let others = left_out_line(&files.left_out).map_or(String::new(), |line| format!("; {line}"));
            return Err(failed(
                &folder,
                format!("has no photos (.{endings} …): add some, or remove the folder of this class{others}"),
            ));
        }
        let label = names.len() as u32;
        images.extend(files.photos.into_iter().map(|photo| (photo, label)));
        names.push(name_of(&folder));
        left_out.extend(files.left_out);
    }
    Ok(Classes { images, names, left_out })
}

/// The files beside the folders of the classes.
fn outside(path: &Path) -> Result<Vec<(PathBuf, String)>> {
    let files = entries(path)?.into_iter().filter(|entry| !entry.is_dir());
    Ok(files
        .map(|file| match is_photo(&file) {
            true => (file, "a photo in no class's folder".into()),
            false => {
                let what = what(&file);
                (file, what)
            }
        })
        .collect())
}

/// A folder's files without those whose names, or whose folders' names, start with a dot.
fn visible(mut files: PhotoFiles, folder: &Path) -> PhotoFiles {
    let shown = |path: &Path| {
        let inner = path.strip_prefix(folder).unwrap_or(path);
        !inner.components().any(|part| part.as_os_str().to_string_lossy().starts_with('.'))
    };
    files.photos.retain(|path| shown(path));
    files.left_out.retain(|(path, _)| shown(path));
    files.unreadable.retain(|(path, _)| shown(path));
    files
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
fn halves(path: &Path, classes: Classes, split: ValidationSplit) -> Result<ImageFolder> {
    let Classes { images, names, left_out } = classes;
    let all = ImageSet::new(images, names.into())?;
    let (train, validation) = split.divide(&all).map_err(|class| {
        let problem = "has one photo only: expected at least two, one for training and one for validation";
        failed(&path.join(class), problem.into())
    })?;
    Ok(ImageFolder { train, validation, split: true, left_out })
}

/// The last part of a path.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A folder's entries, sorted, without those that a user does not see or that systems leave.
fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?.path();
        if !name_of(&entry).starts_with('.') && !is_system_file(&entry) {
            entries.push(entry);
        }
    }
    entries.sort();
    Ok(entries)
}

fn subfolders(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(path)?.into_iter().filter(|entry| entry.is_dir()).collect())
}
