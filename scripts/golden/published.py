"""Compares the errors that `cargo xtask compare` prints for timm's weights with timm's own table, at the commit that
xtask/src/compare/published.rs names.

    python scripts/golden/published.py results-imagenet.csv

The file is results/results-imagenet.csv of github.com/huggingface/pytorch-image-models.
"""

import csv
import pathlib
import re
import sys

SOURCE = pathlib.Path(__file__).parents[2] / "xtask/src/compare/published.rs"
ENTRY = re.compile(r'timm: Some\(\(errors\(([\d.]+), ([\d.]+), (\d+)\), "([\w.]+)"\)\)')

with open(sys.argv[1]) as file:
    timms = {(row["model"], int(row["img_size"])): row for row in csv.DictReader(file)}
entries = ENTRY.findall(SOURCE.read_text())
assert len(entries) == SOURCE.read_text().count("timm: Some("), "an entry has another form"
for top1, top5, size, name in entries:
    row = timms[name, int(size)]
    print(name, "at", size, top1, top5)
    assert (float(top1), float(top5)) == (float(row["top1_err"]), float(row["top5_err"])), row
print(len(entries), "networks have timm's errors")
