"""A stand-in for both daemons in one process, to test the tests: it relays simple calls, and one fault can be asked for.

    standin.py RUNTIME_DIR RELAY_IP FIRST_PORT FAULT FORWARDING

Faults: none, lose (a packet now and then), duplicate, source (sends from a wrong port), leak (a removed session stays listed),
miscount (one packet too many in the statistics), moved-port (a new port for an unchanged stream), stale (the old ports for a moved
one), cross (a packet now and then to another call's party), far-end (gives the far end's port), overtake (two packets change places).
With forwarding `kernel` (standin_kernel.py) also: never (all in user space), unmarked (entries without the mark), one-way (entries that
only count: the elements of one direction are missing), slow (the hand-over comes late), entry-left, element-left, table-left (when all is
over), trample (takes what other programs have).
It knows nothing of time-outs, TLS, several relays: the scenarios that need these cannot run with it.
"""
import json
import os
import selectors
import signal
import socket
import sys

from standin_kernel import Kernel, NoKernel

CALLER, CALLEE = 'caller', 'callee'
CODEC = {0: 'G711u', 8: 'G711a', 34: 'H263'}


class Stream:
    """Two legs with an RTP and an RTCP socket each; what comes in on one leg leaves by the other."""

    def __init__(self, relay, kind):
        self.relay, self.kind, self.status = relay, kind, 'active'
        self.sdp, self.learned, self.flows, self.held = {}, {}, {}, None
        self.kernel = {CALLER: [0, 0], CALLEE: [0, 0]}
        self.packets, self.bytes = {CALLER: 0, CALLEE: 0}, {CALLER: 0, CALLEE: 0}
        self.codec = {CALLER: 'Unknown', CALLEE: 'Unknown'}
        self.ports, self.sockets = {}, {}
        for leg in (CALLER, CALLEE):
            self.ports[leg] = relay.next_port
            relay.next_port += 2
            for component in (0, 1):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.bind((relay.ip, self.ports[leg] + component))
                self.sockets[(leg, component)] = sock
                relay.selector.register(sock, selectors.EVENT_READ, lambda l=leg, c=component: self.arrive(l, c))

    def arrive(self, leg, component):
        data, source = self.sockets[(leg, component)].recvfrom(65536)
        if self.learned.setdefault((leg, component), source) != source:
            return
        peer = CALLEE if leg == CALLER else CALLER
        target = self.learned.get((peer, component))
        if target is None and self.sdp.get(peer, ('', 0))[0].startswith('10.'):
            target = (self.sdp[peer][0], self.sdp[peer][1] + component)
        if component == 0 and self.kind != 'image':
            self.codec[leg] = CODEC.get(data[1] & 127, 'Unknown')
        if target is None:
            return
        self.forward(leg, peer, component, data, target)
        self.hand_over(component)

    def hand_over(self, component):
        """To the kernel, where both are known and nobody has to be waited for."""
        ends = [self.learned.get((leg, component)) for leg in (CALLER, CALLEE)]
        if None in ends or self.flows.get(component):
            return
        caller, callee = (end + (self.relay.ip, self.ports[leg] + component) for leg, end in zip((CALLER, CALLEE), ends))
        self.flows[component] = self.relay.kernel.install(caller, callee)

    def take_back(self):
        """From the kernel, with the last counters."""
        for flow in self.flows.values():
            for leg, counted in zip((CALLER, CALLEE), self.relay.kernel.withdraw(flow)):
                self.kernel[leg] = [a + b for a, b in zip(self.kernel[leg], counted)]
        self.flows = {}

    def by_path(self, leg):
        """[packets, bytes] in user space, and in the kernel."""
        running = [self.relay.kernel.counters(flow)[leg == CALLEE] for flow in self.flows.values()]
        return [self.packets[leg], self.bytes[leg]], [sum(column) for column in zip(self.kernel[leg], *running)]

    def forward(self, leg, peer, component, data, target):
        fault, self.relay.count = self.relay.fault, self.relay.count + 1
        now = self.relay.count % 40 == 30
        self.packets[leg] += 2 if fault == 'miscount' and now else 1
        self.bytes[leg] += len(data) + 28
        if fault == 'lose' and now:
            return
        self.relay.targets.add(target)
        if fault == 'cross' and self.relay.count % 7 == 0:
            target = min(t for t in self.relay.targets if t[1] % 2 == component)
        out = self.sockets[(leg if fault == 'source' and now else peer, component)]
        if fault == 'overtake' and now and component == 0:
            self.held = out, data, target
            return
        for _ in range(2 if fault == 'duplicate' and now else 1):
            out.sendto(data, target)
        if self.held and self.held[0] is out:
            out.sendto(*self.held[1:])
            self.held = None

    def set(self, party, address):
        if self.sdp.get(party) not in (None, address):
            self.take_back()
            self.learned = {k: v for k, v in self.learned.items() if k[0] != party}
        self.sdp[party] = address

    def close(self, status):
        self.status = status
        self.take_back()
        for sock in self.sockets.values():
            self.relay.selector.unregister(sock)
            sock.close()
        self.sockets = {}

    def json(self):
        out = {'media_type': self.kind, 'status': self.status}
        for leg in (CALLER, CALLEE):
            remote, paths = self.learned.get((leg, 0)), self.by_path(leg)
            for name, (packets, size) in zip(('user_space', 'kernel'), paths):
                out.update({'%s_packets_%s' % (leg, name): packets, '%s_bytes_%s' % (leg, name): size})
            packets, size = (sum(column) for column in zip(*paths))
            out.update({leg + '_packets': packets, leg + '_bytes': size, leg + '_codec': self.codec[leg],
                        leg + '_local': '%s:%d' % (self.relay.ip, self.ports[leg]), leg + '_remote': '%s:%d' % remote if remote else 'Unknown'})
        return out


