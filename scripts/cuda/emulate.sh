#!/bin/bash
# Runs a program built for CUDA, a test for one, on a CUDA device that the CPU emulates (slowly, to see that it is right):
#
#     scripts/cuda/emulate.sh target/cuda PROGRAM [ARGUMENT…]
#
# The folder is the one that toolkit.sh made. See crates/resnext-ops/tests/cuda_kernels/device.cpp.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$(cd "$1" && pwd)
shift
sources=$(cd "$here/../../crates/resnext-ops/tests/cuda_kernels" && pwd)
home=$("$dir/venv/bin/python" -c 'import nvidia.cu13 as m; print(list(m.__path__)[0])')
out=$dir/emulated
mkdir -p "$out/cache"
# What device.cpp does not define is in the way of loading all the same: it says its name and fails.
grep -ohE '\b(cu|cublas|cublasLt|curand|cudnn|nvrtc)[A-Z][A-Za-z0-9_]*' "$home"/include/{cuda,cublas*,curand,cudnn*,nvrtc}.h |
    sort -u | sed 's/.*/__attribute__((weak)) int &(void) { return absent("&"); }/' |
    { echo '#include <stdio.h>'
      echo 'static int absent(const char* name) { fprintf(stderr, "emulated device: %s is not there\n", name); return 801; }'
      cat; } >"$out/stubs.c"
${CC:-cc} -c -fPIC -w -o "$out/stubs.o" "$out/stubs.c"
${CXX:-g++} -std=c++17 -O1 -w -fPIC -shared -U_FORTIFY_SOURCE -o "$out/device.so" "$sources/device.cpp" "$out/stubs.o" -ldl
for name in libcuda.so.1 libnvrtc.so.13 libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libcudnn.so.9; do
    ln -sf device.so "$out/$name"
done
export EMULATED_DEVICE=$sources EMULATED_CACHE=$out/cache EMULATED_LOG=$out/log
LD_LIBRARY_PATH="$out:$home/lib" exec "$@"
