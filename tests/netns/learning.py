"""Whom a relay port believes: the party, wherever its evidence says that it is, and no stranger who was there first.

Ranks, from the best: exactly what the SDP names; proven by ICE; the SDP's or the signaling's address with another port; anything else.
"""
import os
import socket
import struct
import time

import netfilter
from direct import End
from flows import BOTH, Dialog, both, call, flow, hall, line, talk, until_in_kernel
from hearing import heard
from script import CALLEE, CALLER

# A NAT's inside, which nobody can reach.
PRIVATE = '192.168.7.7', 5004
STRANGER, ROAMING, BEHIND = 'stranger', 'roaming', 'behind'
REQUEST, SUCCESS, ERROR = 0x0001, 0x0101, 0x0111
COOKIE = 0x2112a442
USERNAME, ERROR_CODE, MAPPED = 0x0006, 0x0009, 0x0020


def learn(name, forwarding=('userspace',)):
    return flow('learn-' + name, forwarding)


def with_strangers(scene, **keys):
    """A Hall with two more hosts: a stranger's, and one where a party may go that its SDP does not name."""
    here = hall(scene, **keys)
    for role, number in ((STRANGER, 15), (ROAMING, 16)):
        here.places[role] = scene.attach(role, number)[::2]
    return here


def attributes(*pairs):
    return b''.join(struct.pack('!HH', kind, len(value)) + value + bytes(-len(value) % 4) for kind, value in pairs)


def stun(kind, transaction, body=b''):
    """RFC 8489 section 5."""
    return struct.pack('!HHI', kind, len(body), COOKIE) + transaction + body


class IcePhone(End):
    """Answers checks: with success those that know the user name of its call, the others with 401. It sends checks, too."""

    user, succeeded = b'right:name', False

    def check(self, user=None):
        self.sockets[0].sendto(stun(REQUEST, os.urandom(12), attributes((USERNAME, user or self.user))), self.remote)

    def got(self, data, source, component):
        if len(data) < 20 or data[0] > 3 or struct.unpack_from('!I', data, 4)[0] != COOKIE:
            return
        kind, transaction = struct.unpack_from('!H', data)[0], data[8:20]
        if kind == SUCCESS:
            self.succeeded = True
        if kind != REQUEST:
            return
        if self.user in data:
            mapped = struct.pack('!BBHI', 0, 1, source[1] ^ COOKIE >> 16, struct.unpack('!I', socket.inet_aton(source[0]))[0] ^ COOKIE)
            answer = stun(SUCCESS, transaction, attributes((MAPPED, mapped)))
        else:
            answer = stun(ERROR, transaction, attributes((ERROR_CODE, b'\0\0\x04\x01Unauthorized')))
        self.sockets[component].sendto(answer, source)


def attack(here, name, remote):
    """A stranger who knows a port of a call, with a proper stream."""
    phone = here.phone(name, STRANGER)
    talk(phone, remote)
    return phone


def spared(here, phones, strangers):
    """No stranger was heard by anybody or got anything."""
    here.unheard(*[(phone, stranger) for phone in phones for stranger in strangers], since=0)
    for stranger in strangers:
        media = [data for _, data, _, _, _ in stranger.arrived if any(data in phone.sent for phone in phones)]
        if media:
            here.fail('%s got %d packets of the call' % (stranger.name, len(media)))


def attacked(scene, learning, ahead):
    """Strangers stream to every port of three calls from before the parties do and all the time: parties at their SDP's address, at
    their signaling's, and proven by ICE are heard at once, and the strangers get nothing."""
    here = with_strangers(scene, learning=learning)
    strangers, phones = [], []

    def placed(name, caller, callee, sdp_of=lambda phone: phone.address, ice='no'):
        dialog = Dialog(here, name)
        callee.remote = dialog.request(line(sdp_of(caller), ice=ice))[0]
        strangers.append(attack(here, name + ' stranger 1', callee.remote))
        caller.remote = dialog.reply(line(sdp_of(callee), ice=ice))[0]
        strangers.append(attack(here, name + ' stranger 2', caller.remote))
        phones.extend((caller, callee))
    placed('sdp', *here.pair('sdp'))
    placed('signaling', *here.pair('signaling'), sdp_of=lambda phone: (PRIVATE[0], phone.address[1]))
    ice = here.phone('ice caller', ROAMING, kind=IcePhone), here.phone('ice callee', CALLEE, kind=IcePhone)
    placed('ice', *ice, sdp_of=lambda phone: (PRIVATE[0], 5004) if phone is ice[0] else phone.address, ice='yes')
    here.scene.loop.pause(ahead)
    for phone in phones[:4]:
        phone.start()

    def checked():
        if not ice[0].succeeded and time.monotonic() > ice[0].next:
            ice[0].next += 0.05
            ice[0].check()
        return ice[0].succeeded
    ice[0].next = 0
    here.until(checked, 1, 'the check of the caller to be answered')
    for phone in ice:
        phone.start()
    here.until_heard(*both(*phones), seconds=0.6)
    until_in_kernel(here, *phones)
    here.nothing_lost(*both(*phones))
    spared(here, phones, strangers)
    here.finish()


