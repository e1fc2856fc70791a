"""Calls through Kamailio as phones really make them: PRACK, forks, refusals, early UPDATEs, answers that cross, one Call-ID twice.

As flows.py, and here the proxy says what it says. Both ways of using its module.
"""
import time

import records
from flows import SILENCE, both, talk
from hearing import Hall
from media import PERIOD
from scenarios import scenario
from scene import PROXY, Failed
from script import CALLEE, CALLER
from sip import Agent, Leg, told

THIRD = 'third'
MODES = ('engage', 'use')


def dialog(name, modes=MODES):
    return scenario('sip-' + name, modes=modes, standin=False, forwarding=('userspace',))


class Table(Hall):
    """A Hall with Kamailio, and a user agent on each host. keys: those of [Relay]."""

    def __init__(self, scene, **keys):
        Hall.__init__(self, scene, {role: scene.attach(role, n)[::2] for role, n in ((CALLER, 11), (CALLEE, 12), (THIRD, 13))})
        scene.start(relays=[lambda: scene.daemons.start_relay(scene.router, '127.0.0.1', relay_ip=PROXY, **keys)])
        self.agents = {role: Agent(scene, host, ip, role) for role, (host, ip) in self.places.items()}

    def call(self, name, caller, callee, roles=(CALLER, CALLEE), from_tag='a', to_tag='b'):
        """An answered call between two phones; both ends of its dialog."""
        a, b = (self.agents[role] for role in roles)
        a.invite(name, from_tag, audio(caller), to=b)
        request = b.expect('INVITE', name)
        b.answer(request, '200 OK', audio(callee), to_tag)
        response = a.expect('SIP/2.0 200', name)
        legs = Leg(a, response), Leg(b, request, to_tag)
        legs[0].request('ACK', cseq=1)
        b.expect('ACK', name)
        talk(callee, told(request)[0])
        talk(caller, told(response)[0])
        self.until_heard(*both(caller, callee))
        return legs

    def bye(self, leg, to, name='', ends=None):
        """Hangs up; where `ends` is given, `remove` has to be answered so."""
        before = len(self.removes())
        leg.request('BYE')
        to.answer(to.expect('BYE', name), '200 OK')
        leg.agent.expect('SIP/2.0 200 of BYE', name)
        if ends:
            self.until(lambda: self.removes()[before:] and self.removes()[-1].answer, 2, 'the `remove` of the BYE')
            if self.removes()[-1].answer != ends:
                self.fail('the `remove` of the BYE was answered %r' % self.removes()[-1].answer)

    def removes(self):
        return [c for c in self.scene.tap.commands if c.name == 'remove']

    def fail(self, text):
        Hall.fail(self, '\n'.join([text] + [str(c) for c in self.scene.tap.commands]))


def audio(phone):
    return [('audio', phone.address)]


@dialog('prack')
def prack(scene):
    """INVITE without SDP, a reliable 183 with the offer, PRACK with the answer, 200 without SDP."""
    here = Table(scene)
    (caller, callee), (a, b) = here.pair('prack'), (here.agents[CALLER], here.agents[CALLEE])
    a.invite('prack', 'a', to=b)
    request = b.expect('INVITE')
    b.answer(request, '183 Session Progress', audio(callee), 'b', [('Require', '100rel'), ('RSeq', '1')])
    offer = a.expect('SIP/2.0 183')
    leg = Leg(a, offer)
    leg.request('PRACK', audio(caller), extra=[('RAck', '1 1 INVITE')])
    answer = b.expect('PRACK')
    b.answer(answer, '200 OK')
    a.expect('SIP/2.0 200 of PRACK')
    talk(caller, told(offer)[0])
    talk(callee, told(answer)[0])
    here.until_heard(*both(caller, callee))
    b.answer(request, '200 OK', to_tag='b')
    a.expect('SIP/2.0 200 of INVITE')
    leg.request('ACK', cseq=1)
    b.expect('ACK')
    here.nothing_lost(*both(caller, callee))
    here.bye(leg, b, ends='removed')
    here.finish()


