"""What must hold when something breaks or ends in mid-call: a relay, the dispatcher, a proxy's connection, the media.

Nothing here runs with the stand-in. The others go on, new calls work, and no session is left behind.
"""
import json
import os
import re
import signal
import socket
import time

from scenarios import A, B, LAST, TALK, hold, scenario
from scene import Failed
from script import CALLEE, CALLER, Bye, Ended, Media, Phone, Reinvite, Setup, Talk

# How much later than its limit a silent stream may end, seconds.
LATE = 1.5
# A call that its relay ends, whoever says BYE then.
TIMED_OUT = {'timed_out': True}
# A call whose relay was taken away under it.
GONE = {'complete': False, 'statistics': False, 'relay_gone': True, 'least': 20}


def ending(scene, milliseconds):
    """With engage_media_proxy() the dispatcher has the proxy end the call; with use_media_proxy() the caller does so later."""
    return [Ended()] if scene.mode == 'engage' else [Talk(milliseconds), Bye(CALLER)]


def two_relays(scene, **keys):
    """Relays 10.13.0.2 and 10.14.0.2 on hosts of their own; starts everything."""
    places = [scene.attach('relay%d' % n, 12 + n) for n in (1, 2)]
    scene.relay_ips = {role: {ip for _, _, ip in places} for role in (CALLER, CALLEE)}
    scene.start(relays=[lambda h=host, ip=ip, n=n: scene.daemons.start_relay(h, ip[:-1] + '1', 'relay%d' % n, **keys)
                        for n, (host, _, ip) in enumerate(places, 1)])
    return [ip for _, _, ip in places]


def line(caller, callee, number):
    """The same two phones' hosts with other ports, for one more call at the same time."""
    shift = 100 * number
    return (Phone(caller.host, caller.ip, 5060 + number), Phone(callee.host, callee.ip, 5060 + number),
            [Media('audio', 6000 + shift)], [Media('audio', 7000 + shift)])


def place(scene, phones, number, steps, relay=None, seconds=1.2, **rules):
    """Places the call with this number between two hosts; `steps` follow its set-up; `relay` is the one that is asked for."""
    caller, callee, offer, answer = line(*phones, number)
    if relay:
        rules['relay'] = relay
    scene.place(scene.call(caller, callee, [Setup(offer, answer)] + steps, number=number, **rules), seconds=seconds)
    return scene.parties[-1]


def on_relay(pair, ip):
    """Was everybody in this call told this relay?"""
    told = {l.ip for party in pair for sdp in party.passed if not sdp.out for l in sdp.lines}
    if told != {ip}:
        raise Failed('call %d went by %s, not by %s' % (pair[0].call.number, ' '.join(sorted(told)) or 'no relay', ip))


@scenario('relay-killed', standin=False)
def relay_killed(scene):
    """One of two relays dies: the calls on the other lose nothing, and a new call that asks for the dead one gets the other.
    When it is back without its call, that is accounted."""
    phones = scene.two_phones()
    first, second = two_relays(scene)
    one = place(scene, phones, 1, [Talk(3000), Bye(CALLER)], first, 2.5, **GONE)
    two = place(scene, phones, 2, [Talk(4200), Bye(CALLER)], second, 3.5)
    scene.until_flowing(one, two)
    killed = scene.daemons.relays['relay1']
    killed.kill()
    scene.lab.wait(killed, 2)
    three = place(scene, phones, 3, [LAST, Bye(CALLEE)], first)
    scene.loop.until(scene.over, 40, 'the phones to end their calls')
    scene.daemons.forget_calls('relay1')
    scene.daemons.start_relay(killed.host, first[:-1] + '1', 'relay1')
    scene.finish()
    for pair, ip in ((one, first), (two, second), (three, second)):
        on_relay(pair, ip)


