"""What happens in a call, and the two sipp scenarios that make it happen.

A script is a list of steps that both phones know: `Setup`, `Talk`, `Reinvite`, `Bye` ... From it comes one
sipp scenario (XML) for the caller and one for the callee; whoever does the next step waits, the other listens.
"""
import os
from collections import namedtuple

CALLER, CALLEE = 'caller', 'callee'


def other(party):
    return CALLEE if party == CALLER else CALLER


# One m= line: kind (audio, video, image), port (0 is refused or removed), direction, address (None: the phone's own).
Media = namedtuple('Media', 'kind port direction ip', defaults=('sendrecv', None))

# offer and answer are lists of Media. early: the SDP of a 183 (None: a plain 180). answer None with early: a 200
# without SDP. late: the INVITE has no SDP, the callee's 200 is the offer.
Setup = namedtuple('Setup', 'offer answer early late', defaults=(None, False))
# A while of conversation, in milliseconds; counted by the party that does the next step.
Talk = namedtuple('Talk', 'milliseconds')
# A new offer in the dialog. ports: for each m= line `keep` or `fresh`, what has to become of the relay's ports.
# thinking: milliseconds until the answer.
Reinvite = namedtuple('Reinvite', 'by offer answer ports thinking', defaults=(0,))
Bye = namedtuple('Bye', 'by')
# Both phones wait for the BYE that the SIP proxy sends.
Ended = namedtuple('Ended', 'by', defaults=('silence',))
Cancel = namedtuple('Cancel', 'offer')
Busy = namedtuple('Busy', 'offer')

FORMATS = {'audio': ('RTP/AVP', '8 0', ('8 PCMA/8000', '0 PCMU/8000')),
           'video': ('RTP/AVP', '34', ('34 H263/90000',)),
           'image': ('udptl', 't38', ())}
OPTIONAL = '<recv response="100" optional="true"/>\n<recv response="180" optional="true"/>\n'


class Phone:
    """One user agent: its host, its address there, the SIP port, and the address that others reach it at."""

    def __init__(self, host, ip, sip_port=5060, reached_at=None):
        self.host, self.ip, self.sip_port = host, ip, sip_port
        self.reached_at = reached_at or ip


class Call:
    """A call to be made: who with whom, its script and its names."""

    def __init__(self, number, caller, callee, steps, proxy, **rules):
        self.number, self.steps, self.proxy = number, steps, proxy
        self.phones = {CALLER: caller, CALLEE: callee}
        self.call_id = 'call-%d@test.invalid' % number
        self.tags = {CALLER: 'a%d' % number, CALLEE: 'b%d' % number}
        self.rules = rules

    def xml(self, party):
        """The sipp scenario of this party."""
        return Writer(self, party).write()


