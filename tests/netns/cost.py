#!/usr/bin/env python3
"""What a packet costs: dropped as it enters the relay's host, routed, forwarded by the kernel, relayed in user space.

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
import glob
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import daemons  # noqa: E402
from direct import World  # noqa: E402
from lab import run  # noqa: E402
from scene import Scene  # noqa: E402
from script import CALLEE, CALLER  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Packets in a turn, turns in a round; user space has every third one. What is read at once; user space gets them in such bursts.
TURN, TURNS, SLOWLY, BURST = 1000, 60, 3, 50
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


def blast(path, others, count):
    """Nanoseconds of processor time of this thread and the others for so many packets; how many arrived."""
    buffer, read = bytearray(2048), 0
    before, mine = spent(*others), time.thread_time_ns()
    for number in range(count):
        path.sock.sendto(PACKET, path.to)
        if number % BURST == BURST - 1:
            if path.slow:
                time.sleep(0.002)
            try:
                while True:
                    path.receiver.recv_into(buffer)
                    read += 1
            except BlockingIOError:
                pass
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
        receiver.setblocking(False)
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
        count = 5 * TURN
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
    name = 'kernel' if forwarding == 'kernel' else 'user space'
    return Path(name, end.sockets[0], end.remote, call.now(CALLEE).sockets[0], scene.daemons.relays['relay'])


def measure(scenes, rounds):
    plain = scenes['kernel']
    dropping, sender, one = wired(plain, 'drop', 31)
    run('ip', 'netns', 'exec', dropping, 'nft', '-f', '-',
        stdin='table netdev t {\nchain c {\ntype filter hook ingress device e0 priority 0;\nip protocol udp drop\n}\n}\n')
    _, second, two = wired(plain, 'route', 32)
    paths = [Path('dropped', sender, ('10.31.2.2', 7000), one), Path('routed', second, ('10.32.2.2', 7000), two)]
    paths += [relayed(scene, forwarding) for forwarding, scene in scenes.items()]
    os.sched_setaffinity(0, {0})
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
        if path.relay or path is paths[1]:
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
