"""What must hold when the kernel forwards and something befalls it: deletions, firewalls, floods, full tables, dead relays.

The calls are driven directly (direct.py). Every packet has to arrive once, but for those of a `gap` that is granted, and the
relay's figures have to be what arrived.
"""
import random
import re
import signal
import socket
import struct
import time

import netfilter
from direct import World
from lab import run
from scenarios import scenario
from scene import PROXY, Failed
from script import CALLEE, CALLER

RANGE = '40000-40999'
MAX = '/proc/sys/net/netfilter/nf_conntrack_max'


def kernel(name, alone=False):
    return scenario(name, modes=('',), standin=False, alone=alone, forwarding=('kernel',))


def world(scene, **keys):
    """As World, but with nothing of others on the relay's host that a flush could take away."""
    made = World(scene, start=False)
    made.start_relay(**keys)
    return made


def sysctl(host, name, value):
    netfilter.on(host, 'sysctl', '-qw', '%s=%s' % (name, value))


def go_on(made, calls, seconds=0.4):
    """Lets media flow for a while; it has to come through at the end of it."""
    end = time.monotonic() + seconds
    made.scene.loop.until(lambda: time.monotonic() >= end, seconds + 1, 'time to pass')
    made.until_flowing(calls)


def back_in_kernel(made, calls, seconds=25, said='media leaves by the kernel again'):
    """What kept the kernel from forwarding is mended: all go back to it, the log says so once, and nothing is lost."""
    start = time.monotonic()
    made.until_said(said, seconds=seconds)
    made.until_in_kernel(calls, 8)
    if time.monotonic() > start + seconds + 5:
        raise Failed('it took them %.1f s' % (time.monotonic() - start))
    if made.scene.daemons.log('relay').count('leaves by the kernel again') != 1:
        raise Failed('the log tells it more than once')
    go_on(made, calls)


@kernel('conntrack-flush')
def conntrack_flush(scene):
    """Somebody deletes all entries, twice: nothing is lost, and they come back."""
    made = world(scene)
    calls = made.ready(5)
    for again in (False, True):
        netfilter.on(made.host, 'conntrack', '-F')
        if not again:
            made.until_said('not in conntrack any more')
        go_on(made, calls)
        made.until_in_kernel(calls)
    made.finish()


@kernel('flush-ruleset')
def flush_ruleset(scene):
    """A firewall reload: the table is the relay's, and stays."""
    made = world(scene)
    calls = made.ready(5)
    netfilter.on(made.host, 'nft', 'flush', 'ruleset')
    go_on(made, calls)
    made.until_in_kernel(calls)
    made.finish()


@kernel('forward-drop')
def forward_drop(scene):
    """Docker comes: FORWARD drops. User space takes over, the log names the rule; new calls lose nothing."""
    made = World(scene)
    calls = made.ready(3)
    made.until_explained(calls, r'RTP goes by kernel: since \d+ s')
    made.noticed(lambda: netfilter.on(made.host, 'iptables', '-P', 'FORWARD', 'DROP'),
                 r'FORWARD.*policy drop.*iptables -I FORWARD -m connmark --mark 0x4d500000/0xffff0000 -j ACCEPT')
    made.until_in_user_space(calls)
    new = made.place(1)
    go_on(made, calls + new)
    if made.in_kernel(new) == []:
        raise Failed('a new call went to the kernel, which drops')
    made.until_explained(new, 'RTP goes by user space: media enters the kernel at the moment and does not leave')
    made.until_explained(new, r'(?s)^audio: the callee hears the caller: .*since the kernel does not: packets of .*FORWARD.*policy drop.*iptables -I FORWARD')
    netfilter.on(made.host, 'iptables', '-P', 'FORWARD', 'ACCEPT')
    back_in_kernel(made, calls + new)
    made.finish()


