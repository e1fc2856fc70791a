"""Stands between Kamailio and the dispatcher on a UNIX stream socket and keeps every command and answer.

What the SIP proxy asked is judged from here. The bytes pass unchanged; an answer that does not arrive
in one piece, CRLF included, is noted, because Kamailio's module looks for CRLF in each read by itself.
"""
import os
import socket
import time


class Command:
    """One command of the SIP proxy with its headers and the line that answered it (None: none came)."""

    def __init__(self, text):
        lines = text.split('\r\n')
        self.name = lines[0]
        self.headers = dict(line.partition(': ')[::2] for line in lines[1:])
        self.answer, self.asked, self.delay = None, time.monotonic(), None

    def __str__(self):
        what = self.headers.get('type', '')
        return '%s %s %s -> %s' % (self.name, what, self.headers.get('media', ''), self.answer)


class Tap:
    def __init__(self, loop, path, target):
        self.loop, self.target = loop, target
        self.commands, self.complaints, self.sockets = [], [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(64)
        loop.add(self.listener, self.accept)

    def accept(self):
        proxy, _ = self.listener.accept()
        dispatcher = socket.socket(socket.AF_UNIX)
        try:
            dispatcher.connect(self.target)
        except OSError as error:
            self.complaints.append('no connection to the dispatcher: %s' % error)
            proxy.close()
            dispatcher.close()
            return
        pair = Pair(self, proxy, dispatcher)
        self.sockets += [proxy, dispatcher]
        self.loop.add(proxy, pair.from_proxy)
        self.loop.add(dispatcher, pair.from_dispatcher)

    def of(self, call_id):
        """The commands about this call, in order."""
        return [c for c in self.commands if c.headers.get('call_id') == call_id]

    def close(self):
        for sock in [self.listener] + self.sockets:
            self.loop.remove(sock)
            sock.close()


class Pair:
    """One connection of the proxy and its counterpart; the proxy has one command outstanding at a time."""

    def __init__(self, tap, proxy, dispatcher):
        self.tap, self.proxy, self.dispatcher = tap, proxy, dispatcher
        self.text, self.waiting = '', []

    def read(self, sock):
        try:
            return sock.recv(65536)
        except OSError:
            return b''

    def pass_on(self, sock, data):
        try:
            sock.sendall(data)
        except OSError:
            self.end()

    def end(self):
        for sock in (self.proxy, self.dispatcher):
            self.tap.loop.remove(sock)
            sock.close()

    def from_proxy(self):
        data = self.read(self.proxy)
        if not data:
            return self.end()
        self.text += data.decode('latin-1')
        while '\r\n\r\n' in self.text:
            one, self.text = self.text.split('\r\n\r\n', 1)
            command = Command(one)
            self.waiting.append(command)
            self.tap.commands.append(command)
        self.pass_on(self.dispatcher, data)

    def from_dispatcher(self):
        data = self.read(self.dispatcher)
        if not data:
            return self.end()
        text = data.decode('latin-1')
        if not text.endswith('\r\n'):
            self.tap.complaints.append('an answer came in pieces: %r' % text)
        for line in text.split('\r\n')[:-1]:
            if not self.waiting:
                self.tap.complaints.append('an answer that nobody asked for: %r' % line)
                continue
            command = self.waiting.pop(0)
            command.answer, command.delay = line, time.monotonic() - command.asked
        self.pass_on(self.proxy, data)
