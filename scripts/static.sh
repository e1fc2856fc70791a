#!/bin/sh
# Static binaries: musl where its target and compiler are installed, else glibc. Says which, and proves it by
# readelf (ldd is no proof).
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
machine=$(rustc -vV | sed -n 's/^host: \([^-]*\)-.*/\1/p')
musl=$machine-unknown-linux-musl
gnu=$machine-unknown-linux-gnu
sysroot=$(rustc --print sysroot)
# Nothing unwinds through SQLite and the C of ring: their tables make 0.2 MB.
export CFLAGS="${CFLAGS:-} -fno-asynchronous-unwind-tables"
if [ -d "$sysroot/lib/rustlib/$musl" ] && command -v musl-gcc >/dev/null; then
	echo "static: musl"
	target=$musl
	env "CC_$(echo "$musl" | tr - _)=musl-gcc" $cargo build --locked --release --target $musl
else
	echo "static: glibc (no $musl target or no musl-gcc)"
	target=$gnu
	flags='-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs'
	# Functions of the same code are kept once, where the linker can: LLD, which rustc has brought along since 1.90.
	case $(rustc --version) in
	'rustc 1.'[0-8][0-9].*) ;;
	*) [ "$machine" != x86_64 ] || flags="$flags -C link-arg=-Wl,--icf=all" ;;
	esac
	# --target is needed: without it the flag would reach procedural macros, which cannot be static. Relocations are
	# packed (DT_RELR), which makes 0.3 MB of the dispatcher.
	env "CARGO_TARGET_$(echo "$gnu" | tr a-z- A-Z_)_RUSTFLAGS=$flags" \
		$cargo build --locked --release --target $gnu
fi
for source in src/bin/*.rs; do
	path=target/$target/release/$(basename "$source" .rs)
	if readelf -lW "$path" | grep -q INTERP || readelf -dW "$path" | grep -q NEEDED; then
		echo "$path is not static" >&2
		exit 1
	fi
	echo "$path: static, $(stat -c %s "$path") bytes"
done
