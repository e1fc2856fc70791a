"""Calls that point at each other: nothing goes round, and what a B2BUA sends through one relay twice comes through."""

from flows import BOTH, Dialog, both, flow, hall, line, talk
from learning import REQUEST, stun
from script import CALLER

# How often a packet may go round before it is dropped.
ROUNDS = 64
NOWHERE = '192.168.9.9', 6000


@flow('loop', BOTH)
def loop(scene):
    """Two calls whose SDPs name each other's ports, and one STUN packet: it goes round a few dozen times at most, and the log names both calls."""
    # Anybody is believed: the packet is a stranger's.
    here = hall(scene, learning='open')
    dialogs, ports = [Dialog(here, name) for name in ('loop-1', 'loop-2')], []
    for dialog in dialogs:
        dialog.request(line(NOWHERE))
        ports.append(dialog.reply(line(NOWHERE), tag=False)[0])
    for dialog, port in zip(dialogs, reversed(ports)):
        dialog.reply(line(port))
    phone = here.phone('entering', CALLER)

    def relayed():
        return sum(s['caller_packets'] + s['callee_packets'] for one in here.sessions() for s in one['streams'])
    before = cpu(scene)
    phone.sockets[0].sendto(stun(REQUEST, b'123456789012'), ports[0])
    here.scene.loop.pause(1)
    spent = cpu(scene) - before
    if relayed() > 2 * ROUNDS or spent > 0.3:
        here.fail('%d packets were relayed and %.2f s of processor spent for the one that was sent' % (relayed(), spent))
    here.until(lambda: any('goes round' in text and 'loop-1' in text and 'loop-2' in text
                           for text in scene.daemons.log('relay').splitlines()), 2, 'the log to name both calls')
    here.finish()


def cpu(scene):
    """Seconds of processor that the relay has used (/proc/PID/stat, clock ticks of 10 ms)."""
    with open('/proc/%d/stat' % scene.daemons.relays['relay'].pid) as f:
        fields = f.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@flow('hairpin', BOTH)
def hairpin(scene):
    """A B2BUA without media of its own: one call's callee is the other call's caller, both on this relay. All comes through."""
    here = hall(scene)
    caller, callee = here.pair('hairpin')
    first, second = Dialog(here, 'leg-1'), Dialog(here, 'leg-2')
    onward = first.request(line(caller))[0]
    to_callee = second.request(line(onward))[0]
    back = second.reply(line(callee))[0]
    talk(caller, first.reply(line(back))[0])
    talk(callee, to_callee)
    here.until_heard(*both(caller, callee))
    here.nothing_lost(*both(caller, callee), seconds=1)
    here.finish()
