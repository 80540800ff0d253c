#!/usr/bin/env bash
# Breaks the checks of the equivalence proof on purpose, one at a time, in a copy of the sources. A test must fail for each,
# and name everything that the broken check has missed. docs/equivalence.md, section 7, has the list.
#
#     scripts/broken_checks.sh [OPTION...]     options of `cargo test`, such as --release
#
# It compiles resnext-model and its tests once per check, in a target folder of its own; CARGO_TARGET_DIR names one that is
# kept, in which the dependencies may be compiled already.
set -euo pipefail
cd "$(dirname "$0")/.."

options=("$@")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target}
git ls-files -z | xargs -0 cp -p --parents -t "$work"
cd "$work"
sources=crates/resnext-model/src

run() {
    # Only this crate: a program that is linked here would take the place of the right one in CARGO_TARGET_DIR.
    cargo test -p resnext-model --quiet "${options[@]}" "$@" 2>&1
}

# The tests that must notice.
control=(--test equivalence every_negative_control_is_caught)
mutant=(--lib every_mutant_is_caught_or_is_the_same_function)
kernel=(--lib a_wrong_sum_is_found_in_every_kernel)
network=(--lib wrong_weights_of_inference_are_found)

for test in control mutant kernel network; do
    declare -n arguments=$test
    output=$(run "${arguments[@]}") || { echo "$output" >&2; exit 1; }
    grep -q '^test result: ok. 1 passed' <<< "$output" || { echo "no test ${arguments[*]}" >&2; exit 1; }
done
echo "All tests pass while the checks are as they are. Broken:"

# broken WHAT FILE EDIT TEST MISSED…: edits FILE with sed, and makes sure that TEST fails and that its message has each MISSED.
count=0
broken() {
    local what=$1 file=$sources/equivalence/$2 edit=$3 output missed
    local -n arguments=$4
    shift 4
    cp -p "$file" original
    sed -i "$edit" "$file"
    if cmp -s "$file" original; then
        echo "'$what': nothing was changed in $file" >&2
        exit 1
    fi
    if output=$(run "${arguments[@]}"); then
        echo "'$what': the tests pass" >&2
        exit 1
    fi
    for missed in "$@"; do
        if ! grep -qF "$missed" <<< "$output"; then
            printf "'%s': expected that this is missed: %s\n%s\n" "$what" "$missed" "$output" >&2
            exit 1
        fi
    done
    printf '%s\n' "$what"
    printf '    missed: %s\n' "$@"
    count=$((count + 1))
    mv original "$file"
    touch "$file"
}

broken 'form (b) is not compared' stack.rs \
    's/for form in \[Form::A, Form::B\] {/for form in [Form::A] {/' control \
    'a permuted group in f64' 'a permuted group in f32' \
    'the shortcut left out in f64' 'the shortcut left out in f32' \
    'batch norms of two paths exchanged, as functions in f64'
broken 'form (a) is not compared' stack.rs \
    's/for form in \[Form::A, Form::B\] {/for form in [Form::B] {/' control \
    'a weight moved by one in f64' 'a weight moved by one in f32' 'a missing path in f64' 'a missing path in f32' \
    'a gradient off by one channel in f64' 'a gradient off by one channel in f32' \
    'batch-norm statistics of the wrong path in f64' 'batch-norm statistics of the wrong path, as functions in f64'
broken 'form (b) stands in for form (c)' stack.rs \
    's/let expected = evaluate(Form::C)?;/let expected = evaluate(Form::B)?;/' control \
    'groups off by one channel in f64' 'groups off by one channel in f32'
broken 'gradients of blocks are not compared' stack.rs \
    's/for (name, gradient) in &expected.gradients {/for (name, gradient) in expected.gradients.iter().take(0) {/' control \
    'a gradient off by one channel in f64' 'a gradient off by one channel in f32'
broken 'only the first value of a tensor is compared' tally.rs \
    's/for (i, (&e, &g)) in e.iter().zip(&g).enumerate() {/for (i, (\&e, \&g)) in e.iter().zip(\&g).enumerate().take(1) {/' control \
    'a converted weight moved by one ulp in f32'
broken 'converted weights are compared in bf16' controls.rs \
    's/tally.compare(|| name.clone(), weight, get(&back, name)?)?;/tally.compare(|| name.clone(), \&weight.to_dtype(DType::BF16)?, \&get(\&back, name)?.to_dtype(DType::BF16)?)?;/' control \
    'a converted weight moved by one ulp in f32'
broken 'the point with batch norm is one without' activations.rs \
    's/stack.compare(&weights, &x, &g, Mode::Eval, tamper)/stack.compare(\&weights, \&x, \&g, Mode::Polynomial { modulus: 101 }, tamper)/' control \
    'batch-norm statistics of the wrong path in f64'
broken 'all functions of channels are one' ../random_function.rs \
    's/let key = self.key.iter()/let key = [0i32; 5].iter()/' control \
    'batch-norm statistics of the wrong path, as functions in f64' 'batch norms of two paths exchanged, as functions in f64'
broken 'prove_equal compares the first value only' equal.rs \
    's/zip(&other.values).position/zip(\&other.values).take(1).position/' control \
    "TASO's axiom on grouped convolutions, withdrawn as wrong in f64"

broken 'outputs of blocks are not compared' mutants.rs \
    's/Ok(tally.bits > 0)/Ok(false)/' mutant \
    'missed: ["weights: an index' 'missed: ["weights: channels off by one'
broken 'differences of kernels are not counted' kernels/proofs.rs \
    's/proof.tally.compare(name, expected, got)/proof.tally.compare(name, expected, expected).map(|()| drop(got.clone()))/' mutant \
    'missed: ["gather: a stride' 'missed: ["packing: a tail lane'
broken 'gradients of kernels are not compared' kernels/training.rs \
    's/for (i, (got, sums)) in \[y, of_x, of_weight\].iter()/for (i, (got, sums)) in [y].iter()/' mutant \
    'in the gradient of the input"' 'in the gradient of the weight"'
broken "inference's kernels are compared with themselves" kernels/inference.rs \
    's/proofs.compare(run, definition, &expected, &got)?/proofs.compare(run, definition, \&got, \&got).map(|()| drop(expected))?/' kernel \
    'operation: "inference"'
broken "int8's kernels are compared with themselves" kernels/inference.rs \
    's/proofs.compare(run, definition, &expected, &got.to_tensor()?)?/proofs.compare(run, definition, \&got.to_tensor()?, \&got.to_tensor()?).map(|()| drop(expected))?/' kernel \
    'dtype: "int8"'
broken 'a sum with a residual is compared after ReLU only' kernels/inference.rs \
    's/\[(Fusion::default(), &alone), (joined(false), &added), (joined(true), &positive)\]/[(Fusion::default(), \&alone), (joined(true), \&positive)]/' kernel \
    'operation: "inference"'
broken 'networks are not compared' kernels/network.rs \
    's/tally.compare(|| format!("the logits of {name}"), &expected, &got)?/tally.compare(|| format!("the logits of {name}"), \&got, \&got)?/' network \
    'conv1.weight'

echo
echo "$count broken checks, each found by a test"
