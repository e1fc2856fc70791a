"""The phones' media: captures on their hosts, what the SDP on the wire says, and the RTP that follows from it.

A phone here does what RFC 3264 asks: it takes up an offer when the answer has passed, sends from the port that its own
SDP names to the address that the other SDP names, and stops where a direction or port 0 says so. Everything is
judged from the captures, never from what a sender believes.
"""
import itertools
import re
import socket
import struct
import time
from collections import namedtuple

from script import CALLER, CALLEE, other

ETH_P_ALL = 3
SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS, PACKET_OUTGOING = 263, 6, 4
SIP_PORTS = range(5060, 5080)
# 20 ms of G.711; each packet carries its own name, so that none is like another.
PERIOD = 0.02
PAYLOAD = 172
# An RTCP packet goes with every so many RTP packets, the first one included.
RTCP_EVERY = 20
PAYLOAD_TYPES = {('audio', CALLER): 8, ('audio', CALLEE): 0, ('video', CALLER): 34, ('video', CALLEE): 34}

# A datagram as it passed on a host: UNIX time (kernel's), whether it left, (ip, port) twice, the payload.
Packet = namedtuple('Packet', 'time out src dst data')
# An m= line of an SDP.
Line = namedtuple('Line', 'kind ip port direction')
# One SDP on the wire of one party: time, whether it left, (who sent the INVITE, CSeq), its m= lines, and what
# carries it: a method or a status.
Passed = namedtuple('Passed', 'time out exchange lines carrier')
# From `time` on this party uses `local` and sends to `remote`: lists of Line, by position.
Commit = namedtuple('Commit', 'time exchange local remote')


def parse_sdp(body):
    """The m= lines; a direction or address for the session holds where a stream has none."""
    ip, direction, lines = None, 'sendrecv', []
    for line in body.split('\r\n'):
        if line.startswith('c='):
            if lines:
                lines[-1] = lines[-1]._replace(ip=line.split()[-1])
            else:
                ip = line.split()[-1]
        elif line.startswith('m='):
            fields = line[2:].split()
            lines.append(Line(fields[0], ip, int(fields[1].split('/')[0]), direction))
        elif line in ('a=sendonly', 'a=recvonly', 'a=inactive', 'a=sendrecv'):
            if lines:
                lines[-1] = lines[-1]._replace(direction=line[2:])
            else:
                direction = line[2:]
    return lines


def header(head, name):
    found = re.search(r'(?im)^%s *: *([^\r\n]*)' % name, head)
    return found.group(1) if found else ''


