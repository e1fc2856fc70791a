#!/usr/bin/env python3
"""What a packet costs: dropped as it enters the relay's host, routed, translated by a conntrack entry alone, forwarded by the kernel
for the relay, relayed in user space.

    cost.py [--bin target/release] [--rounds 5]

On veth everything up to the receiver's socket happens in the sender's system call or in its processor's softirq thread; the same
thread then reads it there. So a packet's cost is the processor time of that thread, plus that of ksoftirqd on its processor, plus
that of the relay's process, from the sending to the delivery, both included.
The sender's own share is what remains when the packet is dropped as it enters; it is taken off the others. One flow of packets with
172 bytes; all on one processor but the relay's process. The paths take turns every few milliseconds, so that what else the machine does
meets all of them alike; of the turns of a round the median counts, and all that the relay's process has used; then the medians of the
rounds. Needs root. Exit status 1 where a bound does not hold.
"""
import argparse
import ctypes
import glob
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import daemons  # noqa: E402
from direct import IP_MTU_DISCOVER, World  # noqa: E402
from lab import LIBC, run  # noqa: E402
from scene import Scene  # noqa: E402
from script import CALLEE, CALLER  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Packets in a turn, turns in a round; user space has every third one. What is read at once; user space gets them in such bursts.
TURN, TURNS, SLOWLY, BURST = 1000, 60, 3, 50
# How often it is looked whether user space has sent them on, every 2 ms.
WAITS = 50
IP_PMTUDISC_WANT = 1
# What makes the kernel track and translate.
NAT = '''table ip nat {
    chain pre { type nat hook prerouting priority dstnat; }
    chain post { type nat hook postrouting priority srcnat; }
    chain input { type filter hook input priority 0; ct state invalid counter; }
}
'''
PACKET = b'\x80\x08' + b'.' * 170
# How much more than routing the kernel's forwarding may cost.
BOUND = 1.45


def spent(*tasks):
    """Processor time of these threads in nanoseconds (/proc/PID/task/TID/schedstat, first field)."""
    total = 0
    for task in tasks:
        with open(task) as f:
            total += int(f.read().split()[0])
    return total


def softirq_thread(cpu):
    name = subprocess.run(['pgrep', '-x', 'ksoftirqd/%d' % cpu], stdout=subprocess.PIPE, text=True).stdout.strip()
    return ['/proc/%s/schedstat' % name] if name else []


class Vector(ctypes.Structure):
    """struct iovec"""
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]


class Header(ctypes.Structure):
    """struct msghdr"""
    _fields_ = [('name', ctypes.c_void_p), ('name_length', ctypes.c_uint), ('vector', ctypes.POINTER(Vector)), ('vectors', ctypes.c_size_t),
                ('control', ctypes.c_void_p), ('control_length', ctypes.c_size_t), ('flags', ctypes.c_int)]


class Datagram(ctypes.Structure):
    """struct mmsghdr, sendmmsg(2)"""
    _fields_ = [('header', Header), ('length', ctypes.c_uint)]


class Burst:
    """BURST datagrams in one system call: this program's own work between two packets would throw the kernel's code out of the caches."""

    def __init__(self, size, to=None):
        self.data = ctypes.create_string_buffer(PACKET.ljust(size, b'.'), size)
        self.vector = Vector(ctypes.addressof(self.data), size)
        name = struct.pack('=H', socket.AF_INET) + struct.pack('!H4s8x', to[1], socket.inet_aton(to[0])) if to else b''
        self.name = ctypes.create_string_buffer(name, max(len(name), 1))
        self.all = (Datagram * BURST)()
        for one in self.all:
            one.header.vector, one.header.vectors = ctypes.pointer(self.vector), 1
            if to:
                one.header.name, one.header.name_length = ctypes.addressof(self.name), len(name)

    def send(self, sock):
        if LIBC.sendmmsg(sock.fileno(), self.all, BURST, 0) != BURST:
            raise OSError(ctypes.get_errno(), 'sendmmsg')

    def receive(self, sock):
        """How many there were."""
        return max(LIBC.recvmmsg(sock.fileno(), self.all, BURST, socket.MSG_DONTWAIT, None), 0)


