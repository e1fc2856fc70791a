#!/bin/bash
# Do the tests notice a changed line? cargo-mutants changes one after the other, a sample of them with a fixed seed, and the unit
# tests of that part run: an hour or so on two processors.
#   tests/mutants.sh [COUNT [PART]]     so many changes in each part (8); PART is one of those below
# `cargo install cargo-mutants` brings the tool. What was not noticed is named at the end; exits non-zero where more than five of
# a hundred were not. A change that means nothing is excused in tests/mutants.excused: its name without line and column, after the
# reason.
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:-8} only=${2:-}
root=$PWD
# Each part and the tests that run for it.
parts='src/session/ session::
src/dispatcher/registry dispatcher::
src/journal/ journal:: relay::spool dispatcher::ledger
src/accounting/delivery.rs accounting::
src/netlink/ netlink:: relay::kernel diagnosis::
src/relay/kernel/ relay::
src/tls/ tls::'
cargo mutants --version >/dev/null || { echo 'mutants: cargo install cargo-mutants' >&2; exit 2; }

# What is changed in place is a copy, which keeps what it has built until the next time.
mkdir -p target
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git archive HEAD | tar -x -C "$work"
export CARGO_TARGET_DIR=$root/target/mutants
# Half of a build's time goes into debug information, which nothing here reads.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0
missed=$work/missed caught=0
# A regular expression for each name.
patterns() { sed 's/[][\\.*^$(){}?+|]/\\&/g; s/^/^/; s/$/$/'; }
: >"$missed"
cd "$work"
while read -r part filters; do
	case $part in *"$only"*) ;; *) continue ;; esac
	files=$(find "$part"* -name '*.rs' ! -name '*tests*' ! -path '*/tests/*' ! -name 'fake.rs' ! -name 'lab.rs' ! -name 'vectors.rs')
	pick=()
	for file in $files; do pick+=(--file "$file"); done
	# Lines move: the excused are known without their place.
	cargo mutants --list "${pick[@]}" | sort | awk 'NR == FNR { excused[$0]; next }
		{ name = $0; sub(/:[0-9]+:[0-9]+:/, ":", name) } !(name in excused)' "$root/tests/mutants.excused" - >"$work/all"
	shuf --random-source=<(yes seed) -n "$count" "$work/all" >"$work/names"
	only_these=()
	while read -r pattern; do only_these+=(--re "$pattern"); done < <(patterns <"$work/names")
	# Fields that are left out are tried whatever --re says (27.1), so those of other files are kept out this way.
	pick=()
	while read -r file; do pick+=(--file "$file"); done < <(cut -d: -f1 "$work/names" | sort -u)
	echo "mutants: $(wc -l <"$work/names") in $part"
	cargo mutants --in-place "${pick[@]}" "${only_these[@]}" --baseline skip --timeout 180 --build-timeout 900 \
		--no-shuffle --output "$work/out-${filters%%:*}" -- --lib -- $filters || true
	cat "$work/out-${filters%%:*}"/mutants.out/missed.txt >>"$missed"
	caught=$((caught + $(cat "$work/out-${filters%%:*}"/mutants.out/{caught,timeout}.txt | wc -l)))
done <<<"$parts"
lost=$(wc -l <"$missed")
echo "mutants: $caught noticed, $lost not:"
cat "$missed"
[ "$((lost * 100))" -le "$(((caught + lost) * 5))" ]
