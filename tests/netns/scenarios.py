"""The calls: what the phones do in each scenario and what has to become of the relay's ports.

A scenario is a function of a Scene. Times are short but for the last `Talk` before the end, in which the phones fall silent
so that the statistics can be compared with what was sent. Failures of the parts are in failures.py, load in load.py.
"""
import os
from collections import namedtuple

from media import recording
from script import CALLEE, CALLER, Bye, Busy, Cancel, Media, Phone, Reinvite, Setup, Talk

# modes: with engage_media_proxy(), with use_media_proxy(); standin: also runs with the stand-in; alone: nothing beside it;
# forwarding: who forwards.
Scenario = namedtuple('Scenario', 'name run modes standin alone forwarding')
ALL = {}
BOTH = ('engage', 'use')

A = [Media('audio', 6000)]
B = [Media('audio', 7000)]
AV_A = A + [Media('video', 6002)]
AV_B = B + [Media('video', 7002)]
# The phones send for 1.2 s after each answer; this leaves a second of silence, in which the kernel's counters are read.
LAST = Talk(2200)
TALK = Talk(800)


class Skip(Exception):
    """Why a scenario cannot run here."""


def scenario(name, modes=BOTH, standin=True, alone=False, forwarding=('userspace', 'kernel')):
    def register(function):
        ALL[name] = Scenario(name, function, modes, standin, alone, forwarding)
        return function
    return register


def simple(name, steps, modes=BOTH, **rules):
    """A scenario with two phones and one relay on the router between them."""
    def run_it(scene):
        caller, callee = scene.two_phones()
        scene.start()
        call = scene.call(caller, callee, steps, **rules)
        scene.place(call)
        answered = any(isinstance(s, Setup) for s in steps)
        scene.finish(conntrack=scene.router if answered else None)
    run_it.__doc__ = name
    scenario(name, modes)(run_it)


def hold(media, direction):
    return [m._replace(direction=direction) for m in media]


KEEP = {0: 'keep'}
simple('plain', [Setup(A, B), LAST, Bye(CALLER)])
simple('callee-hangs-up', [Setup(A, B), LAST, Bye(CALLEE)])
simple('early', [Setup(A, B, early=B), LAST, Bye(CALLER)])
simple('early-bare', [Setup(A, None, early=B), LAST, Bye(CALLER)])
# 183 and 200 with different addresses, as after forking: the same relay ports, the callee learned anew (C4).
simple('early-moved', [Setup(A, [Media('audio', 7100)], early=B), LAST, Bye(CALLER)])
simple('cancel', [Cancel(A)])
simple('busy', [Busy(A)])
simple('late', [Setup(B, A, late=True), LAST, Bye(CALLER)])
simple('hold-caller', [Setup(A, B), TALK, Reinvite(CALLER, hold(A, 'sendonly'), hold(B, 'recvonly'), KEEP), TALK,
                       Reinvite(CALLER, A, B, KEEP), LAST, Bye(CALLER)])
simple('hold-callee', [Setup(A, B), TALK, Reinvite(CALLEE, hold(B, 'sendonly'), hold(A, 'recvonly'), KEEP), TALK,
                       Reinvite(CALLEE, B, A, KEEP), LAST, Bye(CALLEE)])
simple('hold-inactive', [Setup(A, B), TALK, Reinvite(CALLER, hold(A, 'inactive'), hold(B, 'inactive'), KEEP), TALK,
                         Reinvite(CALLER, A, B, KEEP), LAST, Bye(CALLER)])
simple('audio-video', [Setup(AV_A, AV_B), LAST, Bye(CALLER)], least=200)
simple('video-rejected', [Setup(AV_A, B + [Media('video', 0)]), LAST, Bye(CALLER)])
simple('add-stream', [Setup(A, B), TALK, Reinvite(CALLER, AV_A, AV_B, {0: 'keep', 1: 'fresh'}), LAST, Bye(CALLER)])
simple('add-stream-callee', [Setup(A, B), TALK, Reinvite(CALLEE, AV_B, AV_A, {0: 'keep', 1: 'fresh'}), LAST, Bye(CALLER)])
simple('remove-stream', [Setup(AV_A, AV_B), TALK, Reinvite(CALLER, A + [Media('video', 0)], B + [Media('video', 0)],
                                                           {0: 'keep', 1: 'closed'}), LAST, Bye(CALLER)])
# The offerer moves: fresh relay ports, and the old ones work until the answer (C3).
simple('move-caller', [Setup(A, B), TALK, Reinvite(CALLER, [Media('audio', 6100)], B, {0: 'fresh'}, thinking=300), LAST, Bye(CALLER)])
simple('move-callee', [Setup(A, B), TALK, Reinvite(CALLEE, [Media('audio', 7100)], A, {0: 'fresh'}, thinking=300), LAST, Bye(CALLER)])
# The answerer moves: the relay's ports stay, it is learned anew (C4).
simple('move-in-answer', [Setup(A, B), TALK, Reinvite(CALLER, A, [Media('audio', 7100)], KEEP), LAST, Bye(CALLER)])
# Fax: the audio stream becomes T.38 at the same position.
simple('t38', [Setup(A, B), TALK, Reinvite(CALLEE, [Media('image', 7200)], [Media('image', 6200)], {0: 'fresh'}), LAST, Bye(CALLER)])