@learn('attacked', BOTH)
def attacked_guarded(scene):
    """As `attacked`, guarded: the parties come within learning_wait."""
    attacked(scene, 'guarded', 0.2)


@learn('attacked-strict', BOTH)
def attacked_strict(scene):
    """As `attacked`, strict: the strangers may be there as long as they like."""
    attacked(scene, 'strict', 1.5)


@learn('stray', BOTH)
def stray(scene):
    """One packet of a stranger comes first; the parties then send from their SDP's addresses: nothing is lost."""
    here = with_strangers(scene)
    dialog, (caller, callee) = Dialog(here, 'stray'), here.pair('stray')
    callee.remote, caller.remote = dialog.request(line(caller))[0], dialog.reply(line(callee))[0]
    strangers = [here.phone('stranger %d' % n, STRANGER) for n in (1, 2)]
    for stranger, phone in zip(strangers, (caller, callee)):
        stranger.remote = phone.remote
        stranger.send(0)
    here.scene.loop.pause(0.1)
    caller.start()
    callee.start()
    here.nothing_lost(*both(caller, callee), seconds=1)
    spared(here, (caller, callee), strangers)
    here.finish()


@learn('ringback', BOTH)
def ringback(scene):
    """A ringback server whose address no SDP names is heard; then the callee that the SDP names is, and the server never again."""
    here = with_strangers(scene)
    server = here.phone('server', ROAMING)
    dialog, (caller, callee) = Dialog(here, 'ringback'), here.pair('ringback')
    to_callee = dialog.request(line(caller))[0]
    talk(caller, dialog.reply(line(callee), tag=False)[0])
    talk(server, to_callee)
    here.until_heard((caller, server))
    dialog.reply(line(callee))
    server.stop()
    talk(callee, to_callee)
    here.until_heard(*both(caller, callee), seconds=0.6)
    here.nothing_lost(*both(caller, callee))
    start = time.monotonic()
    server.start()
    callee.stop()
    here.scene.loop.pause(1.2)
    here.unheard((caller, server), (server, caller), since=start)
    here.finish()


@learn('other-address')
def other_address(scene):
    """183 and 200 name the callee differently (a private address, the public one, another port), and it sends from one place all the time."""
    here = hall(scene)
    pairs = []
    for name, first, second in (('alg', PRIVATE, ('10.12.0.2', 5004)), ('back', ('10.12.0.2', 5004), PRIVATE), ('ports', ('10.12.0.2', 5004), ('10.12.0.2', 5006))):
        dialog, (caller, callee) = Dialog(here, name), here.pair(name)
        talk(callee, dialog.request(line(caller))[0])
        talk(caller, dialog.reply(line(first), tag=False)[0])
        pairs.append((dialog, second, caller, callee))
    phones = [phone for *_, caller, callee in pairs for phone in (caller, callee)]
    here.until_heard(*both(*phones))
    for dialog, second, _, _ in pairs:
        dialog.reply(line(second))
    here.until_heard(*both(*phones), seconds=0.4)
    here.nothing_lost(*both(*phones))
    here.finish()


