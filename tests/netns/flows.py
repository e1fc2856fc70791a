"""Offers and answers in the orders in which phones really send them: what the dispatcher is told, and who hears whom.

The dispatcher's socket is driven as a proxy's module does (tags and CSeqs as Kamailio gives them); the same through Kamailio is in
dialogs.py. Media is told on one path only where the path does not matter.
"""
import json
import os
import socket
import time

import records
from direct import UPDATE, World
from hearing import Hall
from media import PERIOD
from scenarios import scenario
from scene import Failed
from script import CALLEE, CALLER, other

# Of the relay in scenarios in which something falls silent, seconds.
SILENCE = 3
BOTH = ('userspace', 'kernel')


def flow(name, forwarding=('userspace',)):
    return scenario(name, modes=('',), standin=False, forwarding=forwarding)


def hall(scene, **keys):
    """A Hall with the daemons running; keys: those of [Relay]."""
    made = World(scene, start=False)
    made.start_relay(**keys)
    place = Hall(scene, made.phones)
    place.proxy = made.proxy
    return place


def line(where, kind='audio', direction='sendrecv', ice='no'):
    """An m= line as the proxy tells it, of a phone or of (ip, port)."""
    ip, port = getattr(where, 'address', where)
    return '%s:%s:%d:%s:ice=%s' % (kind, ip, port, direction, ice)


class Dialog:
    """What a proxy tells the dispatcher of one INVITE dialog. `signaling`: {role: the address that its SIP comes from}."""

    def __init__(self, hall, name, from_tag='f', to_tag='t', dialog_id='', signaling=None):
        self.proxy, self.name, self.tags, self.dialog_id = hall.proxy, name, {CALLER: from_tag, CALLEE: to_tag}, dialog_id
        self.signaling = signaling or {role: ip for role, (_, ip) in hall.places.items()}

    def ask(self, kind, by, cseq, lines, tag):
        """by: whose request it is; tag: whether To has one, or which."""
        tags = dict(self.tags)
        if isinstance(tag, str):
            tags[CALLEE] = tag
        text = UPDATE % {'type': kind, 'id': self.name, 'cseq': cseq, 'from_tag': tags[by], 'to_tag': tags[other(by)] if tag else '',
                         'ip': self.signaling[by if kind == 'request' else other(by)], 'port': 0, 'relay': ''}
        head = text.partition('media: ')[0].replace('dialog_id: ', 'dialog_id: ' + self.dialog_id)
        return self.proxy.ask(head + ('media: %s\r\n\r\n' % ','.join(lines) if lines else '\r\n'))

    def told(self, kind, by, cseq, lines, tag):
        answer = self.ask(kind, by, cseq, lines, tag)
        ip, *ports = answer.split()
        if len(ports) < len(lines):
            raise Failed('%s of %s in %s was answered %r' % (kind, by, self.name, answer))
        return [(ip, int(port)) for port in ports]

    def request(self, *lines, by=CALLER, cseq=1, tag=False):
        """SDP in a request of `by`: the addresses that the other one is told."""
        return self.told('request', by, cseq, lines, tag)

    def reply(self, *lines, by=CALLER, cseq=1, tag=True):
        """SDP in a reply to a request of `by`."""
        return self.told('reply', by, cseq, lines, tag)

    def remove(self, tag=True):
        callee = (tag if isinstance(tag, str) else self.tags[CALLEE]) if tag else ''
        return self.proxy.ask('remove\r\ncall_id: %s\r\nfrom_tag: %s\r\nto_tag: %s\r\n\r\n' % (self.name, self.tags[CALLER], callee))


def talk(phone, remote):
    phone.remote = remote
    phone.start()


def call(hall, name, kind='audio', **options):
    """Two phones that talk; (dialog, caller, callee)."""
    dialog, (caller, callee) = Dialog(hall, name, **options), hall.pair(name)
    to_callee = dialog.request(line(caller, kind))
    to_caller = dialog.reply(line(callee, kind))
    talk(callee, to_callee[0])
    talk(caller, to_caller[0])
    return dialog, caller, callee


def both(*phones):
    """Everybody hears the other one: caller, callee, caller, callee ..."""
    return [pair for a, b in zip(phones[::2], phones[1::2]) for pair in ((a, b), (b, a))]


