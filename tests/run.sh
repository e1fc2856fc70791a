#!/bin/bash
# Every test, in the order of what is quickest to know. What is skipped is named at the end, with the reason;
# the last line is the sum.
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

# step NAME COMMAND...: runs it in sight, and counts it as one more failure where it fails without saying how many
step() {
	local name=$1 before=$failed start=$SECONDS
	shift
	echo "== $name"
	"$@" 2>&1 | tee "$log/out"
	local status=${PIPESTATUS[0]}
	count "$log/out"
	while IFS= read -r line; do skipped+=("$line"); done < <(sed -n 's/^\.*SKIP[: ]*//p' "$log/out" | sort -u)
	if [ "$status" != 0 ]; then
		broken+=("$name")
		[ "$failed" != "$before" ] || failed=$((failed + 1))
	fi
	echo "== $name: $([ "$status" = 0 ] && echo fine || echo FAILED), $((SECONDS - start)) s"
}

if [ "$(id -u)" = 0 ]; then
	tests/deps.sh || exit 1
fi
step 'build' $cargo build --locked --bins --examples
step 'tests on one host' $cargo test --locked --quiet
if [ "$(id -u)" = 0 ]; then
	step 'real SIP proxy, phones and media in network namespaces' python3 tests/netns/run.py --bin target/debug
else
	skipped+=('tests/netns (real SIP proxy, phones and media in network namespaces): needs root')
fi
echo
if [ ${#skipped[@]} -gt 0 ]; then
	echo 'skipped:'
	printf '  %s\n' "${skipped[@]}"
fi
[ ${#broken[@]} = 0 ] || printf 'FAILED: %s\n' "${broken[@]}"
echo "$passed passed, $failed failed, ${#skipped[@]} skipped"
[ "$failed" = 0 ] && [ ${#broken[@]} = 0 ]
