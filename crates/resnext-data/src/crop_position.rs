//! Where evaluation takes its crop of a resized photo.

/// The place of a crop in a resized photo.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum CropPosition {
    /// The middle.
    #[default]
    Centre,
    /// The corner at the top left.
    TopLeft,
    /// The corner at the top right.
    TopRight,
    /// The corner at the bottom left.
    BottomLeft,
    /// The corner at the bottom right.
    BottomRight,
}

impl CropPosition {
    /// The four corners and the middle, of which ten-crop evaluation takes each and its mirror image (Krizhevsky et
    /// al., "ImageNet classification with deep convolutional neural networks", section 4.1).
    pub const FIVE: [CropPosition; 5] = [
        CropPosition::TopLeft,
        CropPosition::TopRight,
        CropPosition::BottomLeft,
        CropPosition::BottomRight,
        CropPosition::Centre,
    ];

    /// Where the crop lies from top to bottom and from left to right.
    pub(crate) fn places(self) -> (Place, Place) {
        match self {
            CropPosition::Centre => (Place::Middle, Place::Middle),
            CropPosition::TopLeft => (Place::Start, Place::Start),
            CropPosition::TopRight => (Place::Start, Place::End),
            CropPosition::BottomLeft => (Place::End, Place::Start),
            CropPosition::BottomRight => (Place::End, Place::End),
        }
    }
}

/// Where a crop lies along one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Start,
    Middle,
    End,
}

impl Place {
    /// The first pixel of a crop that leaves out `rest` pixels of a side.
    pub fn start(self, rest: usize) -> usize {
        match self {
            Place::Start => 0,
            // As Python rounds, which torchvision's crop is computed with.
            Place::Middle => (rest as f64 / 2.0).round_ties_even() as usize,
            Place::End => rest,
        }
    }
}