@kernel('forward-drops-always')
def forward_drops_always(scene):
    """FORWARD drops from the start, and a rule for the mark mends it."""
    made = World(scene, start=False)
    netfilter.on(made.host, 'iptables', '-P', 'FORWARD', 'DROP')
    made.start_relay()
    made.until_said(r'WARN.*FORWARD')
    calls = []
    made.noticed(lambda: calls.extend(made.place(2)), 'do not leave it, user space takes them over')
    go_on(made, calls)
    netfilter.on(made.host, 'iptables', '-I', 'FORWARD', '-m', 'connmark', '--mark', '0x4d500000/0xffff0000', '-j', 'ACCEPT')
    back_in_kernel(made, calls)
    made.finish()


@kernel('forward-drops-one')
def forward_drops_one(scene):
    """FORWARD drops what goes to one phone: its calls are in user space until the rule is gone, no others, and try seldom."""
    third = scene.attach('third', 15)
    made = World(scene)
    others = made.ready(2)
    at = {CALLER: (made.phones[CALLER][0], (made.phones[CALLER][1], 22000)), CALLEE: (third[0], (third[2], 32000))}
    blocked = made.place(1, places=at)
    made.until_in_kernel(blocked)
    rule = ('FORWARD', '-d', third[2], '-j', 'DROP')
    made.noticed(lambda: netfilter.on(made.host, 'iptables', '-A', *rule), 'do not leave to ' + re.escape(third[2]))
    made.until_in_user_space(blocked)
    # A new call of this phone has nothing to lose.
    new = made.place(1, places={CALLER: (at[CALLER][0], (at[CALLER][1][0], 22100)), CALLEE: (third[0], (third[2], 32100))})
    go_on(made, others + blocked + new)
    if made.in_kernel(others) or not made.in_kernel(new):
        raise Failed('the others are not in the kernel any more, or the new call is')
    netfilter.on(made.host, 'iptables', '-D', *rule)
    back_in_kernel(made, others + blocked + new, said='media from .* to .* leaves by the kernel again')
    made.finish()


@kernel('forward-off')
def forward_off(scene):
    """ip_forward is switched off in mid-call."""
    made = World(scene)
    calls = made.ready(3)
    made.noticed(lambda: sysctl(made.host, 'net.ipv4.ip_forward', 0), r'ip_forward is 0.*sysctl -w net.ipv4.ip_forward=1')
    go_on(made, calls)
    sysctl(made.host, 'net.ipv4.ip_forward', 1)
    back_in_kernel(made, calls)
    made.finish()


@kernel('prerouting-drop')
def prerouting_drop(scene):
    """A rule in prerouting drops media on a host whose FORWARD drops what it does not know: the log does not blame FORWARD."""
    made = World(scene, start=False)
    scene.lab.nft(made.host, '''table inet wall { chain through { type filter hook forward priority 0; policy drop;
        ct state established accept; }\n}\n''')
    made.start_relay()
    calls = made.ready(3)
    rule = '''table inet early { chain pre { type filter hook prerouting priority mangle;
        ct mark & 0xffff0000 == 0x4d500000 drop; }\n}\n'''
    made.noticed(lambda: scene.lab.nft(made.host, rule), 'dropped before hook forward, by a rule of this host in prerouting')
    made.until_in_user_space(calls)
    go_on(made, calls)
    if 'chain reached' in netfilter.on(made.host, 'nft', 'list', 'table', 'ip', 'mediaproxy_40000'):
        raise Failed('the chain that tells how far packets come is left')
    made.finish()


@kernel('no-route')
def no_route(scene):
    """The route to the callee goes and comes back: the log names it, and media goes on."""
    made = World(scene)
    calls = made.ready(2)
    start = time.monotonic() - 0.2
    run('ip', '-n', made.host, 'route', 'add', 'unreachable', made.phones[CALLEE][1] + '/32')
    made.until_said(r'do not leave it.*there is no route to ' + re.escape(made.phones[CALLEE][1]))
    made.until_in_user_space(calls)
    run('ip', '-n', made.host, 'route', 'del', 'unreachable', made.phones[CALLEE][1] + '/32')
    made.gaps.append((start, time.monotonic()))
    go_on(made, calls)
    made.finish()