class Writer:
    def __init__(self, call, me):
        self.call, self.me = call, me
        self.cseq = {CALLER: 0, CALLEE: 0}
        self.version = 0
        self.parts = []

    def write(self):
        steps = self.call.steps
        for position, step in enumerate(steps):
            if isinstance(step, Talk):
                following = steps[position + 1]
                if self.me == getattr(following, 'by', None):
                    self.pause(step.milliseconds)
            else:
                getattr(self, type(step).__name__.lower())(step)
        return '<?xml version="1.0" encoding="UTF-8"?>\n<scenario name="%s">\n%s</scenario>\n' % (self.me, ''.join(self.parts))

    # The steps

    def setup(self, step):
        cseq = self.next(CALLER)
        if self.me == CALLER:
            self.request('INVITE', cseq, None if step.late else step.offer, initial=True)
            self.parts.append(OPTIONAL + '<recv response="183"%s/>\n' % ('' if step.early else ' optional="true"'))
            self.parts.append('<recv response="200" rrs="true"/>\n')
            self.request('ACK', cseq, step.answer if step.late else None)
            self.play()
            return
        self.parts.append('<recv request="INVITE" rrs="true"/>\n')
        self.response('183 Session Progress' if step.early else '180 Ringing', step.early, tag=True)
        self.pause(700 if step.early else 100)
        self.response('200 OK', step.offer if step.late else step.answer, tag=True)
        self.parts.append('<recv request="ACK"/>\n')
        self.play()

    def reinvite(self, step):
        cseq = self.next(step.by)
        if self.me == step.by:
            self.request('INVITE', cseq, step.offer)
            self.parts.append('<recv response="100" optional="true"/>\n<recv response="200"/>\n')
            self.request('ACK', cseq)
            return
        self.parts.append('<recv request="INVITE"/>\n')
        if step.thinking:
            self.pause(step.thinking)
        self.response('200 OK', step.answer)
        self.parts.append('<recv request="ACK"/>\n')

    def bye(self, step):
        if self.me == step.by:
            self.request('BYE', self.next(step.by))
            self.parts.append('<recv response="200"/>\n')
            return
        self.ended(step)

    def ended(self, _step):
        self.parts.append('<recv request="BYE"/>\n')
        # An answer within the same millisecond makes Kamailio 5.6 forget the other leg's BYE.
        self.pause(100 if any(isinstance(s, Ended) for s in self.call.steps) else 1)
        self.response('200 OK')

    def cancel(self, step):
        cseq = self.next(CALLER)
        if self.me == CALLER:
            self.request('INVITE', cseq, step.offer, initial=True)
            self.parts.append('<recv response="100" optional="true"/>\n<recv response="180"/>\n')
            self.pause(600)
            self.request('CANCEL', cseq, initial=True, again=True)
            self.parts.append('<recv response="200"/>\n<recv response="487"/>\n')
            self.request('ACK', cseq, initial=True, again=True, tag=True)
            return
        # The CANCEL has one Via only; the 487 needs those of the INVITE.
        self.parts.append('<recv request="INVITE"><action><ereg regexp="Via: [^[:cntrl:]]*[[:cntrl:]]+Via: [^[:cntrl:]]*" '
                          'search_in="msg" check_it="true" assign_to="via"/></action></recv>\n')
        self.response('180 Ringing', tag=True)
        self.parts.append('<recv request="CANCEL"/>\n')
        self.response('200 OK', tag=True)
        self.response('487 Request Terminated', tag=True, via='[$via]', cseq='CSeq: %d INVITE' % cseq)
        self.parts.append('<recv request="ACK"/>\n')

    def busy(self, step):
        cseq = self.next(CALLER)
        if self.me == CALLER:
            self.request('INVITE', cseq, step.offer, initial=True)
            self.parts.append('<recv response="100" optional="true"/>\n<recv response="486"/>\n')
            self.request('ACK', cseq, initial=True, again=True, tag=True)
            return
        self.parts.append('<recv request="INVITE"/>\n')
        self.response('486 Busy Here', tag=True)
        self.parts.append('<recv request="ACK"/>\n')

    def play(self):
        if 'recordings' in self.call.rules:
            self.parts.append('<nop><action><exec play_pcap_audio="%s"/></action></nop>\n' % self.call.rules['recordings'][self.me])

    # Messages

    def next(self, party):
        self.cseq[party] += 1
        return self.cseq[party]

    def pause(self, milliseconds):
        self.parts.append('<pause milliseconds="%d"/>\n' % milliseconds)

    def request(self, method, cseq, media=None, initial=False, again=False, tag=False):
        """initial: outside a dialog; again: the transaction of the INVITE that was sent; tag: To has a tag all the same."""
        callee = self.call.phones[CALLEE]
        names = {CALLER: '<sip:alice@test.invalid>', CALLEE: '<sip:bob@test.invalid>'}
        target = 'sip:bob@%s:%d' % (callee.reached_at, callee.sip_port) if initial else '[next_url]'
        lines = ['%s %s SIP/2.0' % (method, target),
                 '[last_Via:]' if again else 'Via: SIP/2.0/UDP [local_ip]:[local_port];rport;branch=[branch]']
        if not initial:
            lines.append('[routes]')
        peer = other(self.me)
        lines += ['From: %s;tag=%s' % (names[self.me], self.call.tags[self.me]),
                  'To: %s%s' % (names[peer], '' if initial and not tag else ';tag=' + self.call.tags[peer]),
                  'Call-ID: [call_id]', 'CSeq: %d %s' % (cseq, method)]
        if method == 'INVITE':
            lines.append('Contact: <sip:%s@[local_ip]:[local_port]>' % self.me)
        if initial and 'relay' in self.call.rules:
            lines.append('X-Media-Relay: ' + self.call.rules['relay'])  # kamailio.cfg asks the dispatcher for this one
        lines += ['Max-Forwards: 70', 'User-Agent: test-%s/1' % self.me]
        self.send(lines, media, reliable=method != 'ACK')

    def response(self, status, media=None, tag=False, via='[last_Via:]', cseq='[last_CSeq:]'):
        lines = ['SIP/2.0 ' + status, via, '[last_Record-Route:]', '[last_From:]',
                 '[last_To:]' + (';tag=' + self.call.tags[self.me] if tag else ''), '[last_Call-ID:]', cseq]
        if status.startswith(('18', '200')):
            lines.append('Contact: <sip:%s@[local_ip]:[local_port]>' % self.me)
        lines.append('User-Agent: test-%s/1' % self.me)
        self.send(lines, media, reliable=bool(media) and status.startswith('200'))

    def send(self, lines, media, reliable):
        body = self.sdp(media) if media else []
        if body:
            lines.append('Content-Type: application/sdp')
        lines += ['Content-Length: [len]', ''] + body
        text = '\n'.join(lines) + '\n'
        self.parts.append('<send%s><![CDATA[\n%s\n]]></send>\n' % (' retrans="500"' if reliable else '', text))

    def sdp(self, media):
        self.version += 1
        ip = self.call.phones[self.me].ip
        lines = ['v=0', 'o=%s 1000 %d IN IP4 %s' % (self.me, self.version, ip), 's=-', 'c=IN IP4 ' + ip, 't=0 0']
        for m in media:
            transport, formats, maps = FORMATS[m.kind]
            # sipp plays from the port that it has put in by itself.
            port = '[media_port]' if 'recordings' in self.call.rules else m.port
            lines.append('m=%s %s %s %s' % (m.kind, port, transport, formats))
            if m.ip:
                lines.append('c=IN IP4 ' + m.ip)
            lines += ['a=rtpmap:' + x for x in maps]
            if m.kind != 'image':
                lines.append('a=' + m.direction)
        return lines


def start_sipp(lab, call, party, seconds=25):
    """Starts this party's sipp on its host; the callee has to listen before the caller starts."""
    phone = call.phones[party]
    base = 'sipp-%d-%s' % (call.number, party)
    path = os.path.join(lab.scratch, base + '.xml')
    with open(path, 'w') as f:
        f.write(call.xml(party))
    target = [call.proxy + ':5060'] if party == CALLER else []
    # sipp binds media ports of its own even where it sends none: out of the way of those in the SDP.
    media_port = 6000 if 'recordings' in call.rules else 20000 + 10 * call.number
    command = ['sipp'] + target + ['-sf', path, '-i', phone.ip, '-p', phone.sip_port, '-mi', phone.ip, '-mp', media_port,
               '-m', 1, '-nostdin', '-timeout', '%ds' % seconds, '-timeout_error', '-trace_err', '-trace_msg',
               '-error_file', base + '.err', '-message_file', base + '.msg', '-cid_str', call.call_id]
    process = lab.start(phone.host, command, base + '.log')
    process.label = '%s of call %d' % (party, call.number)
    return process
