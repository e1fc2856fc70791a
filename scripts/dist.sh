#!/bin/sh
# The sources as they are committed, as an archive that is the same whenever and wherever it is made.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=mediaproxy-$version
mkdir -p target
# git takes the times of the files from the commit; gzip would add its own.
git archive --format=tar --prefix="$name/" HEAD | gzip -9n >"target/$name.tar.gz.new"
mv "target/$name.tar.gz.new" "target/$name.tar.gz"
echo "target/$name.tar.gz"
