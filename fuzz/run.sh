#!/bin/bash
# Fuzzes for so many seconds each target, or the one named; needs stable Rust and g++.
#   fuzz/run.sh SECONDS [TARGET]
# The seeds are fuzz/seeds/TARGET, what was found beyond them is kept in fuzz/corpus/TARGET. Exits non-zero
# and names the input where a target crashed, hung (5 s for one input) or grew (1 GiB).
set -euo pipefail
cd "$(dirname "$0")"
usage='usage: fuzz/run.sh SECONDS [TARGET]'
seconds=${1:?$usage}
case $seconds in *[!0-9]* | '') echo "$usage (SECONDS is a number)" >&2; exit 2 ;; esac
targets=${2:-$(ls seeds)}
for target in $targets; do
	[ -d "seeds/$target" ] || { echo "fuzz: no target $target; there are: $(ls seeds | xargs)" >&2; exit 2; }
done

# What cargo-fuzz passes, without the sanitizers that only nightly has. Naming the target keeps it off build
# scripts and procedural macros.
triple=$(rustc -vV | sed -n 's/^host: //p')
flags='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
echo 'fuzz: building'
RUSTFLAGS=$flags ${CARGO:-cargo} build --locked --release --quiet --target "$triple"
program=$PWD/target/$triple/release/fuzz

echo 'fuzz: making certificates and revocation lists to begin with'
./make-seeds.sh corpus

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=
table=
number=0
count=$(echo "$targets" | wc -w)
begin=$SECONDS
for target in $targets; do
	number=$((number + 1))
	left=$(((count - number + 1) * (seconds + 2)))
	echo "fuzz: $number of $count: $target for $seconds s; $((SECONDS - begin)) s so far, about $left s to go"
	mkdir -p "corpus/$target" "artifacts/$target"
	dictionary=()
	[ ! -e "dictionaries/$target" ] || dictionary=("-dict=dictionaries/$target")
	# In sight only the counts that grow; all of it where it fails. A timeout that does not end is a hang, too. What a
	# target leaves in its temporary files goes with their directory.
	scratch=$(mktemp -d)
	if ! TMPDIR=$scratch FUZZ_TARGET=$target timeout -k 5 $((seconds + 60)) "$program" "corpus/$target" "seeds/$target" \
		-max_total_time="$seconds" -max_len=4096 -timeout=5 -rss_limit_mb=1024 -use_value_profile=1 \
		-print_final_stats=1 "${dictionary[@]}" -artifact_prefix="artifacts/$target/" 2>&1 |
		tee "$log" | grep --line-buffered -E 'pulse|INITED|DONE|stat::(number|average|peak)'; then
		status=failed
	else
		status=fine
	fi
	rm -rf "$scratch"
	speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
	table="$table$(printf '%-16s %10s runs %8s/s' "$target" "${runs:-?}" "${speed:-?}")
"
	if [ "$status" = failed ] || ! grep -q '^Done ' "$log"; then
		tail -40 "$log" >&2
		echo "fuzz: $target FAILED on: $(grep -o 'artifacts/[^ ]*$' "$log" | tail -1)" >&2
		echo "fuzz: once more: FUZZ_TARGET=$target $program FILE; then keep FILE in fuzz/seeds/$target" >&2
		failed="$failed $target"
	fi
done
printf '%s' "$table"
[ -z "$failed" ] || { echo "fuzz: FAILED:$failed" >&2; exit 1; }
echo 'fuzz: all fine'
