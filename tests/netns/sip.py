"""Scripted user agents: what sipp's scenarios cannot say, as forks, PRACK, early UPDATE and messages that cross.

A message waits in its agent's inbox until the scenario asks for it. Networks here lose nothing, so nothing is sent twice; what
comes twice is taken once (RFC 3261, 3262, 3311).
"""
import itertools
import re
import socket
from collections import namedtuple

from media import header, parse_sdp
from scene import PROXY

Message = namedtuple('Message', 'first head body')
BRANCHES = itertools.count(1)


def parse(data):
    head, _, body = data.decode('latin-1').partition('\r\n\r\n')
    first, _, head = head.partition('\r\n')
    return Message(first, head, body)


def every(message, name):
    return re.findall(r'(?im)^%s *: *([^\r\n]*)' % name, message.head)


def uri(text):
    found = re.search(r'<([^>]*)>', text)
    return found.group(1) if found else text.split(';')[0]


def tag(text):
    found = re.search(r';tag=([^;>\s]+)', text)
    return found.group(1) if found else ''


class Agent:
    """One user agent's SIP socket, at 5060 of its address."""

    def __init__(self, scene, host, ip, name):
        self.scene, self.ip, self.name, self.inbox, self.known = scene, ip, name, [], set()
        self.sock = scene.lab.socket(host, socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((ip, 5060))
        scene.loop.add(self.sock, self.read)

    def read(self):
        data = self.sock.recv(65536)
        if data not in self.known:
            self.known.add(data)
            self.inbox.append(parse(data))

    def expect(self, what, call_id=None, seconds=4):
        """The next message whose first line begins so (`INVITE`, `SIP/2.0 200`), and with `what` of a response its CSeq's method after a space."""
        start, _, method = what.partition(' of ')

        def came():
            for message in self.inbox:
                if message.first.startswith(start) and (call_id or '') in message.head and header(message.head, 'cseq').endswith(method):
                    self.inbox.remove(message)
                    return message
        return self.scene.loop.until(came, seconds, '%s at %s, which has %s' % (what, self.name, [m.first for m in self.inbox]))

    def send(self, first, headers, media=()):
        body = self.sdp(media) if media else ''
        lines = [first] + ['%s: %s' % pair for pair in headers] + ['User-Agent: ' + self.name.replace(' ', '-')]
        lines += (['Content-Type: application/sdp'] if body else []) + ['Content-Length: %d' % len(body), '', body]
        self.sock.sendto('\r\n'.join(lines).encode(), (PROXY, 5060))

    def sdp(self, media):
        """media: pairs (kind, (ip, port))."""
        text = 'v=0\r\no=x 1 %d IN IP4 %s\r\ns=-\r\nt=0 0\r\n' % (next(BRANCHES), self.ip)
        for kind, (ip, port) in media:
            text += 'm=%s %d %s\r\nc=IN IP4 %s\r\n' % (kind, port, 'udptl t38' if kind == 'image' else 'RTP/AVP 8', ip)
        return text

    def answer(self, request, status, media=(), to_tag='', extra=()):
        """Answers a request; to_tag: ours, where the request has none."""
        kept = [(name, value) for name in ('Via', 'Record-Route', 'From', 'To', 'Call-ID', 'CSeq') for value in every(request, name)]
        if to_tag and not tag(header(request.head, 'to')):
            kept = [(name, value + ';tag=' + to_tag if name == 'To' else value) for name, value in kept]
        self.send('SIP/2.0 ' + status, kept + [('Contact', '<sip:x@%s:5060>' % self.ip)] + list(extra), media)

    def invite(self, call_id, from_tag, media=(), fork=None, to=None):
        """A first INVITE to the agent `to`, and to the agent `fork` as well; the Inviting."""
        return Inviting(self, call_id, from_tag, media, to, fork)


def told(message):
    """Where the SDP of a message says that media is to be sent: (ip, port) for each line."""
    return [(line.ip, line.port) for line in parse_sdp(message.body)]


class Inviting:
    """A first INVITE: what its ACK to a refusal and its CANCEL have in common with it."""

    def __init__(self, agent, call_id, from_tag, media, to, fork):
        self.agent, self.target = agent, 'sip:bob@%s:5060' % to.ip
        self.via = 'SIP/2.0/UDP %s:5060;rport;branch=z9hG4bK%d' % (agent.ip, next(BRANCHES))
        self.names = [('From', '<sip:alice@test.invalid>;tag=' + from_tag), ('To', '<sip:bob@test.invalid>'), ('Call-ID', call_id)]
        extra = [('Contact', '<sip:x@%s:5060>' % agent.ip), ('Supported', '100rel')] + ([('X-Fork', 'sip:bob@%s:5060' % fork.ip)] if fork else [])
        self.send('INVITE', self.names, extra, media)

    def send(self, method, names, extra=(), media=()):
        self.agent.send('%s %s SIP/2.0' % (method, self.target),
                        [('Via', self.via), ('Max-Forwards', '70')] + names + [('CSeq', '1 ' + method)] + list(extra), media)

    def cancel(self):
        self.send('CANCEL', self.names)

    def ack_refusal(self, response):
        self.send('ACK', [(name, header(response.head, 'to') if name == 'To' else value) for name, value in self.names])


class Leg:
    """One party's end of a dialog: made of the message that gave it, a response (who called) or a request (who was called)."""

    def __init__(self, agent, message, own_tag=''):
        self.agent, self.cseq, self.call_id = agent, 1 if message.first.startswith('SIP/') else 0, header(message.head, 'call-id')
        local, remote = header(message.head, 'from'), header(message.head, 'to')
        self.routes = every(message, 'record-route')
        if message.first.startswith('SIP/'):
            self.routes.reverse()
        else:
            local, remote = remote + ('' if tag(remote) else ';tag=' + own_tag), local
        self.local, self.remote, self.target = local, remote, uri(header(message.head, 'contact'))

    def request(self, method, media=(), cseq=None, extra=()):
        """cseq: that of the INVITE which an ACK belongs to."""
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        self.agent.send('%s %s SIP/2.0' % (method, self.target), [
            ('Via', 'SIP/2.0/UDP %s:5060;rport;branch=z9hG4bK%d' % (self.agent.ip, next(BRANCHES)))] + [('Route', r) for r in self.routes] + [
            ('From', self.local), ('To', self.remote), ('Call-ID', self.call_id), ('CSeq', '%d %s' % (cseq, method)), ('Max-Forwards', '70'),
            ('Contact', '<sip:x@%s:5060>' % self.agent.ip)] + list(extra), media)
        return cseq
