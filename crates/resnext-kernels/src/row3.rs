//! One row of a kernel of three columns, for neighbouring output pixels.

/// Accumulates one kernel row into `$acc`, the sums of `$M` output pixels `$STRIDE` source pixels apart: for every source
/// pixel `$j` that they read, `$x` times the weights `$w` of the three columns. `$x` is evaluated once per source pixel and
/// serves all the output pixels that read it. The steps are written out, as the sums would be kept in memory in a loop. The
/// conditions are const blocks, so that the compiler drops what they rule out before it generates code.
macro_rules! fma_row3 {
    ($M:ident, $STRIDE:ident, $fma:path, $acc:ident, $w:ident, |$j:ident| $x:expr) => {
        fma_row3!(@each $M, $STRIDE, $fma, $acc, $w, $j, $x;
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32)
    };
    (@each $M:ident, $STRIDE:ident, $fma:path, $acc:ident, $w:ident, $j:ident, $x:expr; $($n:literal)*) => { $(
        if const { $n < ($M - 1) * $STRIDE + 3 } {
            let $j: usize = $n;
            let x = $x;
            fma_row3!(@column $M, $STRIDE, $fma, $acc, $w, x, $n, 0);
            fma_row3!(@column $M, $STRIDE, $fma, $acc, $w, x, $n, 1);
            fma_row3!(@column $M, $STRIDE, $fma, $acc, $w, x, $n, 2);
        }
    )* };
    (@column $M:ident, $STRIDE:ident, $fma:path, $acc:ident, $w:ident, $x:ident, $n:literal, $k:literal) => {
        if const {
            let from = usize::saturating_sub($n, $k);
            $n + 1 > $k && from % $STRIDE == 0 && from / $STRIDE < $M
        } {
            let m = const { usize::saturating_sub($n, $k) / $STRIDE };
            $acc[m] = $fma($x, $w[$k], $acc[m]);
        }
    };
}
pub(crate) use fma_row3;
