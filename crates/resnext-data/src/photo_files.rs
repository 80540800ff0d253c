//! The photos in a folder, and the files that are left out.

use crate::decode::formats::description;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The endings of file names that count as photos in a folder, in lower case.
pub const PHOTO_ENDINGS: [&str; 24] = [
    "jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "pjpeg", "pjp", "mpo", "png", "apng", "gif", "webp", "bmp",
    "dib", "tif", "tiff", "pnm", "ppm", "pgm", "pbm", "pam", "ico", "qoi",
];

/// The photos of a folder, and the files that are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PhotoFiles {
    /// The files that end as photos do, sorted by path.
    pub photos: Vec<PathBuf>,
    /// The other files, each with what it is instead, such as "a HEIC image". Files that systems leave in folders
    /// are not among them.
    pub left_out: Vec<(PathBuf, String)>,
    /// The folders below it that cannot be read, each with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
}

impl PhotoFiles {
    /// Lists the files of a folder and its subfolders. Links to folders are not followed, because they may lead back
    /// to where they are.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder itself cannot be read.
    pub fn list(folder: &Path) -> Result<Self> {
        let mut files = PhotoFiles::default();
        files.add(folder).map_err(|source| Error::Io { path: folder.to_path_buf(), source })?;
        Ok(files)
    }

    fn add(&mut self, folder: &Path) -> std::io::Result<()> {
        let entries = std::fs::read_dir(folder)?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            if is_system_file(&path) {
                continue;
            }
            if path.is_dir() {
                match path.is_symlink() {
                    true => self.left_out.push((path, "a link to a folder".into())),
                    false => {
                        if let Err(error) = self.add(&path) {
                            self.unreadable.push((path, format!("cannot be read: {error}")));
                        }
                    }
                }
            } else if !path.is_file() {
                self.left_out.push((path, "not a file".into()));
            } else if is_photo(&path) {
                self.photos.push(path);
            } else {
                let what = what(&path);
                self.left_out.push((path, what));
            }
        }
        Ok(())
    }

    /// One line that counts the files that were left out and names the first of them; `None` if there are none.
    pub fn left_out_line(&self) -> Option<String> {
        left_out_line(&self.left_out)
    }
}

/// One line that counts files that were left out and names the first of them; `None` if there are none.
pub(crate) fn left_out_line(files: &[(PathBuf, String)]) -> Option<String> {
    const NAMED: usize = 8;
    let count = files.len();
    if count == 0 {
        return None;
    }
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let named = files.iter().take(NAMED).map(|(path, what)| format!("{} ({what})", name(path)));
    let mut line = named.collect::<Vec<_>>().join(", ");
    if count > NAMED {
        line += &format!(" and {} more", count - NAMED);
    }
    Some(format!("left out {count} {}: {line}", if count == 1 { "file" } else { "files" }))
}

/// Whether a file's name ends as that of a photo.
pub fn is_photo(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| PHOTO_ENDINGS.contains(&ending.as_str()))
}

/// Whether a file or folder is one that operating systems, servers and archives leave in people's folders.
pub fn is_system_file(path: &Path) -> bool {
    const NAMES: [&str; 22] = [
        ".ds_store",
        ".localized",
        ".appledouble",
        ".spotlight-v100",
        ".fseventsd",
        ".temporaryitems",
        ".trashes",
        "__macosx",
        "icon\r",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        ".directory",
        ".thumbnails",
        ".nomedia",
        ".picasa.ini",
        "picasa.ini",
        "@eadir",
        "#recycle",
        "lost+found",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.starts_with("._") || name.starts_with(".trash-") || NAMES.contains(&name.as_str())
}

/// The kind of a file without a photo's ending, by its first bytes.
pub(crate) fn what(path: &Path) -> String {
    use std::io::Read;
    let mut start = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(256).read_to_end(&mut start)) {
        Ok(_) => description(&start),
        Err(error) => format!("cannot be read: {error}"),
    }
}