@dialog('fork')
def fork(scene):
    """Two branches ring for 6.5 s, one with media; the other one, with 183 and without media, is answered."""
    here = Table(scene)
    caller, first, second = here.phone('caller'), here.phone('first', CALLEE), here.phone('second', THIRD)
    a, b, c = (here.agents[role] for role in (CALLER, CALLEE, THIRD))
    a.invite('fork', 'a', audio(caller), fork=c, to=b)
    requests = {}
    for agent, phone, to_tag in ((b, first, 'first'), (c, second, 'second')):
        requests[agent] = agent.expect('INVITE')
        agent.answer(requests[agent], '183 Session Progress', audio(phone), to_tag)
        early = a.expect('SIP/2.0 183')
        if agent is b:
            talk(caller, told(early)[0])
            talk(first, told(requests[b])[0])
            here.until_heard((caller, first))
    here.scene.loop.pause(6.5)
    c.answer(requests[c], '200 OK', audio(second), 'second')
    response = a.expect('SIP/2.0 200')
    since = time.monotonic()
    leg = Leg(a, response)
    leg.request('ACK', cseq=1)
    c.expect('ACK')
    talk(second, told(requests[c])[0])
    caller.remote = told(response)[0]
    # The first branch's media goes on until its CANCEL has come, and longer.
    b.answer(b.expect('CANCEL'), '200 OK', to_tag='first')
    b.answer(requests[b], '487 Request Terminated', to_tag='first')
    b.expect('ACK')
    here.until_heard(*both(caller, second))
    here.nothing_lost(*both(caller, second))
    here.unheard((caller, first), (first, caller), since=since + 2 * PERIOD)
    here.bye(leg, c, ends='removed')
    here.finish()


@dialog('two-finals')
def two_finals(scene):
    """Both branches answer: the caller hangs up on the second one and goes on with the first."""
    here = Table(scene)
    # Kamailio's dialog module knows the first one alone.
    scene.proxy_errors = ('tight matching failed', 'dialog identification elements')
    caller, first, second = here.phone('caller'), here.phone('first', CALLEE), here.phone('second', THIRD)
    a, b, c = (here.agents[role] for role in (CALLER, CALLEE, THIRD))
    a.invite('finals', 'a', audio(caller), fork=c, to=b)
    to_b, to_c = b.expect('INVITE'), c.expect('INVITE')
    for agent, request, to_tag in ((b, to_b, 'first'), (c, to_c, 'second')):
        agent.answer(request, '180 Ringing', to_tag=to_tag)
        a.expect('SIP/2.0 180')
    # One after the other: the proxy's workers pass on two that come at once in either order.
    answers = []
    for agent, request, phone, to_tag in ((b, to_b, first, 'first'), (c, to_c, second, 'second')):
        agent.answer(request, '200 OK', audio(phone), to_tag)
        answers.append(a.expect('SIP/2.0 200'))
    legs = [Leg(a, answer) for answer in answers]
    for leg, agent in zip(legs, (b, c)):
        leg.request('ACK', cseq=1)
        agent.expect('ACK')
    talk(caller, told(answers[0])[0])
    talk(first, told(to_b)[0])
    here.until_heard(*both(caller, first))
    here.bye(legs[1], c)
    here.nothing_lost(*both(caller, first))
    if [s['to_tag'] for s in here.sessions()] != ['first']:
        here.fail('the session is not that of the first answer')
    here.bye(legs[0], b)
    here.until(lambda: not here.sessions(), 2, 'the session to end')
    here.finish()


@dialog('refused')
def refused(scene):
    """Re-INVITEs with audio at port 0 and fax beside it are refused, with 488 and with 491; then a re-INVITE is taken."""
    here = Table(scene)
    (caller, callee), (a, b) = here.pair('refused'), (here.agents[CALLER], here.agents[CALLEE])
    legs = here.call('refused', caller, callee)
    for leg, peer, status in ((legs[1], a, '488 Not Acceptable Here'), (legs[0], b, '491 Request Pending')):
        ip = leg.agent.ip
        cseq = leg.request('INVITE', [('audio', (ip, 0)), ('image', (ip, 7000))])
        peer.answer(peer.expect('INVITE'), status)
        leg.agent.expect('SIP/2.0 4')
        leg.request('ACK', cseq=cseq)
        here.nothing_lost(*both(caller, callee))
    cseq = legs[1].request('INVITE', audio(callee))
    again = a.expect('INVITE')
    if told(again)[0] != caller.remote:
        here.fail('the caller is told %s now, it was %s' % (told(again)[0], caller.remote))
    a.answer(again, '200 OK', audio(caller))
    b.expect('SIP/2.0 200')
    legs[1].request('ACK', cseq=cseq)
    here.nothing_lost(*both(caller, callee))
    here.bye(legs[0], b, ends='removed')
    here.finish()


