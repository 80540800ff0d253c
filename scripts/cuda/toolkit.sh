#!/bin/bash
# Makes a CUDA toolkit in DIR of NVIDIA's wheels, without root, and prints the environment that builds use it by:
#
#     eval "$(scripts/cuda/toolkit.sh target/cuda)"
#
# Compiles and links without a GPU or driver. On a machine with neither, the driver's library is a stub that
# answers every call with CUDA_ERROR_STUB_LIBRARY; where there is a driver, its own libcuda.so.1 is found first.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?usage: toolkit.sh DIR}"
dir=$(cd "$1" && pwd)

if ! cmp -s "$here/requirements.txt" "$dir/requirements.txt"; then
    "${PYTHON:-python3}" -m venv --clear "$dir/venv" >&2
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt" >&2
    home=$("$dir/venv/bin/python" -c 'import nvidia.cu13 as m; print(list(m.__path__)[0])')
    # The wheels hold what programs load (libcublas.so.13), not the names that linkers ask for (libcublas.so).
    for library in "$home"/lib/*.so.* "$home"/../cudnn/lib/*.so.* "$home"/../nccl/lib/*.so.*; do
        name=$(basename "$library")
        [ -e "$home/lib/$name" ] || ln -s "$library" "$home/lib/$name"
        ln -sf "$name" "$home/lib/${name%%.so.*}.so"
    done
    for header in "$home"/../cudnn/include/* "$home"/../nccl/include/*; do
        ln -sf "$header" "$home/include/"
    done
    # Every function that the driver's header declares, as NVIDIA's own stub does it.
    mkdir -p "$home/lib/stubs"
    { grep -oE '\bcu[A-Z][A-Za-z0-9_]*' "$home/include/cuda.h"; echo cuProfilerStart; echo cuProfilerStop; } | sort -u |
        sed 's/.*/int &(void) { return 34; }/' >"$dir/stub.c"
    ${CC:-cc} -shared -fPIC -w -o "$home/lib/stubs/libcuda.so" -Wl,-soname,libcuda.so.1 "$dir/stub.c"
    ln -sf libcuda.so "$home/lib/stubs/libcuda.so.1"
    cp "$here/requirements.txt" "$dir/requirements.txt"
fi
home=$("$dir/venv/bin/python" -c 'import nvidia.cu13 as m; print(list(m.__path__)[0])')

echo "export CUDA_HOME='$home'"
echo "export PATH=\"$home/bin:\$PATH\""
echo "export CUDA_COMPUTE_CAP=\"\${CUDA_COMPUTE_CAP:-80}\""
ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1' && stubs= || stubs=":$home/lib/stubs"
echo "export LD_LIBRARY_PATH=\"$home/lib$stubs\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}\""
