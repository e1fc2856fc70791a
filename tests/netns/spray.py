"""100 calls are set up while a stranger sends to every port of the range: none is hurt, and the stranger gets nothing."""
import json
import os
import subprocess
import time

import paths
from direct import Proxy
from flows import BOTH, Dialog, line
from lab import run
from load import SIDES, Load, run_load
from scenarios import Skip, scenario
from scene import PROXY, Failed
from script import CALLEE, CALLER

CALLS = 100
# 2 s of 20 ms packets, of which what is sent in the first 300 ms may be lost.
PACKETS, FIRST = 100, 15
# Each port is hit every 1.3 s or 0.3 s.
RANGE = 40000, 60000
# How long one set-up may take, seconds.
SET_UP = 0.3
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'spray.c')


class Places:
    """As a Hall, where only addresses are asked for."""

    def __init__(self, proxy, places):
        self.proxy, self.places = proxy, places


def set_up(here, scene, number):
    """Half of the callers are behind a NAT that keeps ports: their SDP's address is private. Files for both generators."""
    told, slowest = {CALLER: [], CALLEE: []}, 0
    for call in range(CALLS):
        dialog = Dialog(here, 'spray-%d-%d' % (number, call))
        at = {role: (ip, base + 2 * call) for role, (ip, base) in SIDES.items()}
        since = time.monotonic()
        told[CALLEE] += dialog.request(line(('192.168.7.7', at[CALLER][1]) if call % 2 else at[CALLER]))
        told[CALLER] += dialog.reply(line(at[CALLEE]))
        slowest = max(slowest, time.monotonic() - since)
    files = {}
    for role, (ip, base) in SIDES.items():
        files[role] = os.path.join(scene.scratch, 'spray-%d-%s' % (number, role))
        with open(files[role], 'w') as f:
            f.writelines('%s:%d %s:%d\n' % ((ip, base + 2 * n) + relay) for n, relay in enumerate(told[role]))
    return files, slowest


def sprayed(scene, learning, rounds):
    """rounds: (packets a second, what they are)."""
    if not os.access(os.path.join(scene.options.bin, 'examples', 'rtpload'), os.X_OK):
        raise Skip('examples/rtpload is not built in ' + scene.options.bin)
    program = os.path.join(scene.scratch, 'spray')
    run('cc', '-O2', '-o', program, SOURCE)
    hosts = {role: scene.attach(role, n)[0] for role, n in ((CALLER, 11), (CALLEE, 12), ('sprayer', 15))}
    scene.daemons.start_dispatcher(scene.router, log_level='INFO')
    scene.daemons.start_relay(scene.router, '127.0.0.1', relay_ip=PROXY, port_range='%d:%d' % RANGE, log_level='INFO', learning=learning)
    here = Places(Proxy(scene.daemons.socket), {role: (hosts[role], SIDES[role][0]) for role in SIDES})
    said = []
    for number, (rate, kind) in enumerate(rounds):
        what = '%d %s packets a second' % (rate, kind)
        sprayer = scene.lab.start(hosts['sprayer'], [program, PROXY, RANGE[0], RANGE[1] - 1, rate, kind], 'sprayer.log',
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        files, slowest = set_up(here, scene, number)
        results = run_load(scene, hosts, files, Load(CALLS, PACKETS))
        sprayer.stdin.close()
        counted = json.loads(sprayer.stdout.read())
        sprayer.wait()
        said.append('%s: %d sent, slowest set-up %.0f ms, lost %s' % (what, counted['sent'], slowest * 1000, [r['lost'] for r in results.values()]))
        if counted['came']:
            scene.bad.append('%s: the sprayer got %d packets' % (what, counted['came']))
        if slowest > SET_UP:
            scene.bad.append('%s: a set-up took %.2f s' % (what, slowest))
        for role, result in results.items():
            for wrong in ('late_lost', 'duplicated', 'crossed', 'foreign'):
                if result[wrong]:
                    scene.bad.append('%s: %d packets to the %s: %s' % (what, result[wrong], role, wrong))
        for call in range(CALLS):
            if Dialog(here, 'spray-%d-%d' % (number, call)).remove() != 'removed':
                scene.bad.append('a remove was refused')
    scene.bad += paths.emptied(scene, scene.router, RANGE)
    scene.stop_daemons()
    lines = scene.daemons.log('relay').count('WARN')
    if lines > CALLS * len(rounds) + 10:
        scene.bad.append('the spray made %d lines of the log' % lines)
    if scene.bad:
        raise Failed('\n'.join(dict.fromkeys(scene.bad)))
    return '; '.join(said)


def register(name, learning, rounds):
    def spray(scene):
        return sprayed(scene, learning, rounds)
    spray.__doc__ = '%s: %s' % (learning, rounds)
    scenario(name, modes=('',), standin=False, alone=True, forwarding=BOTH)(spray)


register('spray', 'guarded', ((15000, 'rtp'), (60000, 'random')))
register('spray-strict', 'strict', ((15000, 'random'), (60000, 'rtp')))
