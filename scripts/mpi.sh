#!/usr/bin/env bash
# Sees to it that programs with the feature `mpi` can be built and launched here. Where Open MPI is missing it is
# installed: on Debian and Ubuntu as root, or with sudo that asks for no password, as on GitHub's runners; on macOS with
# Homebrew. Where that is not possible, this says so and fails.
set -euo pipefail

# The headers and the launcher; libclang reads the headers for the bindings. Xcode's tools have one of their own.
packages=(libopenmpi-dev openmpi-bin libclang-dev)
commands() { command -v mpirun && command -v mpicc; }
case $(uname -s) in
Darwin)
    how="brew install open-mpi"
    installed() { commands > /dev/null 2>&1; }
    install() { command -v brew && brew install --quiet open-mpi; }
    ;;
*)
    how="apt-get install ${packages[*]}"
    installed() { { commands && dpkg-query --show libclang-dev; } > /dev/null 2>&1; }
    install() {
        command -v apt-get || return 1
        local root=()
        if [[ $(id -u) != 0 ]]; then root=(sudo -n); fi
        "${root[@]}" apt-get update -qq
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends "${packages[@]}"
    }
    ;;
esac
if ! installed; then install > /dev/null 2>&1 || true; fi
if ! installed; then
    echo "MPI: not installed, and cannot be installed here; it takes: $how"
    exit 1
fi
mpirun --version | head -1 || true
