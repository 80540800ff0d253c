#!/usr/bin/env bash
# Kills training runs with SIGKILL at random moments, resumes each, and compares the final files with those of runs that
# were left alone. With the right to mount, also fills up a small disk and makes it read-only in the middle of a run.
#
#     scripts/kills.sh [KILLS]        200 by default; XTASK names another binary than target/release/xtask
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${1:-200}
xtask=$(realpath "${XTASK:-target/release/xtask}")
[[ -x $xtask ]] || { echo "no program $xtask: cargo build --release -p xtask, or set XTASK" >&2; exit 1; }
work=$(mktemp -d)
mounted=
clean() {
    if [[ -n $mounted ]]; then umount "$work/disk" || true; fi
    rm -rf "$work"
}
trap clean EXIT
cd "$work"

# A data set in CIFAR-10's format: noise with random labels.
python3 - <<'PYTHON'
import random
random.seed(2016)
for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
    with open(name, "wb") as file:
        for _ in range(60):
            file.write(bytes([random.randrange(10)]) + random.randbytes(3072))
with open("batches.meta.txt", "w") as file:
    file.write("\n".join("abcdefghij") + "\n")
PYTHON

common="--dataset cifar10 --data . --model resnext11_4x4d --batch-size 16 --epochs 3 --device cpu"
settings=(
    "--ema 0.9 --accumulate 2"
    "--optimizer adamw --lr 0.002 --drop-path 0.2 --clip norm=1"
    "--optimizer lamb --lr 0.005 --loss bce --decay-of weights --ema 0.99"
    "--amp bf16 --freeze stem --layer-decay 0.7"
)
start=$(date +%s%3N)
for i in "${!settings[@]}"; do
    # shellcheck disable=SC2086
    "$xtask" train $common ${settings[i]} --out "whole-$i" > /dev/null
done
# Milliseconds of a run: from before its first step to behind its last, whatever the machine's speed.
span=$((($(date +%s%3N) - start) / ${#settings[@]}))

# Fails unless run $1 has the same bytes as the run with settings $2 that was left alone.
same() {
    for file in last.safetensors best.safetensors recipe.toml; do
        cmp "$1/$file" "whole-$2/$file" || { echo "FAILED: $1/$file differs from whole-$2/$file"; exit 1; }
    done
}

# Starts or resumes run $1 with settings $2; further options follow.
go() {
    local run=$1 i=$2
    shift 2
    if [[ -e $run/recipe.toml ]]; then
        exec "$xtask" train --resume "$run" --device cpu --save-every 0.001 "$@"
    fi
    # shellcheck disable=SC2086
    exec "$xtask" train $common ${settings[i]} --out "$run" --save-every 0.001 "$@"
}

killed=0
runs=0
RANDOM=2016
while ((killed < kills)); do
    i=$((runs % ${#settings[@]}))
    run=run-$runs
    while true; do
        (go "$run" "$i") > log.txt 2>&1 &
        process=$!
        wait_ms=$((RANDOM * span / 32768))
        sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
        kill -KILL "$process" 2> /dev/null || true
        status=0
        wait "$process" 2> /dev/null || status=$?
        case $status in
            0) break ;;
            137) killed=$((killed + 1)) ;;
            *) echo "FAILED: $run ended by itself"; cat log.txt; exit 1 ;;
        esac
        ((killed < kills)) && continue
        (go "$run" "$i") > log.txt 2>&1 || { echo "FAILED: $run cannot be resumed"; cat log.txt; exit 1; }
        break
    done
    same "$run" "$i"
    rm -r "$run"
    runs=$((runs + 1))
done
echo "$killed kills at 0 to $span ms, in $runs runs with ${#settings[@]} settings: every run ended with the bytes of one that was left alone"

mkdir disk
if ! mount -t tmpfs -o size=100m tmpfs disk 2> /dev/null; then
    echo "disks: no right to mount, skipped"
    exit 0
fi
mounted=yes
# Room for a checkpoint and a half: the first one is written, the next one fails.
(go disk/run 0) > /dev/null 2>&1 &
process=$!
until [[ -e disk/run/last.safetensors ]]; do sleep 0.01; done
kill -KILL "$process"; wait "$process" 2> /dev/null || true
rm -f disk/run/*.tmp
before=$(sha256sum disk/run/last.safetensors)
mount -o remount,size=$(($(du -sk disk | cut -f1) + 100))k disk
if (go disk/run 0) > /dev/null 2> log.txt; then echo "FAILED: the run did not notice the full disk"; exit 1; fi
grep -q "cannot write disk/run/.*No space left on device" log.txt || { echo "FAILED:"; cat log.txt; exit 1; }
[[ $(wc -l < log.txt) == 1 && $(sha256sum disk/run/last.safetensors) == "$before" ]] || { echo FAILED; exit 1; }
echo "full disk: $(cat log.txt)"
mount -o remount,ro disk
if (go disk/run 0) > /dev/null 2> log.txt; then echo "FAILED: the run did not notice the read-only disk"; exit 1; fi
grep -q "cannot write disk/run/.*Read-only file system" log.txt || { echo "FAILED:"; cat log.txt; exit 1; }
echo "read-only disk: $(cat log.txt)"
mount -o remount,rw,size=100m disk
(go disk/run 0) > /dev/null
same disk/run 0
echo "with room again, the run ended with the same bytes"