def recording(path, packets, payload_type, ssrc):
    """A pcap of RTP and RTCP for sipp to play: what matters is the payloads and the distance of the ports."""
    with open(path, 'wb') as f:
        f.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for number in range(packets):
            rtp = struct.pack('!BBHII', 0x80, payload_type, number, number * 160, ssrc).ljust(PAYLOAD, b'.')
            report = struct.pack('!BBHIII', 0x81, 201, 2, ssrc, number, 0)
            for port, data in [(6000, rtp)] + [(6001, report)] * (number % RTCP_EVERY == 0):
                udp = struct.pack('!HHHH', port, port, 8 + len(data), 0) + data
                ip = struct.pack('!BBHHHBBH8x', 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0) + udp
                frame = bytes(12) + b'\x08\x00' + ip
                f.write(struct.pack('<IIII', 1000 + number // 50, number % 50 * 20000, len(frame), len(frame)) + frame)


class Capture:
    """All IPv4 UDP datagrams on one interface of a host, in both directions, with the kernel's time."""

    def __init__(self, lab, host, interface):
        self.lab, self.host = lab, host
        self.packets, self.parties, self.lost = [], [], 0
        self.sock = lab.socket(host, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.sock.bind((interface, ETH_P_ALL))
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.sock.setblocking(False)
        lab.loop.add(self.sock, self.read)

    def read(self):
        for _ in range(200):
            try:
                data, extra, _, address = self.sock.recvmsg(65536, 64)
            except BlockingIOError:
                return
            if len(data) < 28 or data[0] >> 4 != 4 or data[9] != 17:
                continue
            stamp = next((struct.unpack('qq', d[:16]) for _, kind, d in extra if kind == SO_TIMESTAMPNS), None)
            when = stamp[0] + stamp[1] / 1e9 if stamp else time.time()
            start = (data[0] & 15) * 4
            sport, dport, length = struct.unpack_from('!HHH', data, start)
            packet = Packet(when, address[2] == PACKET_OUTGOING, (socket.inet_ntoa(data[12:16]), sport),
                            (socket.inet_ntoa(data[16:20]), dport), bytes(data[start + 8:start + length]))
            self.take(packet)

    def take(self, packet):
        if packet.src[1] not in SIP_PORTS and packet.dst[1] not in SIP_PORTS:
            self.packets.append(packet)
            return
        for party in self.parties:
            party.on_sip(packet)

    def close(self):
        self.read()
        _, self.lost = struct.unpack('II', self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.lab.loop.remove(self.sock)
        self.sock.close()


class Party:
    """One end of one call: follows the SDP that passes on its host, and sends media by it."""

    def __init__(self, lab, call, role, capture, seconds=1.2, silent=False):
        self.lab, self.call, self.role, self.capture = lab, call, role, capture
        # How long each stream sends after a commit, in seconds; silent: the party sends nothing at all.
        self.seconds, self.silent = seconds, silent
        self.passed, self.commits, self.exchanges = [], [], {}
        self.streams, self.ended, self.final = {}, None, None
        capture.parties.append(self)

    @property
    def host(self):
        return self.call.phones[self.role].host

    @property
    def name(self):
        return '%s of call %d' % (self.role, self.call.number)

    def on_sip(self, packet):
        head, _, body = packet.data.decode('latin-1').partition('\r\n\r\n')
        if header(head, 'call-id') != self.call.call_id:
            return
        first = head.split('\r\n')[0]
        request = not first.startswith('SIP/')
        number, _, method = header(head, 'cseq').partition(' ')
        if method == 'BYE' and self.ended is None:
            self.ended = packet.time
        if first.startswith('SIP/2.0 ') and method == 'INVITE' and first[8] != '1' and self.final is None:
            self.final = first[8:11]
        if not body.strip():
            return
        mine = packet.out == request
        key = (self.role if mine else other(self.role), int(number))
        carrier = first.split(' ')[0 if request else 1]
        self.on_sdp(Passed(packet.time, packet.out, key, parse_sdp(body), carrier))

    def on_sdp(self, sdp):
        if any(p[1:] == sdp[1:] for p in self.passed):
            return  # a retransmission
        self.passed.append(sdp)
        offer = self.exchanges.setdefault(sdp.exchange, sdp)
        if offer.out == sdp.out:
            return
        local, remote = (offer, sdp) if offer.out else (sdp, offer)
        commit = Commit(sdp.time, sdp.exchange, local.lines, remote.lines)
        self.commits.append(commit)
        if not self.silent:
            self.take_up(commit)

    def take_up(self, commit):
        for position, (local, remote) in enumerate(zip(commit.local, commit.remote)):
            stream = self.streams.get(position)
            sends = (local.port and remote.port and remote.ip != '0.0.0.0'
                     and local.direction in ('sendrecv', 'sendonly') and remote.direction in ('sendrecv', 'recvonly'))
            if not sends:
                if stream:
                    stream.stop()
                continue
            if stream is None:
                stream = self.streams[position] = Stream(self, position)
            stream.go(local, (remote.ip, remote.port), self.seconds)

    def sending(self):
        return any(s.until is not None for s in self.streams.values())

    def close(self):
        for stream in self.streams.values():
            stream.close()


class Stream:
    """What one party sends for one m= line: RTP (or anything, for T.38) every 20 ms and now and then RTCP."""

    def __init__(self, party, position):
        self.party, self.position = party, position
        self.sockets, self.count, self.until = {}, itertools.count(), None
        self.sent = [0, 0]
        self.ticking = False
        self.local = self.remote = self.kind = None

    def go(self, local, remote, seconds):
        self.kind, self.local, self.remote = local.kind, (local.ip, local.port), remote
        for port in (local.port, local.port + 1):
            if (local.ip, port) not in self.sockets:
                sock = self.party.lab.socket(self.party.host, socket.AF_INET, socket.SOCK_DGRAM)
                sock.bind((local.ip, port))
                sock.setblocking(False)
                self.sockets[(local.ip, port)] = sock
        self.until = time.monotonic() + seconds
        if not self.ticking:
            self.ticking, self.next = True, time.monotonic()
            self.tick()

    def stop(self):
        self.until = None

    def tick(self):
        if self.until is None or self.next > self.until:
            self.until, self.ticking = None, False
            return
        number = next(self.count)
        self.send(0, self.rtp(number))
        if self.kind != 'image' and number % RTCP_EVERY == 0:
            self.send(1, self.rtcp(number))
        self.next += PERIOD
        self.party.lab.loop.at(self.next, self.tick)

    def send(self, component, data):
        try:
            self.sockets[(self.local[0], self.local[1] + component)].sendto(data, (self.remote[0], self.remote[1] + component))
            self.sent[component] += 1
        except OSError as error:
            raise RuntimeError('%s cannot send to %s: %s' % (self.party.name, self.remote, error))

    def name(self, number, what):
        return ('%s %s %s %s %d' % (self.party.call.call_id, self.party.role, self.position, what, number)).encode()

    def ssrc(self):
        return 0x10000 * self.party.call.number + 0x100 * (self.party.role == CALLEE) + self.position

    def rtp(self, number):
        if self.kind == 'image':
            return struct.pack('!HB', number, 1) + self.name(number, 'udptl')
        kind = PAYLOAD_TYPES[(self.kind, self.party.role)]
        head = struct.pack('!BBHII', 0x80, kind, number & 0xffff, number * 160, self.ssrc())
        return head + self.name(number, 'rtp').ljust(PAYLOAD - len(head), b'.')

    def rtcp(self, number):
        """A receiver report and an APP packet that carries the name (RFC 3550 section 6)."""
        name = self.name(number, 'rtcp')
        name = name.ljust((len(name) + 3) // 4 * 4, b'.')
        report = struct.pack('!BBHI', 0x80, 201, 1, self.ssrc())
        return report + struct.pack('!BBHI4s', 0x80, 204, 2 + len(name) // 4, self.ssrc(), b'test') + name

    def close(self):
        self.stop()
        for sock in self.sockets.values():
            sock.close()