@scenario('relay-frozen', standin=False)
def relay_frozen(scene):
    """A relay hangs: a new call goes to the other one before the proxy loses its patience (500 ms)."""
    phones = scene.two_phones()
    first, second = two_relays(scene)
    frozen = scene.daemons.relays['relay1']
    frozen.send_signal(signal.SIGSTOP)
    pair = place(scene, phones, 1, [LAST, Bye(CALLER)], first)
    try:
        scene.until_flowing(pair)
    finally:
        frozen.send_signal(signal.SIGCONT)
    scene.finish()
    on_relay(pair, second)


@scenario('relay-drained', standin=False)
def relay_drained(scene):
    """HUP: the relay takes no new calls, keeps the ones it has, and ends with the last of them."""
    phones = scene.two_phones()
    first, second = two_relays(scene)
    one = place(scene, phones, 1, [Talk(3500), Bye(CALLER)], first, 2.5)
    scene.until_flowing(one)
    drained = scene.daemons.relays['relay1']
    drained.send_signal(signal.SIGHUP)
    scene.loop.until(lambda: any(r.get('status') == 'halting' for r in scene.daemons.summary()), 3, '`summary` to show the relay as halting')
    two = place(scene, phones, 2, [LAST, Bye(CALLER)], first)
    status = scene.lab.wait(drained, 15)
    if status != 0:
        raise Failed('the drained relay ended with status %s' % status)
    scene.finish()
    on_relay(one, first)
    on_relay(two, second)


@scenario('relay-ended', standin=False)
def relay_ended(scene):
    """TERM in mid-call: the relay reports the session as expired, the call is ended, the proxy's remove is answered `removed`."""
    caller, callee = scene.two_phones()
    scene.start()
    scene.place(scene.call(caller, callee, [Setup(A, B)] + ending(scene, 2500), **TIMED_OUT, complete=False, statistics=False, least=20), seconds=1.5)
    scene.until_flowing()
    relay = scene.daemons.relays['relay']
    status = scene.lab.stop(relay)
    if status != 0:
        raise Failed('the relay ended with status %s on TERM' % status)
    scene.finish()


@scenario('dispatcher-killed', standin=False)
def dispatcher_killed(scene):
    """The dispatcher dies and is started again: the media does not notice, the call can be changed and ended."""
    # The relay tries again after a second, and each second after that where the dispatcher is not up by then.
    caller, callee = limited(scene, reconnect_delay=1)
    steps = [Setup(A, B), Talk(5500), Reinvite(CALLER, hold(A, 'sendonly'), hold(B, 'recvonly'), {0: 'keep'}), TALK,
             Reinvite(CALLEE, B, A, {0: 'keep'}), Talk(3700), Bye(CALLEE)]
    scene.place(scene.call(caller, callee, steps), seconds=3)
    scene.until_flowing()
    scene.daemons.dispatcher.kill()
    scene.lab.wait(scene.daemons.dispatcher, 2)
    scene.until_flowing(packets=70)
    restarted = time.time()
    scene.daemons.start_dispatcher(scene.router)
    call_id = scene.parties[0][0].call.call_id
    scene.loop.until(lambda: scene.management.now_lists(call_id, restarted), 4, 'the call in `sessions` of the new dispatcher')
    scene.finish()


@scenario('relay-killed-dialog', modes=('engage',), standin=False)
def relay_killed_dialog(scene):
    """A relay dies and comes back without the call: the dispatcher drops it and the proxy ends the dialog."""
    caller, callee = scene.two_phones()
    scene.start()
    scene.place(scene.call(caller, callee, [Setup(A, B), Ended()], **GONE), seconds=1.5)
    scene.until_flowing()
    relay = scene.daemons.relays['relay']
    relay.kill()
    scene.lab.wait(relay, 2)
    scene.daemons.forget_calls('relay')
    scene.daemons.start_relay(scene.router, '127.0.0.1', relay_ip='10.11.0.1')
    scene.finish()


