#!/usr/bin/env bash
# Kills training runs with SIGKILL at random moments, resumes each, and compares the final files with those of runs that
# were left alone. With the right to mount, also fills up a small disk and makes it read-only in the middle of a run.
#
#     scripts/kills.sh [KILLS [SETTING...]]   200 kills of all settings in turn by default; SETTING is one of sgd,
#                                             adamw, lamb, bf16 and photos
#
# XTASK names another binary than target/release/xtask. It needs Python from 3.11 on.
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${1:-200}
shift || true
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

# A data set in CIFAR-10's format, and photos in a folder per class: noise with random labels.
python3 - <<'PYTHON'
import os, random
random.seed(2016)
for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
    with open(name, "wb") as file:
        for _ in range(60):
            file.write(bytes([random.randrange(10)]) + random.randbytes(3072))
with open("batches.meta.txt", "w") as file:
    file.write("\n".join("abcdefghij") + "\n")
for part, photos in ("train", 40), ("val", 8):
    for name in "circles", "squares":
        os.makedirs(f"photos/{part}/{name}")
        for i in range(photos):
            with open(f"photos/{part}/{name}/{i}.ppm", "wb") as file:
                file.write(b"P6 60 48 255\n" + random.randbytes(3 * 60 * 48))
PYTHON

# Fails unless every file of a run that a person or a program reads is whole, if it is there at all; metrics are compared
# with another run's if there is one, all but their times.
cat > readable.py <<'PYTHON'
import csv, json, pathlib, struct, sys, tomllib
run = pathlib.Path(sys.argv[1])
def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
for path in run.iterdir():
    data = path.read_bytes()
    if path.suffix == ".toml":
        tomllib.loads(data.decode())
    elif path.suffix == ".safetensors":
        length, = struct.unpack("<Q", data[:8])
        header = json.loads(data[8:8 + length])
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        assert 8 + length + max(ends) == len(data), f"{path} has {len(data)} bytes"
    elif path.suffix == ".jsonl":
        assert data.endswith(b"\n"), f"{path} ends within a line"
        [json.loads(line) for line in data.splitlines()]
    elif path.suffix in (".svg", ".html"):
        assert data.rstrip().endswith(f"</{path.suffix[1:]}>".encode()), f"{path} ends early"
if (run / "metrics.csv").exists():
    rows(run)
if len(sys.argv) > 2:
    mine, others = rows(run), rows(pathlib.Path(sys.argv[2]))
    assert mine == others, f"the metrics of {run} and {sys.argv[2]} differ: {mine}, expected {others}"
PYTHON

memory="--dataset cifar10 --data . --model resnext11_4x4d --batch-size 16 --epochs 3 --device cpu"
declare -A options=(
    [sgd]="$memory --ema 0.9 --accumulate 2"
    [adamw]="$memory --optimizer adamw --lr 0.002 --drop-path 0.2 --clip norm=1"
    [lamb]="$memory --optimizer lamb --lr 0.005 --loss bce --decay-of weights --ema 0.99"
    [bf16]="$memory --amp bf16 --freeze stem --layer-decay 0.7"
    [photos]="--data photos --model resnext11_4x4d --size 32 --batch-size 8 --epochs 3 --device cpu
        --policy rand-m9-mstd0.5-inc1 --erase 0.3 --mixup 0.2 --cutmix 1 --ema 0.9"
)
settings=("${@:-sgd adamw lamb bf16 photos}")
# shellcheck disable=SC2206
settings=(${settings[@]})
start=$(date +%s%3N)
for setting in "${settings[@]}"; do
    [[ -n ${options[$setting]:-} ]] || { echo "no setting $setting: expected one of ${!options[*]}" >&2; exit 1; }
    # shellcheck disable=SC2086
    "$xtask" train ${options[$setting]} --out "whole-$setting" > /dev/null