def blast(path, others, count):
    """Nanoseconds of processor time of this thread and the others for so many packets; how many arrived."""
    read = 0
    before, mine = spent(*others), time.thread_time_ns()
    for number in range(1, count // BURST + 1):
        path.sending.send(path.sock)
        for _ in range(WAITS if path.slow else 0):
            if read >= number * BURST:
                break
            time.sleep(0.002)
            read += path.receiving.receive(path.receiver)
        read += path.receiving.receive(path.receiver)
    return time.thread_time_ns() - mine + spent(*others) - before, read


def system_calls(pid, act):
    """The system calls that a process makes meanwhile, or None where perf cannot count them."""
    try:
        perf = subprocess.Popen(['perf', 'stat', '-x', ',', '-e', 'raw_syscalls:sys_enter', '-p', str(pid)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        act()
        return None
    time.sleep(0.3)
    act()
    perf.send_signal(2)
    lines = [line for line in perf.communicate()[1].splitlines() if 'raw_syscalls' in line]
    return int(lines[0].split(',')[0]) if lines and lines[0].split(',')[0].isdigit() else None


class Path:
    """One way for packets: from a socket to an address, through hosts of its own."""

    def __init__(self, name, sock, to, receiver, relay=None):
        self.name, self.sock, self.to, self.receiver, self.relay, self.costs = name, sock, to, receiver, relay, []
        self.sending, self.receiving = Burst(len(PACKET), to), Burst(2048)
        self.slow = name == 'user space'
        self.begin()

    def threads(self):
        return glob.glob('/proc/%d/task/*/schedstat' % self.relay.pid) if self.relay else []

    def begin(self):
        """A round."""
        self.turns, self.arrived, self.relays = [], 0, 0

    def turn(self, softirq):
        before = spent(*self.threads())
        cost, arrived = blast(self, softirq, TURN)
        self.relays += spent(*self.threads()) - before
        self.turns.append(cost)
        self.arrived += arrived

    def end(self):
        """Of a round. Nothing but what is to be dropped may be lost."""
        sent = len(self.turns) * TURN
        if self.name != 'dropped' and self.arrived < sent * 0.99:
            raise SystemExit('%s: %d of %d packets arrived' % (self.name, self.arrived, sent))
        self.costs.append(statistics.median(self.turns) / TURN + self.relays / sent)

    def calls(self):
        count = TURN * (5 if self.slow else TURNS)
        made = system_calls(self.relay.pid, lambda: blast(self, [], count))
        return None if made is None else made / count


def wired(scene, role, number):
    """A sender, a router of its own, a receiver; the sender's socket and the receiver's address."""
    lab = scene.lab
    hosts = [lab.host('%s-%s' % (role, part)) for part in ('from', 'router', 'to')]
    lab.wire(hosts[0], '10.%d.1.2/24' % number, hosts[1], '10.%d.1.1/24' % number)
    lab.wire(hosts[1], '10.%d.2.1/24' % number, hosts[2], '10.%d.2.2/24' % number)
    lab.route(hosts[0], 'default', '10.%d.1.1' % number)
    lab.route(hosts[2], 'default', '10.%d.2.1' % number)
    lab.forwarding(hosts[1])
    receiver = lab.socket(hosts[2], socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(('10.%d.2.2' % number, 7000))
    sender = lab.socket(hosts[0], socket.AF_INET, socket.SOCK_DGRAM)
    return hosts[1], sender, receiver


def translated(scene):
    """A conntrack entry with NAT both ways and nothing else: what the kernel's own part of forwarding costs."""
    router, sender, receiver = wired(scene, 'nat', 33)
    sender.bind(('10.33.1.2', 5000))
    run('ip', 'netns', 'exec', router, 'nft', '-f', '-', stdin=NAT)
    run('ip', 'netns', 'exec', router, 'sysctl', '-qw', 'net.netfilter.nf_conntrack_acct=1')
    run('ip', 'netns', 'exec', router, 'conntrack', '-I', '-p', 'udp', '-s', '10.33.1.2', '-d', '10.33.1.1', '--sport', '5000', '--dport', '4000',
        '--dst-nat', '10.33.2.2:7000', '--src-nat', '10.33.2.1:4002', '--timeout', '3600', '--status', 'ASSURED,SEEN_REPLY')
    return Path('NAT alone', sender, ('10.33.1.1', 4000), receiver)


def relayed(scene, forwarding):
    """A call through the real daemons, its media flowing; the caller's socket and where it sends to."""
    world = World(scene)
    [call] = world.place(1)
    world.until_flowing([call])
    if forwarding == 'kernel':
        world.until_in_kernel([call])
    call.stop()
    end = call.now(CALLER)
    for one in (call.now(CALLER), call.now(CALLEE)):
        for sock in one.sockets:
            scene.loop.remove(sock)
            # As the other paths' sockets; it is the sender's work.
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_WANT)
    name = 'kernel' if forwarding == 'kernel' else 'user space'
    return Path(name, end.sockets[0], end.remote, call.now(CALLEE).sockets[0], scene.daemons.relays['relay'])


def measure(scenes, rounds):
    plain = scenes['kernel']
    dropping, sender, one = wired(plain, 'drop', 31)
    run('ip', 'netns', 'exec', dropping, 'nft', '-f', '-',
        stdin='table netdev t {\nchain c {\ntype filter hook ingress device e0 priority 0;\nip protocol udp drop\n}\n}\n')
    _, second, two = wired(plain, 'route', 32)
    paths = [Path('dropped', sender, ('10.31.2.2', 7000), one), Path('routed', second, ('10.32.2.2', 7000), two), translated(plain)]
    paths += [relayed(scene, forwarding) for forwarding, scene in scenes.items()]
    os.sched_setaffinity(0, {0})
    # Nobody else runs on this processor during a turn: their work between two packets would be paid for by the next one.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    softirq = softirq_thread(0)
    for path in paths:
        path.turn(softirq)  # the first packets resolve addresses
    for _ in range(rounds):
        for path in paths:
            path.begin()
        for number in range(TURNS):
            for path in paths if number % 2 == 0 else reversed(paths):
                if not path.slow or number % SLOWLY == 0:
                    path.turn(softirq)
        for path in paths:
            path.end()
    return paths


def report(paths):
    print('\nA packet on veth, processor time in ns; medians of %d interleaved rounds (least to most)' % len(paths[0].costs))
    dropped, routed = paths[0].costs, paths[1].costs
    kernel_ratio = None
    for path in paths:
        line = '  %-12s %6.0f (%.0f to %.0f)' % (path.name, statistics.median(path.costs), min(path.costs), max(path.costs))
        if path is not paths[0]:
            ratios = [(cost - d) / (r - d) for cost, d, r in zip(path.costs, dropped, routed)]
            line += ', without the sender %.2f (%.2f to %.2f) times routing' % (statistics.median(ratios), min(ratios), max(ratios))
            if path.name == 'kernel':
                kernel_ratio = statistics.median(ratios)
        if path.relay:
            calls = path.calls()
            line += '; system calls not counted (needs linux-perf)' if calls is None else '; %.3f system calls a packet' % calls
        print(line, flush=True)
    holds = kernel_ratio <= BOUND
    print('  %s: the kernel\'s forwarding costs at most %.2f times plain routing' % ('PASS' if holds else 'FAIL', BOUND))
    return 0 if holds else 1


def main():
    parser = argparse.ArgumentParser(description='What a packet costs on each path; needs root.')
    parser.add_argument('--bin', default=os.path.join(ROOT, 'target/release'))
    parser.add_argument('--rounds', type=int, default=5)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print('SKIP tests/netns/cost.py: needs root')
        return 0
    os.environ['PATH'] = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    scratch = tempfile.mkdtemp(prefix='mediaproxy-cost.')
    settings = types.SimpleNamespace(bin=os.path.abspath(options.bin), standin=None, keep=False, certificates=os.path.join(scratch, 'tls'))
    scenes = {}
    try:
        daemons.make_certificates(settings.certificates)
        for forwarding in ('kernel', 'userspace'):
            folder = os.path.join(scratch, forwarding)
            os.makedirs(folder)
            scene = Scene(settings, '', forwarding, 'mpc%d-%s' % (os.getpid(), forwarding[0]), folder)
            scenes[forwarding] = scene
            scene.open()
        return report(measure(scenes, options.rounds))
    finally:
        for scene in scenes.values():
            scene.close()
        subprocess.run(['rm', '-rf', scratch])


if __name__ == '__main__':
    sys.exit(main())