@kernel('silence')
def silence(scene):
    """The kernel's own time-outs are a second: silent calls keep their entries. One that is gone comes back with the next packets."""
    made = World(scene)
    for name in ('nf_conntrack_udp_timeout', 'nf_conntrack_udp_timeout_stream'):
        sysctl(made.host, 'net.netfilter.' + name, 1)
    calls = made.ready(3)
    for call in calls:
        call.stop()
    end = time.monotonic() + 2.5
    scene.loop.until(lambda: time.monotonic() >= end, 4, 'time to pass')
    scene.bad += made.in_kernel(calls)
    ip, port = calls[0].now(CALLER).address
    netfilter.on(made.host, 'conntrack', '-D', '-p', 'udp', '-s', ip, '--sport', str(port))
    for call in calls:
        call.start()
    made.until_flowing(calls)
    made.until_in_kernel(calls)
    made.finish()


@kernel('own-mark')
def own_mark(scene):
    """Another mark and mask, by which an administrator's rule knows relayed media."""
    made = World(scene, start=False)
    made.mark = 0x7700
    scene.lab.nft(made.host, '''table inet qos {
        chain forward { type filter hook forward priority 0; ct mark & 0xff00 == 0x7700 counter ip dscp set ef; }\n}\n''')
    made.start_relay(mark='0x7700', mark_mask='0xff00')
    calls = made.ready(2)
    go_on(made, calls)
    classes = [tos for call in calls for end in call.all_ends() for _, _, _, _, tos in end.arrived[-5:]]
    if set(classes) != {46 << 2}:
        raise Failed('the rule for the mark did not match: TOS %s' % classes)
    made.finish()


def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def spoofed(destination, port):
    """An IPv4 packet with UDP from anywhere (RFC 791, RFC 768); no UDP checksum."""
    source = struct.pack('!I', random.randrange(0x0b000000, 0xdf000000))
    head = struct.pack('!BBHHHBBH', 0x45, 0, 60, random.randrange(65536), 0, 64, 17, 0) + source + socket.inet_aton(destination)
    head = head[:10] + struct.pack('!H', checksum(head)) + head[12:]
    return head + struct.pack('!HHHH', random.randrange(1, 65536), port, 40, 0) + b'\x80\x08' + b'f' * 30


