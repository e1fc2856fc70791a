"""Unusual offers: what phones send beside plain audio, each judged by what the dispatcher was asked and answered and by
the SDP that reached the callee, who refuses every call.

Written without sipp: the offers hold bytes and forms that its scenarios cannot.
"""
import re
import socket
from collections import namedtuple

from daemons import PORTS
from media import parse_sdp
from scenarios import scenario
from scene import PROXY, Failed
from script import CALLEE, CALLER

HEAD = 'v=0\r\no=a 1 1 IN IP4 10.11.0.2\r\ns=-\r\n'
HERE, TIME = 'c=IN IP4 10.11.0.2\r\n', 't=0 0\r\n'
AUDIO = 'm=audio 6000 RTP/AVP 8\r\n'
AGENT = 'User-Agent: odd/1\r\n'
ICE = ('a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=candidate:1 1 UDP 2130706431 10.11.0.2 6000 typ host\r\n'
       'a=candidate:1 2 UDP 2130706430 10.11.0.2 6001 typ host\r\n')

# media: what the dispatcher is asked (None: nothing); arrives: for each m= line at the callee its address and whether
# its port is one of the relay (R), 0 or the offered one; agent: the user_agent that is told.
Case = namedtuple('Case', 'name header sdp media arrives agent', defaults=('odd/1',))
R = 'relay'
CASES = [
    Case('no User-Agent, c= in the stream, a=rtcp, a number of ports', '',
         HEAD + TIME + 'm=audio 6000/1 RTP/AVP 8\r\n' + HERE + 'a=rtcp:6001 IN IP4 10.11.0.2\r\n',
         'audio:10.11.0.2:6000:sendrecv:ice=no', [(PROXY, R)], 'unknown agent'),
    Case('ICE', AGENT, HEAD + HERE + TIME + AUDIO + ICE, 'audio:10.11.0.2:6000:sendrecv:ice=yes', [(PROXY, R)]),
    Case('IPv6', AGENT, HEAD + 'c=IN IP6 2001:db8::2\r\n' + TIME + AUDIO, 'audio:2001:db8::2:6000:sendrecv:ice=no', [('2001:db8::2', 6000)]),
    Case('SAVPF, a transport that is not relayed, video', AGENT,
         HEAD + HERE + TIME + 'm=audio 6000 RTP/SAVPF 8\r\nm=message 2855 TCP/MSRP *\r\nm=video 6002 RTP/AVP 34\r\n',
         'audio:10.11.0.2:6000:sendrecv:ice=no,video:10.11.0.2:6002:sendrecv:ice=no', [(PROXY, R), (None, 2855), (PROXY, R)]),
    Case('T.38 alone', AGENT, HEAD + HERE + TIME + 'm=image 6000 udptl t38\r\n', 'image:10.11.0.2:6000:sendrecv:ice=no', [(PROXY, R)]),
    Case('hold by c=0.0.0.0', AGENT, HEAD + 'c=IN IP4 0.0.0.0\r\n' + TIME + AUDIO, 'audio:0.0.0.0:6000:sendrecv:ice=no', [('0.0.0.0', R)]),
    Case('a direction for the session, a stream with port 0', AGENT,
         HEAD + HERE + TIME + 'a=sendonly\r\n' + AUDIO + 'm=video 0 RTP/AVP 34\r\n',
         'audio:10.11.0.2:6000:sendonly:ice=no,video:10.11.0.2:0:sendonly:ice=no', [(PROXY, R), (None, 0)]),
    Case('a host name', AGENT, HEAD + 'c=IN IP4 media.example.org\r\n' + TIME + AUDIO,
         'audio:media.example.org:6000:sendrecv:ice=no', [(PROXY, R)]),
    Case('Latin-1 and a colon in User-Agent', 'User-Agent: T\xe9l\xe9phone: v1\r\n', HEAD + HERE + TIME + AUDIO,
         'audio:10.11.0.2:6000:sendrecv:ice=no', [(PROXY, R)], 'T\xe9l\xe9phone: v1'),
    Case('a folded User-Agent', 'User-Agent: odd\r\n /1\r\n', HEAD + HERE + TIME + AUDIO,
         'audio:10.11.0.2:6000:sendrecv:ice=no', [(PROXY, R)], None),
    Case('no streams', AGENT, HEAD + HERE + TIME, None, []),
]


