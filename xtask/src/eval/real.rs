//! ReaL labels of ImageNet's validation images: all classes that people see in each (Beyer et al., "Are we done with
//! ImageNet?", arXiv 2006.07159).

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The classes of each validation image, in the order of the numbers in the names of their files.
pub struct RealLabels {
    path: PathBuf,
    classes: Vec<Vec<u32>>,
}

/// The share of images of which a predicted class is among the ReaL labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealTop1 {
    pub right: usize,
    /// The images that have labels: of some, people saw none of ImageNet's classes.
    pub images: usize,
}

impl RealTop1 {
    /// The share of right ones, from 0 to 1.
    pub fn share(self) -> f64 {
        self.right as f64 / self.images.max(1) as f64
    }
}

impl RealLabels {
    /// Reads `real.json`: a list per image, of indices below `classes`.
    pub fn read(path: &Path, classes: usize) -> Result<Self> {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(named)?;
        let lists: Vec<Vec<u32>> = serde_json::from_str(&text)
            .with_context(|| format!("{}: expected a list of lists of class numbers", path.display()))?;
        for (i, list) in lists.iter().enumerate() {
            if let Some(label) = list.iter().find(|&&label| label as usize >= classes) {
                bail!(
                    "{}: image {} has label {label}, expected one below {classes}, the number of classes",
                    path.display(),
                    i + 1
                );
            }
        }
        Ok(RealLabels { path: path.to_path_buf(), classes: lists })
    }

    /// Judges the classes predicted for images of these names.
    ///
    /// # Errors
    /// If a name is not one of ImageNet's validation images, or has no list.
    pub fn judge(&self, names: &[String], predicted: impl Iterator<Item = u32>) -> Result<RealTop1> {
        let mut top1 = RealTop1 { right: 0, images: 0 };
        for (name, predicted) in names.iter().zip(predicted) {
            let number = number(name).with_context(|| {
                format!(
                    "{name}: expected a name such as ILSVRC2012_val_00000293.JPEG, whose number identifies its ReaL labels"
                )
            })?;
            let labels =
                number.checked_sub(1).and_then(|index| self.classes.get(index)).with_context(|| {
                    format!(
                        "{name}: {} has labels of the images 1 to {}",
                        self.path.display(),
                        self.classes.len()
                    )
                })?;
            if !labels.is_empty() {
                top1.images += 1;
                top1.right += usize::from(labels.contains(&predicted));
            }
        }
        Ok(top1)
    }
}

/// The number after `val_` in an image's name, which counts from 1.
fn number(name: &str) -> Option<usize> {
    let (_, rest) = name.rsplit_once("val_")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_is_right_if_it_is_among_the_labels_of_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("real.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            RealLabels::read(&path, 10)
        };
        let labels = read("[[3, 5], [], [9], [0]]").unwrap();
        // In the order of folders, not of numbers; one is from the hub, one in a shard.
        let names = [
            "val/n01/ILSVRC2012_val_00000003.JPEG",
            "val/n01/ILSVRC2012_val_00000001_n01751748.JPEG",
            "val-0.tar: ILSVRC2012_val_00000002.JPEG",
            "val/n02/ILSVRC2012_val_00000004.JPEG",
        ]
        .map(String::from);
        let top1 = labels.judge(&names, [9, 5, 7, 1].into_iter()).unwrap();
        assert_eq!(top1, RealTop1 { right: 2, images: 3 });
        assert!((top1.share() - 2.0 / 3.0).abs() < 1e-12);
        for (name, expected) in [
            ("val/n01/cat.jpg", "cat.jpg: expected a name such as ILSVRC2012_val"),
            ("ILSVRC2012_val_00000005.JPEG", "has labels of the images 1 to 4"),
            ("ILSVRC2012_val_00000000.JPEG", "has labels of the images 1 to 4"),
        ] {
            let error = labels.judge(&[name.into()], [1].into_iter()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let refused = |text: &str| read(text).err().map(|error| format!("{error:#}")).unwrap();
        assert!(refused("[[3], [10]]").contains("image 2 has label 10, expected one below 10"));
        assert!(refused("{}").contains("expected a list of lists of class numbers"));
    }
}
