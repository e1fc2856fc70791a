"""The daemons under test and Kamailio: certificates, configuration, start, readiness, end.

Also the client of the dispatcher's management socket, which samples `sessions` all through a scenario.
"""
import glob
import json
import os
import shutil
import socket
import time

from lab import run
from loop import TimedOut

HERE = os.path.dirname(os.path.abspath(__file__))
PORTS = (40000, 41000)
# Where the dispatcher records calls, in its folder.
LINES, ROWS = 'sessions.jsonl', 'sessions.sqlite'
# How often `sessions` is asked, seconds.
SAMPLE_EVERY = 0.1

OPENSSL = """
[req]
distinguished_name = name
prompt = no
[name]
O = Test
CN = %(name)s
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[end]
basicConstraints = CA:FALSE
[ca]
default_ca = here
[here]
database = %(folder)s/index.txt
default_md = sha256
default_crl_days = 2
"""


def make_certificates(folder):
    """A CA, an empty CRL, and a certificate for each daemon, valid for two days."""
    os.makedirs(folder)
    at = lambda name: os.path.join(folder, name)
    for name in ('ca', 'dispatcher', 'relay'):
        with open(at(name + '.cnf'), 'w') as f:
            f.write(OPENSSL % {'name': name, 'folder': folder})
    open(at('index.txt'), 'w').close()
    key = ['-newkey', 'rsa:2048', '-nodes', '-days', '2', '-config']
    run('openssl', 'req', '-x509', '-extensions', 'authority', '-keyout', at('ca.key'), '-out', at('ca.pem'), *key, at('ca.cnf'))
    for name in ('dispatcher', 'relay'):
        run('openssl', 'req', '-new', '-newkey', 'rsa:2048', '-nodes', '-config', at(name + '.cnf'),
            '-keyout', at(name + '.key'), '-out', at(name + '.csr'))
        run('openssl', 'x509', '-req', '-in', at(name + '.csr'), '-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial',
            '-days', '2', '-extfile', at(name + '.cnf'), '-extensions', 'end', '-out', at(name + '.crt'))
    run('openssl', 'ca', '-gencrl', '-config', at('ca.cnf'), '-cert', at('ca.pem'), '-keyfile', at('ca.key'), '-out', at('crl.pem'))


def write_config(folder, sections):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, 'config.ini'), 'w') as f:
        for section, keys in sections.items():
            f.write('[%s]\n' % section)
            f.writelines('%s = %s\n' % pair for pair in keys.items())


class Management:
    """One connection to management.sock over which `sessions` is asked again and again."""

    def __init__(self, loop, path):
        self.loop, self.path = loop, path
        self.samples, self.sock, self.text, self.closed = [], None, b'', False
        self.asking = False
        self.tick()

    def tick(self):
        """Asks unless an answer is outstanding or nobody listens; the one timer of this object."""
        if self.closed:
            return
        self.loop.after(SAMPLE_EVERY, self.tick)
        if self.asking or (self.sock is None and not self.connect()):
            return
        self.asking, self.asked, self.text = True, time.time(), b''
        try:
            self.sock.sendall(b'sessions\r\n')
        except OSError:
            self.drop()

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            return False
        self.sock = sock
        self.loop.add(sock, self.read)
        return True

    def drop(self):
        self.loop.remove(self.sock)
        self.sock.close()
        self.sock, self.asking = None, False

    def read(self):
        try:
            data = self.sock.recv(1 << 20)
        except OSError:
            data = b''
        if not data:
            return self.drop()
        self.text += data
        if self.text == b'\r\n' or self.text.endswith(b'\r\n\r\n'):
            lines = self.text.decode().split('\r\n')[:-2]
            self.samples.append((self.asked, [json.loads(line) for line in lines]))
            self.asking = False

    def last_with(self, call_id, before=None):
        """The last sample that lists the call: (time asked, its statistics), or None."""
        for asked, sessions in reversed(self.samples):
            found = [s for s in sessions if s['call_id'] == call_id]
            if found and (before is None or asked < before):
                return asked, found[0]
        return None

    def now_lists(self, call_id, since):
        """Does a sample asked after `since` list the call? None while there is no such sample."""
        if not self.samples or self.samples[-1][0] < since:
            return None
        return any(s['call_id'] == call_id for s in self.samples[-1][1])

    def close(self):
        self.closed = True
        if self.sock:
            self.drop()


