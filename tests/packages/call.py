"""A call through the machine's dispatcher and relay: the proxy's socket is driven as a proxy's module does, and two phones in the
network namespace send every 20 ms. Each packet is named: what is lost, comes twice or from a wrong port is known.
"""
import ctypes
import json
import os
import select
import socket
import struct
import threading
import time

from machine import SIDES, Failed, wait_for

PERIOD = 0.02
CLONE_NEWNET = 0x40000000
UPDATE = ('update\r\ntype: %(type)s\r\ndialog_id: \r\ncall_id: %(id)s\r\ncseq: 1\r\nfrom_uri: a@test.invalid\r\nto_uri: b@test.invalid\r\n'
          'from_tag: f\r\nto_tag: %(to_tag)s\r\nuser_agent: test\r\nmedia: audio:%(ip)s:%(port)d:sendrecv:ice=no\r\n\r\n')
REMOVE = 'remove\r\ncall_id: %s\r\nfrom_tag: f\r\nto_tag: t\r\n\r\n'
# Of both daemons on the machine.
CONFIG = ('[Relay]\ndispatchers = 127.0.0.1\nauto_detect_interfaces = yes\nport_range = 40000:40400\n'
          'routable_private_ranges = 10.0.0.0/8\nreconnect_delay = 1\nforwarding = kernel\n'
          '[Dispatcher]\nlisten = 127.0.0.1\nlisten_management = 127.0.0.1\n')
libc = ctypes.CDLL(None, use_errno=True)


def line(machine, name, text):
    """Asks one of the dispatcher's sockets; the answer up to the end of the connection or the first line."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(8)
        sock.connect(machine.path('/run/mediaproxy/' + name))
        sock.sendall(text.encode())
        answer = b''
        end = b'\r\n' if name == 'dispatcher.sock' else b'\r\n\r\n'
        while not answer.endswith(end) and answer != b'\r\n':
            data = sock.recv(65536)
            if not data:
                break
            answer += data
    return answer.decode().strip()


def sessions(machine):
    """What the dispatcher lists, by call-id."""
    listed = [json.loads(text) for text in line(machine, 'management.sock', 'sessions\r\n').splitlines() if text.strip()]
    return {session['call_id']: session for session in listed}


def linked(machine):
    """Waits until the relay can be given calls."""
    def is_linked():
        try:
            return '"active"' in line(machine, 'management.sock', 'summary\r\n')
        except OSError:
            return False
    wait_for('a relay linked to the dispatcher', is_linked)


def socket_in(namespace, address, port=0):
    """UDP, in the network namespace of that file."""
    made = []

    def make():
        with open(namespace) as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), 'setns')
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, port))
        made.append(sock)

    # Of a thread of its own, which ends in there.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


class Call:
    """Media flows from when it is made until `end`."""

    def __init__(self, machine, name, on_host=False):
        """With `on_host`, the callee is on the machine itself: such media the kernel does not forward."""
        self.machine, self.name = machine, name
        phones = '/run/netns/' + machine.phones
        places = [(phones, SIDES[0] + '.2'), ('/proc/%d/ns/net' % machine.pid, SIDES[1] + '.1') if on_host else (phones, SIDES[1] + '.2')]
        self.socks = [socket_in(*place) for place in places]
        self.remotes, self.sent, self.received, self.strange = [None, None], [0, 0], [{}, {}], []
        self.offer()
        self.sending = True
        self.thread = threading.Thread(target=self.talk)
        self.thread.start()

    def offer(self):
        """The caller's request gives the callee's way to the relay, and the reply the caller's."""
        for party, kind, to_tag in ((0, 'request', ''), (1, 'reply', 't')):
            ip, port = self.socks[party].getsockname()
            answer = line(self.machine, 'dispatcher.sock', UPDATE % {
                'type': kind, 'id': self.name, 'to_tag': to_tag, 'ip': ip, 'port': port})
            if len(answer.split()) != 2:
                raise Failed('call %s, %s: the dispatcher answered %r' % (self.name, kind, answer))
            ip, port = answer.split()
            self.remotes[1 - party] = ip, int(port)

    def talk(self):
        due = time.monotonic()
        ending = None
        while ending is None or time.monotonic() < ending:
            now = time.monotonic()
            if self.sending and now >= due:
                due += PERIOD
                for party, sock in enumerate(self.socks):
                    number = self.sent[party]
                    head = struct.pack('>BBHII', 0x80, 0, number & 0xffff, number * 160, 7 + party)
                    sock.sendto(head + struct.pack('>I', number) + bytes(156), self.remotes[party])
                    self.sent[party] += 1
            elif not self.sending and ending is None:
                ending = now + 0.5
            for sock in select.select(self.socks, [], [], max(0, min(PERIOD, due - time.monotonic())) if self.sending else 0.05)[0]:
                self.take(self.socks.index(sock), *sock.recvfrom(2048))

    def take(self, party, data, source):
        if source != self.remotes[party]:
            self.strange.append(source)
        number = struct.unpack('>I', data[12:16])[0]
        self.received[party][number] = self.received[party].get(number, 0) + 1

    def goes_on(self, packets=50):
        """Waits until so many more have arrived at each phone."""
        wanted = [max(seen, default=0) + packets for seen in self.received]
        wait_for('%d more packets of call %s' % (packets, self.name),
                 lambda: all(max(seen, default=0) >= least for seen, least in zip(self.received, wanted)))

    def by_kernel(self):
        """Packets that the kernel has forwarded, and the state of the session."""
        stream = sessions(self.machine)[self.name]['streams'][0]
        return min(stream[party + '_packets_kernel'] for party in ('caller', 'callee'))

    def end(self):
        """Every packet has arrived once; then the call is removed."""
        self.stop()
        answer = line(self.machine, 'dispatcher.sock', REMOVE % self.name)
        if answer != 'removed':
            raise Failed('call %s: removal was answered %r' % (self.name, answer))
        for party in (0, 1):
            seen = self.received[1 - party]
            lost = [n for n in range(self.sent[party]) if n not in seen]
            double = [n for n, count in seen.items() if count > 1]
            if lost or double or self.strange:
                raise Failed('call %s, from phone %d: %d sent, lost %r, twice %r, from wrong ports %r' % (
                    self.name, party, self.sent[party], lost[:20], double[:20], self.strange[:3]))
        return sum(self.sent)

    def stop(self):
        if self.sending:
            self.sending = False
            self.thread.join()
            for sock in self.socks:
                sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def refused(machine, name):
    """Whether a new call is refused."""
    answer = line(machine, 'dispatcher.sock', UPDATE % {'type': 'request', 'id': name, 'to_tag': '', 'ip': SIDES[0] + '.2', 'port': 9000})
    return answer == 'error'