class Session:
    def __init__(self, relay, h):
        self.relay, self.caller_tag = relay, h['from_tag']
        self.head = {'call_id': h['call_id'], 'from_tag': h['from_tag'], 'to_tag': None, 'start_time': None}
        self.agents = {CALLER: 'Unknown', CALLEE: 'Unknown'}
        self.streams, self.answered, self.all, self.exchange = [], [], [], None

    def update(self, h):
        downstream = (h['type'] == 'request') == (h['from_tag'] == self.caller_tag)
        party, receiver = (CALLER, CALLEE) if downstream else (CALLEE, CALLER)
        self.agents[party] = h['user_agent']
        self.head['to_tag'] = self.head['to_tag'] or (h['to_tag'] if h['from_tag'] == self.caller_tag and h['to_tag'] else None)
        media = [item.split(':')[:3] for item in h['media'].split(',')]
        exchange = (h['from_tag'], h['cseq'])
        if exchange != self.exchange:
            self.exchange, self.offerer = exchange, party
            self.streams = [self.offer(i, party, *m) for i, m in enumerate(media)]
        elif party != self.offerer:
            self.answer(party, media)
        shift = {'far-end': lambda s: s.sdp.get(party, ('', 0))[1], 'none': lambda s: s.ports[receiver]}
        port = shift.get(self.relay.fault, shift['none'])
        return ' '.join([self.relay.ip] + [str(port(s) if s and s.sockets else 0) for s in self.streams])

    def offer(self, position, party, kind, ip, port):
        old = self.answered[position] if position < len(self.answered) else None
        if port == '0':
            if old and old.sockets:
                old.close('closed')
            return None
        same = old and old.sockets and old.kind == kind and (
            old.sdp.get(party) == (ip, int(port)) or ip == '0.0.0.0' or self.relay.fault == 'stale')
        if not same or self.relay.fault == 'moved-port':
            old = Stream(self.relay, kind)
            self.all.append(old)
        if ip != '0.0.0.0':
            old.set(party, (ip, int(port)))
        return old

    def answer(self, party, media):
        self.head['start_time'] = 1.0
        for stream, (_, ip, port) in zip(self.streams, media):
            if stream and port == '0':
                stream.close('rejected')
            elif stream:
                stream.set(party, (ip, int(port)))
        for stream in self.all:
            if stream.sockets and stream not in self.streams:
                stream.close('closed')
        self.answered = list(self.streams)

    def close(self):
        for stream in self.all:
            stream.close('closed')

    def json(self):
        return dict(self.head, caller_ua=self.agents[CALLER], callee_ua=self.agents[CALLEE], streams=[s.json() for s in self.all])


class Standin:
    def __init__(self, folder, ip, first, fault, forwarding):
        self.kernel = NoKernel() if forwarding == 'userspace' or fault == 'never' else Kernel(ip, int(first), fault)
        self.ip, self.next_port, self.fault, self.targets = ip, int(first), fault, set()
        self.selector, self.sessions, self.count, self.texts = selectors.DefaultSelector(), {}, 0, {}
        for name, answer in (('dispatcher.sock', self.command), ('management.sock', self.manage)):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(os.path.join(folder, name))
            listener.listen(16)
            self.selector.register(listener, selectors.EVENT_READ, lambda l=listener, a=answer: self.accept(l, a))

    def accept(self, listener, answer):
        sock, _ = listener.accept()
        self.texts[sock] = ''
        self.selector.register(sock, selectors.EVENT_READ, lambda: self.read(sock, answer))

    def read(self, sock, answer):
        data = sock.recv(65536)
        if not data:
            self.selector.unregister(sock)
            return sock.close()
        self.texts[sock] += data.decode('latin-1')
        end = '\r\n\r\n' if answer == self.command else '\r\n'
        while end in self.texts[sock]:
            text, self.texts[sock] = self.texts[sock].split(end, 1)
            sock.sendall(answer(text).encode('latin-1'))

    def command(self, text):
        lines = text.split('\r\n')
        h = dict(line.partition(': ')[::2] for line in lines[1:])
        session = self.sessions.get(h['call_id'])
        if lines[0] == 'remove':
            if session is None:
                return 'error\r\n'
            session.close()
            print('[session %s] removed (closed): %s' % (h['call_id'], json.dumps(session.json())), flush=True)
            if self.fault != 'leak':
                del self.sessions[h['call_id']]
            return 'removed\r\n'
        if 'media' not in h:
            if session:
                session.head['to_tag'] = h['to_tag']
            return self.ip + '\r\n'
        if '::' in h['media']:
            return 'error\r\n'  # IPv6 is not relayed
        if session is None:
            session = self.sessions[h['call_id']] = Session(self, h)
        return session.update(h) + '\r\n'

    def manage(self, text):
        if text == 'summary':
            return json.dumps({'status': 'active', 'ip': self.ip}) + '\r\n\r\n'
        if text == 'version':
            return 'stand-in\r\n\r\n'
        return ''.join(json.dumps(s.json()) + '\r\n' for s in self.sessions.values()) + '\r\n'

    def run(self):
        while True:
            for key, _ in self.selector.select():
                if key.fileobj.fileno() >= 0:
                    key.data()


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    standin = Standin(*sys.argv[1:6])
    try:
        standin.run()
    finally:
        standin.kernel.close()