def ask(path, command, seconds=2):
    """One command on management.sock; the lines of the answer. For use outside of sampling."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(seconds)
        sock.connect(path)
        sock.sendall(command.encode() + b'\r\n')
        text = b''
        while not (text == b'\r\n' or text.endswith(b'\r\n\r\n')):
            data = sock.recv(1 << 20)
            if not data:
                raise OSError('the management socket was closed after %r' % text[:100])
            text += data
        return text.decode().split('\r\n')[:-2]


class Daemons:
    """The dispatcher, its relays and Kamailio of one scenario."""

    def __init__(self, lab, options, forwarding):
        self.lab, self.options, self.forwarding = lab, options, forwarding
        self.runtime = os.path.join(lab.scratch, 'dispatcher')
        self.socket = os.path.join(self.runtime, 'dispatcher.sock')
        self.management = os.path.join(self.runtime, 'management.sock')
        self.rpc = os.path.join(lab.scratch, 'rpc.sock')
        self.dispatcher = self.kamailio = None
        # What the relays' commands begin with.
        self.before = []
        self.relays = {}

    def program(self, name):
        return os.path.join(self.options.bin, name)

    def start_dispatcher(self, host, **keys):
        own = {'listen': '0.0.0.0', 'listen_management': '127.0.0.1', 'state_dir': self.runtime, 'log_level': 'DEBUG',
               'accounting': 'file, database'}
        write_config(self.runtime, {'Dispatcher': dict(own, **keys), 'TLS': {'certs_path': self.options.certificates},
                                    'Kamailio': {'socket_path': self.rpc}, 'File': {'path': LINES},
                                    'Database': {'dburi': 'sqlite://' + os.path.join(self.runtime, ROWS)}})
        self.dispatcher = self.lab.start(host, [self.program('media-dispatcher'), '--no-fork', '--config-dir', self.runtime,
                                                '--runtime-dir', self.runtime], 'dispatcher.log')
        process = self.dispatcher
        self.lab.loop.until(lambda: process.poll() is not None or self.answers(), 5, 'the dispatcher to listen')
        if process.poll() is not None:
            raise TimedOut('the dispatcher ended with status %s' % process.returncode)
        return process

    def answers(self):
        try:
            return os.path.exists(self.socket) and ask(self.management, 'version')
        except OSError:
            return False

    def start_relay(self, host, dispatcher_ip, name='relay', wait=True, **keys):
        """keys: those of [Relay]; one that is None stays unset."""
        folder = os.path.join(self.lab.scratch, name)
        settings = {'dispatchers': dispatcher_ip, 'port_range': '%d:%d' % PORTS, 'forwarding': self.forwarding,
                    'routable_private_ranges': '10.0.0.0/8', 'state_dir': folder, 'log_level': 'DEBUG'}
        settings.update(keys)
        if settings['forwarding'] != 'userspace':
            self.lab.forwarding(host)
        write_config(folder, {'Relay': {k: v for k, v in settings.items() if v is not None},
                              'TLS': {'certs_path': self.options.certificates}})
        process = self.lab.start(host, self.before + [self.program('media-relay'), '--no-fork', '--config-dir', folder, '--runtime-dir', folder],
                                 name + '.log')
        process.host = host
        self.relays[name] = process
        if wait:
            self.lab.loop.until(lambda: process.poll() is not None or self.connected() == self.alive(), 8, 'the relay to reach the dispatcher')
        if process.poll() is not None:
            raise TimedOut('the relay ended with status %s' % process.returncode)
        return process

    def forget_calls(self, name):
        """What the next process of a relay would know of the calls of this one is gone, as after the host's restart."""
        shutil.rmtree(os.path.join(self.lab.scratch, name, 'relay-%d' % PORTS[0]))

    def alive(self):
        return sum(1 for relay in self.relays.values() if relay.poll() is None)

    def summary(self):
        try:
            return [json.loads(line) for line in ask(self.management, 'summary')]
        except OSError:
            return []

    def connected(self):
        return sum(1 for relay in self.summary() if relay.get('status') == 'active')

    def start_kamailio(self, host, ip, mp_socket, engage, config=None, defines=()):
        """Where `config` is None, kamailio.cfg; waits until it listens."""
        runtime = os.path.join(self.lab.scratch, 'kamailio')
        os.makedirs(runtime, exist_ok=True)
        command = ['kamailio', '-f', config or os.path.join(HERE, 'kamailio.cfg'), '-l', 'udp:%s:5060' % ip, '-DD', '-E',
                   '-m', '32', '-M', '4', '-Y', runtime, '-P', os.path.join(runtime, 'kamailio.pid')]
        names = ['MP_SOCK="%s"' % mp_socket, 'RPC_SOCK="%s"' % self.rpc] + (['ENGAGE'] if engage else []) + list(defines)
        for name in names:
            command += ['-A', name]
        self.kamailio = process = self.lab.start(host, command, 'kamailio.log')
        self.lab.loop.until(lambda: process.poll() is not None or self.lab.listens(process, 5060), 10, 'Kamailio to listen')
        if process.poll() is not None:
            raise TimedOut('Kamailio ended with status %s' % process.returncode)

    def log(self, name):
        with open(os.path.join(self.lab.scratch, name + '.log'), errors='replace') as f:
            return f.read()


def tails(scratch, lines=25):
    """The ends of all logs of a scenario, for the report of a failure."""
    out = []
    for path in sorted(glob.glob(os.path.join(scratch, '*.log')) + glob.glob(os.path.join(scratch, '*.err'))):
        if os.path.basename(path).startswith('sipp') and path.endswith('.log'):
            continue  # sipp's screens; what it has to say is in .err
        with open(path, errors='replace') as f:
            text = [line for line in f.read().splitlines() if ' INFO: ' not in line]
        if text:
            out.append('--- %s' % os.path.basename(path))
            out += text[-lines:]
    return out
