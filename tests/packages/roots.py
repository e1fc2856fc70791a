"""What machines start from: a fresh root of a release with its updates of today, made by debootstrap and kept for a while."""
import glob
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request

from machine import Failed, Skipped, run

# What the packages need and what a host has: nothing of it is installed by the tests later.
INCLUDE = ['systemd', 'systemd-sysv', 'openssl', 'procps', 'logrotate', 'libgcc-s1']
DEBIAN, UBUNTU = 'http://deb.debian.org/debian', 'http://archive.ubuntu.com/ubuntu'
# The releases that the packages are made for, and the mirror of each; the oldest C library first: what was built with one also runs on
# those after it.
SUITES = {'bookworm': DEBIAN, 'noble': UBUNTU, 'trixie': DEBIAN}
# Where security updates are, by the mirror; with other mirrors there are none.
SECURITY = {DEBIAN: 'http://deb.debian.org/debian-security', UBUNTU: UBUNTU}
# A root that is older than this, in seconds, is made again: hosts have the updates of the last days.
AGE = 7 * 86400
# In a root that the network can be reached from: what the archive has today. No service is started in a root.
UPDATE = '''set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
cp /etc/resolv.conf "$1/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
chmod 755 "$1/usr/sbin/policy-rc.d"
chroot "$1" sh -c 'apt-get update -q && apt-get dist-upgrade -y -q --no-install-recommends && apt-get clean'
rm "$1/usr/sbin/policy-rc.d"
'''
UBUNTU_KEYS = '/usr/share/keyrings/ubuntu-archive-keyring.gpg'
# Whose root has Ubuntu's keys, for a host that has not: they come by way of Debian's archive, which the host trusts.
WITH_KEYS = 'trixie'
# Why there is none, by its path: what could not be made is not tried again.
missing = {}


def own():
    """The suite and the mirror that this host takes its own packages from."""
    release = dict(line.strip().split('=', 1) for line in open('/etc/os-release') if '=' in line)
    suite = release.get('VERSION_CODENAME', '').strip('"')
    for path in glob.glob('/etc/apt/sources.list.d/*.sources'):
        for paragraph in open(path).read().split('\n\n'):
            fields = dict(re.findall(r'^(\w[\w-]*):[ \t]*(.*)$', paragraph, re.M))
            if suite in fields.get('Suites', '').split() and fields.get('Enabled', 'yes') == 'yes':
                return suite, fields['URIs'].split()[0]
    for path in ['/etc/apt/sources.list'] + glob.glob('/etc/apt/sources.list.d/*.list'):
        for line in open(path) if os.path.exists(path) else ():
            found = re.match(r'deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s', line)
            if found and found.group(2) == suite:
                return suite, found.group(1)
    raise Failed('no mirror for %r in /etc/apt' % suite)


def others():
    """The releases beside this host's own that its packages are for."""
    suite = own()[0]
    suites = list(SUITES)
    return suites[suites.index(suite) + 1:] if suite in suites else []


def archive(folder, suite, mirror=None):
    """The archive of a fresh root, made now if there is none yet. Skipped where its mirror cannot be reached."""
    include = ','.join(INCLUDE + ['ubuntu-keyring'] * (suite == WITH_KEYS))
    key = hashlib.sha256(('%s %s' % (suite, include)).encode()).hexdigest()[:12]
    path = os.path.join(folder, 'root-%s-%s.tar' % (suite, key))
    if os.path.exists(path) and time.time() - os.path.getmtime(path) < AGE:
        return path
    mirror = mirror or (own()[1] if suite == own()[0] else SUITES.get(suite))
    if not mirror:
        raise Failed('no mirror is known for %s; give it as --suite %s=http://...' % (suite, suite))
    if path in missing:
        raise missing[path]
    try:
        make(folder, suite, mirror, include, path)
    except Skipped as error:
        # An old one is better than none.
        if not os.path.exists(path):
            missing[path] = error
            raise
    except Failed as error:
        missing[path] = error
        raise
    return path


def make(folder, suite, mirror, include, path):
    """By debootstrap."""
    if os.geteuid():
        raise Skipped('needs root')
    reachable(suite, mirror)
    work = tempfile.mkdtemp(prefix='debootstrap-', dir=folder)
    root = os.path.join(work, 'root')
    try:
        # The two scripts that debootstrap has for all current releases, also for those that it is too old to know.
        script, keys = ('gutsy', ['--keyring=' + ubuntu_keys(folder, work)]) if is_ubuntu(suite, mirror) else ('sid', [])
        run('debootstrap', '--variant=minbase', '--include=' + include, *keys, suite, root, mirror, script)
        update(root, suite, mirror)
        shutil.rmtree(os.path.join(root, 'var/cache/apt/archives'))
        run('tar', '-C', root, '-cf', path + '.new', '.')
        os.rename(path + '.new', path)
    finally:
        run('rm', '-rf', '--one-file-system', work)


def update(root, suite, mirror):
    """With the updates that the release has today. What its archive says is signed by the keys in the root."""
    sources = ['deb %s %s main' % (mirror, suite)]
    if mirror.rstrip('/') in SECURITY:
        sources += ['deb %s %s-updates main' % (mirror, suite), 'deb %s %s-security main' % (SECURITY[mirror.rstrip('/')], suite)]
    with open(os.path.join(root, 'etc/apt/sources.list'), 'w') as file:
        file.write('\n'.join(sources) + '\n')
    run('unshare', '--mount', 'sh', '-c', UPDATE, 'update', root, stdin=subprocess.DEVNULL,
        env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'DEBIAN_FRONTEND': 'noninteractive'})


def is_ubuntu(suite, mirror):
    return SUITES.get(suite) == UBUNTU or 'ubuntu' in mirror


def reachable(suite, mirror):
    """Skipped with the reason where it is not."""
    url = '%s/dists/%s/InRelease' % (mirror.rstrip('/'), suite)
    try:
        urllib.request.urlopen(url, timeout=20).close()
    except OSError as error:
        raise Skipped('%s: %s' % (url, getattr(error, 'reason', error))) from None


def ubuntu_keys(folder, work):
    """The keys that Ubuntu signs its archive with."""
    if os.path.exists(UBUNTU_KEYS):
        return UBUNTU_KEYS
    run('tar', '-C', work, '-xf', archive(folder, WITH_KEYS), '.' + UBUNTU_KEYS)
    return work + UBUNTU_KEYS
