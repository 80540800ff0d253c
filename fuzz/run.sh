#!/usr/bin/env bash
# Builds the fuzz targets with the stable toolchain, and runs some of them in turn over their corpora.
#
#     fuzz/run.sh SECONDS [TARGET...]       all targets by default; FUZZ_TARGET_DIR names another folder to build in
#
# What it finds goes to fuzz/artifacts. The executions of each run are added to fuzz/artifacts/executions.txt, so that a
# run may be cut and continued. Finds of new coverage go to a copy of the corpus, fuzz/artifacts/corpus.
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(weights photo cifar shards recipe ranges hub)
host=$(rustc -vV | sed -n 's/^host: //p')
build=${FUZZ_TARGET_DIR:-target}
# What cargo-fuzz passes to the compiler, which the stable one takes as well.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
cargo build --release --target "$host" --target-dir "$build" --bins
TMPDIR=$(mktemp -d -p /dev/shm 2> /dev/null || mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
mkdir -p artifacts
failed=0
for target in "${targets[@]}"; do
    mkdir -p "artifacts/corpus/$target" "artifacts/$target" "corpus/$target"
    log=artifacts/$target.log
    # An input takes 20 seconds at most, and 2 GiB: claimed sizes must not be believed.
    "$build/$host/release/$target" "artifacts/corpus/$target" "corpus/$target" \
        -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -max_len=65536 -print_final_stats=1 > "$log" 2>&1 || failed=1
    units=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    # A run that ends with a find prints no statistics.
    [[ -n $units ]] || units=$(grep -o '^#[0-9]*' "$log" | tail -1 | tr -d '#')
    echo "$target ${units:-0}" >> artifacts/executions.txt
    echo "$target: ${units:-0} executions"; grep -E 'panicked|ERROR: libFuzzer|SUMMARY' "$log" || true
done
awk '{ sum[$1] += $2; all += $2 } END { for (t in sum) print t, sum[t]; print "in all", all }' artifacts/executions.txt
exit $failed
