"""The packages compiled on another release of those that they are made for: with its compiler, linker, C library, debhelper and openssl, its updates
of today among them, and with this host's Rust and crates; the build itself has no network.
"""
import glob
import os
import shutil
import tempfile

import roots
from artifacts import PROJECT
from machine import Failed, Skipped, run

ENTER = '''set -e
root=$1 rust=$2 crates=$3 compiled=$4
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --bind -o ro "$rust" "$root/rust"
mount --bind -o ro "$crates" "$root/crates"
mount --bind "$compiled" "$root/build/compiled"
chroot "$root" sh -c 'apt-get update -q && apt-get dist-upgrade -y -q --no-install-recommends && apt-get install -y -q --no-install-recommends build-essential debhelper'
echo '127.0.0.1 localhost' >"$root/etc/hosts"
exec unshare --net sh -ec 'ip link set lo up; exec chroot "$0" sh -c "cd /build/mediaproxy && dpkg-buildpackage -us -uc -b"' "$root"
'''


def packages(cache, folder, suite):
    """Compiled there. What the crates became is kept for the next time."""
    if os.geteuid():
        raise Skipped('needs root')
    archive = roots.archive(cache, suite)
    roots.reachable(suite, roots.SUITES[suite])
    source, = glob.glob(PROJECT + '/target/deb/mediaproxy_*.tar.xz')
    root, compiled = tempfile.mkdtemp(dir=folder), os.path.join(cache, 'compiled-' + suite)
    os.makedirs(compiled, exist_ok=True)
    try:
        run('tar', '-C', root, '-xf', archive)
        for name in ('rust', 'crates', 'build/compiled', 'build/mediaproxy'):
            os.makedirs(os.path.join(root, name))
        run('tar', '-C', root + '/build/mediaproxy', '--strip-components=1', '-xf', source)
        shutil.copy('/etc/resolv.conf', root + '/etc/resolv.conf')
        crates = os.environ.get('CARGO_HOME', os.path.expanduser('~/.cargo'))
        settings = {name: value for name, value in os.environ.items() if name.startswith(('CARGO_PROFILE_', 'CARGO_BUILD_', 'DEB_BUILD_'))}
        run('unshare', '--mount', 'sh', '-c', ENTER, 'enter', root, run('rustc', '--print', 'sysroot').strip(), crates, compiled, env=dict(
            settings, HOME='/root', PATH='/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin', DEBIAN_FRONTEND='noninteractive', CARGO_HOME='/crates',
            CARGO_TARGET_DIR='/build/compiled'))
        made = glob.glob(root + '/build/*.deb')
        if len(made) != 3:
            raise Failed('three packages are expected: %r' % made)
        there = tempfile.mkdtemp(dir=folder)
        return sorted(shutil.move(path, there) for path in made)
    finally:
        run('rm', '-rf', '--one-file-system', root)