class Refuser:
    """A callee that keeps each INVITE's SDP and answers 486."""

    def __init__(self, scene, phone):
        self.arrived = {}
        self.sock = scene.lab.socket(phone.host, socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((phone.ip, 5060))
        scene.loop.add(self.sock, self.read)

    def read(self):
        data, source = self.sock.recvfrom(65536)
        head, _, body = data.decode('latin-1').partition('\r\n\r\n')
        if not head.startswith('INVITE'):
            return
        self.arrived[re.search(r'(?im)^call-id: *(\S+)', head).group(1)] = body
        kept = [h for h in head.split('\r\n')[1:] if re.match(r'(?i)(via|from|call-id|cseq):', h)]
        to = re.search(r'(?im)^to: *[^\r\n]*', head).group(0)
        answer = ['SIP/2.0 486 Busy Here'] + kept + [to + ';tag=odd', 'Content-Length: 0', '', '']
        self.sock.sendto('\r\n'.join(answer).encode('latin-1'), source)


class Offerer:
    """A caller that sends one offer and waits until it is refused."""

    def __init__(self, scene, phone, callee):
        self.scene, self.ip, self.target, self.statuses = scene, phone.ip, callee.ip, {}
        self.sock = scene.lab.socket(phone.host, socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((phone.ip, 5060))
        scene.loop.add(self.sock, self.read)

    def read(self):
        text = self.sock.recv(65536).decode('latin-1')
        call_id = re.search(r'(?im)^call-id: *(\S+)', text).group(1)
        if not text.startswith('SIP/2.0 1'):
            self.statuses[call_id] = text[8:11]

    def message(self, method, number, case, tag=''):
        body = case.sdp if method == 'INVITE' else ''
        lines = ['%s sip:bob@%s:5060 SIP/2.0' % (method, self.target), 'Via: SIP/2.0/UDP %s:5060;branch=z9hG4bKodd%d' % (self.ip, number),
                 'From: <tel:+31201234567;isub=1>;tag=f%d' % number, 'To: <sip:bob@test.invalid>' + tag, 'Call-ID: odd-%d' % number,
                 'CSeq: 7 ' + method, 'Contact: <sip:a@%s:5060>' % self.ip, 'Max-Forwards: 70']
        head = '\r\n'.join(lines) + '\r\n' + case.header + ('Content-Type: application/sdp\r\n' if body else '')
        return (head + 'Content-Length: %d\r\n\r\n' % len(body.encode('latin-1')) + body).encode('latin-1')

    def offer(self, number, case):
        self.sock.sendto(self.message('INVITE', number, case), (PROXY, 5060))
        self.scene.loop.until(lambda: 'odd-%d' % number in self.statuses, 3, 'the refusal of the offer "%s"' % case.name)
        self.sock.sendto(self.message('ACK', number, case, ';tag=odd'), (PROXY, 5060))


def judge(case, commands, body):
    """What is wrong with this case, as text, or nothing."""
    updates = [c for c in commands if c.name == 'update']
    if len(updates) != (case.media is not None):
        return '%d update commands' % len(updates)
    relayed = any(port == R for _, port in case.arrives)
    if updates:
        headers = updates[0].headers
        if headers.get('media') != case.media or headers['from_uri'] != 'tel:+31201234567':
            return 'asked with %s' % headers
        if case.agent is not None and headers['user_agent'] != case.agent:
            return 'the user agent was %r' % headers['user_agent']
        if (updates[0].answer == 'error') == relayed:
            return 'update was answered %r' % updates[0].answer
    removes = [c.answer for c in commands if c.name == 'remove']
    if removes != ['removed' if relayed else 'error']:
        return 'remove was answered %s' % removes
    lines = parse_sdp(body)
    fits = len(lines) == len(case.arrives) and all(
        (ip is None or line.ip == ip) and (PORTS[0] <= line.port < PORTS[1] if port == R else line.port == port)
        for line, (ip, port) in zip(lines, case.arrives))
    return None if fits else 'the callee got %s' % ' '.join('%s %s:%d' % line[:3] for line in lines)


@scenario('odd-offers')
def odd_offers(scene):
    """Each of CASES, one after the other, through the same proxy and daemons."""
    caller, callee = scene.two_phones()
    scene.proxy_errors = ('mediaproxy',)  # it complains about the offers that are not relayed
    scene.start()
    refuser, offerer = Refuser(scene, callee), Offerer(scene, caller, callee)
    for number, case in enumerate(CASES):
        offerer.offer(number, case)
        name = 'odd-%d' % number
        scene.loop.until(lambda: any(c.name == 'remove' and c.answer for c in scene.tap.of(name)), 3, 'the remove of "%s"' % case.name)
        wrong = judge(case, scene.tap.of(name), refuser.arrived.get(name, ''))
        if wrong:
            scene.bad.append('%s: %s' % (case.name, wrong))
    scene.stop_daemons()
    if scene.bad:
        raise Failed('\n'.join(scene.bad))
