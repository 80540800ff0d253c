#!/usr/bin/env bash
# Sees to it that programs with the feature `mpi` can be built and launched here. Where Open MPI is missing it is
# installed, on Debian and Ubuntu as root with network; where that is not possible, this says so and fails.
set -euo pipefail

# The headers and the launcher; libclang reads the headers for the bindings.
packages=(libopenmpi-dev openmpi-bin libclang-dev)
installed() { { command -v mpirun && command -v mpicc && dpkg-query --show libclang-dev; } > /dev/null 2>&1; }
install() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"
}
if ! installed && [[ $(id -u) == 0 ]] && command -v apt-get > /dev/null; then
    install > /dev/null 2>&1 || true
fi
if ! installed; then
    echo "MPI: not installed, and cannot be installed here; it takes: apt-get install ${packages[*]}"
    exit 1
fi
mpirun --version | head -1 || true
