"""Calls without SIP: the dispatcher's socket is driven as a proxy's module does, and the phones are sockets that count.

A call costs milliseconds here and may go on for as long as a scenario likes; what breaks meanwhile is the scenario's business.
Every packet is named. At the end each one that was sent has to have arrived once, from the relay's port that was told, but for
those that were sent in a `gap` which the scenario grants; the relay's figures have to be what arrived.
"""
import itertools
import json
import re
import socket
import struct
import time

import daemons as d
import netfilter
import paths
from loop import TimedOut
from media import PAYLOAD, PERIOD, RTCP_EVERY
from scene import PROXY, Failed
from script import CALLEE, CALLER, other

UPDATE = ('update\r\ntype: %(type)s\r\ndialog_id: \r\ncall_id: %(id)s\r\ncseq: %(cseq)d\r\nfrom_uri: a@test.invalid\r\nto_uri: b@test.invalid\r\n'
          'from_tag: %(from_tag)s\r\nto_tag: %(to_tag)s\r\nuser_agent: direct\r\nsignaling_ip: %(ip)s\r\nmedia_relay: %(relay)s\r\n'
          'media: audio:%(ip)s:%(port)d:sendrecv:ice=no\r\n\r\n')
REMOVE = 'remove\r\ncall_id: %(id)s\r\nfrom_tag: %(from_tag)s\r\nto_tag: %(to_tag)s\r\n\r\n'
IP_RECVTOS, IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 13, 10, 0
# Until the relay's figures are those of the phones, seconds.
SETTLED = 2.5
# No two phones have one SSRC.
SSRCS = itertools.count(7)
# How long the relay may take to find out that media is away, seconds.
NOTICED = 1.3


class Proxy:
    """A SIP proxy's connection to the dispatcher."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(6)
        self.sock.connect(path)

    def ask(self, text):
        self.sock.sendall(text.encode())
        answer = b''
        while not answer.endswith(b'\r\n'):
            data = self.sock.recv(4096)
            if not data:
                raise Failed('the dispatcher closed the connection')
            answer += data
        return answer.decode().strip()

    def update(self, name, role, address, cseq=1, relay=''):
        """The SDP of this party, in the caller's request or in the callee's reply; the relay's (ip, port) for the other one."""
        answer = self.ask(UPDATE % {
            'id': name, 'type': 'request' if role == CALLER else 'reply', 'cseq': cseq, 'from_tag': 'f' + name, 'relay': relay,
            'to_tag': '' if cseq == 1 and role == CALLER else 't' + name, 'ip': address[0], 'port': address[1]})
        fields = answer.split()
        if len(fields) != 2:
            raise Failed('update of %s, the %s, was answered %r' % (name, role, answer))
        return fields[0], int(fields[1])

    def remove(self, name):
        return self.ask(REMOVE % {'id': name, 'from_tag': 'f' + name, 'to_tag': 't' + name})


class End:
    """A phone's RTP and RTCP sockets in one call: sends every 20 ms, now and then RTCP, and keeps what comes."""

    def __init__(self, world, name, host, address, tos=0, payload=PAYLOAD):
        self.world, self.name, self.host, self.address = world, name, host, address
        self.payload, self.remote, self.running, self.number, self.ssrc = payload, None, False, 0, next(SSRCS)
        self.tos = tos
        # Packets by their content: when it was sent and its component; when it came, from where, on which component, with which TOS.
        self.sent, self.arrived = {}, []
        self.sockets = []
        self.bind()

    def bind(self):
        for component in (0, 1):
            sock = self.world.scene.lab.socket(self.host, socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((self.address[0], self.address[1] + component))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self.tos)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            sock.setblocking(False)
            self.world.scene.loop.add(sock, lambda s=sock, c=component: self.read(s, c))
            self.sockets.append(sock)

    def rebind(self, port):
        """Goes on from another port, in the same RTP stream: what a NAT's new mapping does to it."""
        self.shut()
        self.address = self.address[0], port
        self.bind()

    def read(self, sock, component):
        while True:
            try:
                data, extra, _, source = sock.recvmsg(65536, 64)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                continue  # an ICMP error about something that was sent
            tos = next((value[0] for _, kind, value in extra if kind == socket.IP_TOS), None)
            self.arrived.append((time.monotonic(), data, source, component, tos))
            self.got(data, source, component)

    def got(self, data, source, component):
        """For phones that answer."""

    def start(self):
        if not self.running:
            self.running, self.next = True, time.monotonic()
            self.tick()

    def stop(self):
        self.running = False

    def tick(self):
        if not self.running:
            return
        self.send(0)
        if self.number % RTCP_EVERY == 0:
            self.send(1)
        self.number += 1
        self.next += PERIOD
        self.world.scene.loop.at(self.next, self.tick)

    def send(self, component):
        head = struct.pack('!BBHII', 0x80, 8 if component == 0 else 201, self.number & 0xffff, self.number * 160, self.ssrc)
        data = head + (' %s %d %d ' % (self.name, component, self.number)).encode()
        data = data.ljust(self.payload if component == 0 else 64, b'.')
        self.sent[data] = time.monotonic(), component
        self.sockets[component].sendto(data, (self.remote[0], self.remote[1] + component))

    def close(self):
        self.stop()
        self.shut()

    def shut(self):
        for sock in self.sockets:
            self.world.scene.loop.remove(sock)
            sock.close()
        self.sockets = []