@learn('own-address')
def own_address(scene):
    """A call passes the proxy twice under one Call-ID, so that its SDPs name this relay: 183, then 200, then a session refresh. Nothing is lost."""
    here = hall(scene)
    dialog, (caller, callee) = Dialog(here, 'spiral'), here.pair('spiral')

    def twice(tell, *first, **options):
        again = tell(line(first[0]), **options)[0]
        return tell(line(again), **options)[0]
    talk(callee, twice(dialog.request, caller))
    talk(caller, twice(dialog.reply, callee, tag=False))
    here.until_heard(*both(caller, callee))
    twice(dialog.reply, callee)
    here.nothing_lost(*both(caller, callee))
    twice(dialog.request, caller, cseq=2, tag=True)
    twice(dialog.reply, callee, cseq=2)
    here.nothing_lost(*both(caller, callee))
    # One who only listens gets media as well.
    dialog, (caller, callee) = Dialog(here, 'listener'), here.pair('listener')
    twice(dialog.request, caller)
    talk(caller, twice(dialog.reply, callee))
    here.until_heard((callee, caller))
    here.finish()


@learn('elsewhere', BOTH)
def elsewhere(scene):
    """A party comes from an address that nothing names: guarded takes it once it has proven to be one RTP stream, and no junk before."""
    here = with_strangers(scene)
    dialog = Dialog(here, 'elsewhere')
    caller, callee, stranger = here.phone('caller', ROAMING), here.phone('callee', CALLEE), here.phone('stranger', STRANGER)
    talk(callee, dialog.request(line(('10.11.0.2', 6000)))[0])
    caller.remote = stranger.remote = dialog.reply(line(callee))[0]
    junk = JUNK[:]

    def scatter():
        if junk:
            stranger.sockets[0].sendto(junk.pop(), stranger.remote)
            here.scene.loop.after(0.01, scatter)
    scatter()
    here.until(lambda: not junk, 4, 'the junk to be sent')
    if any(data in JUNK for _, data, _, _, _ in callee.arrived):
        here.fail('junk of a stranger came to the callee')
    start = time.monotonic()
    caller.start()
    here.until_heard(*both(caller, callee), seconds=1.5)
    until_in_kernel(here, caller, callee)
    here.nothing_lost(*both(caller, callee))
    if stranger.arrived:
        here.fail('the stranger got %d packets' % len(stranger.arrived))
    heard_after = min(when for when, data, _, _, _ in callee.arrived if data in caller.sent) - start
    here.finish()
    return 'heard after %.2f s' % heard_after


def rtp(sequence, ssrc):
    return struct.pack('!BBHII', 0x80, 8, sequence & 0xffff, sequence * 160 & 0xffffffff, ssrc) + bytes(160)


# What is no RTP stream: changing SSRCs, numbers that do not advance, no RTP at all, STUN that nobody asked for.
JUNK = [packet for n in range(30) for packet in (
    rtp(n, 0x1000 + n), rtp(77, 99), rtp(5000 - n * 300, 98), os.urandom(100), stun(SUCCESS, os.urandom(12)), stun(REQUEST, os.urandom(12)), b'\x16\xfe\xff' + bytes(60))]


@learn('elsewhere-strict')
def elsewhere_strict(scene):
    """The same, strict: never."""
    here = with_strangers(scene, learning='strict')
    dialog, caller, callee = Dialog(here, 'elsewhere'), here.phone('caller', ROAMING), here.phone('callee', CALLEE)
    talk(callee, dialog.request(line(('10.11.0.2', 6000)))[0])
    talk(caller, dialog.reply(line(callee))[0])
    here.scene.loop.pause(1.5)
    here.unheard((callee, caller), (caller, callee), since=0)
    here.finish()


@learn('open')
def learning_open(scene):
    """`open`: the first packet of anybody, as it was."""
    here = with_strangers(scene, learning='open')
    dialog, caller, callee = Dialog(here, 'open'), here.phone('caller', ROAMING), here.phone('callee', CALLEE)
    talk(callee, dialog.request(line(('10.11.0.2', 6000)))[0])
    talk(caller, dialog.reply(line(callee))[0])
    here.nothing_lost((callee, caller))
    here.until_heard((caller, callee))
    here.finish()


@learn('mute', BOTH)
def mute(scene):
    """A party falls silent for a while: no stranger takes its place, nor the SSRC's numbers that anybody may guess while it talks."""
    here = with_strangers(scene)
    _, caller, callee = call(here, 'mute')
    until_in_kernel(here, caller, callee)
    strangers = [attack(here, 'stranger', caller.remote), attack(here, 'forger', caller.remote)]
    strangers[1].ssrc, strangers[1].number = caller.ssrc, caller.number + 10
    here.nothing_lost(*both(caller, callee))
    strangers[1].stop()
    caller.stop()
    here.scene.loop.pause(2.8)
    # The callee's media goes where it went.
    here.nothing_lost((caller, callee))
    caller.start()
    here.until_heard(*both(caller, callee), seconds=0.6)
    spared(here, (caller, callee), strangers)
    here.finish()