REQUEST = ('update\r\ntype: request\r\ndialog_id: \r\ncall_id: %s\r\ncseq: 1\r\nfrom_uri: a@test.invalid\r\nto_uri: b@test.invalid\r\n'
           'from_tag: x\r\nto_tag: \r\nuser_agent: cut\r\nsignaling_ip: 10.11.0.2\r\nmedia_relay: \r\n'
           'media: audio:10.11.0.2:9000:sendrecv:ice=no\r\n\r\n')


def broken_connections(path):
    """Connections to the dispatcher that end or stay in every unfortunate state; those that stay open."""
    request, left = REQUEST % 'cut@test.invalid', []
    for end in range(1, len(request), 9):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        sock.sendall(request[:end].encode())
        if end % 2:
            left.append(sock)
        else:
            sock.close()
    for junk, closes in (('nonsense\r\n\r\n', False), ('update\r\nno colon\r\n\r\n', False), ('remove\r\n\r\n', False),
                         ('update\r\nx: ' + 'y' * 70000 + '\r\n\r\n', True)):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(2)
        sock.connect(path)
        try:
            sock.sendall(junk.encode())
            answer = sock.recv(100)
            rest = sock.recv(100) if closes else b''
        except (BrokenPipeError, ConnectionResetError):
            answer, rest = b'error\r\n', b''
        if answer != b'error\r\n' or rest:
            raise Failed('the dispatcher answered %r, then %r, to %r' % (answer, rest, junk[:40]))
        sock.close()
    return left


def answer_lost(path):
    """A whole request whose sender is gone before the answer; the call that it made is removed again."""
    for number in range(20):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        sock.sendall((REQUEST % ('gone-%d@test.invalid' % number)).encode())
        sock.close()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(path)
        for number in range(20):
            sock.sendall(b'remove\r\ncall_id: gone-%d@test.invalid\r\nfrom_tag: x\r\nto_tag: \r\n\r\n' % number)
            answer = sock.recv(100)
            if answer not in (b'removed\r\n', b'error\r\n'):
                raise Failed('a remove was answered %r' % answer)


@scenario('proxy-cut', standin=False)
def proxy_cut(scene):
    """Proxy connections that break off in mid-request cost nothing but themselves."""
    phones = scene.two_phones()
    scene.start()
    one = place(scene, phones, 1, [Talk(2500), Bye(CALLER)], seconds=1.8)
    scene.until_flowing(one)
    left = broken_connections(scene.daemons.socket)
    answer_lost(scene.daemons.socket)
    place(scene, phones, 2, [LAST, Bye(CALLEE)])
    scene.finish()
    for sock in left:
        sock.close()


def limited(scene, **keys):
    """Two phones and one relay with these limits."""
    phones = scene.two_phones()
    scene.start(relays=[lambda: scene.daemons.start_relay(scene.router, '127.0.0.1', relay_ip='10.11.0.1', **keys)])
    return phones


def ended_in_time(scene, since, limit):
    """The call left `sessions` when its silence had lasted `limit` seconds, and not before."""
    call_id = scene.parties[0][0].call.call_id
    sample = scene.management.last_with(call_id)
    if sample is None:
        raise Failed('`sessions` never listed the call')
    lasted = sample[0] - since
    if not limit - LATE / 3 <= lasted <= limit + LATE:
        raise Failed('the call was listed for %.1f s after its last media, the limit is %g s' % (lasted, limit))


def last_media(scene):
    return max(p.time for capture in scene.captures.values() for p in capture.packets)


@scenario('media-stops', standin=False)
def media_stops(scene):
    """The media stops in mid-call: the session expires after stream_timeout and the call is ended."""
    caller, callee = limited(scene, stream_timeout=3)
    scene.place(scene.call(caller, callee, [Setup(A, B)] + ending(scene, 6500), **TIMED_OUT, statistics=False, least=40), seconds=0.7)
    scene.until_flowing()
    scene.finish()
    ended_in_time(scene, last_media(scene), 3)