@kernel('flood')
def flood(scene):
    """100,000 packets from random sources at the relay's ports: the conntrack table stays as it was, calls do not notice."""
    made = World(scene)
    calls = made.ready(5)
    sysctl(made.host, 'net.ipv4.conf.all.rp_filter', 0)
    before = len(netfilter.entries(made.host))
    host = made.phones[CALLER][0]
    sock = scene.lab.socket(host, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ports = [call.now(role).remote[1] for call in calls for role in (CALLER, CALLEE)] + list(range(40000, 41000, 7))
    packets = [spoofed(PROXY, random.choice(ports)) for _ in range(2000)]
    sent = 0
    while sent < 100000:
        for packet in packets[sent % 2000:][:100]:
            sock.sendto(packet, (PROXY, 0))
        sent += 100
        scene.loop.turn(0)
    sock.close()
    go_on(made, calls)
    after = len(netfilter.entries(made.host))
    if after != before:
        raise Failed('conntrack had %d entries before the flood and has %d after it' % (before, after))
    made.finish()


@kernel('stranger')
def stranger(scene):
    """Somebody else sends to a forwarded port: nothing of it arrives."""
    made = World(scene)
    calls = made.ready(1)
    host = scene.attach('stranger', 15)[0]
    sock = scene.lab.socket(host, socket.AF_INET, socket.SOCK_DGRAM)
    for call in calls:
        for role in (CALLER, CALLEE):
            for _ in range(20):
                sock.sendto(b'\x80\x08' + b'stranger' * 20, call.now(role).remote)
    go_on(made, calls)
    sock.close()
    made.until_explained(calls, r'(?s)caller.*DROPPED: 20 wrong source.*callee.*DROPPED: 20 wrong source')
    made.finish()


@kernel('conntrack-full', alone=True)
def conntrack_full(scene):
    """The machine's conntrack table is full: calls go on, new ones in user space until there is room. The limit is put back."""
    made = World(scene)
    calls = made.ready(2)
    with open(MAX) as f:
        limit = f.read()
    try:
        with open(MAX, 'w') as f:
            f.write('1')
        new = made.place(2)
        made.until_said('nf_conntrack_max')
        go_on(made, calls + new)
        made.until_in_kernel(calls)
    finally:
        with open(MAX, 'w') as f:
            f.write(limit)
    made.until_in_kernel(new, 6)
    made.finish()


@kernel('one-nat')
def one_nat(scene):
    """Both phones of a call have one address."""
    host, _, ip = scene.attach('phones', 11)
    made = World(scene, phones={CALLER: (host, ip), CALLEE: (host, ip)})
    calls = made.ready(3)
    go_on(made, calls)
    made.finish()


@kernel('local-party')
def local_party(scene):
    """A media server on the relay's own host is reached in user space."""
    far = scene.attach(CALLER, 11)
    made = World(scene, phones={CALLER: (far[0], far[2]), CALLEE: (scene.router, PROXY)})
    calls = made.place(2)
    made.until_flowing(calls)
    go_on(made, calls)
    if netfilter.of_range(made.host, (40000, 41000)):
        raise Failed('conntrack has an entry for a party on the relay\'s host')
    made.until_explained(calls, "RTP goes by user space: a party is on the relay's own host")
    made.finish()


@kernel('fragments')
def fragments(scene):
    """Media larger than the relay's wires: fragments are put together, translated, and cut again."""
    phones = {role: scene.attach(role, n) for role, n in ((CALLER, 11), (CALLEE, 12))}
    for host in (scene.router, phones[CALLER][0], phones[CALLEE][0]):
        for name in ('e0', 'e1'):
            try:
                run('ip', '-n', host, 'link', 'set', name, 'mtu', '1500')
            except RuntimeError:
                pass
    made = World(scene, phones={role: (p[0], p[2]) for role, p in phones.items()})
    calls = made.place(2, payload=2500)
    made.until_in_kernel(calls)
    go_on(made, calls)
    made.finish()


@kernel('firewall')
def firewall(scene):
    """An ordinary host firewall, which lets the port range in: in both paths."""
    made = World(scene, start=False)
    scene.lab.nft(made.host, '''table inet filter { chain input { type filter hook input priority 0; policy drop;
        iif lo accept; ct state established,related accept; udp dport %s accept; }\n}\n''' % RANGE)
    made.start_relay()
    calls = made.ready(2)
    go_on(made, calls)
    netfilter.on(made.host, 'conntrack', '-F')
    go_on(made, calls)
    made.finish()


@kernel('notrack')
def notrack(scene):
    """Somebody's rule keeps media from conntrack: it never reaches the entries. User space relays it and says so, until the rule is gone."""
    made = World(scene, start=False)
    scene.lab.nft(made.host, '''table ip others { chain pre { type filter hook prerouting priority -400; udp dport %s notrack; }\n}\n''' % RANGE)
    made.start_relay()
    calls = made.place(1)
    made.until_flowing(calls)
    made.until_said('do not reach its conntrack entry', seconds=6)
    made.until_in_user_space(calls)
    go_on(made, calls)
    netfilter.on(made.host, 'nft', 'delete', 'table', 'ip', 'others')
    back_in_kernel(made, calls)
    made.finish()


def scraped(host):
    """What Prometheus reads of the relay on a host: {sample: value}."""
    text = netfilter.on(host, 'nc', '-N', '127.0.0.1', '25063', stdin='GET /metrics HTTP/1.0\r\n\r\n')
    lines = text.replace('\r', '').split('\n\n', 1)[1].splitlines()
    return {name: float(value) for name, value in (line.rsplit(' ', 1) for line in lines if not line.startswith('#'))}


@kernel('metrics')
def metrics(scene):
    """The metrics of a relay: what went by each path adds up to what arrived, and a flush of conntrack is seen."""
    made = world(scene, listen_metrics='127.0.0.1')
    calls = made.ready(3)
    flows = 'mediaproxy_relay_kernel_flows'
    now = scraped(made.host)
    if (now[flows], now['mediaproxy_relay_kernel_forwarding_active']) != (6, 1):
        raise Failed('six flows are in the kernel; the metrics say %s' % now)
    netfilter.on(made.host, 'conntrack', '-F')
    made.until_said('not in conntrack any more')
    go_on(made, calls)
    made.until_in_kernel(calls)
    made.settle(calls)
    streams = [stream for session in made.sessions().values() for stream in session['streams']]
    now = scraped(made.host)
    for path in ('user_space', 'kernel'):
        for unit in ('packets', 'bytes'):
            shown = now['mediaproxy_relay_relayed_%s_total{path="%s"}' % (unit, path)]
            wanted = sum(s['%s_%s_%s' % (role, unit, path)] for s in streams for role in (CALLER, CALLEE))
            if shown != wanted or not wanted:
                raise Failed('%s by %s: the metrics say %d, the calls %d' % (unit, path, shown, wanted))
    if now[flows + '_lost_total{reason="deleted"}'] != 6 or now[flows + '_taken_total'] != 12:
        raise Failed('six flows were lost and came back; the metrics say %s' % now)
    made.finish()


@kernel('two-relays')
def two_relays(scene):
    """Two relays on one host: one is killed, takes its calls over and is ended; the calls of the other do not notice."""
    made = World(scene, start=False)
    made.start_relay('one')
    made.start_relay('two', port_range='42000:43000')
    calls = made.place(6)
    made.until_flowing(calls)
    ports = {call: call.now(CALLER).remote[1] for call in calls}
    made.scene.loop.until(lambda: len([e for e in netfilter.entries(made.host) if e.mark == netfilter.MARK]) >= 12, 3, 'all entries')
    dead = [c for c in calls if ports[c] >= 42000]
    alive = [c for c in calls if ports[c] < 42000]
    if not alive or not dead:
        raise Failed('all calls went to one relay')
    for call in dead:
        call.stop()
    relay = scene.daemons.relays['two']
    relay.send_signal(signal.SIGKILL)
    scene.lab.wait(relay, 3)
    go_on(made, alive)
    made.start_relay('two', port_range='42000:43000')
    made.until_said(r'took over %d calls' % len(dead), 'two')
    go_on(made, alive)
    scene.lab.stop(scene.daemons.relays['two'])
    go_on(made, alive)
    left = [e for e in netfilter.of_range(made.host, (42000, 43000)) if e.mark == netfilter.MARK]
    if left:
        raise Failed('something of the relay that has ended is left: %s' % left)
    if netfilter.tables(made.host) != ['mediaproxy_40000']:
        raise Failed('tables: %s' % netfilter.tables(made.host))
    made.calls = alive
    for call in dead:
        for end in call.all_ends():
            end.close()
    made.finish()


@kernel('stale-source')
def stale_source(scene):
    """The callee moves and the old one goes on sending: it is not heard any more, neither by the kernel nor by user space."""
    made = World(scene)
    [call] = made.ready(1)
    old = call.move_callee(31000)
    made.until_in_kernel([call])
    since = time.monotonic()
    go_on(made, [call], 0.6)
    heard = [data for when, data, _, _, _ in call.now(CALLER).arrived if when > since and data in old.sent]
    if heard:
        raise Failed('%d packets of the old source came through' % len(heard))
    old.stop()
    made.gaps.append((0, time.monotonic()))
    made.finish()


class Probe:
    """A call whose callee moves with each second answer; the caller learns of ICMP errors."""

    def __init__(self, made):
        self.made, self.name, self.number = made, 'probe', 0
        self.caller = self.socket(CALLER, 21000)
        self.callee, self.took = None, []

    def socket(self, role, port):
        host, ip = self.made.phones[role]
        sock = self.made.scene.lab.socket(host, socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((ip, port))
        sock.settimeout(1)
        return sock

    def set_up(self):
        update = self.made.proxy.update
        self.to_callee = update(self.name, CALLER, self.caller.getsockname())
        self.callee = self.socket(CALLEE, 31000)
        self.caller.connect(update(self.name, CALLEE, self.callee.getsockname()))

    def media(self):
        self.number += 1
        return b'\x80\x08' + b'%d' % self.number * 20

    def until_in_kernel(self):
        """Both send until the kernel has the flow."""
        caller = self.caller.getsockname() + self.caller.getpeername()
        callee = self.callee.getsockname() + self.to_callee

        def is_there():
            self.caller.send(self.media())
            self.callee.sendto(self.media(), self.to_callee)
            return any({e.original, e.reply} == {caller, callee} for e in netfilter.entries(self.made.host))
        self.made.scene.loop.until(is_there, 3, 'the kernel to forward')
        # Elements come after the entry.
        self.made.scene.loop.until(lambda: len(netfilter.elements(self.made.host, 40000, 'forwarded')) == 2, 3, 'its elements')

    def drain(self, sock):
        """What waits at a socket. An ICMP error ends the scenario, but at a callee, who sends to a port that knows him not."""
        sock.setblocking(False)
        came = []
        try:
            while True:
                came.append(sock.recv(4096))
        except BlockingIOError:
            return came
        finally:
            sock.settimeout(1)

    def answer_again(self, closes):
        """A second answer from a new port and a packet of the caller's at its word. What is wrong, or None."""
        former, self.callee = self.callee, self.socket(CALLEE, 31002 + 2 * (self.number % 1000))
        self.drain(former)
        self.drain(self.caller)
        if closes:
            former.close()
        since = time.monotonic()
        self.made.proxy.update(self.name, CALLEE, self.callee.getsockname())
        self.took.append(time.monotonic() - since)
        media = self.media()
        self.caller.send(media)
        wrong = None
        try:
            while self.callee.recv(4096) != media:
                pass
        except TimeoutError:
            wrong = 'a packet sent after the answer did not come to the new address'
        try:
            self.drain(self.caller)
        except ConnectionRefusedError:
            wrong = 'an ICMP error of a closed port at the former address came to the caller'
        if not closes:
            if media in self.drain(former):
                wrong = 'a packet sent after the answer came to the former address'
            former.close()
        return wrong


def answer_often(made, count, most_late):
    """Many second answers, each with a packet at its word: none takes the former path, and no ICMP error of that reaches the caller.

    An answer that could not wait, on a machine that was too busy, is one that the log names."""
    probe = Probe(made)
    probe.set_up()
    wrong = []
    for number in range(count):
        probe.until_in_kernel()
        wrong.append(probe.answer_again(closes=number % 2 == 1))
        made.scene.loop.turn(0)
    found = [text for text in wrong if text]
    late = made.scene.daemons.log('relay').count('answered before the kernel has let go')
    made.proxy.remove(probe.name)
    probe.caller.close()
    probe.callee.close()
    if len(found) > late:
        raise Failed('%d of %d times, %d of them told: %s' % (len(found), count, late, ', '.join(sorted(set(found)))))
    if late > most_late:
        raise Failed('%d of %d answers did not wait for the kernel' % (late, count))
    made.finish()
    return probe


@kernel('second-answer')
def second_answer(scene):
    """As fast as the kernel is: where nothing waited, one to four of a hundred went wrong."""
    answer_often(World(scene), 60, 20)


@kernel('refused-start')
def refused_start(scene):
    """Without ip_forward `kernel` does not start and `auto` relays in user space; both name the setting,
    and so does a call."""
    made = World(scene, start=False)
    sysctl(scene.router, 'net.ipv4.ip_forward', 0)
    keep, scene.lab.forwarding = scene.lab.forwarding, lambda host: None
    try:
        made.start_relay('wanted', wait=False)
        status = scene.lab.wait(scene.daemons.relays['wanted'], 5)
        if status != 1:
            raise Failed('status %s' % status)
        made.until_said('forwarding = kernel: .*net.ipv4.ip_forward', 'wanted')
        del scene.daemons.relays['wanted']
        made.start_relay('relay', forwarding='auto')
        made.until_said('relayed in user space: .*net.ipv4.ip_forward')
    finally:
        scene.lab.forwarding = keep
    sysctl(scene.router, 'net.ipv4.ip_forward', 1)
    calls = made.place(1)
    made.until_flowing(calls)
    # A call has the same reason to tell as the log had.
    made.until_explained(calls, r'RTP goes by user space: the kernel cannot forward media: .*sysctl -w net\.ipv4\.ip_forward=1.*'
                         r'\(as it was when this relay started\)')
    made.finish()
