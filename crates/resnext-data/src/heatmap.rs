//! Heat maps, such as Grad-CAM's, drawn over a photo.

use crate::dataset::CHANNELS;
use crate::evaluation::Window;
use crate::photo::Photo;

/// Draws a heat map over `photo`. `map` has values in [0, 1] of shape (rows, columns), row by row, which
/// cover `window`; blue is low, red is high. Pixels outside of the window, which the network did not see, are
/// darkened.
pub fn overlay(photo: &Photo, window: &Window, map: &[f32], (rows, columns): (usize, usize)) -> Photo {
    let (width, height) = (photo.width(), photo.height());
    let mut pixels = photo.pixels().to_vec();
    for (i, pixel) in pixels.chunks_exact_mut(CHANNELS).enumerate() {
        let (x, y) = ((i % width) as f64 + 0.5, (i / width) as f64 + 0.5);
        let (u, v) = ((x - window.left) / window.width, (y - window.top) / window.height);
        if !((0.0..1.0).contains(&u) && (0.0..1.0).contains(&v)) || map.len() != rows * columns {
            pixel.iter_mut().for_each(|p| *p /= 2);
            continue;
        }
        let heat = at(map, rows, columns, u, v).clamp(0.0, 1.0);
        for (p, colour) in pixel.iter_mut().zip(colour(heat)) {
            *p = (0.5 * *p as f32 + 0.5 * 255.0 * colour).round() as u8;
        }
    }
    // `pixels` still has the photo's length, so this never falls back.
    Photo::new(width, height, pixels).unwrap_or_else(|| photo.clone())
}

/// Samples the map at relative coordinates (u, v) in [0, 1) by bilinear interpolation.
fn at(map: &[f32], rows: usize, columns: usize, u: f64, v: f64) -> f32 {
    let place = |t: f64, n: usize| {
        let t = (t * n as f64 - 0.5).clamp(0.0, (n - 1) as f64);
        (t as usize, (t as usize + 1).min(n - 1), t.fract() as f32)
    };
    let ((x0, x1, fx), (y0, y1, fy)) = (place(u, columns), place(v, rows));
    let row = |y: usize| map[y * columns + x0] * (1.0 - fx) + map[y * columns + x1] * fx;
    row(y0) * (1.0 - fy) + row(y1) * fy
}

/// The colour of a value in [0, 1], in RGB from 0 to 1: blue, cyan, yellow, red.
fn colour(heat: f32) -> [f32; CHANNELS] {
    [3.0, 2.0, 1.0].map(|centre| (1.5 - (4.0 * heat - centre).abs()).clamp(0.0, 1.0))
}
