"""The static binaries as a container has them: a root with nothing but them, a configuration and certificates, no C library, no shell; each
daemon is process 1 of namespaces of its own. Two phones are in networks beside it.
"""
import os
import shutil
import struct
import subprocess
import tempfile
import threading

import call
import machine
from artifacts import DAEMONS, PROJECT, built_statically
from machine import Failed, Skipped, run, wait_for

# What an engine does before it starts process 1: file systems of the kernel, settings that cannot be written unless they are asked for.
ENTER = '''set -e
root=$1 settings=$2 rights=$3
shift 3
mount --make-rprivate /
mount -t proc proc "$root/proc"
[ "$settings" = rw ] || { mount --bind "$root/proc/sys" "$root/proc/sys"; mount -o remount,bind,ro "$root/proc/sys"; }
exec setpriv --bounding-set "$rights" chroot "$root" "$@"
'''
# By their names: one in /etc/hosts, one that only the name server knows, and a domain with an SRV record.
NAMES = ('in-hosts.test', 'by-dns.test', 'domain.test')
DISPATCHER, RELAY = DAEMONS
ADDRESS, NO_ERROR, NO_NAME, A, SRV = b'\x7f\0\0\1', 0x8180, 0x8183, 1, 33


def answer(question):
    """What the name server of this test says (RFC 1035 section 4.1)."""
    end = question.index(b'\0', 12) + 5
    kind, = struct.unpack('>H', question[end - 4:end - 2])
    name = question[12:end - 5]
    record = lambda data: b'\xc0\x0c' + struct.pack('>HHIH', kind, 1, 60, len(data)) + data
    records = {(b'\x06by-dns\x04test', A): record(ADDRESS),
               (b'\x04_sip\x04_udp\x06domain\x04test', SRV): record(struct.pack('>HHH', 0, 0, 5060) + b'\x06by-dns\x04test\0')}
    found = records.get((name, kind), b'')
    known = any(name == other for other, _ in records)
    return question[:2] + struct.pack('>HHHHH', NO_ERROR if known else NO_NAME, 1, bool(found), 0, 0) + question[12:end] + found


