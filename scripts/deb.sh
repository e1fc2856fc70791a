#!/bin/sh
# Debian packages in target/deb, built from a copy of the tree: dpkg-buildpackage writes beside its source.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
out=target/deb
copy=$out/mediaproxy
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
grep -q "^mediaproxy (1:$version)" debian/changelog ||
	{ echo "debian/changelog does not begin with version 1:$version, that of Cargo.toml" >&2; exit 1; }
command -v dpkg-buildpackage >/dev/null && command -v dh >/dev/null ||
	{ echo 'make deb: apt-get install build-essential debhelper' >&2; exit 1; }

mkdir -p $out
rm -rf $copy
find $out -maxdepth 1 -type f -delete
mkdir $copy
if [ -e .git ]; then
	# What git knows or would add, as it is now; files that were deleted are still on its list.
	git ls-files -z --cached --others --exclude-standard | tar -c --ignore-failed-read --null -T - | tar -x -C $copy
else
	tar -c --exclude=./target . | tar -x -C $copy
fi
# The build itself asks no network.
$cargo fetch --locked
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/$out/cargo}"
(cd $copy && dpkg-buildpackage -us -uc "$@")
rm -rf $copy
ls -l $out/*.deb
