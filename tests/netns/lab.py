"""Hosts as network namespaces, the wires between them, and the processes that run on them.

Every namespace and every process is remembered, and close() takes away these and no others.
Interfaces are made inside the namespaces, so labs that run at the same time share nothing.
"""
import ctypes
import os
import signal
import socket
import subprocess
import time

from loop import TimedOut

CLONE_NEWNET = 0x40000000
# Large enough that no SIP message is cut into fragments, which a capture would have to join.
MTU = 4000
LIBC = ctypes.CDLL(None, use_errno=True)


def run(*argv, stdin=None):
    """Runs a short command; its output. Raises RuntimeError with what it said."""
    done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError('%s: status %d: %s' % (' '.join(argv), done.returncode, (done.stderr or done.stdout).strip()))
    return done.stdout


def enter(descriptor):
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, 'setns: ' + os.strerror(number))


class Lab:
    def __init__(self, prefix, scratch, loop):
        self.prefix, self.scratch, self.loop = prefix, scratch, loop
        self.namespaces, self.processes = [], []
        self.home = os.open('/proc/self/ns/net', os.O_RDONLY)
        self.interfaces = {}

    # Hosts and wires

    def host(self, role):
        """A namespace for this role; its name."""
        name = '%s-%s' % (self.prefix, role)
        self.namespaces.append(name)  # first: a signal may come in between
        run('ip', 'netns', 'add', name)
        run('ip', '-n', name, 'link', 'set', 'lo', 'up')
        self.interfaces[name] = 0
        return name

    def wire(self, a, address_a, b, address_b):
        """A cable between two hosts with an address (`10.0.0.1/24`) at each end; both interfaces' names."""
        ends = []
        for name in (a, b):
            ends.append('e%d' % self.interfaces[name])
            self.interfaces[name] += 1
        run('ip', 'link', 'add', ends[0], 'mtu', str(MTU), 'netns', a, 'type', 'veth',
            'peer', 'name', ends[1], 'mtu', str(MTU), 'netns', b)
        for name, end, address in ((a, ends[0], address_a), (b, ends[1], address_b)):
            run('ip', '-n', name, 'addr', 'add', address, 'dev', end)
            run('ip', '-n', name, 'link', 'set', end, 'up')
        return ends

    def address(self, name, interface, address):
        run('ip', '-n', name, 'addr', 'add', address, 'dev', interface)

    def route(self, name, destination, via):
        run('ip', '-n', name, 'route', 'add', destination, 'via', via)

    def forwarding(self, name):
        """Makes the host a router."""
        run('ip', 'netns', 'exec', name, 'sysctl', '-qw', 'net.ipv4.ip_forward=1')

    def nft(self, name, rules):
        run('ip', 'netns', 'exec', name, 'nft', '-f', '-', stdin=rules)

    def socket(self, name, *arguments):
        """A socket that lives in this namespace, whoever uses it."""
        there = os.open('/run/netns/' + name, os.O_RDONLY)
        try:
            enter(there)
            try:
                return socket.socket(*arguments)
            finally:
                enter(self.home)
        finally:
            os.close(there)

    # Processes

    def start(self, name, argv, log, cwd=None, stdin=subprocess.DEVNULL, stdout=None):
        """A process on this host; its output goes to the file `log` in the scratch folder."""
        with open(os.path.join(self.scratch, log), 'ab') as out:
            process = subprocess.Popen(['ip', 'netns', 'exec', name] + [str(a) for a in argv], stdin=stdin,
                                       stdout=stdout or out, stderr=out, cwd=cwd or self.scratch)
        process.label = os.path.splitext(log)[0]
        self.processes.append(process)
        return process

    def wait(self, process, seconds):
        """Waits for its end; the exit status."""
        self.loop.until(lambda: process.poll() is not None, seconds, '%s to end' % process.label)
        return process.returncode

    def stop(self, process, how=signal.SIGTERM, seconds=7):
        """Ends a process; its exit status, or None where only KILL ended it."""
        if process.poll() is None:
            process.send_signal(how)
        try:
            return self.wait(process, seconds)
        except TimedOut:
            process.kill()
            process.wait()
            return None

    def listens(self, process, port, kind='udp'):
        """Does something in the process's namespace own this port? (/proc/PID/net/udp, tcp: hexadecimal)"""
        try:
            with open('/proc/%d/net/%s' % (process.pid, kind)) as table:
                rows = [line.split() for line in table][1:]
        except OSError:
            return False
        return any(row[1].endswith(':%04X' % port) and (kind == 'udp' or row[3] == '0A') for row in rows)

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + 3
        for process in self.processes:
            try:
                process.wait(max(0.05, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in self.namespaces:
            self.clear(name)
        self.namespaces = []

    def clear(self, name):
        """Takes a namespace away with whatever still runs in it: children whose parent was killed."""
        left = subprocess.run(['ip', 'netns', 'pids', name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        for pid in left.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        subprocess.run(['ip', 'netns', 'del', name], stderr=subprocess.DEVNULL, check=False)