def until_in_kernel(here, *phones):
    """Where the kernel forwards, the media of these phones is there now, and goes on."""
    here.until_heard(*both(*phones))
    if here.scene.forwarding == 'kernel':
        def there():
            listed = here.sessions()
            return listed and all(s['caller_packets_kernel'] > 5 and s['callee_packets_kernel'] > 5 for one in listed for s in one['streams'][:1])
        here.until(there, 4, 'the kernel to forward')


@flow('flow-refused', BOTH)
def refused(scene):
    """A re-INVITE is refused (488, 491): the switch to fax in a line of its own or in place of audio, and video switched off. Nothing is lost."""
    here = hall(scene)
    one, two, three = [call(here, name) for name in ('fax-beside', 'fax-instead', 'both-lines')]
    phones = [phone for _, *pair in (one, two, three) for phone in pair]
    # The third one has a video line, too.
    video = here.pair('both-lines video')
    dialog, caller, callee = three
    to_callee = dialog.request(line(caller), line(video[0], 'video'), cseq=2, tag=True)
    to_caller = dialog.reply(line(callee), line(video[1], 'video'), cseq=2)
    talk(video[1], to_callee[1])
    talk(video[0], to_caller[1])
    phones += video
    until_in_kernel(here, *phones)
    fax = (here.places[CALLEE][1], 7000)
    one[0].request(line((one[2].address[0], 0), direction='inactive'), line(fax, 'image'), by=CALLEE, tag=True)
    two[0].request(line(fax, 'image'), by=CALLEE, tag=True)
    dialog.request(line(caller), line((caller.address[0], 0), 'video', 'inactive'), cseq=3, tag=True)
    here.nothing_lost(*both(*phones), seconds=0.8)
    # The next offer is taken as if there had been no other, and keeps the ports.
    ports = dialog.request(line(caller), line(video[0], 'video'), cseq=4, tag=True)
    if ports != [callee.remote, video[1].remote]:
        here.fail('after the refused offer the ports are %s, and they were %s' % (ports, [callee.remote, video[1].remote]))
    dialog.reply(line(callee), line(video[1], 'video'), cseq=4)
    here.nothing_lost(*both(*phones))
    # The refused one's own stream ends with the next accepted offer; the phones' fax comes through then.
    faxes = here.phone('fax caller', CALLER), here.phone('fax callee', CALLEE)
    to_caller = two[0].request(line(faxes[1], 'image'), by=CALLEE, cseq=2, tag=True)
    to_callee = two[0].reply(line(faxes[0], 'image'), by=CALLEE, cseq=2)
    talk(faxes[0], to_caller[0])
    talk(faxes[1], to_callee[0])
    here.until_heard(*both(*faxes))
    streams = [s['streams'] for s in here.sessions() if s['call_id'] == 'fax-instead'][0]
    alive = [s['media_type'] for s in streams if s['status'] not in ('closed', 'rejected')]
    if alive != ['image']:
        here.fail('after the switch these streams live: %s' % alive)
    here.finish()


@flow('flow-glare')
def glare(scene):
    """Offers cross: both are refused with 491; then again, and one is answered. Nobody is cut off, and the answered one counts."""
    here = hall(scene)
    dialog, caller, callee = call(here, 'glare')
    here.until_heard(*both(caller, callee))
    at = {role: here.phone('moved ' + role, role) for role in (CALLER, CALLEE)}
    for role in (CALLER, CALLEE):
        dialog.request(line(at[role]), by=role, cseq=2, tag=True)
    here.nothing_lost(*both(caller, callee))
    to_callee = dialog.request(line(at[CALLER]), by=CALLER, cseq=3, tag=True)
    dialog.request(line(at[CALLEE]), by=CALLEE, cseq=3, tag=True)
    to_caller = dialog.reply(line(callee), by=CALLER, cseq=3)
    talk(at[CALLER], to_caller[0])
    callee.remote = to_callee[0]
    here.until_heard((at[CALLER], callee), (callee, at[CALLER]))
    here.nothing_lost((at[CALLER], callee), (callee, at[CALLER]))
    here.finish()


