//! The source rows of rows of output pixels.

use resnext_kernels::internals::SourceRows;

#[test]
fn rows_that_neighbours_share_are_found_once() {
    // Two images of 3×2 pixels, each row of five places: padding is place 0.
    let place = |image: usize, y: isize, x: isize| match (y, x) {
        (0..3, 0..2) => (1 + image * 6 + y as usize * 2 + x as usize) as u32,
        _ => 0,
    };
    let mut table = Vec::new();
    for (image, y, x) in (0..12).map(|i| (i / 6, (i / 2 % 3) as isize, (i % 2) as isize)) {
        for (ky, kx) in (0..9).map(|tap| (tap / 3 - 1, tap % 3 - 1)) {
            table.push(place(image, y + ky, x + kx));
        }
    }
    let rows = SourceRows::new(&table, 2, 1, 3);
    assert_eq!(rows.places(), 4);
    assert_eq!((rows.sizes(), rows.farthest()), ((6, 3, 4), 12));
    // The row of zeros between the images serves both.
    let reads: Vec<_> = (0..6).map(|row| rows.reads(row).to_vec()).collect();
    assert_eq!(reads, [[0, 1, 2], [1, 2, 3], [2, 3, 4], [4, 5, 6], [5, 6, 7], [6, 7, 8]]);
    assert_eq!((rows.range(&(1..3)), rows.range(&(0..0))), (1..5, 0..0));
    assert_eq!(rows.offsets(&(3..5)), [0, 5, 6, 0, 0, 0, 0, 0]);
}
