"""500 calls at once in user space: the dispatcher's socket is driven directly, examples/rtpload.rs is both phones.

Nothing may be lost, doubled or crossed, and the statistics must count every packet.
"""
import json
import os
import socket
import subprocess

import daemons as d
from scenarios import Skip, scenario
from scene import PROXY, Failed
from script import CALLEE, CALLER

CALLS = 500
# 6 s of 20 ms packets.
PACKETS = 300
SIZE = 172 + 28
SIDES = {CALLER: ('10.11.0.2', 20000), CALLEE: ('10.12.0.2', 30000)}

UPDATE = ('update\r\ntype: %(type)s\r\ndialog_id: \r\ncall_id: load-%(n)d\r\ncseq: 1\r\nfrom_uri: a@test.invalid\r\nto_uri: b@test.invalid\r\n'
          'from_tag: f%(n)d\r\nto_tag: %(to_tag)s\r\nuser_agent: load\r\nsignaling_ip: %(ip)s\r\nmedia_relay: \r\n'
          'media: audio:%(ip)s:%(port)d:sendrecv:ice=no\r\n\r\n')
REMOVE = 'remove\r\ncall_id: load-%(n)d\r\nfrom_tag: f%(n)d\r\nto_tag: t%(n)d\r\n\r\n'


class Proxy:
    """A SIP proxy's connection to the dispatcher."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(6)
        self.sock.connect(path)

    def ask(self, text):
        self.sock.sendall(text.encode())
        answer = b''
        while not answer.endswith(b'\r\n'):
            data = self.sock.recv(4096)
            if not data:
                raise Failed('the dispatcher closed the connection')
            answer += data
        return answer.decode().strip()

    def update(self, number, role):
        ip, base = SIDES[role]
        answer = self.ask(UPDATE % {'n': number, 'type': 'request' if role == CALLER else 'reply', 'ip': ip, 'port': base + 2 * number,
                                    'to_tag': '' if role == CALLER else 't%d' % number})
        fields = answer.split()
        if len(fields) != 2 or fields[0] != PROXY:
            raise Failed('update %d of the %s was answered %r' % (number, role, answer))
        return fields[1]


def set_up(scene, proxy):
    """Offers and answers of all calls; for each side a file with its own and the relay's addresses."""
    told = {CALLER: [], CALLEE: []}
    for number in range(CALLS):
        told[CALLEE].append(proxy.update(number, CALLER))
        told[CALLER].append(proxy.update(number, CALLEE))
    files = {}
    for role, (ip, base) in SIDES.items():
        files[role] = os.path.join(scene.scratch, 'load-' + role)
        with open(files[role], 'w') as f:
            f.writelines('%s:%d %s:%s\n' % (ip, base + 2 * n, PROXY, port) for n, port in enumerate(told[role]))
    return files


def run_load(scene, hosts, files):
    """Both generators at the same time; what each of them counted."""
    program = os.path.join(scene.options.bin, 'examples', 'rtpload')
    ends = {}
    for side, role in enumerate((CALLER, CALLEE)):
        ends[role] = scene.lab.start(hosts[role], [program, side, PACKETS, files[role]], 'rtpload-%s.log' % role,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for role, process in ends.items():
        if process.stdout.readline() != b'ready\n':
            raise Failed('rtpload of the %s did not start' % role)
    for process in ends.values():
        process.stdin.write(b'\n')
        process.stdin.flush()
    return {role: json.loads(process.communicate(timeout=40)[0]) for role, process in ends.items()}


def judge(scene, results):
    wanted = CALLS * PACKETS
    for role, counted in results.items():
        if counted['sent'] != wanted:
            scene.bad.append('the %s sent %d packets, not %d' % (role, counted['sent'], wanted))
        for what in ('lost', 'duplicated', 'crossed', 'foreign'):
            if counted[what]:
                scene.bad.append('%d of %d packets to the %s %s' % (counted[what], wanted, role, what))
    sessions = [json.loads(line) for line in d.ask(scene.daemons.management, 'sessions', 5)]
    if len(sessions) != CALLS:
        scene.bad.append('`sessions` lists %d calls' % len(sessions))
    wrong = [s['call_id'] for s in sessions for stream in s['streams'] for role in SIDES
             if (stream[role + '_packets'], stream[role + '_bytes']) != (PACKETS, PACKETS * SIZE)]
    if wrong:
        scene.bad.append('`sessions` counts wrongly for %d calls, %s among them' % (len(wrong), wrong[0]))


@scenario('load500', modes=('',), standin=False, alone=True)
def load500(scene):
    if not os.access(os.path.join(scene.options.bin, 'examples', 'rtpload'), os.X_OK):
        raise Skip('examples/rtpload is not built in ' + scene.options.bin)
    hosts = {CALLER: scene.attach(CALLER, 11)[0], CALLEE: scene.attach(CALLEE, 12)[0]}
    scene.daemons.start_dispatcher(scene.router, log_level='INFO')
    scene.daemons.start_relay(scene.router, '127.0.0.1', relay_ip=PROXY, port_range='40000:44000', log_level='INFO')
    proxy = Proxy(scene.daemons.socket)
    results = run_load(scene, hosts, set_up(scene, proxy))
    judge(scene, results)
    for number in range(CALLS):
        answer = proxy.ask(REMOVE % {'n': number})
        if answer != 'removed':
            scene.bad.append('remove was answered %r' % answer)
            break
    if d.ask(scene.daemons.management, 'sessions', 5):
        scene.bad.append('sessions are left after all were removed')
    scene.stop_daemons()
    if scene.bad:
        raise Failed('\n'.join(scene.bad))
    return '%d calls, %d packets each way, the latest %d ms late' % (CALLS, CALLS * PACKETS, max(r['late_ms'] for r in results.values()))
