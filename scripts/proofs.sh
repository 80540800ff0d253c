#!/usr/bin/env bash
# Compiles the proofs of proofs/ from nothing, with Coq 8.16 or later, and checks that
#   - no theorem rests on an axiom, and nothing is admitted;
#   - Coq rejects each of a list of definitions that are wrong on purpose, in the proof that should fail.
# It takes about 50 seconds of one core, and writes nothing to the repository.
set -euo pipefail
cd "$(dirname "$0")/../proofs"

if ! command -v coqc > /dev/null; then
    echo "Coq is not installed. On Debian or Ubuntu: apt-get install --no-install-recommends coq" >&2
    exit 1
fi
coqc --version | head -1

files=(Sums Convolution Forms Blocks Gradients Backward Controls Assumptions)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
for file in *.v; do
    if [[ " ${files[*]} " != *" ${file%.v} "* ]]; then
        echo "proofs/$file is not compiled by this script" >&2
        exit 1
    fi
done
if grep -nE '\b(Admitted|admit|give_up|Abort|Axioms?|Parameters?|Conjecture|Unset Guard)\b' -- *.v; then
    echo "a proof is missing" >&2
    exit 1
fi

cp -- *.v "$build"
cd "$build"
for file in "${files[@]}"; do
    echo "compiling $file.v"
    coqc -q -Q . ResNeXt "$file.v" > "$file.out"
done

echo
mapfile -t theorems < <(sed -n 's/^Print Assumptions \(.*\)\.$/\1/p' Assumptions.v)
mapfile -t answers < Assumptions.out
for i in "${!theorems[@]}"; do
    printf '%-32s %s\n' "${theorems[i]}" "${answers[i]:-}"
done
closed=$(grep -cx 'Closed under the global context' Assumptions.out || true)
if [[ ${#answers[@]} -ne ${#theorems[@]} || $closed -ne ${#theorems[@]} ]]; then
    cat Assumptions.out >&2
    echo "expected that all ${#theorems[@]} theorems are closed under the global context" >&2
    exit 1
fi

# wrong WHAT FILE EDIT PROOF: edits a copy of FILE.v with sed, and checks that PROOF then fails.
controls=0
wrong() {
    local what=$1 file=$2 edit=$3 expected=$4 error line theorem
    rm -rf wrong && mkdir wrong && cp -- *.v *.vo wrong
    sed -i "$edit" "wrong/$file.v"
    if cmp -s "$file.v" "wrong/$file.v"; then
        echo "control '$what': nothing was changed in $file.v" >&2
        exit 1
    fi
    local reached=0
    for later in Sums Convolution Forms Blocks Gradients Backward; do
        [[ $later == "$file" ]] && reached=1
        [[ $reached == 1 ]] || continue
        if ! error=$(cd wrong && coqc -q -Q . ResNeXt "$later.v" 2>&1); then
            line=$(sed -n "s/^File \"[^\"]*\", line \([0-9]*\).*/\1/p" <<< "$error" | head -1)
            theorem=$(head -n "${line:-0}" "wrong/$later.v" |
                sed -nE 's/^(Lemma|Theorem) ([A-Za-z0-9_]+).*/\2/p' | tail -1)
            if [[ $theorem != "$expected" ]]; then
                printf "control '%s': expected that %s fails, but:\n%s\n" "$what" "$expected" "$error" >&2
                exit 1
            fi
            printf '%-60s %s fails\n' "$what" "$expected"
            controls=$((controls + 1))
            return
        fi
    done
    echo "control '$what': Coq found nothing wrong" >&2
    exit 1
}

echo
wrong 'entries joined as if the paths took turns' Forms \
    's|parts (k / d) (k mod d)|parts (k mod d) (k / d)|' split_join
wrong 'columns cut off by one channel' Forms \
    's|split d (whole o) i\.|split d (fun k => whole o (k + 1)) i.|' b_to_a_same
wrong 'groups that read the channels of another group' Convolution \
    's|X ((o / m) \* n + c)) b y x)|X ((o mod m) * n + c)) b y x)|' grouped_conv_is_block_diagonal
wrong 'a path missing in form (a)' Forms \
    's|^  sum C (fun i =>$|  sum (C - 1) (fun i =>|' a_is_b
wrong 'paths permuted in one convolution of form (a)' Forms \
    's|(a_conv1 w i) (a_conv2 w i) (f1 i)|(a_conv1 w i) (a_conv2 w (C - 1 - i)) (f1 i)|' a_is_b
wrong "batch norm of the wrong path in form (a)" Forms \
    's|(a_conv2 w i) (f1 i) (f2 i)|(a_conv2 w i) (f1 0) (f2 i)|' a_is_b
wrong 'the functions of form (c) in another order' Forms \
    's|on_channels (join d f2) (grouped|on_channels (fun k => f2 0 k) (grouped|' group_is_path
wrong 'no shortcut in form (c)' Blocks \
    's|block f3 last shortcut (form_c w)|block f3 last (fun _ _ _ _ _ => zero) (form_c w)|' blocks_are_equal
wrong 'gradients of form (a) taken along path 0 only' Gradients \
    's|along {. a_conv1 := at_path i|along {\| a_conv1 := at_path 0|' gradients_ab
wrong 'a product rule that forgets a term' Gradients \
    's|conv g n w dX o b y x ⊕ conv g n dw X o b y x|conv g n w dX o b y x|' derivative_of_conv
wrong 'a weight gradient that ignores the stride' Backward \
    's|(y \* stride g + u \* dilation g) (x \* stride g|(y + u * dilation g) (x * stride g|' weight_gradient

echo
echo "${#theorems[@]} theorems proved, with no axiom; $controls wrong definitions rejected"
