"""The judge: what the captures, the recorder and the management port must show. No tolerance beyond what is named here.

Media: every packet that a phone sent comes out at the other phone, once, from the relay's port that this phone was told,
and nothing else comes. Lost may be only
- what was sent towards a party that nobody could know yet: behind a NAT, before anything of it came through;
- what was on its way while a stream was closed, moved or proposed anew (`Window`).
Which path it took is judged in paths.py.
"""
from collections import defaultdict, namedtuple

import paths
from daemons import PORTS
from script import CALLER, CALLEE, Busy, Cancel, Reinvite, Setup, other

# What may still sit in a socket's queue when its stream is closed, seconds.
IN_FLIGHT = 0.05
# A session is gone within this time of its end, seconds.
GONE_WITHIN = 2
UDP_AND_IP = 28
CODECS = {('audio', CALLER): 'G711a', ('audio', CALLEE): 'G711u', ('video', CALLER): 'H263', ('video', CALLEE): 'H263'}

# Packets of this stream that its party sent between these times may be lost.
Window = namedtuple('Window', 'start end to', defaults=(None,))
# A packet that was sent: by which party, its m= line, component 0 (RTP) or 1 (RTCP), and the datagram.
Sent = namedtuple('Sent', 'party position component packet')


def local_line(party, address, time):
    """Which of the party's m= lines and which component an own address is; by the SDP nearest in time. None: neither."""
    best = None
    for sdp in party.passed:
        if not sdp.out:
            continue
        for position, line in enumerate(sdp.lines):
            if line.port and address[0] == line.ip and address[1] - line.port in (0, 1):
                found = (position, address[1] - line.port)
                if best is None or sdp.time <= time:
                    best = found
    return best


