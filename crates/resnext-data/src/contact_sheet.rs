//! Several images side by side in one.

use crate::photo::Photo;

/// Pixels between images and around them.
const GAP: usize = 4;
const BACKGROUND: u8 = 128;

/// Rows of images as one image with a grey background. All cells have the size of the largest image; a smaller
/// one is at its cell's upper left. `None` if there are no images.
pub fn contact_sheet(rows: &[Vec<Photo>]) -> Option<Photo> {
    let cell_width = rows.iter().flatten().map(Photo::width).max()? + GAP;
    let cell_height = rows.iter().flatten().map(Photo::height).max()? + GAP;
    let columns = rows.iter().map(Vec::len).max()?;
    let (width, height) = (columns * cell_width + GAP, rows.len() * cell_height + GAP);
    let mut pixels = vec![BACKGROUND; 3 * width * height];
    for (row, images) in rows.iter().enumerate() {
        for (column, image) in images.iter().enumerate() {
            let (left, top) = (GAP + column * cell_width, GAP + row * cell_height);
            for (y, line) in image.pixels().chunks_exact(3 * image.width()).enumerate() {
                pixels[3 * ((top + y) * width + left)..][..line.len()].copy_from_slice(line);
            }
        }
    }
    Photo::new(width, height, pixels)
}
