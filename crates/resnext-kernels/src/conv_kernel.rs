//! The names of the kernels that compute convolutions.

/// A kernel that computes a convolution or one of its gradients. It is chosen by sizes, type and instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConvKernel {
    /// Inference: every product of a source word and a weight, in tiles of registers (`infer/direct.rs`).
    RegisterTiles,
    /// Inference: rows of grouped 3×3 convolutions over copied source rows (`infer/grouped_rows.rs`).
    GroupedRows,
    /// Inference: two channels in one multiplication, Winograd's inner products (`infer/inner_product.rs`).
    InnerProducts,
    /// Inference: 1×1 convolutions over packed pixels (`infer/pointwise.rs`).
    PackedPixels,
    /// Inference: bf16 and int8 by AMX's tiles (`infer/matrix_tiles.rs`).
    MatrixTiles,
    /// Inference and training: 3×3 convolutions in tiles of 2×2 pixels, Winograd's F(2×2, 3×3) (`winograd.rs`).
    WinogradTiles,
    /// Training: 1×1 convolutions as a matrix product (`train/gemm.rs`, `train/gemm_wgrad.rs`).
    MatrixProduct,
    /// Training: a matrix product over patches of the input (`train/im2col.rs`).
    PatchProduct,
    /// Training: rows of grouped 3×3 convolutions (`train/grouped3x3/`).
    Grouped3x3,
    /// Training: any sizes, pixel by pixel (`train/direct.rs`, `train/direct_wgrad.rs`).
    Direct,
}

impl std::fmt::Display for ConvKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ConvKernel::RegisterTiles => "register tiles",
            ConvKernel::GroupedRows => "grouped rows",
            ConvKernel::InnerProducts => "Winograd's inner products",
            ConvKernel::PackedPixels => "packed pixels",
            ConvKernel::MatrixTiles => "matrix tiles",
            ConvKernel::WinogradTiles => "Winograd F(2×2, 3×3)",
            ConvKernel::MatrixProduct => "matrix product",
            ConvKernel::PatchProduct => "matrix product of patches",
            ConvKernel::Grouped3x3 => "grouped 3×3",
            ConvKernel::Direct => "direct",
        })
    }
}
