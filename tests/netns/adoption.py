"""Calls that survive their relay: killed, handed over, replaced by another process; what nobody takes over ends.

The calls are driven directly (direct.py). Where the kernel forwards, every packet has to arrive once although no relay is there; in
user space those are excused that were sent meanwhile. The figures have to be what arrived, to the packet, over all processes.
"""
import random
import signal
import time

import load
import paths
from direct import World
from kernel import go_on
from scenarios import scenario
from scene import Failed

# How long a relay is away, seconds.
AWAY = 0.7


def both(name, **options):
    return scenario(name, modes=('',), standin=False, **options)


def ready(made, count):
    """Calls that flow, in the kernel where it forwards."""
    if made.scene.forwarding == 'kernel':
        return made.ready(count)
    calls = made.place(count)
    made.until_flowing(calls)
    return calls


def pass_time(made, seconds):
    end = time.monotonic() + seconds
    made.scene.loop.until(lambda: time.monotonic() >= end, seconds + 1, 'time to pass')


def end_process(made, how):
    """Ends the relay's process; from when on what is sent is nobody's in user space."""
    relay = made.scene.daemons.relays['relay']
    start = time.monotonic() - paths.HAND_OVER
    relay.send_signal(how)
    status = made.scene.lab.wait(relay, 7)
    if status != (0 if how == signal.SIGQUIT else -how):
        raise Failed('the relay ended with status %s on %s' % (status, how.name))
    return start


def excuse(made, start):
    if made.scene.forwarding == 'userspace':
        made.gaps.append((start, time.monotonic() + paths.HAND_OVER))


def replace(made, how, calls, away=AWAY, **keys):
    """Another process takes the calls over."""
    start = end_process(made, how)
    pass_time(made, away)
    made.start_relay(**keys)
    excuse(made, start)
    made.until_said(r'took over %d calls' % len(calls))


@both('adopt-killed')
def killed(scene):
    """Killed at any moment and started again, three times: all calls go on, and nothing is lost in the kernel."""
    made = World(scene)
    calls = ready(made, 6)
    for again in range(3):
        go_on(made, calls, random.Random(again).uniform(0, 0.6))
        replace(made, signal.SIGKILL, calls)
        made.until_flowing(calls)
        if scene.forwarding == 'kernel':
            scene.bad += made.in_kernel(calls)
    made.until_explained(calls[:1], r'(?i)took over|taken over|adopted')
    made.finish()


@both('adopt-load', alone=True, forwarding=('kernel',))
def many(scene):
    """300 calls in the kernel, their relay killed ten times: not one packet of 216,000 is lost, doubled or not counted."""
    chance = random.Random(17)

    def kill():
        relay = scene.daemons.relays['relay']
        relay.send_signal(signal.SIGKILL)
        scene.lab.wait(relay, 2)

    def wait(seconds):
        end = time.monotonic() + seconds
        scene.loop.until(lambda: time.monotonic() >= end, seconds + 1, 'time to pass')

    def meanwhile():
        wait(1.5)
        for _ in range(10):
            wait(chance.uniform(0.1, 0.6))
            kill()
            wait(chance.uniform(0, 0.4))
            load.start_relay(scene)
    told = load.place(scene, load.Load(300, 720), meanwhile)
    took = scene.daemons.log('relay').count('took over 300 calls')
    if took != 10:
        raise Failed('the log tells of %d take-overs' % took)
    return told


@both('adopt-handed-over')
def handed_over(scene):
    """QUIT leaves the calls, and the next process has them."""
    made = World(scene)
    calls = ready(made, 4)
    replace(made, signal.SIGQUIT, calls)
    new = made.place(2)
    go_on(made, calls + new)
    made.until_flowing(calls + new)
    made.finish()


@both('adopt-moved-meanwhile')
def moved_meanwhile(scene):
    """A re-INVITE and a BYE come while no relay is there: they wait for the next one."""
    made = World(scene)
    calls = ready(made, 4)
    go_on(made, calls)
    moved, gone = calls[0], calls[1]
    start = end_process(made, signal.SIGKILL)
    gone.stop()
    made.start_relay(wait=False)
    begun = time.monotonic()
    old = moved.move_callee(33000)
    old.stop()
    made.gaps.append((start, time.monotonic() + 0.5))
    if time.monotonic() - begun > 3:
        raise Failed('the re-INVITE waited %.1f s' % (time.monotonic() - begun))
    made.until_said(r'took over 4 calls')
    pass_time(made, 0.7)
    made.until_flowing([moved] + calls[2:])
    made.finish()


@both('adopt-nobody-comes', forwarding=('kernel',))
def nobody_comes(scene):
    """Who hands over and has no successor: the kernel stops by itself, and a relay that comes later ends the calls."""
    made = World(scene, adopt_within=2)
    calls = ready(made, 2)
    go_on(made, calls)
    end_process(made, signal.SIGQUIT)
    left = time.monotonic()
    pass_time(made, 1.2)
    made.until_flowing(calls, since=left + 0.6)
    pass_time(made, 1.5)
    late = time.monotonic()
    made.gaps.append((left + 1.5, late + 60))
    pass_time(made, 0.5)
    for call in calls:
        if call.is_flowing(late, 1):
            raise Failed('the kernel forwards on, 3 s after the relay has gone')
    made.start_relay()
    scene.loop.until(lambda: not made.sessions(), 5, 'the calls to be over')
    for call in calls:
        call.stop()
    made.calls.clear()
    for host in scene.relay_hosts():
        scene.bad += paths.emptied(scene, host)
    scene.stop_daemons()
    if scene.bad:
        raise Failed('\n'.join(scene.bad))