@flow('flow-late-183')
def late_183(scene):
    """INVITE without SDP; a reliable 183 has the offer, PRACK the answer, the 200 no SDP; then a session refresh of each."""
    here = hall(scene)
    dialog, (caller, callee) = Dialog(here, 'prack'), here.pair('prack')
    to_caller = dialog.reply(line(callee), tag=False)
    to_callee = dialog.request(line(caller), cseq=2, tag=True)
    talk(caller, to_caller[0])
    talk(callee, to_callee[0])
    here.until_heard(*both(caller, callee))
    dialog.reply(cseq=1)
    here.nothing_lost(*both(caller, callee))
    for by, cseq, offerer, answerer, told in ((CALLER, 3, caller, callee, to_callee), (CALLEE, 1, callee, caller, to_caller)):
        if dialog.request(line(offerer), by=by, cseq=cseq, tag=True) != told:
            here.fail('a session refresh of the %s got other ports' % by)
        dialog.reply(line(answerer), by=by, cseq=cseq)
    here.nothing_lost(*both(caller, callee))
    here.finish()


@flow('flow-prack-offers')
def prack_offers(scene):
    """Offer and answer in INVITE and 183, then a new offer in PRACK and its answer in PRACK's 200; the 200 to the INVITE has none."""
    here = hall(scene)
    dialog, (caller, callee) = Dialog(here, 'prack-offer'), here.pair('prack-offer')
    early = here.phone('early callee', CALLEE)
    to_early = dialog.request(line(caller))
    to_caller = dialog.reply(line(early), tag=False)
    talk(caller, to_caller[0])
    talk(early, to_early[0])
    here.until_heard(*both(caller, early))
    to_callee = dialog.request(line(caller), cseq=2, tag=True)
    dialog.reply(line(callee), cseq=2)
    early.stop()
    talk(callee, to_callee[0])
    here.until_heard(*both(caller, callee))
    dialog.reply(cseq=1)
    here.nothing_lost(*both(caller, callee))
    here.finish()


@flow('flow-fork', BOTH)
def fork(scene):
    """Two branches ring for 6.5 s: with media of one, which goes on after the other's answer in one call. The answer decides who is heard."""
    here = hall(scene)
    calls = []
    for name, goes_on, told in (('fork', False, True), ('fork-goes-on', True, True), ('fork-unknown', True, False)):
        dialog = Dialog(here, name)
        caller, first, second = here.phone(name + ' caller'), here.phone(name + ' first', CALLEE), here.phone(name + ' second', CALLEE)
        to_callee = dialog.request(line(caller))
        talk(caller, dialog.reply(line(first), tag=False)[0])
        talk(first, to_callee[0])
        calls.append((dialog, caller, first, second, to_callee, goes_on))
        if told:
            dialog.reply(line(second), tag=False)
    here.scene.loop.pause(6.5)
    for dialog, caller, first, second, to_callee, goes_on in calls:
        dialog.reply(line(second), tag='second')
        talk(second, to_callee[0])
        if not goes_on:
            here.scene.loop.after(0.2, first.stop)
    start = time.monotonic()
    talking = [phone for _, caller, _, second, _, _ in calls for phone in (caller, second)]
    here.until_heard(*both(*talking))
    here.nothing_lost(*both(*talking))
    branches = [(caller, first) for _, caller, first, _, _, _ in calls]
    here.unheard(*branches, *((first, caller) for caller, first in branches), since=start + 2 * PERIOD)
    # What was refused for a while is refused after it as well.
    here.scene.loop.pause(5.5)
    here.nothing_lost(*both(*talking))
    here.unheard(*branches, since=start + 2 * PERIOD)
    here.finish()


@flow('flow-second-final')
def second_final(scene):
    """Two phones pick up: the second 200 moves nobody, and its BYE ends nothing."""
    here = hall(scene)
    dialog, caller, first = call(here, 'two-finals', to_tag='first')
    second = here.phone('second', CALLEE)
    here.until_heard(*both(caller, first))
    ports = dialog.reply(line(second), tag='second')
    talk(second, first.remote)
    if ports != [caller.remote]:
        here.fail('the second answer got %s, the first %s' % (ports, caller.remote))
    here.nothing_lost(*both(caller, first))
    if dialog.remove('second') != 'error':
        here.fail('the BYE to the second branch removed something')
    here.nothing_lost(*both(caller, first))
    here.unheard((caller, second), (second, caller), since=0)
    if [s['to_tag'] for s in here.sessions()] != ['first']:
        here.fail('the session is not the first one\'s')
    if dialog.remove('first') != 'removed':
        here.fail('the BYE did not remove the call')
    here.finish()