@scenario('media-never', standin=False)
def media_never(scene):
    """Nobody ever sends: the same, counted from the answer."""
    caller, callee = limited(scene, stream_timeout=3)
    scene.place(scene.call(caller, callee, [Setup(A, B)] + ending(scene, 5500), **TIMED_OUT, statistics=False, least=0), silent=(CALLER, CALLEE))
    scene.finish()
    ended_in_time(scene, scene.parties[0][0].commits[0].time, 3)


@scenario('one-way', modes=('engage',), standin=False)
def one_way(scene):
    """An announcement: one party's media keeps the stream alive."""
    caller, callee = limited(scene, stream_timeout=2)
    scene.place(scene.call(caller, callee, [Setup(A, B), Talk(5000), Bye(CALLER)]), seconds=4.3, silent=(CALLEE,))
    scene.finish()


@scenario('hold-silent', modes=('use',), standin=False)
def hold_silent(scene):
    """On hold without a packet for longer than stream_timeout: the call is still there."""
    caller, callee = limited(scene, stream_timeout=2)
    steps = [Setup(A, B), TALK, Reinvite(CALLER, hold(A, 'inactive'), hold(B, 'inactive'), {0: 'keep'}), Talk(4000),
             Reinvite(CALLER, A, B, {0: 'keep'}), LAST, Bye(CALLER)]
    scene.place(scene.call(caller, callee, steps))
    scene.finish()


@scenario('ended-by-admin', modes=('engage',), standin=False)
def ended_by_admin(scene):
    """An operator ends the call at the dispatcher, which has the SIP proxy end its dialog."""
    caller, callee = scene.two_phones()
    scene.start()
    scene.place(scene.call(caller, callee, [Setup(A, B), Ended('operator')], least=50), seconds=0.6)
    scene.until_flowing()
    party = scene.parties[0][0]
    scene.loop.until(lambda: not any(p.sending() for p in scene.parties[0]), 5, 'the phones to fall silent')
    silent = time.time()
    scene.loop.until(lambda: scene.management.now_lists(party.call.call_id, silent), 2, 'a sample of `sessions`')
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(scene.daemons.management)
        sock.sendall(b'end %s\r\n' % party.call.call_id.encode())
        # The proxy's own requests pass through this process meanwhile.
        scene.loop.until(scene.over, 5, 'the phones to get their BYE')
        answer = sock.recv(1000).decode()
    if not re.match(r'ended: call \S+, dialog \d+:\d+ by Kamailio\r\n', answer):
        raise Failed('`end` was answered %r' % answer)
    scene.finish()


@scenario('ended-by-proxy', modes=('engage',))
def ended_by_proxy(scene):
    """An operator ends the call at the SIP proxy, by dlg.end_dlg."""
    caller, callee = scene.two_phones()
    scene.start()
    scene.place(scene.call(caller, callee, [Setup(A, B), Ended('operator')], least=50), seconds=0.6)
    scene.until_flowing()
    party = scene.parties[0][0]
    scene.loop.until(lambda: not any(p.sending() for p in scene.parties[0]), 5, 'the phones to fall silent')
    silent = time.time()
    scene.loop.until(lambda: scene.management.now_lists(party.call.call_id, silent), 2, 'a sample of `sessions`')
    entry, number = scene.tap.of(party.call.call_id)[0].headers['dialog_id'].split(':')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        # Kamailio answers to the sender's name: without one the command runs but nothing comes back.
        sock.bind(os.path.join(scene.scratch, 'operator.sock'))
        sock.setblocking(False)
        request = {'jsonrpc': '2.0', 'id': '1', 'method': 'dlg.end_dlg', 'params': [int(entry), int(number)]}
        sock.sendto(json.dumps(request).encode(), scene.daemons.rpc)
        scene.loop.until(scene.over, 5, 'the phones to get their BYE')
    scene.finish()