class Judge:
    def __init__(self, parties, captures, tap, samples, relay_ips, forwarding):
        """parties: pairs (caller, callee) of media.Party; relay_ips: the addresses that each role may be told."""
        self.calls, self.captures, self.tap, self.samples = parties, captures, tap, samples
        self.relay_ips, self.forwarding = relay_ips, forwarding
        self.bad, self.sent, self.received = [], {}, defaultdict(list)

    def fail(self, text, *values):
        line = text % values
        if line not in self.bad:
            self.bad.append(line)

    def judge(self, relay_logs):
        """relay_logs: the text of all relays' logs."""
        for capture in self.captures:
            if capture.lost:
                self.fail('the capture on %s itself lost %d packets', capture.host, capture.lost)
        self.collect_sent()
        self.collect_received()
        for pair in self.calls:
            self.signalling(pair)
            self.relay_ports(pair)
            self.delivery(pair)
            self.commands(pair[0].call, pair)
            windows = paths.learning(self, pair)
            for text in paths.order(self, pair, windows):
                self.fail('%s', text)
            if pair[0].call.rules.get('statistics', True) and self.answered(pair[0].call):
                self.statistics(pair, windows)
                self.last_words(pair, windows, relay_logs)
        for complaint in self.tap.complaints:
            self.fail('proxy socket: %s', complaint)
        return self.bad

    # Media

    def collect_sent(self):
        for capture in self.captures:
            for packet in capture.packets:
                if not packet.out:
                    continue
                party, place = self.owner(capture, packet.src, packet.time)
                if party is None:
                    self.fail('%s sent a packet from %s:%d, which no SDP names', capture.host, *packet.src)
                elif packet.data in self.sent:
                    self.fail('the test itself sent a packet twice')
                else:
                    self.sent[packet.data] = Sent(party, place[0], place[1], packet)

    def owner(self, capture, address, time):
        for party in capture.parties:
            place = local_line(party, address, time)
            if place:
                return party, place
        return None, None

    def collect_received(self):
        for capture in self.captures:
            for packet in capture.packets:
                if not packet.out:
                    self.arrival(capture, packet)

    def arrival(self, capture, packet):
        sent = self.sent.get(packet.data)
        where = '%s:%d' % packet.dst
        if sent is None:
            return self.fail('%s got a packet at %s from %s:%d that nobody sent', capture.host, where, *packet.src)
        party, place = self.owner(capture, packet.dst, packet.time)
        if party is None or party.call is not sent.party.call or party is sent.party:
            return self.fail('crossed: a packet of the %s arrived at %s, %s', sent.party.name, capture.host, where)
        if place != (sent.position, sent.component):
            self.fail('crossed: stream %d.%d of the %s arrived at %s', sent.position, sent.component, sent.party.name, where)
        self.received[packet.data].append(packet)
        allowed = self.told(party, place, packet)
        if packet.src not in allowed:
            self.fail('the %s got media from %s:%d at %s, was told %s', party.name, *packet.src, where,
                      ' '.join('%s:%d' % a for a in sorted(allowed)) or 'nothing')

    def told(self, party, place, packet):
        """The relay's addresses that may send to this place now: the commit in force, the one that follows, and, for
        what is in flight, the one before."""
        position, component = place
        allowed, following = set(), None
        for index, commit in enumerate(party.commits):
            if commit.time > packet.time:
                following = commit
                break
            until = party.commits[index + 1].time if index + 1 < len(party.commits) else None
            if until is None or packet.time < until + IN_FLIGHT:
                allowed |= self.remote(commit, position, component)
        if following:
            allowed |= self.remote(following, position, component)
        return allowed

    def remote(self, commit, position, component):
        line = commit.remote[position] if position < len(commit.remote) else None
        return {(line.ip, line.port + component)} if line and line.port else set()

    def delivery(self, pair):
        call, count = pair[0].call, 0
        for party, peer in (pair, pair[::-1]):
            first = self.first_from(peer)
            windows = self.windows(party, peer)
            lost = defaultdict(list)
            for sent in (s for s in self.sent.values() if s.party is party):
                arrivals = self.received.get(sent.packet.data, [])
                count += len(arrivals)
                if len(arrivals) > 1:
                    self.fail('duplicated: stream %d.%d of the %s', sent.position, sent.component, party.name)
                if not arrivals and not self.excused(sent, peer, first, windows):
                    lost[(sent.position, sent.component)].append(sent.packet.time)
            for place, times in sorted(lost.items()):
                if call.rules.get('complete', True):
                    self.fail('lost: %d packets of stream %d.%d from the %s, sent from %.3f to %.3f', len(times), *place, party.name,
                              min(times) % 1000, max(times) % 1000)
        least = call.rules.get('least', 100 if self.answered(call) else 0)
        if count < least:
            self.fail('only %d packets passed in call %d, at least %d should have', count, call.number, least)

    def first_from(self, party):
        """When the first packet of each (stream, component) of this party arrived at the other end."""
        first = {}
        for sent in (s for s in self.sent.values() if s.party is party):
            place = (sent.position, sent.component)
            for packet in self.received.get(sent.packet.data, []):
                first[place] = min(packet.time, first.get(place, packet.time))
        return first

    def excused(self, sent, peer, first, windows):
        place = (sent.position, sent.component)
        # The peer cannot be reached at the address in its SDP: it becomes known when its first packet comes through.
        hidden = peer.call.rules.get('hidden', ())
        if peer.role in hidden and sent.packet.time < first.get(place, float('inf')):
            return True
        return any(w.start <= sent.packet.time <= w.end and (w.to is None or sent.packet.dst in w.to) for w in windows.get(sent.position, []))

    def windows(self, party, peer):
        """When packets of each stream may be lost because an exchange closed it, moved an end of it or proposed it anew:
        from the answer (from the offer where that closes it) until it has reached the other side."""
        windows = defaultdict(list)
        for before, commit in zip(party.commits, party.commits[1:]):
            theirs = self.counterpart_commit(party, peer, commit)
            times = [c.time for c in (commit, theirs) if c]
            offered = min(p.exchanges[commit.exchange].time for p in (party, peer) if commit.exchange in p.exchanges)
            for position in range(max(len(before.local), len(commit.local))):
                new = self.places(commit, position)
                if self.places(before, position) != new:
                    closed = new is None or not new[0].port or not new[1].port
                    windows[position].append(Window((offered if closed else min(times)) - IN_FLIGHT, max(times)))
                    # A phone that has got the answer may send once more to where the stream was before it has read it.
                    if position < len(before.remote):
                        was = before.remote[position]
                        to = [(was.ip, was.port), (was.ip, was.port + 1)]
                        windows[position].append(Window(max(times), max(times) + IN_FLIGHT, to))
        return windows

    def counterpart_commit(self, party, peer, commit):
        """The peer's commit of the same offer and answer, or None."""
        ordinal = [c for c in party.commits if c.exchange == commit.exchange].index(commit)
        theirs = [c for c in peer.commits if c.exchange == commit.exchange]
        return theirs[ordinal] if ordinal < len(theirs) else None

    def places(self, commit, position):
        if position >= len(commit.local) or position >= len(commit.remote):
            return None
        # A change of direction alone moves nothing.
        return tuple(side[position]._replace(direction=None) for side in (commit.local, commit.remote))

    # Signalling

    def answered(self, call):
        return not any(isinstance(s, (Cancel, Busy)) for s in call.steps)

    def signalling(self, pair):
        """Every SDP that arrives names the relay, and nothing of the far end."""
        for party in pair:
            peer = pair[1] if party is pair[0] else pair[0]
            own = {(l.ip, l.port) for s in peer.passed if s.out for l in s.lines}
            for sdp in (s for s in party.passed if not s.out):
                for line in (l for l in sdp.lines if l.port):
                    if line.ip not in self.relay_ips[party.role]:
                        self.fail('the %s was given %s, not the relay', party.name, line.ip)
                    if (line.ip, line.port) in own or not PORTS[0] <= line.port < PORTS[1] or line.port % 2:
                        self.fail('the %s was given port %d, not one of the relay', party.name, line.port)
                source = self.counterpart(peer, sdp)
                if source is None:
                    self.fail('the %s got an SDP (%s) that its peer did not send', party.name, sdp.carrier)
                elif [(l.kind, bool(l.port), l.direction) for l in source.lines] != \
                        [(l.kind, bool(l.port), l.direction) for l in sdp.lines]:
                    self.fail('the SDP that reached the %s (%s) has other streams than the one that was sent', party.name, sdp.carrier)
            if not party.passed:
                self.fail('no SDP passed at the %s', party.name)

    def counterpart(self, peer, sdp):
        for other_end in peer.passed:
            if other_end.out and other_end.exchange == sdp.exchange and other_end.carrier == sdp.carrier:
                return other_end
        return None

    def relay_ports(self, pair):
        """From one exchange to the next the relay's ports are kept, or fresh, as the script says."""
        call = pair[0].call
        expected = {}
        counts = {CALLER: 0, CALLEE: 0}
        for step in call.steps:
            if isinstance(step, (Setup, Cancel, Busy)):
                counts[CALLER] += 1
            elif isinstance(step, Reinvite):
                counts[step.by] += 1
                expected[(step.by, counts[step.by])] = step.ports
        for party in pair:
            self.ports_of(party, expected)

    def ports_of(self, party, expected):
        last, seen = {}, defaultdict(set)
        for sdp in (s for s in party.passed if not s.out):
            for position, line in enumerate(sdp.lines):
                want = (expected.get(sdp.exchange) or {}).get(position)
                port = line.port
                same_exchange = last.get(position, (None, None))[0] == sdp.exchange
                if port and (same_exchange or want == 'keep') and last.get(position, (0, port))[1] != port:
                    self.fail('the %s was told port %d for stream %d, it had to stay %d', party.name, port, position, last[position][1])
                if port and want == 'fresh' and not same_exchange and port in seen[position]:
                    self.fail('the %s was told port %d for stream %d again, a fresh one was due', party.name, port, position)
                if bool(port) != (want != 'closed') and want:
                    self.fail('the %s was told port %d for stream %d, wanted: %s', party.name, port, position, want)
                if port:
                    last[position] = (sdp.exchange, port)
                    seen[position].add(port)

    # Commands and statistics

    def commands(self, call, pair):
        commands = self.tap.of(call.call_id)
        updates = [c for c in commands if c.name == 'update' and 'media' in c.headers]
        removes = [c for c in commands if c.name == 'remove']
        passed = sum(1 for p in pair for s in p.passed if s.out)
        if len(updates) != passed:
            self.fail('%d update commands with media for the %d SDPs of call %d', len(updates), passed, call.number)
        if len(removes) != call.rules.get('removes', 1):
            self.fail('%d remove commands for call %d', len(removes), call.number)
        for command in updates:
            fields = (command.answer or '').split()
            if len(fields) != 1 + len(command.headers['media'].split(',')) or not all(f.isdigit() for f in fields[1:]):
                self.fail('update was answered %r', command.answer)
        for command in removes:
            if command.answer != 'removed' and not call.rules.get('relay_gone'):
                self.fail('remove was answered %r', command.answer)
        slow = max((c.delay or 0 for c in commands), default=0)
        if slow > 0.5:
            self.fail('the dispatcher took %.2f s to answer', slow)

    def statistics(self, pair, windows):
        """The last sample before the end, taken when the phones were silent, agrees with what arrived at both ends."""
        call = pair[0].call
        sample = self.samples.last_with(call.call_id)
        if sample is None:
            return self.fail('`sessions` never listed call %d', call.number)
        asked, session = sample
        if any(p.time > asked for _, p in self.arrived(call)):
            return self.fail('no sample of `sessions` after the last media of call %d', call.number)
        # The proxy names the callee's tag only with a final answer, and not every proxy script tells of one without SDP.
        told = any(c.headers.get('to_tag', '').strip() for c in self.tap.of(call.call_id) if c.name == 'update')
        if session['from_tag'] != call.tags[CALLER] or session['to_tag'] != (call.tags[CALLEE] if told else None) or not session['start_time']:
            self.fail('`sessions` shows from_tag %r, to_tag %r, start_time %r',
                      session['from_tag'], session['to_tag'], session['start_time'])
        if (session['caller_ua'], session['callee_ua']) != ('test-caller/1', 'test-callee/1'):
            self.fail('`sessions` shows the user agents %r and %r', session['caller_ua'], session['callee_ua'])
        for stream in session['streams']:
            for party in pair:
                self.addresses(stream, party)
        self.figures(pair, session, windows)

    def last_words(self, pair, windows, relay_logs):
        """What the relay says of the call when it has ended agrees too."""
        session = paths.last_words(relay_logs, pair[0].call.call_id)
        if session is None:
            return self.fail("the relay's log does not tell the end of call %d", pair[0].call.number)
        self.figures(pair, session, windows)

    def arrived(self, call):
        return [(sent, packet) for sent, packets in ((self.sent[data], packets) for data, packets in self.received.items())
                for packet in packets if sent.party.call is call]

    def figures(self, pair, session, windows):
        call, claimed = pair[0].call, set()
        arrived = self.arrived(call)
        for stream in session['streams']:
            for party, peer in (pair, pair[::-1]):
                through = [(s, p) for s, p in arrived if s.party is party and self.through(p, stream, peer)]
                self.counters(stream, party, [p for _, p in through], claimed)
                for text in paths.shares(self.forwarding, stream, party, [s for s, _ in through], windows):
                    self.fail('%s', text)
        if len(claimed) != len(arrived):
            self.fail('%d of the %d packets of call %d came through ports that `sessions` does not list',
                      len(arrived) - len(claimed), len(arrived), call.number)

    def through(self, packet, stream, receiver):
        """Did this packet leave by the receiver's port of that stream? (its address may be another one in the SDP)"""
        port = stream['%s_local' % receiver.role].rpartition(':')[2]
        return port.isdigit() and packet.src[1] - int(port) in (0, 1)

    def addresses(self, stream, party):
        """A stream that carried media shows the addresses that were in the SDP, where these are the real ones."""
        hidden = party.role in party.call.rules.get('hidden', ()) or party.call.rules.get('advertised')
        if hidden or stream['status'] not in ('active', 'on hold') or not stream[party.role + '_packets']:
            return
        commit = party.commits[-1]
        pairs = [('%s:%d' % a[1:3], '%s:%d' % b[1:3]) for a, b in zip(commit.local, commit.remote)]
        shown = stream[party.role + '_remote'], stream[party.role + '_local']
        if shown not in pairs:
            self.fail('`sessions` shows remote %s, local %s of the %s, which its SDPs do not name', *shown, party.name)

    def counters(self, stream, party, packets, claimed):
        claimed.update((party.role, id(p)) for p in packets)
        count, size = len(packets), sum(len(p.data) + UDP_AND_IP for p in packets)
        shown = stream[party.role + '_packets'], stream[party.role + '_bytes']
        if shown != (count, size):
            self.fail('`sessions` counts %d packets, %d bytes of %s from the %s; %d, %d arrived', *shown, stream['media_type'],
                      party.name, count, size)
        rtp = any(self.sent[p.data].component == 0 for p in packets)
        codec = CODECS.get((stream['media_type'], party.role), 'Unknown') if rtp else 'Unknown'
        if stream[party.role + '_codec'] != codec and not party.call.rules.get('any_codec'):
            self.fail('`sessions` shows codec %s of the %s, not %s', stream[party.role + '_codec'], party.name, codec)