@flow('flow-early-update')
def early_update(scene):
    """An early UPDATE, then long ringing without media: the call does not end by stream_timeout. Cancelled it is no answered call; answered it
    is one."""
    here = hall(scene, stream_timeout=SILENCE)
    dialogs = [Dialog(here, name) for name in ('cancelled', 'answered')]
    pairs = [here.pair(dialog.name) for dialog in dialogs]
    told = []
    for dialog, (caller, callee) in zip(dialogs, pairs):
        dialog.request(line(caller))
        dialog.reply(line(callee), tag=False)
        to_callee = dialog.request(line(caller), cseq=2, tag=True)
        told.append((dialog.reply(line(callee), cseq=2), to_callee))
    here.scene.loop.pause(SILENCE + 1.5)
    if sorted(s['call_id'] for s in here.sessions()) != ['answered', 'cancelled']:
        here.fail('a ringing call has ended by stream_timeout')
    if [s['to_tag'] for s in here.sessions()] != [None, None]:
        here.fail('`sessions` names the callee of a call that rings: %s' % [s['to_tag'] for s in here.sessions()])
    dialogs[1].reply(cseq=1)
    (caller, callee), (to_caller, to_callee) = pairs[1], told[1]
    talk(caller, to_caller[0])
    talk(callee, to_callee[0])
    here.until_heard(*both(caller, callee))
    if [d.remove(tag) for d, tag in zip(dialogs, (False, True))] != ['removed', 'removed']:
        here.fail('a remove was refused')
    here.until(lambda: records.of_file(scene.daemons.runtime), 2, 'a record')
    here.finish()
    # Early media is accounted, without a callee.
    accounted = [line['call_id'] for line in records.of_file(scene.daemons.runtime) if line['to_tag']]
    if accounted != ['answered']:
        raise Failed('these are accounted as answered: %s' % accounted)


@flow('flow-pause', BOTH)
def pause(scene):
    """The cameras are off for longer than stream_timeout, with and without RTCP, in a call that talks; then on. A call of RTCP alone lives, and
    one without anything ends."""
    here = hall(scene, stream_timeout=SILENCE)
    calls = [call(here, name) for name in ('with-rtcp', 'without', 'rtcp-alone', 'nothing')]
    cameras = []
    for dialog, caller, callee in calls[:2]:
        video = here.pair(dialog.name + ' video')
        to_callee = dialog.request(line(caller), line(video[0], 'video'), cseq=2, tag=True)
        to_caller = dialog.reply(line(callee), line(video[1], 'video'), cseq=2)
        talk(video[1], to_callee[1])
        talk(video[0], to_caller[1])
        cameras.append(video)
    talking = [phone for _, *pair in calls[:2] for phone in pair]
    off = [phone for video in cameras for phone in video]
    here.until_heard(*both(*talking, *off))
    silent = off + [phone for _, *pair in calls[2:] for phone in pair]
    for phone in silent:
        phone.stop()

    def report():
        # Numbers go on: each packet has a name of its own.
        for phone in cameras[0] + tuple(calls[2][1:2]):
            phone.number += 1
            phone.send(1)
        if time.monotonic() < end:
            here.scene.loop.after(0.5, report)
    end = time.monotonic() + SILENCE + 1.8
    report()
    here.scene.loop.pause(SILENCE + 1.8)
    left = sorted(s['call_id'] for s in here.sessions())
    if left != ['rtcp-alone', 'with-rtcp', 'without']:
        here.fail('these calls are left: %s' % left)
    for phone in off:
        phone.start()
    here.until_heard(*both(*off))
    here.nothing_lost(*both(*talking, *off))
    here.finish()


