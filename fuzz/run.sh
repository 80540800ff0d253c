#!/usr/bin/env bash
# Builds the fuzz targets with the stable toolchain, and runs some of them in turn over their corpora.
#
#     fuzz/run.sh SECONDS [TARGET...]       all targets by default; FUZZ_TARGET_DIR names another folder to build in
#     fuzz/run.sh minimise [TARGET...]      leaves in fuzz/corpus the fewest inputs that reach all code that is known to be
#                                           reached
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
# Targets that need no network are built without candle, which is most of a build.
bins=() features=(--no-default-features)
for target in "${targets[@]}"; do
    bins+=(--bin "$target")
    [[ $target == photo || $target == cifar || $target == shards ]] || features=()
done
cargo build --release --target "$host" --target-dir "$build" "${features[@]}" "${bins[@]}"
TMPDIR=$(mktemp -d -p /dev/shm 2> /dev/null || mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
mkdir -p artifacts
failed=0
for target in "${targets[@]}"; do
    program="$build/$host/release/$target"
    mkdir -p "artifacts/corpus/$target" "artifacts/$target" "corpus/$target"
    log=artifacts/$target.log
    # An input takes 20 seconds at most, and 2 GiB: claimed sizes must not be believed.
    limits=(-artifact_prefix="artifacts/$target/" -timeout=20 -rss_limit_mb=2048)
    if [[ $seconds == minimise ]]; then
        # Of how often code runs, nothing is kept: that would be ten times as many inputs.
        rm -rf "artifacts/minimal/$target"
        mkdir -p "artifacts/minimal/$target"
        "$program" -set_cover_merge=1 -use_counters=0 -max_len=4096 "${limits[@]}" "artifacts/minimal/$target" \
            "corpus/$target" "artifacts/corpus/$target" > "$log" 2>&1
        rm -rf "corpus/$target"
        mv "artifacts/minimal/$target" "corpus/$target"
        echo "$target: $(find "corpus/$target" -type f | wc -l) inputs, $(cat "corpus/$target"/* | wc -c) bytes"
        continue
    fi
    "$program" "artifacts/corpus/$target" "corpus/$target" -max_total_time="$seconds" -max_len=65536 \
        -print_final_stats=1 "${limits[@]}" > "$log" 2>&1 || failed=1
    units=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    # A run that ends with a find prints no statistics.
    [[ -n $units ]] || units=$(grep -o '^#[0-9]*' "$log" | tail -1 | tr -d '#')
    echo "$target ${units:-0}" >> artifacts/executions.txt
    edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | tr -dc '0-9')
    echo "$target: ${units:-0} executions, ${edges:-0} edges reached"
    grep -E 'panicked|ERROR: libFuzzer|SUMMARY' "$log" || true
done
[[ $seconds == minimise ]] ||
    awk '{ sum[$1] += $2; all += $2 } END { for (t in sum) print t, sum[t]; print "in all", all }' artifacts/executions.txt
exit $failed