class Call:
    """One call: its ends by role. Whoever moved has several, the present one last."""

    def __init__(self, world, number, places, relay='', **options):
        self.world, self.name, self.cseq, self.hidden = world, 'direct-%d' % number, 1, ()
        self.ends = {role: [End(world, '%s %s' % (self.name, role), *places[role], **options)] for role in (CALLER, CALLEE)}
        self.exchange(relay)

    def exchange(self, relay=''):
        """An offer of the caller and the answer to it."""
        proxy = self.world.proxy
        self.now(CALLEE).remote = proxy.update(self.name, CALLER, self.now(CALLER).address, self.cseq, relay)
        self.now(CALLER).remote = proxy.update(self.name, CALLEE, self.now(CALLEE).address, self.cseq)
        self.cseq += 1

    def move_callee(self, port):
        """The callee answers the caller's next offer with another port, and sends from there; the old end goes on as it likes."""
        old = self.now(CALLEE)
        self.ends[CALLEE].append(End(self.world, '%s callee moved' % self.name, old.host, (old.address[0], port)))
        self.exchange()
        self.now(CALLEE).start()
        return old

    def now(self, role):
        return self.ends[role][-1]

    def all_ends(self):
        return [end for ends in self.ends.values() for end in ends]

    def start(self):
        for role in (CALLER, CALLEE):
            self.now(role).start()

    def stop(self):
        for end in self.all_ends():
            end.stop()

    def flows(self):
        """The four-tuples of the caller's and of the callee's packets as they enter the relay, for RTP and for RTCP."""
        for component in (0, 1):
            yield tuple((end.address[0], end.address[1] + component, end.remote[0], end.remote[1] + component)
                        for end in (self.now(CALLER), self.now(CALLEE)))

    def is_flowing(self, since, packets=10):
        """Have both ends got so many packets that were sent after `since`?"""
        for role in (CALLER, CALLEE):
            sent = self.now(role).sent
            got = sum(1 for _, data, _, component, _ in self.now(other(role)).arrived[-200:]
                      if component == 0 and data in sent and sent[data][0] > since)
            if got < packets:
                return False
        return True

    def arrived_from(self, role):
        """Every packet of this party that came to the other one, as (content, source, component)."""
        sent = {data for end in self.ends[role] for data in end.sent}
        return [(data, source, component) for end in self.ends[other(role)]
                for _, data, source, component, _ in end.arrived if data in sent]

    def judge(self, gaps):
        """What is wrong with this call's packets, as texts."""
        bad = []
        for role in (CALLER, CALLEE):
            came = {}
            for data, _, _ in self.arrived_from(role):
                came[data] = came.get(data, 0) + 1
            doubled = sum(1 for count in came.values() if count > 1)
            if doubled:
                bad.append('%d packets of the %s in %s came twice' % (doubled, role, self.name))
            gone = [sent for end in self.ends[role] for data, (sent, component) in end.sent.items()
                    if data not in came and not self.is_excused(role, sent, component, gaps)]
            if gone:
                bad.append('%d packets of the %s in %s are lost, sent within %.2f s, the last %.2f s before its end' % (
                    len(gone), role, self.name, max(gone) - min(gone), max(end.next for end in self.ends[role]) - max(gone)))
            bad += self.strange(role)
        return bad

    def strange(self, role):
        """What came to this party and should not have."""
        theirs = {data for end in self.ends[other(role)] for data in end.sent}
        for end in self.ends[role]:
            for _, data, source, component, _ in end.arrived:
                if data not in theirs:
                    return ['the %s in %s got %r from %s:%d' % ((role, self.name, data[:60]) + source)]
                if source != (end.remote[0], end.remote[1] + component):
                    return ['the %s in %s got media from %s:%d, was told %s:%d' % ((role, self.name) + source + end.remote)]
        return []

    def is_excused(self, role, sent, component, gaps):
        """Nobody can send to a party behind a NAT before it has sent itself."""
        if other(role) in self.hidden:
            firsts = [when for when, c in self.now(other(role)).sent.values() if c == component]
            if not firsts or sent < min(firsts) + paths.HAND_OVER:
                return True
        return any(start <= sent <= end for start, end in gaps)

    def figures(self, session, exact=True):
        """Where the relay's figures are not what arrived, or with `exact` unset more than that, as texts."""
        bad = []
        streams = session['streams']
        for role in (CALLER, CALLEE):
            arrived = self.arrived_from(role)
            wanted = len(arrived), sum(len(data) + 28 for data, _, _ in arrived)
            shown = tuple(sum(s['%s_%s' % (role, unit)] for s in streams) for unit in ('packets', 'bytes'))
            if shown != wanted if exact else shown > wanted:
                bad.append('%d packets, %d bytes of the %s in %s are counted; %d, %d arrived' % (*shown, role, self.name, *wanted))
            parts = sum(s['%s_packets_%s' % (role, path)] for s in streams for path in ('user_space', 'kernel'))
            if parts != shown[0]:
                bad.append('the packets by path of the %s in %s do not add up: %s' % (role, self.name, streams))
        return bad


