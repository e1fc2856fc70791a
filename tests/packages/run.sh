#!/bin/sh
# make test-packages: what is needed is installed, the packages are built, then run.py. What needs root, a mirror or
# something that could not be installed is skipped.
set -eu
cd "$(dirname "$0")/../.."
tests/deps.sh packages || echo 'not all of it is installed'
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo '-- make deb, and a fresh root for machines'
python3 tests/packages/run.py --root &
root=$!
# The tests were run by `make test`. Less is optimized than in what is released, which takes half of the time.
CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 DEB_BUILD_OPTIONS="nocheck parallel=$(nproc)" \
	scripts/deb.sh >"$log" 2>&1 || { cat "$log"; exit 1; }
wait $root
exec python3 tests/packages/run.py "$@"