@scenario('sipp-media')
def sipp_media(scene):
    """A plain call whose RTP and RTCP sipp plays itself from recordings, each end when it likes."""
    caller, callee = scene.two_phones()
    recordings = {}
    for ssrc, (role, payload_type) in enumerate(((CALLER, 8), (CALLEE, 0)), 1):
        recordings[role] = os.path.join(scene.scratch, role + '.pcap')
        recording(recordings[role], 60, payload_type, ssrc)
    scene.start()
    steps = [Setup([Media('audio', 6000)], [Media('audio', 6000)]), LAST, Bye(CALLER)]
    scene.place(scene.call(caller, callee, steps, recordings=recordings), silent=(CALLER, CALLEE))
    scene.finish()


@scenario('move-network')
def move_network(scene):
    """The caller goes on from another address, as a phone does that changes its network."""
    caller, callee = scene.two_phones()
    scene.second_address(caller, '10.11.0.9')
    scene.start()
    steps = [Setup(A, B), TALK, Reinvite(CALLER, [Media('audio', 6000, ip='10.11.0.9')], B, {0: 'fresh'}, thinking=300), LAST, Bye(CALLER)]
    scene.place(scene.call(caller, callee, steps))
    scene.finish(conntrack=scene.router)


@scenario('nat')
def nat(scene):
    """The caller is behind a NAT: its SDP names an address that nobody can reach."""
    caller, callee = scene.phone_behind_nat(CALLER, 11), scene.phone(CALLEE, 12)
    scene.start()
    scene.place(scene.call(caller, callee, [Setup(A, B), LAST, Bye(CALLER)], hidden=(CALLER,)))
    scene.finish(conntrack=scene.router)


@scenario('nat-early')
def nat_early(scene):
    """As above with early media and a hold: what the NAT has opened is used on."""
    caller, callee = scene.phone_behind_nat(CALLER, 11), scene.phone(CALLEE, 12)
    scene.start()
    steps = [Setup(A, B, early=B), TALK, Reinvite(CALLER, hold(A, 'sendonly'), hold(B, 'recvonly'), KEEP), TALK,
             Reinvite(CALLER, A, B, KEEP), LAST, Bye(CALLEE)]
    scene.place(scene.call(caller, callee, steps, hidden=(CALLER,)))
    scene.finish(conntrack=scene.router)


@scenario('same-addresses')
def same_addresses(scene):
    """Two calls at once whose SDPs name the same four addresses: all phones are behind NATs of their own."""
    calls = []
    phones = [(scene.phone_behind_nat('caller%d' % n, 10 + n), scene.phone_behind_nat('callee%d' % n, 20 + n, '192.168.1.2')) for n in (1, 2)]
    scene.start()
    for n, (caller, callee) in enumerate(phones, 1):
        calls.append(scene.call(caller, callee, [Setup(A, B), LAST, Bye(CALLER)], number=n, hidden=(CALLER, CALLEE)))
    scene.place(*calls)
    scene.finish(conntrack=scene.router)


@scenario('two-calls')
def two_calls(scene):
    """Two calls at once between the same hosts, one of which ends while the other goes on."""
    caller, callee = scene.two_phones()
    scene.start()
    second = [Phone(p.host, p.ip, 5062) for p in (caller, callee)]
    one = scene.call(caller, callee, [Setup(A, B), LAST, Bye(CALLER)])
    two = scene.call(*second, [Setup([Media('audio', 6500)], [Media('audio', 7500)]), Talk(3500), Bye(CALLER)], number=2)
    scene.place(one, two, seconds=1.3)
    scene.finish(conntrack=scene.router)


@scenario('one-interface', standin=False)
def one_interface(scene):
    """The relay is a host with one interface of its own and finds out its address by itself."""
    caller, callee = scene.two_phones()
    relay, _, ip = scene.attach('relay', 13)
    scene.relay_ips = {CALLER: {ip}, CALLEE: {ip}}
    scene.start(relays=[lambda: scene.daemons.start_relay(relay, '10.13.0.1')])
    scene.place(scene.call(caller, callee, [Setup(AV_A, AV_B), LAST, Bye(CALLER)]))
    scene.finish(conntrack=relay)


@scenario('two-interfaces', standin=False)
def two_interfaces(scene):
    """auto_detect_interfaces: each party is told the relay's address on its own side."""
    caller, callee = scene.two_phones()
    scene.lab.route(scene.router, 'default', caller.ip)
    scene.relay_ips = {CALLER: {'10.11.0.1'}, CALLEE: {'10.12.0.1'}}
    scene.start(relays=[lambda: scene.daemons.start_relay(scene.router, '127.0.0.1', auto_detect_interfaces='yes', relay_ip=None)],
                defines=('SIGNALING_IP',))
    scene.place(scene.call(caller, callee, [Setup(A, B), LAST, Bye(CALLER)]))
    scene.finish(conntrack=scene.router)


@scenario('advertised', standin=False)
def advertised(scene):
    """advertised_ip: the relay has a private address, one to one behind the router's."""
    caller, callee = scene.two_phones()
    relay = scene.lab.host('relay')
    scene.lab.wire(relay, '172.16.0.2/24', scene.router, '172.16.0.1/24')
    scene.lab.route(relay, 'default', '172.16.0.1')
    scene.lab.nft(scene.router, '''table ip nat {
        chain in { type nat hook prerouting priority dstnat; ip daddr 10.11.0.1 udp dport 40000-40999 dnat to 172.16.0.2; }
        chain out { type nat hook postrouting priority srcnat; ip saddr 172.16.0.2 ip daddr 10.0.0.0/8 snat to 10.11.0.1; }
    }''')
    scene.start(relays=[lambda: scene.daemons.start_relay(relay, '172.16.0.1', advertised_ip='10.11.0.1')])
    scene.place(scene.call(caller, callee, [Setup(A, B), LAST, Bye(CALLER)], advertised=True))
    scene.finish(conntrack=relay)
