//! The classes of ImageNet's 2012 challenge (ILSVRC2012).

/// The names of the 1000 classes, indexed by label, with torchvision's spelling.
pub fn class_names() -> Vec<&'static str> {
    include_str!("imagenet_classes.txt").lines().collect()
}