done
# Milliseconds of a run: from before its first step to behind its last, whatever the machine's speed.
span=$((($(date +%s%3N) - start) / ${#settings[@]}))

# Fails unless run $1 has the same bytes as the run of setting $2 that was left alone.
same() {
    for file in last.safetensors best.safetensors recipe.toml; do
        cmp "$1/$file" "whole-$2/$file" || { echo "FAILED: $1/$file differs from whole-$2/$file"; exit 1; }
    done
    python3 readable.py "$1" "whole-$2" || { echo "FAILED: $1"; exit 1; }
}

# Starts or resumes run $1 of setting $2.
go() {
    if [[ -e $1/recipe.toml ]]; then
        exec "$xtask" train --resume "$1" --device cpu --save-every 0.001
    fi
    # shellcheck disable=SC2086
    exec "$xtask" train ${options[$2]} --out "$1" --save-every 0.001
}

killed=0
early=0
runs=0
RANDOM=2016
while ((killed < kills)); do
    setting=${settings[runs % ${#settings[@]}]}
    run=run-$runs
    while true; do
        (go "$run" "$setting") > log.txt 2>&1 &
        process=$!
        wait_ms=$((RANDOM * span / 32768))
        sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
        kill -KILL "$process" 2> /dev/null || true
        status=0
        wait "$process" 2> /dev/null || status=$?
        case $status in
            0) break ;;
            137)
                killed=$((killed + 1))
                [[ -e $run/last.safetensors ]] || early=$((early + 1))
                [[ ! -d $run ]] || python3 readable.py "$run" || { echo "FAILED: $run is not readable"; exit 1; }
                ;;
            *) echo "FAILED: $run ended by itself"; cat log.txt; exit 1 ;;
        esac
        ((killed < kills)) && continue
        (go "$run" "$setting") > log.txt 2>&1 || { echo "FAILED: $run cannot be resumed"; cat log.txt; exit 1; }
        break
    done
    same "$run" "$setting"
    rm -r "$run"
    runs=$((runs + 1))
done
echo "$killed kills at 0 to $span ms, $early before a first checkpoint, in $runs runs of ${settings[*]}: every run ended with the bytes of one that was left alone, and was readable after each kill"

mkdir disk
if ! mount -t tmpfs -o size=100m tmpfs disk 2> /dev/null; then
    echo "disks: no right to mount, skipped"
    exit 0
fi
mounted=yes
# Room for a checkpoint and a half: the first one is written, the next one fails.
(go disk/run "${settings[0]}") > /dev/null 2>&1 &
process=$!
until [[ -e disk/run/last.safetensors ]]; do sleep 0.01; done
kill -KILL "$process"; wait "$process" 2> /dev/null || true
rm -f disk/run/*.tmp
before=$(sha256sum disk/run/last.safetensors)
mount -o remount,size=$(($(du -sk disk | cut -f1) + 100))k disk
if (go disk/run "${settings[0]}") > /dev/null 2> log.txt; then echo "FAILED: the run did not notice the full disk"; exit 1; fi
grep -q "cannot write disk/run/.*No space left on device" log.txt || { echo "FAILED:"; cat log.txt; exit 1; }
[[ $(wc -l < log.txt) == 1 && $(sha256sum disk/run/last.safetensors) == "$before" ]] || { echo FAILED; exit 1; }
echo "full disk: $(cat log.txt)"
mount -o remount,ro disk
if (go disk/run "${settings[0]}") > /dev/null 2> log.txt; then echo "FAILED: the run did not notice the read-only disk"; exit 1; fi
grep -q "cannot write disk/run/.*Read-only file system" log.txt || { echo "FAILED:"; cat log.txt; exit 1; }
echo "read-only disk: $(cat log.txt)"
mount -o remount,rw,size=100m disk
(go disk/run "${settings[0]}") > /dev/null
same disk/run "${settings[0]}"
echo "with room again, the run ended with the same bytes"
