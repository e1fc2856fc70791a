"""A Debian or Ubuntu of the test's own: a fresh root unpacked for each test, and run in namespaces of its own with the real systemd
as process 1, or without any service manager. Two veth pairs lead to a network namespace with phones.
"""
import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PATH = '/usr/sbin:/usr/bin:/sbin:/bin'
# The two sides of the machine; phones have .2.
SIDES = ('10.77.1', '10.77.2')


class Failed(Exception):
    """What was expected has not come about."""


class Skipped(Exception):
    """What a test needs is not there; no fault of what is tested."""


def run(*command, **options):
    """Its output; an error with all of it where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise Failed('%s: exit status %d\n%s' % (' '.join(command), done.returncode, done.stdout))
    return done.stdout


def wait_for(what, condition, limit=20.0):
    """The first true value of the condition."""
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed('never came about in %g s: %s' % (limit, what))
        time.sleep(0.05)


def removed(cgroup):
    """Whether it could be removed: not before its last process has gone altogether."""
    try:
        os.rmdir(cgroup)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def cgroups():
    """Where cgroup2 is mounted."""
    for line in open('/proc/self/mounts'):
        fields = line.split()
        if fields[2] == 'cgroup2':
            return fields[1]
    raise Failed('cgroup2 is not mounted')


def connect(pid, phones):
    """Two networks in the network namespace of a process, each with a phone in a new namespace of that name; between them it forwards."""
    inside = ['nsenter', '-t', str(pid), '-n']
    run('ip', 'netns', 'add', phones)
    run('ip', '-n', phones, 'link', 'set', 'lo', 'up')
    run(*inside, 'sysctl', '-qw', 'net.ipv4.ip_forward=1')
    run(*inside, 'ip', 'link', 'set', 'lo', 'up')
    for number, side in enumerate(SIDES):
        run('ip', '-n', phones, 'link', 'add', 'p%d' % number, 'type', 'veth', 'peer', 'name', 'eth%d' % number, 'netns', str(pid))
        for ip, device, host in ((['ip', '-n', phones], 'p%d', '2'), (inside + ['ip'], 'eth%d', '1')):
            run(*ip, 'addr', 'add', '%s.%s/24' % (side, host), 'dev', device % number)
            run(*ip, 'link', 'set', device % number, 'up')


class Machine:
    """A running Debian or Ubuntu. To be used with `with`."""

    def __init__(self, archive, folder, kind):
        if os.geteuid():
            raise Skipped('needs root')
        self.kind, self.root = kind, tempfile.mkdtemp(prefix='machine-', dir=folder)
        self.name = 'mediaproxy-packages-%d-%s' % (os.getpid(), os.path.basename(self.root)[8:])
        self.phones = 'mpp-' + os.path.basename(self.root)[8:]
        self.cgroup = os.path.join(cgroups(), self.name)
        self.starter = self.pid = None
        run('tar', '-C', self.root, '-xf', archive)
        # Nothing in here has to survive a loss of power.
        with open(self.root + '/etc/dpkg/dpkg.cfg.d/fast', 'w') as file:
            file.write('force-unsafe-io\n')
        if kind != 'systemd':
            self.has_runlevel()
        os.chmod(self.root, 0o755)

    def has_runlevel(self):
        """Packages ask for it before they start a service; where there is systemd's program, it knows none without systemd."""
        path = self.root + '/sbin/runlevel'
        if os.path.lexists(path):
            os.unlink(path)
        with open(path, 'w') as file:
            file.write('#!/bin/sh\necho N 2\n')
        os.chmod(path, 0o755)

    def __enter__(self):
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def boot(self):
        os.mkdir(self.cgroup)
        enter = 'echo $$ >"$0/cgroup.procs"; exec unshare --pid --fork --kill-child --mount --net --uts --ipc --cgroup "$@"'
        self.log = open(os.path.join(self.root, 'boot.log'), 'wb')
        self.starter = subprocess.Popen(
            ['sh', '-c', enter, self.cgroup, os.path.join(HERE, 'boot.sh'), self.root, self.kind],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = int(wait_for('process 1 of the machine', self.child))
        # The last thing that boot.sh does; before that, a path in the machine could still be one of this host.
        wait_for('the root of the machine', lambda: self.call('test -e /run/this-is-the-machine').returncode == 0)
        if self.kind == 'systemd':
            wait_for('the end of the boot', lambda: self.call('systemctl is-system-running').stdout.strip() in ('running', 'degraded'))
        connect(self.pid, self.phones)

    def child(self):
        path = '/proc/%d/task/%d/children' % (self.starter.pid, self.starter.pid)
        if self.starter.poll() is not None:
            raise Failed('the machine did not boot: ' + open(self.log.name).read())
        return open(path).read().strip()

    def call(self, command):
        """Runs a shell command in it, as root."""
        enter = ['nsenter', '-t', str(self.pid), '-m', '-u', '-i', '-n', '-p', '-C', '--']
        return subprocess.run(enter + ['env', '-i', 'PATH=' + PATH, 'DEBIAN_FRONTEND=noninteractive', 'sh', '-c', command],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd='/', timeout=120)

    def sh(self, command):
        """Its output; it has to succeed."""
        done = self.call(command)
        if done.returncode:
            raise Failed('in the machine: %s: exit status %d\n%s' % (command, done.returncode, done.stdout))
        return done.stdout

    def fails(self, command, status):
        """Its output; it has to fail in this way."""
        done = self.call(command)
        if done.returncode != status:
            raise Failed('in the machine: %s: exit status %d, not %d\n%s' % (command, done.returncode, status, done.stdout))
        return done.stdout

    def path(self, path):
        """A path in it, seen from here; also what is on its own file systems."""
        return '/proc/%d/root%s' % (self.pid, path)

    def write(self, path, text, mode=0o644):
        with open(self.path(path), 'w') as file:
            file.write(text)
        os.chmod(self.path(path), mode)

    def install(self, *packages, by='dpkg -i'):
        """In one go; what is said meanwhile."""
        for package in packages:
            shutil.copy(package, self.path('/tmp'))
        names = ' '.join('/tmp/' + os.path.basename(package) for package in packages)
        return self.sh('%s %s && rm %s' % (by, names, names))

    def show(self, unit, what):
        """A property of a unit."""
        return self.sh('systemctl show -P %s %s' % (what, unit)).strip()

    def journal(self, unit):
        return self.sh('journalctl -o cat -u %s' % unit)

    def __exit__(self, *_):
        if self.starter:
            if self.pid:
                try:
                    # With process 1 ends everything in its namespace.
                    os.kill(self.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.starter.kill()
            self.starter.wait()
            self.log.close()
        subprocess.run(['ip', 'netns', 'del', self.phones], stderr=subprocess.DEVNULL)
        for folder, _, _ in os.walk(self.cgroup, topdown=False):
            wait_for('an empty cgroup', lambda f=folder: removed(f))
        run('rm', '-rf', '--one-file-system', self.root)
