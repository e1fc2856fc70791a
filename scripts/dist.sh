#!/bin/sh
# The sources as they are committed, as an archive that is the same whenever and wherever it is made.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=mediaproxy-$version
[ -e .git ] || { echo 'make dist: these sources are no git checkout' >&2; exit 1; }
mkdir -p target
# In two steps, since a pipe hides that the first has failed. git takes the times of the files from the commit; gzip
# would add its own.
git archive --format=tar --prefix="$name/" --output="target/$name.tar" HEAD
gzip -9nf "target/$name.tar"
echo "target/$name.tar.gz"
