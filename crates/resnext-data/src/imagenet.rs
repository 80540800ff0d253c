//! The classes of ImageNet's 2012 challenge, in the order every pretrained network has them.

/// Names of the 1000 classes, by label, as torchvision has them.
pub fn class_names() -> Vec<&'static str> {
    include_str!("imagenet_classes.txt").lines().collect()
}