@dialog('early-update')
def early_update(scene):
    """INVITE, 183, an early UPDATE and its 200, then ringing without media for longer than stream_timeout; then a CANCEL: no answered call."""
    here = Table(scene, stream_timeout=SILENCE)
    (caller, callee), (a, b) = here.pair('ringing'), (here.agents[CALLER], here.agents[CALLEE])
    inviting = a.invite('ringing', 'a', audio(caller), to=b)
    request = b.expect('INVITE')
    b.answer(request, '183 Session Progress', audio(callee), 'b')
    leg = Leg(a, a.expect('SIP/2.0 183'))
    leg.request('UPDATE', audio(caller))
    b.answer(b.expect('UPDATE'), '200 OK', audio(callee))
    a.expect('SIP/2.0 200 of UPDATE')
    b.answer(request, '180 Ringing', to_tag='b')
    here.scene.loop.pause(SILENCE + 1.5)
    if [s['to_tag'] for s in here.sessions()] != [None]:
        here.fail('`sessions` has %s' % here.sessions())
    inviting.cancel()
    b.answer(b.expect('CANCEL'), '200 OK', to_tag='b')
    b.answer(request, '487 Request Terminated', to_tag='b')
    b.expect('ACK')
    inviting.ack_refusal(a.expect('SIP/2.0 487'))
    here.until(lambda: not here.sessions(), 2, 'the session to end')
    here.finish()
    # Early media is accounted, without a callee.
    if any(line['to_tag'] for line in records.of_file(scene.daemons.runtime)):
        raise Failed('a cancelled call is accounted as answered: %s' % records.of_file(scene.daemons.runtime))


@dialog('crossed-cancel')
def crossed_cancel(scene):
    """CANCEL crosses the 200: the call is answered after all, and hung up at once. One call, removed, accounted once."""
    here = Table(scene)
    (caller, callee), (a, b) = here.pair('crossed'), (here.agents[CALLER], here.agents[CALLEE])
    inviting = a.invite('crossed', 'a', audio(caller), to=b)
    request = b.expect('INVITE')
    b.answer(request, '180 Ringing', to_tag='b')
    a.expect('SIP/2.0 180')
    inviting.cancel()
    cancel = b.expect('CANCEL')
    b.answer(request, '200 OK', audio(callee), 'b')
    b.answer(cancel, '200 OK', to_tag='b')
    leg = Leg(a, a.expect('SIP/2.0 200 of INVITE'))
    leg.request('ACK', cseq=1)
    b.expect('ACK')
    here.bye(leg, b)
    here.until(lambda: not here.sessions(), 2, 'the session to end')
    here.finish()


@dialog('same-call-id')
def same_call_id(scene):
    """Two dialogs of one Call-ID: the media of the first dies, its phones get a BYE where the dispatcher ends dialogs, and the other goes on."""
    here = Table(scene, stream_timeout=SILENCE)
    agents = here.agents
    one, two = (here.phone('one caller'), here.phone('one callee', CALLEE)), (here.phone('two caller'), here.phone('two callee', THIRD))
    first = here.call('same', *one, from_tag='a1', to_tag='b1')
    second = here.call('same', *two, roles=(CALLER, THIRD), from_tag='a2', to_tag='b2')
    for phone in one:
        phone.stop()
    here.until(lambda: [s['from_tag'] for s in here.sessions()] == ['a2'], SILENCE + 3, 'the silent call to end')
    if scene.mode == 'engage':
        agents[CALLEE].answer(agents[CALLEE].expect('BYE'), '200 OK')
        bye = agents[CALLER].expect('BYE')
        if 'tag=b1' not in bye.head:
            here.fail('the caller got a BYE of another dialog: ' + bye.head)
        agents[CALLER].answer(bye, '200 OK')
    here.nothing_lost(*both(*two))
    if scene.mode == 'use':
        here.bye(first[0], agents[CALLEE])
    here.nothing_lost(*both(*two))
    here.bye(second[0], agents[THIRD], ends='removed')
    here.until(lambda: not here.sessions(), 2, 'the session to end')
    here.until(lambda: len(records.of_file(scene.daemons.runtime)) == 2, 2, 'two records')
    here.finish()
    found = sorted((r['from_tag'], r['to_tag'], r['timed_out']) for r in records.of_file(scene.daemons.runtime))
    if found != [('a1', 'b1', True), ('a2', 'b2', False)]:
        raise Failed('accounted: %s' % found)
