"""500 calls at once, all between the same two addresses: the dispatcher's socket is driven directly, examples/rtpload.rs is both
phones.

Nothing may be lost, doubled or crossed, and the statistics must count every packet.
"""
import json
import os
import subprocess
from collections import namedtuple

import daemons as d
import paths
from direct import SETTLED, Proxy
from loop import TimedOut
from scenarios import Skip, scenario
from scene import PROXY, Failed
from script import CALLEE, CALLER

# So many calls, and packets of each party in each of them, one every 20 ms.
Load = namedtuple('Load', 'calls packets')
SIZE = 172 + 28
# In the kernel's mode user space has at most so many packets of each party: the two generators start one after the other.
LEARNING = 20
SIDES = {CALLER: ('10.11.0.2', 20000), CALLEE: ('10.12.0.2', 30000)}
PORTS = (40000, 44000)


def name(number):
    return 'load-%d' % number


def set_up(scene, proxy, load):
    """Offers and answers of all calls; for each side a file with its own and the relay's addresses."""
    told = {CALLER: [], CALLEE: []}
    for number in range(load.calls):
        for role, peer in ((CALLER, CALLEE), (CALLEE, CALLER)):
            ip, base = SIDES[role]
            told[peer].append(proxy.update(name(number), role, (ip, base + 2 * number)))
    files = {}
    for role, (ip, base) in SIDES.items():
        files[role] = os.path.join(scene.scratch, 'load-' + role)
        with open(files[role], 'w') as f:
            f.writelines('%s:%d %s:%d\n' % ((ip, base + 2 * n) + relay) for n, relay in enumerate(told[role]))
    return files


def run_load(scene, hosts, files, load, meanwhile=lambda: None):
    """Both generators at the same time, and what happens meanwhile; what each of them counted."""
    program = os.path.join(scene.options.bin, 'examples', 'rtpload')
    ends = {}
    for side, role in enumerate((CALLER, CALLEE)):
        ends[role] = scene.lab.start(hosts[role], [program, side, load.packets, files[role]], 'rtpload-%s.log' % role,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for role, process in ends.items():
        if process.stdout.readline() != b'ready\n':
            raise Failed('rtpload of the %s did not start' % role)
    for process in ends.values():
        process.stdin.write(b'\n')
        process.stdin.flush()
    meanwhile()
    return {role: json.loads(process.communicate(timeout=40)[0]) for role, process in ends.items()}


def judge(scene, results, load):
    wanted = load.calls * load.packets
    for role, counted in results.items():
        if counted['sent'] != wanted:
            scene.bad.append('the %s sent %d packets, not %d' % (role, counted['sent'], wanted))
        for what in ('lost', 'duplicated', 'crossed', 'foreign'):
            if counted[what]:
                scene.bad.append('%d of %d packets to the %s %s' % (counted[what], wanted, role, what))
    wrong = []

    def exact():
        wrong[:] = miscounted(scene, load, [json.loads(line) for line in d.ask(scene.daemons.management, 'sessions', 5)])
        return not wrong
    try:
        scene.loop.until(exact, SETTLED, 'the figures to settle')
    except TimedOut:
        scene.bad += wrong


def miscounted(scene, load, sessions):
    """Where the statistics of all calls are not what was sent, as texts."""
    bad = ['%d calls are told of' % len(sessions)] if len(sessions) != load.calls else []
    parts = [(s['call_id'], stream, role) for s in sessions for stream in s['streams'] for role in SIDES]
    wrong = [call for call, stream, role in parts
             if (stream[role + '_packets'], stream[role + '_bytes']) != (load.packets, load.packets * SIZE)]
    if wrong:
        bad.append('%d calls are counted wrongly, %s among them' % (len(wrong), wrong[0]))
    most = load.packets if scene.forwarding == 'userspace' else LEARNING
    slow = [call for call, stream, role in parts if stream[role + '_packets_user_space'] > most]
    if slow:
        bad.append('user space had more than %d packets of %d calls, %s among them' % (most, len(slow), slow[0]))
    return bad


def place(scene, load, meanwhile=lambda: None):
    """All the calls, what happens to them, their end, and what was wrong."""
    if not os.access(os.path.join(scene.options.bin, 'examples', 'rtpload'), os.X_OK):
        raise Skip('examples/rtpload is not built in ' + scene.options.bin)
    hosts = {CALLER: scene.attach(CALLER, 11)[0], CALLEE: scene.attach(CALLEE, 12)[0]}
    scene.daemons.start_dispatcher(scene.router, log_level='INFO')
    start_relay(scene)
    scene.stand_by(scene.router)
    proxy = Proxy(scene.daemons.socket)
    results = run_load(scene, hosts, set_up(scene, proxy, load), load, meanwhile)
    judge(scene, results, load)
    for number in range(load.calls):
        answer = proxy.remove(name(number))
        if answer != 'removed':
            scene.bad.append('remove was answered %r' % answer)
            break
    if d.ask(scene.daemons.management, 'sessions', 5):
        scene.bad.append('sessions are left after all were removed')
    scene.bad += paths.emptied(scene, scene.router, PORTS)
    scene.stop_daemons()
    scene.bad += miscounted(scene, load, paths.all_last_words(scene.daemons.log('dispatcher')))
    if scene.bad:
        raise Failed('\n'.join(scene.bad))
    return '%d calls, %d packets each way, the latest %d ms late' % (
        load.calls, load.calls * load.packets, max(r['late_ms'] for r in results.values()))


def start_relay(scene):
    return scene.daemons.start_relay(scene.router, '127.0.0.1', relay_ip=PROXY, port_range='%d:%d' % PORTS, log_level='INFO')


@scenario('load500', modes=('',), standin=False, alone=True)
def load500(scene):
    return place(scene, Load(500, 300))
