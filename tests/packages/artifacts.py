"""What is built: packages that lintian has nothing to say of, units that are hardened, static binaries that need nothing but themselves,
an installation by `make install`, the archive of `make dist`.
"""
import glob
import os
import re
import shutil
import subprocess
import tempfile

from machine import Failed, Skipped, run, wait_for

PROJECT = os.path.abspath(os.path.join(os.path.dirname(__file__), '../..'))
# systemd's own measure: 10 is no protection at all.
EXPOSURE = 2.0
LARGEST = 8_000_000
DAEMONS = ('media-dispatcher', 'media-relay')


def needs(program):
    if not shutil.which(program):
        raise Skipped(program + ' is not installed')


def lintian():
    """No error and no warning."""
    needs('lintian')
    changes = glob.glob(PROJECT + '/target/deb/*.changes')
    programs = [os.path.basename(path)[:-3] for path in glob.glob(PROJECT + '/src/bin/*.rs')]
    without = [name for name in programs if not os.path.exists('%s/man/%s.8' % (PROJECT, name))]
    if without:
        print('  no manual page in man/ yet: ' + ', '.join(sorted(without)))
    but = ['--suppress-tags', 'no-manual-page'] if without else []
    # By Debian's rules, wherever this runs: to Ubuntu's, the changelog names no suite.
    done = subprocess.run(['lintian', '--profile', 'debian', '--allow-root', '--fail-on', 'error,warning'] + but + changes, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode or len(changes) != 1:
        raise Failed('lintian %s:\n%s' % (changes, done.stdout))


def security():
    """What systemd thinks of each unit."""
    needs('systemd-analyze')
    for unit in sorted(glob.glob(PROJECT + '/conf/systemd/*.service')):
        text = run('systemd-analyze', 'security', '--no-pager', '--offline=true', unit)
        print('  %s: %.1f' % (os.path.basename(unit), protected(text)))


def protected(text):
    """The measure in what `systemd-analyze security` says; an error where it is too high."""
    exposure = float(re.search(r'Overall exposure level for .*: ([0-9.]+)', text).group(1))
    if exposure >= EXPOSURE:
        raise Failed('%.1f is not under %.1f\n%s' % (exposure, EXPOSURE, text))
    return exposure


def built_statically():
    """The paths of the static binaries."""
    text = run('scripts/static.sh', cwd=PROJECT)
    binaries = [os.path.join(PROJECT, path) for path in re.findall(r'^(target/\S+): static, ', text, re.M)]
    if not {os.path.basename(path) for path in binaries}.issuperset(DAEMONS + ('media-admin',)):
        raise Failed('not all are static:\n' + text)
    return binaries


def static():
    """Each in a root that holds nothing but it, a configuration and certificates, not even /proc."""
    for path in built_statically():
        size = os.path.getsize(path)
        if size > LARGEST:
            raise Failed('%s has %d bytes' % (path, size))
        print('  %s: %d bytes' % (os.path.basename(path), size))
        if os.geteuid():
            raise Skipped('an empty root: needs root')
        with tempfile.TemporaryDirectory() as root:
            empty_root(root, path)


def empty_root(root, binary):
    name = os.path.basename(binary)
    os.chmod(root, 0o755)
    run('install', binary, root + '/it')
    chroot = ['unshare', '--net', 'chroot', root, '/it']
    said = run(*chroot, '--version')
    if not said.startswith(name + ' '):
        raise Failed('%s --version says %r' % (name, said))
    if name not in DAEMONS:
        return
    config = '[Relay]\ndispatchers = 127.0.0.1\nrelay_ip = 127.0.0.1\n[Dispatcher]\nlisten = 127.0.0.1\nlisten_management = 127.0.0.1\n'
    for folder in ('/etc/mediaproxy', '/run', '/var/lib/mediaproxy'):
        os.makedirs(root + folder)
    with open(root + '/etc/mediaproxy/config.ini', 'w') as file:
        file.write(config)
    run(*chroot, '--check-config')
    run(PROJECT + '/tls/make-certs.sh', '--key', 'ec', root + '/etc/mediaproxy/tls', 'all')
    starts(name, chroot, root)


def starts(name, chroot, root):
    """In the foreground, until it says that it works; and it ends when told to."""
    log = root + '/log'
    with open(log, 'w') as out:
        daemon = subprocess.Popen(chroot + ['--no-fork'], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    works = {'media-relay': 'relaying on 127.0.0.1', 'media-dispatcher': 'ready: SIP proxy at'}[name]
    try:
        wait_for('%s in an empty root: %r in its log' % (name, works), lambda: works in open(log).read() or daemon.poll() is not None)
        if daemon.poll() is not None:
            raise Failed('%s in an empty root ended:\n%s' % (name, open(log).read()))
        daemon.terminate()
        if daemon.wait(20):
            raise Failed('%s in an empty root ended with %d:\n%s' % (name, daemon.returncode, open(log).read()))
    finally:
        daemon.kill()
        daemon.wait()


def make_install():
    """Into a folder, with a prefix; a configuration that is there stays."""
    with tempfile.TemporaryDirectory() as destination:
        config = destination + '/opt/etc/mediaproxy/config.ini'
        make = ['make', '-s', '-C', PROJECT, 'install-files', 'DESTDIR=' + destination, 'PREFIX=/opt/relay', 'SYSCONFDIR=/opt/etc',
                'INITDIR=/etc/init.d', 'BINARIES=target/deb/cargo/release']
        run(*make)
        for path, mode in (('/opt/relay/sbin/media-relay', 0o755), ('/opt/relay/sbin/media-dispatcher', 0o755),
                           ('/opt/relay/sbin/mediaproxy-make-certs', 0o755), ('/opt/relay/lib/sysusers.d/mediaproxy.conf', 0o644),
                           ('/etc/init.d/mediaproxy-relay', 0o755), ('/opt/etc/mediaproxy/config.ini', 0o640),
                           ('/opt/relay/share/man/man8/mediaproxy-make-certs.8', 0o644),
                           ('/opt/relay/share/bash-completion/completions/media-admin', 0o644),
                           ('/opt/relay/share/zsh/site-functions/_media-relay', 0o644)):
            if os.stat(destination + path).st_mode & 0o7777 != mode:
                raise Failed('%s: mode %o' % (path, os.stat(destination + path).st_mode))
        unit = open(destination + '/opt/relay/lib/systemd/system/mediaproxy-relay.service').read()
        if '\nExecStart=/opt/relay/sbin/media-relay --systemd --config-dir /opt/etc/mediaproxy\n' not in unit:
            raise Failed('the unit does not fit the prefix:\n' + unit)
        with open(config, 'w') as file:
            file.write('mine')
        run(*make)
        if open(config).read() != 'mine':
            raise Failed('an installation overwrote the configuration')


def dist():
    """The same bytes whenever it is made, with the lock file, and nothing that is not committed."""
    if not os.path.exists(PROJECT + '/.git'):
        raise Skipped('these sources are no git checkout')

    def archive():
        path = os.path.join(PROJECT, run('scripts/dist.sh', cwd=PROJECT).strip())
        return path, open(path, 'rb').read()

    path, first = archive()
    if archive()[1] != first:
        raise Failed('two archives differ')
    names = run('tar', '-tf', path).splitlines()
    if not any(name.endswith('/Cargo.lock') for name in names) or any('/target/' in name or '/.git/' in name for name in names):
        raise Failed('the archive does not hold what it should:\n' + '\n'.join(names[:50]))
