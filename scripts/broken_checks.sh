#!/usr/bin/env bash
# Breaks the checks of the equivalence proof on purpose, one at a time, in a copy of the sources, and makes sure that the test
# suite fails and names what the broken check has missed. docs/equivalence.md, section 7, has the list.
#
# Takes a compilation of resnext-model per check. Set CARGO_TARGET_DIR to a folder that has the tests compiled already.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 cp -p --parents -t "$copy"
cd "$copy"
sources=crates/resnext-model/src

run() {
    cargo test --workspace --quiet "$@" 2>&1
}

echo "the checks as they are"
run --test equivalence every_negative_control > /dev/null
run -p resnext-model --lib every_mutant > /dev/null

# broken WHAT FILE EDIT TEST MISSED…: edits FILE with sed, and checks that TEST fails and its message has every MISSED.
count=0
broken() {
    local what=$1 file=$sources/$2 edit=$3 test=$4 output
    shift 4
    cp -p "$file" original
    sed -i "$edit" "$file"
    if cmp -s "$file" original; then
        echo "'$what': nothing was changed in $file" >&2
        exit 1
    fi
    local where=(--test equivalence)
    [[ $test == every_negative_control* ]] || where=(-p resnext-model --lib)
    if output=$(run "${where[@]}" "$test"); then
        echo "'$what': the tests pass" >&2
        exit 1
    fi
    local missed
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

control=every_negative_control_is_caught
broken 'form (b) is not compared' equivalence/stack.rs \
    's/for form in \[Form::A, Form::B\] {/for form in [Form::A] {/' $control \
    'a permuted group in f64' 'a permuted group in f32' \
    'the shortcut left out in f64' 'the shortcut left out in f32' \
    'batch norms of two paths exchanged, as functions in f64'
broken 'form (a) is not compared' equivalence/stack.rs \
    's/for form in \[Form::A, Form::B\] {/for form in [Form::B] {/' $control \
    'a weight moved by one in f64' 'a weight moved by one in f32' 'a missing path in f64' 'a missing path in f32' \
    'batch-norm statistics of the wrong path in f64' 'batch-norm statistics of the wrong path, as functions in f64'
broken 'form (b) stands in for form (c)' equivalence/stack.rs \
    's/let expected = evaluate(Form::C)?;/let expected = evaluate(Form::B)?;/' $control \
    'groups off by one channel in f64' 'groups off by one channel in f32'
broken 'only the first value of a tensor is compared' equivalence/tally.rs \
    's/for (i, (&e, &g)) in e.iter().zip(g).enumerate() {/for (i, (\&e, \&g)) in e.iter().zip(g).enumerate().take(1) {/' $control \
    'a converted weight moved by one ulp in f32'
broken 'the point with batch norm is one without' equivalence/activations.rs \
    's/stack.compare(&weights, &x, &g, Mode::Eval, tamper)/stack.compare(\&weights, \&x, \&g, Mode::Polynomial { modulus: 101 }, tamper)/' $control \
    'batch-norm statistics of the wrong path in f64'
broken 'all functions of channels are one' random_function.rs \
    's/let key = self.key.iter()/let key = [0i32; 5].iter()/' $control \
    'batch-norm statistics of the wrong path, as functions in f64' 'batch norms of two paths exchanged, as functions in f64'
broken 'converted weights are compared in bf16' equivalence/controls.rs \
    's/tally.compare(|| name.clone(), weight, get(&back, name)?)?;/tally.compare(|| name.clone(), \&weight.to_dtype(DType::BF16)?, \&get(\&back, name)?.to_dtype(DType::BF16)?)?;/' $control \
    'a converted weight moved by one ulp in f32'
broken 'prove_equal compares the first value only' equivalence/equal.rs \
    's/zip(&other.values).position/zip(\&other.values).take(1).position/' $control \
    "TASO's axiom on grouped convolutions, withdrawn as wrong in f64"

broken 'gradients of blocks are not compared' equivalence/stack.rs \
    's/for (name, gradient) in &expected.gradients {/for (name, gradient) in expected.gradients.iter().take(0) {/' $control \
    'a gradient off by one channel in f64' 'a gradient off by one channel in f32'

# Mutants that were missed are listed in the message.
mutant=every_mutant_is_caught_or_is_the_same_function
broken 'differences of kernels are not counted' equivalence/kernels/proofs.rs \
    's/proof.tally.compare_values(name, dims, dtype, expected, got)/proof.tally.compare_values(name, dims, dtype, expected, expected).map(|_| drop(got))/' $mutant \
    'missed: ["gather: a stride' 'missed: ["packing: a tail lane'
broken 'gradients of kernels are not compared' equivalence/kernels/training.rs \
    's/for (i, (got, sums)) in \[y, of_x, of_weight\].iter()/for (i, (got, sums)) in [y].iter()/' $mutant \
    'in the gradient of the input"' 'in the gradient of the weight"'
broken 'outputs of blocks are not compared' equivalence/mutants.rs \
    's/Ok(tally.bits > 0)/Ok(false)/' $mutant \
    'missed: ["weights: an index' 'missed: ["weights: channels off by one'

echo
echo "$count broken checks, each found by the suite"
