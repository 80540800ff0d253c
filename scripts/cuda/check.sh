#!/bin/bash
# All that can be checked of CUDA without a GPU, from nothing: needs Rust, Python and g++. About half an hour on two cores
# the first time, most of it candle's own kernels; then minutes.
#
#     scripts/cuda/check.sh [DIR]      the toolkit and builds go to DIR, target/cuda if not said
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=${1:-target/cuda}
eval "$(scripts/cuda/toolkit.sh "$dir")"
dir=$(cd "$dir" && pwd)
export CARGO_TARGET_DIR=$dir/build
step() { printf '\n== %s\n' "$*"; "$@"; }

# 1. Everything that the feature reaches compiles, without a warning.
step cargo check --locked --workspace --features cudnn
step cargo clippy --locked --workspace --all-targets --features cudnn -- -D warnings
# 2. The binary links against the toolkit's libraries and starts: with no driver it finds no device, and says so.
step cargo build --locked --workspace --bin xtask --features cudnn
ldd "$CARGO_TARGET_DIR/debug/xtask" | grep -E 'cuda|cublas|cudnn|nvrtc|curand'
step "$CARGO_TARGET_DIR/debug/xtask" --help >/dev/null
# Several GPUs, by NCCL and MPI, where there is MPI.
if scripts/mpi.sh; then
    step cargo check --locked --workspace --features nccl,mpi
    step cargo clippy --locked --workspace --all-targets --features nccl,mpi -- -D warnings
    step cargo build --locked --workspace --bin xtask --features nccl,mpi
    ldd "$CARGO_TARGET_DIR/debug/xtask" | grep -E 'nccl|libmpi'
    step "$CARGO_TARGET_DIR/debug/xtask" --help >/dev/null
else
    echo "NCCL: skipped, it takes MPI"
fi
# 3. Every kernel in every form compiles to PTX, and that to machine code, with no register spilled to memory.
rm -rf "$dir/ptx"
RESNEXT_PTX=$dir/ptx step cargo test --locked --workspace --features cudnn --test cuda -- --nocapture
for folder in "$dir"/ptx/sm_*; do
    for ptx in "$folder"/*.ptx; do
        "$CUDA_HOME/bin/ptxas" -v -arch="$(basename "$folder")" -o /dev/null "$ptx" 2>"$ptx.log" || { cat "$ptx.log"; exit 1; }
    done
    ! grep -l -E '[1-9][0-9]* bytes spill' "$folder"/*.log
    echo "$(basename "$folder"): $(ls "$folder"/*.ptx | wc -l) modules, no spills"
done
# 4. The kernels' results, on an emulated GPU; then the whole way there from Rust, on an emulated device.
step cargo test --locked --workspace --features cudnn --test cuda_kernels -- --nocapture
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/scripts/cuda/emulate.sh $dir"
step cargo test --locked --workspace --features cudnn --test cuda -- --nocapture --skip every_kernel_compiles
echo "CUDA: all that can be checked without a GPU passed"
