//! Random light along the principal components of ImageNet's colours (Krizhevsky et al., "ImageNet
//! Classification with Deep Convolutional Neural Networks", section 4.1).

use super::gaussian::gaussian;
use rand::Rng;

/// Standard deviations of ImageNet's RGB values along their principal components (fb.resnet.torch), in
/// decreasing order, for values from 0 to 1.
const EIGENVALUES: [f64; 3] = [0.2175, 0.0188, 0.0045];
/// The principal components: a row per channel, a column per component.
const EIGENVECTORS: [[f64; 3]; 3] =
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]];

/// Adds a colour to all pixels of an image. It is a sum of the principal components, each times its
/// eigenvalue and a Gaussian number of this standard deviation; the paper's networks were trained with 0.1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lighting {
    /// The standard deviation of each component's factor.
    pub deviation: f64,
}

impl Lighting {
    /// The colour to add to pixels scaled to [0, 1], for factors chosen by `rng`.
    pub fn choose(&self, rng: &mut impl Rng) -> [f32; 3] {
        Lighting::color(std::array::from_fn(|_| self.deviation * gaussian(rng)))
    }

    /// The colour, red, green and blue, for given factors of the three components.
    pub fn color(factors: [f64; 3]) -> [f32; 3] {
        EIGENVECTORS.map(|row| {
            let term = |i: usize| row[i] * factors[i] * EIGENVALUES[i];
            (term(0) + term(1) + term(2)) as f32
        })
    }
}
