#!/bin/sh
# Every numbered rule of docs/protocol.md (C1, L1, M1, S1 ...) is cited by a test: a test function whose name begins
# with the rule, `fn c3_...`.
set -eu
cd "$(dirname "$0")/../.."
failed=0 count=0
rules=$(sed -nE 's/^- ([CDELMRS][0-9]+)\. .*/\1/p' docs/protocol.md)
[ -n "$rules" ] || { echo 'docs/protocol.md: no rules found' >&2; exit 1; }
for rule in $rules; do
	name=$(printf %s "$rule" | tr CDELMRS cdelmrs)
	count=$((count + 1))
	if ! grep -rqE "^ *fn ${name}_" src tests --include='*.rs'; then
		echo "rule $rule of docs/protocol.md: no test cites it (fn ${name}_...)" >&2
		failed=1
	fi
done
[ "$failed" = 0 ] && echo "rules: all $count are cited by tests"
exit "$failed"
