#!/usr/bin/env bash
# Compiles the tests of resnext-kernels for 64-bit ARM and runs them under qemu: on x86-64, nothing else runs the NEON
# kernels. All run on a CPU with all instructions; those of packed convolutions, where int8 has three ways to multiply, also
# on one with dot products but without I8MM, and on one with neither.
# Arguments are passed to the test program, such as a part of a test's name, on all three CPUs. It works from nothing on
# Debian 12, as root, with network; where the packages are there already, it needs neither. Times under qemu mean nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
# Debian's compiler, as it has a standard library for ARM among its packages; of the gcc only the linker is used.
packages=(rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
if ! dpkg-query --show "${packages[@]}" > /dev/null 2>&1; then
    dpkg --add-architecture arm64
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"
fi

# Apart from the other builds, which another compiler makes.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/neon}
export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# Without -L: the loader is then that of libc6:arm64, which the packages bring, as is the C library that it finds. The
# loader of the cross compiler takes that library, too; of another version, it hangs when the first thread starts.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
"$RUSTC" --version
qemu-aarch64 --version | head -1
tests_on() {
    echo "CPU: $1"
    QEMU_CPU=$1 cargo test --locked --target "$target" -p resnext-kernels --test kernels -- "${@:2}"
}
tests_on max "$@"
for cpu in neoverse-n1 cortex-a72; do
    if (($#)); then tests_on "$cpu" "$@"; else tests_on "$cpu" packed::; fi
done