@flow('flow-odd-lines')
def odd_lines(scene):
    """What is odd and harmless is taken: capitals, and addresses that mean nothing on a line with port 0."""
    here = hall(scene)
    for number, (offer, answer) in enumerate((
            (['audio:%s:SENDRECV:ice=no'], ['audio:%s:SendRecv:ice=no']),
            (['audio:%s:sendrecv:ice=no', 'video:2001:db8::1:0:inactive:ice=no'], ['audio:%s:sendrecv:ice=no', 'video::::0:inactive:ice=no']),
            (['audio:%s:sendrecv:ice=no', 'video::0:inactive:ice=no'], ['audio:%s:sendrecv:ice=no', 'video:2001:db8::1:0:inactive:ice=no']),
            (['AUDIO:%s:sendrecv:ice=NO'], ['audio:%s:sendrecv:ice=no']))):
        dialog, (caller, callee) = Dialog(here, 'odd-%d' % number), here.pair('odd-%d' % number)
        full = [[text % ('%s:%d' % phone.address) if '%s' in text else text for text in lines] for lines, phone in ((offer, caller), (answer, callee))]
        talk(callee, dialog.request(*full[0])[0])
        talk(caller, dialog.reply(*full[1])[0])
    here.until_heard(*both(*here.ends))
    here.finish()


@flow('flow-same-call-id')
def same_call_id(scene):
    """Two dialogs of one Call-ID: the media of one dies and the proxy is told to end that one; each BYE ends its own call."""
    here = hall(scene, stream_timeout=SILENCE)
    proxy = StandIn(scene)
    # As a B2BUA makes them: the second INVITE goes out before the first is answered.
    dialogs = [Dialog(here, 'same', 'f' + n, 't' + n, n * 2 + ':' + n) for n in '12']
    pairs = [here.pair('same ' + n) for n in '12']
    for dialog, (caller, callee) in zip(dialogs, pairs):
        talk(callee, dialog.request(line(caller))[0])
    for dialog, (caller, callee) in reversed(list(zip(dialogs, pairs))):
        talk(caller, dialog.reply(line(callee))[0])
    one, two = [(dialog, *pair) for dialog, pair in zip(dialogs, pairs)]
    here.until_heard(*both(*one[1:], *two[1:]))
    for phone in two[1:]:
        phone.stop()
    here.until(lambda: proxy.asked, SILENCE + 3, 'the proxy to be asked to end the silent dialog')
    here.nothing_lost(*both(*one[1:]))
    if proxy.asked != [[22, 2]]:
        here.fail('the proxy was asked to end %s, not 22:2' % proxy.asked)
    # Each BYE ends its own, whichever was spoken of last.
    tags = lambda: sorted(s['from_tag'] for s in here.sessions())
    three = Dialog(here, 'same', 'f3', 't3', '33:3')
    three.request(line(two[1]))
    three.reply(line(two[2]))
    if tags() != ['f1', 'f3']:
        here.fail('these are listed: %s' % tags())
    if one[0].remove() != 'removed' or tags() != ['f3'] or three.remove() != 'removed' or tags() != []:
        here.fail('a BYE of one dialog did not end this one alone: %s' % tags())
    here.until(lambda: len(records.of_file(scene.daemons.runtime)) == 3, 2, 'three records')
    here.finish()
    found = sorted((r['from_tag'], r['to_tag'], r['timed_out']) for r in records.of_file(scene.daemons.runtime))
    if found != [('f1', 't1', False), ('f2', 't2', True), ('f3', 't3', False)]:
        raise Failed('accounted: %s' % found)
    if len(proxy.asked) != 1:
        raise Failed('the proxy was asked to end %s' % proxy.asked)


class StandIn:
    """Stands where Kamailio is asked to end dialogs; ends none and says that it did."""

    def __init__(self, scene):
        self.asked = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(scene.daemons.rpc)
        os.chmod(scene.daemons.rpc, 0o666)
        self.sock.setblocking(False)
        scene.loop.add(self.sock, self.read)

    def read(self):
        data, sender = self.sock.recvfrom(65536)
        request = json.loads(data)
        self.asked.append(request['params'])
        self.sock.sendto(json.dumps({'jsonrpc': '2.0', 'result': {}, 'id': request['id']}).encode(), sender)
