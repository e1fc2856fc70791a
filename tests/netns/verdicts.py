"""What `explain` begins with when somebody is not heard: each cause is made, named, and mended by what is said where that is a command."""
import re
import time

import daemons as d
import netfilter
from direct import Call, End, World
from firewalls import block
from lab import run
from scenarios import scenario
from scene import Failed
from script import CALLEE, CALLER


def verdict(name):
    return scenario(name, modes=('',), standin=False, forwarding=('userspace',))


def call_of(made):
    """A call in which nobody has sent anything yet."""
    number = 2 * len(made.calls)
    places = {role: (made.phones[role][0], (made.phones[role][1], port + number)) for role, port in ((CALLER, 20000), (CALLEE, 30000))}
    call = Call(made, len(made.calls), places)
    made.calls.append(call)
    return call


def mended(made, call):
    """From now on nothing may be lost."""
    made.until_flowing([call])
    made.gaps.append((0, time.monotonic()))
    made.until_explained([call], 'audio: the callee hears the caller: .*\naudio: the caller hears the callee: ')
    made.finish()


@verdict('verdict-private')
def private(scene):
    """The callee's SDP names a private address, and it waits for the caller."""
    made = World(scene, start=False)
    made.start_relay(routable_private_ranges='192.168.0.0/16')
    call = call_of(made)
    call.now(CALLER).start()
    made.until_explained([call], r'^audio: the callee hears nothing: nothing has come from the callee since the answer \d+ s ago, and its SDP address '
                         r'10\.12\.0\.2:30000 is private or reserved, .*: \d+ packets of the caller were dropped \(receiver not routable\); .*'
                         r'routable_private_ranges')
    call.now(CALLEE).start()
    mended(made, call)


@verdict('verdict-firewall')
def firewall(scene):
    """The relay's host lets nothing in that it does not know; the command that is told opens it."""
    made = World(scene)
    rules = [line for line in block('relay.nft').splitlines() if 'udp dport' not in line]
    scene.lab.nft(made.host, '\n'.join(rules))
    call = call_of(made)
    call.start()
    made.until_explained([call], r'audio: the callee hears nothing: nothing has come from the caller since the answer \d+ s ago; on the relay.s host, chain \S+ of table '
                         r'.* refuses udp ports .*udp dport 40000-\d+ accept')
    text = '\n'.join(d.ask(scene.daemons.management, 'explain ' + call.name, 5))
    netfilter.on(made.host, 'sh', '-ec', re.search(r'nft insert rule .*? accept', text).group())
    mended(made, call)


@verdict('verdict-no-neighbour')
def no_neighbour(scene):
    """The callee's host is not there any more."""
    made = World(scene)
    call, = made.place(1)
    made.until_flowing([call])
    callee, ip = made.phones[CALLEE]
    run('ip', '-n', callee, 'address', 'del', ip + '/24', 'dev', 'e0')
    run('ip', '-n', made.host, 'neigh', 'flush', 'all')
    call.now(CALLEE).stop()
    made.until_explained([call], r'audio: the callee hears nothing any more: 10\.12\.0\.2 is in the relay.s own network and does not answer ARP', 10)
    run('ip', '-n', callee, 'address', 'add', ip + '/24', 'dev', 'e0')
    run('ip', '-n', callee, 'route', 'add', 'default', 'via', '10.12.0.1')
    call.now(CALLEE).start()
    mended(made, call)


@verdict('verdict-no-route')
def no_route(scene):
    """The route to the callee goes."""
    made = World(scene)
    call, = made.place(1)
    made.until_flowing([call])
    ip = made.phones[CALLEE][1]
    run('ip', '-n', made.host, 'route', 'add', 'unreachable', ip + '/32')
    made.until_explained([call], r"audio: the callee hears nothing any more: the relay's host has not taken \d+ packets? for 10\.12\.0\.2:30000: "
                         r'the route leads nowhere')
    run('ip', '-n', made.host, 'route', 'del', 'unreachable', ip + '/32')
    mended(made, call)


@verdict('verdict-another-source')
def another_source(scene):
    """The callee goes on from another port, and no re-INVITE says so."""
    made = World(scene)
    call, = made.place(1)
    made.until_flowing([call])
    old = call.now(CALLEE)
    moved = End(made, call.name + ' callee moved', old.host, (old.address[0], 30500))
    moved.remote = old.remote
    old.stop()
    moved.start()
    made.until_explained([call], r'audio: the caller hears nothing any more: the callee was first heard at 10\.12\.0\.2:30000, and packets now come from '
                         r'10\.12\.0\.2:30500: \d+ packets dropped \(other port\)', 10)
    moved.close()
    old.start()
    mended(made, call)


@verdict('verdict-silent')
def silent(scene):
    """The caller stops sending."""
    made = World(scene)
    call, = made.place(1)
    made.until_flowing([call])
    call.now(CALLER).stop()
    made.until_explained([call], r'audio: the callee hears nothing any more: nothing has come from the caller for \d+ s, \d+ packets before', 10)
    call.now(CALLER).start()
    mended(made, call)


@verdict('verdict-mtu')
def narrow(scene):
    """The wire to the callee is narrower than the caller's packets are long."""
    made = World(scene)
    run('ip', '-n', made.host, 'link', 'set', 'e1', 'mtu', '1280')
    call = call_of(made)
    call.now(CALLER).payload = 1400
    call.start()
    made.until_flowing([call])
    made.until_explained([call], r'audio: the callee hears the caller: .*; its packets of up to 1428 bytes are longer than the MTU of 1280 towards '
                         r'10\.12\.0\.2:30000: they go in fragments')
    made.finish()


@verdict('verdict-refused')
def refused(scene):
    """The relay has ports for one call: why the second was refused is told, and how the first ended."""
    made = World(scene, port_range='40000:40004')
    call, = made.place(1)
    made.until_flowing([call])
    try:
        call_of(made)
    except Failed:
        pass
    else:
        raise Failed('a second call was taken')
    name = 'direct-1'

    def explained(name, pattern):
        text = '\n'.join(d.ask(scene.daemons.management, 'explain ' + name, 5))
        if not re.search(pattern, text):
            scene.bad.append('`explain` does not tell %s: %s' % (pattern, text))
    explained(name, r'^call direct-1 was refused \d+ s ago: relay .* answered error: no ports left; no relay takes this call')
    made.end([call])
    explained(call.name, r'^call direct-0 ended \d+ s ago: the SIP proxy removed it .*audio: closed, packets: \d+ from the caller \(10\.11\.0\.2:20000\)')
    made.finish()
