#!/bin/bash
# Every test, in the order of what is quickest to know; none stops the others. At the end stand those that were skipped,
# with the reason, and those that failed, each by the name that runs it alone; the last line is the sum.
set -u
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
passed=0 failed=0 skipped=() broken=()

# count FILE: adds the "N passed; M failed" and "N passed, M failed" lines of a runner's output
count() {
	local p f
	read -r p f < <(awk '
		/^test result: / { for (i = 1; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1) } }
		/^[0-9]+ passed, [0-9]+ failed/ { p += $1; f += $3 }
		END { print p + 0, f + 0 }' "$1")
	passed=$((passed + p)) failed=$((failed + f))
}

# failures FILE: what failed in a runner's output, one a line. Cargo's harness names the tests at the end of a program,
# then cargo names the program, alone where it died or is no harness; the lab says FAIL and the scenario.
failures() {
	awk '
		/^FAIL / { print $2 }
		/^failures:$/ { n = 0; listing = 1; next }
		listing && /^    [^ ]+( - should panic)?$/ { names[n++] = $1; next }
		listing && NF { listing = 0 }
		/^test result: / { listing = 0 }
		/^error: .*, to rerun pass `.*`$/ {
			split($0, parts, "`")
			if (!n) print "cargo test " parts[2]
			for (i = 0; i < n; i++) print "cargo test " parts[2] " " names[i]
			n = 0
		}' "$1"
}

# step NAME COMMAND...: runs it in sight, and counts it as one more failure where it fails without saying how many
step() {
	local name=$1 before=$failed start=$SECONDS found=${#broken[@]}
	shift
	echo "== $name"
	"$@" 2>&1 | tee "$log/out"
	local status=${PIPESTATUS[0]}
	count "$log/out"
	# The harness puts a sign for each test before what a test writes.
	while IFS= read -r line; do skipped+=("$line"); done < <(sed -n 's/^[.iF]*SKIP[: ]*//p' "$log/out" | sort -u)
	while IFS= read -r line; do broken+=("$line"); done < <(failures "$log/out")
	if [ "$status" != 0 ]; then
		[ ${#broken[@]} != "$found" ] || broken+=("$name")
		[ "$failed" != "$before" ] || failed=$((failed + 1))
	fi
	echo "== $name: $([ "$status" = 0 ] && echo fine || echo FAILED), $((SECONDS - start)) s"
}

if [ "$(id -u)" = 0 ]; then
	tests/deps.sh || exit 1
fi
step 'build' $cargo build --locked --bins --examples
step 'tests on one host' $cargo test --locked --quiet --no-fail-fast
if [ "$(id -u)" = 0 ]; then
	step 'real SIP proxy, phones and media in network namespaces' python3 tests/netns/run.py --bin target/debug
else
	skipped+=('tests/netns (real SIP proxy, phones and media in network namespaces): needs root')
fi
echo
if [ ${#skipped[@]} -gt 0 ]; then
	echo 'skipped, by name (cargo test NAME runs one):'
	printf '  %s\n' "${skipped[@]}"
fi
if [ ${#broken[@]} -gt 0 ]; then
	echo 'FAILED:'
	printf '  %s\n' "${broken[@]}"
fi
echo "$passed passed, $failed failed, ${#skipped[@]} skipped"
[ "$failed" = 0 ] && [ ${#broken[@]} = 0 ]
