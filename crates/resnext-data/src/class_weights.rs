//! Weights that make uneven classes count the same.

/// The weight of each class's images in the loss, N / (K·n) for n of N images in a class out of K: every class
/// then counts the same, and the mean weight over the images is 1. A class without images weighs 0. `counts` are
/// the numbers of images, indexed by label.
pub fn class_weights(counts: &[usize]) -> Vec<f32> {
    let (images, classes) = (counts.iter().sum::<usize>() as f64, counts.len() as f64);
    let weight = |&count: &usize| match count {
        0 => 0.0,
        _ => (images / (classes * count as f64)) as f32,
    };
    counts.iter().map(weight).collect()
}