class World:
    """Two hosts for phones, the dispatcher, and a relay on the router between them or on `host`."""

    def __init__(self, scene, host=None, phones=None, start=True, **keys):
        """phones: {role: (host, ip)}; keys: those of [Relay]; start: whether the relay is started here."""
        self.scene, self.calls, self.ended, self.gaps, self.log_from = scene, [], [], [], {}
        # Whether the relay can count all that arrives; the mark that it is told to use.
        self.exact, self.mark = True, netfilter.MARK
        self.phones = phones or {role: scene.attach(role, n)[::2] for role, n in ((CALLER, 11), (CALLEE, 12))}
        self.host = host or scene.router
        scene.daemons.start_dispatcher(scene.router)
        if start:
            self.start_relay(**keys)
            scene.stand_by(self.host)
        self.proxy = Proxy(scene.daemons.socket)

    def start_relay(self, name='relay', **keys):
        keys = dict({'relay_ip': PROXY} if self.host == self.scene.router else {}, **keys)
        where = '127.0.0.1' if self.host == self.scene.router else PROXY
        return self.scene.daemons.start_relay(self.host, keys.pop('dispatchers', where), name, **keys)

    # Calls

    def place(self, count=1, relay='', places=None, **options):
        """So many calls whose media starts at once, over both paths of both components."""
        made = []
        for number in range(len(self.calls), len(self.calls) + count):
            at = places or {role: (self.phones[role][0], (self.phones[role][1], base + 2 * number))
                            for role, base in ((CALLER, 20000), (CALLEE, 30000))}
            call = Call(self, number, at, relay, **options)
            self.calls.append(call)
            made.append(call)
        for call in made:
            call.start()
        return made

    def until_flowing(self, calls, seconds=3, since=None):
        since = time.monotonic() if since is None else since
        self.scene.loop.until(lambda: all(c.is_flowing(since) for c in calls), seconds, 'media in both directions of %s' % ' '.join(c.name for c in calls))

    def in_kernel(self, calls):
        """What misses in the kernel of these calls, as texts."""
        return [text for call in calls for flow in call.flows() for text in paths.lacks(self.host, *flow, mark=self.mark)]

    def until_in_kernel(self, calls, seconds=3):
        wrong = []

        def there():
            wrong[:] = self.in_kernel(calls)
            return not wrong
        try:
            self.scene.loop.until(there, seconds, 'the kernel to forward')
        except TimedOut:
            raise Failed('after %g s of media: %s' % (seconds, '\n'.join(wrong)))

    def until_in_user_space(self, calls, seconds=3):
        """No entry joins the ends of these calls any more."""
        flows = [set(flow) for call in calls for flow in call.flows()]
        self.scene.loop.until(lambda: not any({e.original, e.reply} in flows for e in netfilter.entries(self.host)), seconds,
                              'user space to have taken over')

    def ready(self, count=1, **options):
        """So many new calls, in the kernel and flowing."""
        calls = self.place(count, **options)
        self.until_in_kernel(calls)
        self.until_flowing(calls)
        return calls

    def grant(self, seconds):
        """What is sent from now on for so long may be lost."""
        now = time.monotonic()
        self.gaps.append((now - paths.HAND_OVER, now + seconds))

    def noticed(self, act, pattern):
        """Does what stops media; the relay has to say so in time. What is sent until then may be lost."""
        start = time.monotonic() - paths.HAND_OVER
        act()
        done = time.monotonic()
        self.until_said(pattern)
        now = time.monotonic()
        self.gaps.append((start, now))
        if now - done > NOTICED:
            self.scene.bad.append('it took the relay %.2f s to notice' % (now - done))

    def sessions(self):
        return {s['call_id']: s for s in (json.loads(line) for line in d.ask(self.scene.daemons.management, 'sessions', 5))}

    def until_explained(self, calls, pattern, seconds=4):
        """`explain` tells this of each of the calls, within the time."""
        def told():
            answers = {call.name: '\n'.join(d.ask(self.scene.daemons.management, 'explain ' + call.name, 5)) for call in calls}
            untold[:] = [text for text in answers.values() if not re.search(pattern, text)]
            return not untold
        untold = []
        try:
            self.scene.loop.until(told, seconds, '`explain` to tell')
        except TimedOut:
            self.scene.bad += ['`explain` does not tell %s:\n%s' % (pattern, text) for text in untold]

    # What the relay says

    def until_said(self, pattern, name='relay', seconds=4):
        """The relay's log has a line like this since it was looked for last."""
        def said():
            found = re.compile(pattern, re.I).search(self.scene.daemons.log(name), self.log_from.get(name, 0))
            if found:
                self.log_from[name] = found.end()
            return found
        try:
            return self.scene.loop.until(said, seconds, 'the log to tell')
        except TimedOut:
            self.scene.bad.append('the log of the %s does not say: %s' % (name, pattern))

    # The end

    def settle(self, calls):
        """Ends the media, and waits until the relay's figures are those of the phones."""
        for call in calls:
            call.stop()
        wrong = []

        def exact():
            listed = self.sessions()
            wrong[:] = [text for call in calls for text in (
                call.figures(listed[call.name], self.exact) if call.name in listed else ['`sessions` does not list ' + call.name])]
            return not wrong
        try:
            self.scene.loop.until(exact, SETTLED, 'the figures to settle')
        except TimedOut:
            self.scene.bad += wrong

    def end(self, calls):
        """Ends the media of these calls and then them; they are judged at the end."""
        self.settle(calls)
        for call in calls:
            answer = self.proxy.remove(call.name)
            if answer != 'removed':
                self.scene.bad.append('remove of %s was answered %r' % (call.name, answer))
        self.ended += calls

    def finish(self):
        """Ends the media and the calls, and judges. Raises Failed."""
        scene = self.scene
        self.end([call for call in self.calls if call not in self.ended])
        for host in scene.relay_hosts():
            scene.bad += paths.emptied(scene, host, mark=self.mark)
        scene.stop_daemons()
        log = ''.join(scene.daemons.log(name) for name in scene.daemons.relays)
        for call in self.calls:
            scene.bad += call.judge(self.gaps)
            last = paths.last_words(log, call.name)
            scene.bad += call.figures(last, self.exact) if last else ["the relay's log does not tell the end of " + call.name]
        for call in self.calls:
            for end in call.all_ends():
                end.close()
        if scene.bad:
            raise Failed('\n'.join(dict.fromkeys(scene.bad)))
