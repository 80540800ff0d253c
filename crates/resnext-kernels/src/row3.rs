//! One row of a kernel of three columns, for neighbouring output pixels.

/// Adds to `$acc`, the sums of `$M` output pixels `$STRIDE` source pixels apart, source pixel `$j` by `$x` times the
/// weights `$w` of three columns, for every source pixel they read: what is brought to a register of one serves all the
/// output pixels it reaches. Written out, not a loop, or the sums would be kept in memory. The conditions are const
/// blocks: what they rule out is not even handed to LLVM, which halves this crate's build time.
macro_rules! fma_row3 {
    ($M:ident, $STRIDE:ident, $fma:path, $acc:ident, $w:ident, |$j:ident| $x:expr) => {
        fma_row3!(@each $M, $STRIDE, $fma, $acc, $w, $j, $x;
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32)
    };
    (@each $M:ident, $STRIDE:ident, $fma:path, $acc:ident, $w:ident, $j:ident, $x:expr; $($n:literal)*) => { $(
        if const { $n < ($M - 1) * $STRIDE + 3 } {
            let $j: usize = $n;
            let x = $x;
            if const { $n % $STRIDE == 0 && $n / $STRIDE < $M } {
                $acc[$n / $STRIDE] = $fma(x, $w[0], $acc[$n / $STRIDE]);
            }
            if const { $n >= 1 && ($n - 1) % $STRIDE == 0 && ($n - 1) / $STRIDE < $M } {
                $acc[usize::saturating_sub($n, 1) / $STRIDE] = $fma(x, $w[1], $acc[usize::saturating_sub($n, 1) / $STRIDE]);
            }
            if const { $n >= 2 && ($n - 2) % $STRIDE == 0 && ($n - 2) / $STRIDE < $M } {
                $acc[usize::saturating_sub($n, 2) / $STRIDE] = $fma(x, $w[2], $acc[usize::saturating_sub($n, 2) / $STRIDE]);
            }
        }
    )* };
}
pub(crate) use fma_row3;