@learn('rebind', BOTH)
def rebind(scene):
    """A phone behind a NAT goes on from another port, and from another address: followed within 3 s, once in a while, and logged."""
    here = with_strangers(scene)
    calls = [call(here, name) for name in ('port', 'sdp-private')]
    dialog, (caller, callee) = Dialog(here, 'address'), here.pair('address')
    talk(callee, dialog.request(line(caller))[0])
    talk(caller, dialog.reply(line(callee))[0])
    calls.append((dialog, caller, callee))
    phones = [phone for _, *pair in calls for phone in pair]
    until_in_kernel(here, *phones)
    for number, (_, phone, _) in enumerate(calls[:2]):
        phone.rebind(27000 + 4 * number)
    moved = here.phone('address moved', ROAMING)
    moved.ssrc, moved.number = caller.ssrc, caller.number
    caller.stop()
    talk(moved, caller.remote)
    phones[4] = moved
    start = time.monotonic()
    here.until_heard(*both(*phones), seconds=3)
    here.until(lambda: all(heard(by, of, start) > 10 for by, of in both(*phones)), 1, 'all to be heard')
    until_in_kernel(here, *phones)
    here.nothing_lost(*both(*phones))
    if not any(word in scene.daemons.log('relay') for word in ('27000', '27004')):
        here.fail('the log does not tell of the new port')
    here.finish()


@learn('rebind-off')
def rebind_off(scene):
    """`relearn = no`, strict: another port stays unheard."""
    here = with_strangers(scene, learning='strict', relearn='no')
    dialog, (caller, callee) = Dialog(here, 'off'), here.pair('off')
    talk(callee, dialog.request(line(caller))[0])
    talk(caller, dialog.reply(line(callee))[0])
    here.until_heard(*both(caller, callee))
    moved = here.phone('moved', ROAMING)
    moved.ssrc, moved.number = caller.ssrc, caller.number
    caller.stop()
    talk(moved, caller.remote)
    here.scene.loop.pause(3)
    here.unheard((callee, moved), (moved, callee), since=0)
    here.finish()


@learn('nat-box', BOTH)
def nat_box(scene):
    """A real NAT drops its mapping in mid-call and gives another port: media is back within 3 s, on the path that it was on."""
    inside = scene.phone_behind_nat('nat-caller', 21)
    here = hall(scene)
    here.places[BEHIND] = inside.host, inside.ip
    dialog = Dialog(here, 'nat-box', signaling={CALLER: inside.reached_at, CALLEE: here.places[CALLEE][1]})
    caller, callee = here.phone('caller', BEHIND), here.phone('callee', CALLEE)
    talk(callee, dialog.request(line(caller))[0])
    talk(caller, dialog.reply(line(callee))[0])
    until_in_kernel(here, caller, callee)
    nat = scene.lab.prefix + '-nat-caller-nat'
    netfilter.on(nat, 'nft', 'flush', 'chain', 'ip', 'nat', 'out')
    netfilter.on(nat, 'nft', 'add', 'rule', 'ip', 'nat', 'out', 'ip', 'protocol', 'udp', 'masquerade', 'to', ':31000-31999', 'random')
    netfilter.on(nat, 'conntrack', '-D', '-p', 'udp', '-s', inside.ip)
    start = time.monotonic()
    here.until(lambda: all(heard(by, of, start + 0.05) > 5 for by, of in both(caller, callee)), 4, 'media to be back')
    took = time.monotonic() - start
    before = {s['call_id']: s['caller_packets_kernel'] for one in here.sessions() for s in [dict(one['streams'][0], call_id=one['call_id'])]}
    until_in_kernel(here, caller, callee)
    here.nothing_lost(*both(caller, callee))
    if scene.forwarding == 'kernel':
        here.until(lambda: here.sessions()[0]['streams'][0]['caller_packets_kernel'] > before['nat-box'], 4, 'the kernel to forward again')
    if took > 3:
        here.fail('it took %.1f s' % took)
    here.finish()
    return 'back after %.2f s' % took