class Container:
    """To be used with `with`."""

    def __init__(self, binaries):
        self.root = tempfile.mkdtemp()
        self.phones = 'mpp-' + os.path.basename(self.root)[-8:]
        self.running = {}
        os.chmod(self.root, 0o755)
        for folder in ('/etc/mediaproxy', '/proc', '/run', '/var/lib/mediaproxy'):
            os.makedirs(self.root + folder)
        for path in binaries:
            shutil.copy(path, self.root)
        self.write('/etc/hosts', '127.0.0.1 localhost in-hosts.test\n')
        self.write('/etc/resolv.conf', 'nameserver 127.0.0.1\n')
        run(PROJECT + '/tls/make-certs.sh', '--key', 'ec', self.root + '/etc/mediaproxy/tls', 'all')

    def __enter__(self):
        # As an engine does: a process that has the network while containers come and go.
        self.holder = subprocess.Popen(['unshare', '--net', '--uts', '--ipc', 'sleep', '600'])
        try:
            own = os.readlink('/proc/self/ns/net')
            wait_for('a network', lambda: os.readlink('/proc/%d/ns/net' % self.holder.pid) != own)
            machine.connect(self.holder.pid, self.phones)
            self.sock = call.socket_in('/proc/%d/ns/net' % self.holder.pid, '127.0.0.1', 53)
            self.sock.settimeout(0.2)
            threading.Thread(target=self.serve_names, daemon=True).start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def serve_names(self):
        while self.holder.poll() is None:
            try:
                question, client = self.sock.recvfrom(512)
            except TimeoutError:
                continue
            self.sock.sendto(answer(question), client)
        self.sock.close()

    def path(self, path):
        return self.root + path

    def write(self, path, text):
        with open(self.root + path, 'w') as file:
            file.write(text)

    def log(self, name):
        return open('%s.%s.log' % (self.root, name)).read()

    def start(self, name, settings='ro', rights='-net_admin'):
        with open('%s.%s.log' % (self.root, name), 'w') as log:
            self.running[name] = subprocess.Popen(
                ['nsenter', '-t', str(self.holder.pid), '--net', '--uts', '--ipc', 'unshare', '--mount', '--pid', '--fork', '--kill-child',
                 'sh', '-c', ENTER, 'enter', self.root, settings, rights, '/' + name, '--no-fork'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={'PATH': machine.PATH})

    def pid(self, name):
        """Of the daemon, as this host sees it."""
        starter = self.running[name]
        children = '/proc/%d/task/%d/children' % (starter.pid, starter.pid)
        return wait_for(name, lambda: starter.poll() is None and open(children).read().strip())

    def admin(self, rights, *arguments):
        """media-admin in the relay's container, with that one's rights; its output."""
        return run('setpriv', '--bounding-set', rights, 'nsenter', '-t', self.pid(RELAY), '--mount', '--net', '--uts', '--ipc', '--pid', '--root', '--wd=/',
                   '/media-admin', *arguments, stdin=subprocess.DEVNULL, env={'PATH': machine.PATH}, timeout=60)

    def stop(self, name):
        """Ends it as an engine does; it has to end well."""
        pid, starter = self.pid(name), self.running.pop(name)
        os.kill(int(pid), 15)
        if starter.wait(20):
            raise Failed('%s ended with %d:\n%s' % (name, starter.returncode, self.log(name)))

    def __exit__(self, *_):
        for process in [*self.running.values(), self.holder]:
            process.kill()
            process.wait()
        subprocess.run(['ip', 'netns', 'del', self.phones], stderr=subprocess.DEVNULL)
        for name in DAEMONS:
            if os.path.exists('%s.%s.log' % (self.root, name)):
                os.unlink('%s.%s.log' % (self.root, name))
        run('rm', '-rf', '--one-file-system', self.root)


def calls():
    """In an empty root, both daemons and media-admin: calls in user space and in the kernel, the dispatcher found by each kind of name."""
    if os.geteuid():
        raise Skipped('needs root')
    with Container(built_statically()) as there:
        # Without the right to netfilter, as engines have it where nobody asks for more.
        for name in NAMES[:2]:
            a_call(there, name, 'ro', '-net_admin')
        a_call(there, NAMES[2], 'rw', '+net_admin')


def a_call(there, name, settings, rights):
    """By daemons that find each other by that name, seen by media-admin; then both end well."""
    config = call.CONFIG.replace('dispatchers = 127.0.0.1', 'dispatchers = ' + name).replace('= kernel', '= auto')
    there.write('/etc/mediaproxy/config.ini', config)
    there.start(DISPATCHER)
    there.start(RELAY, settings, rights)
    call.linked(there)
    with call.Call(there, name) as one:
        one.goes_on()
        if rights == '+net_admin':
            wait_for('packets that the kernel forwards', one.by_kernel)
        doctor = there.admin(rights, 'doctor')
        said = there.admin(rights, 'summary') + there.admin(rights, 'sessions') + doctor
        expected = ['10.77.1.1:40000  active ', name, '%s (127.0.0.1:25060) accepts connections\n' % name,
                    '127.0.0.1:25060: the relay has a link there\n', '1 relay takes calls\n', '\n0 problems, ']
        missing = [text for text in expected if text not in said]
        if missing or ('--cap-add NET_ADMIN' in doctor) != (rights == '-net_admin'):
            raise Failed('media-admin does not say %r:\n%s' % (missing, said))
        by_kernel = one.by_kernel()
        print('  %s: %d packets, none lost, %d by the kernel' % (name, one.end(), by_kernel))
        if (by_kernel > 0) != (rights == '+net_admin'):
            raise Failed('the wrong path\n' + there.log(RELAY))
    for daemon in (RELAY, DISPATCHER):
        there.stop(daemon)
        if ' ERROR ' in there.log(daemon):
            raise Failed(there.log(daemon))
