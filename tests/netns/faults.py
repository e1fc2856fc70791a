"""What must hold when requests to netfilter fail: every kind of them, in every way, while calls begin, go on and end.

The relay runs with faults.c preloaded, which refuses requests or loses their answers, so that its own code meets each failure as the
kernel would tell of it. The calls are judged as all direct ones are: every packet arrives once, and the figures are exact.
"""
import errno
import mmap
import os
import re
import struct
import time

import netfilter
from direct import World
from kernel import answer_often, go_on, kernel
from lab import run
from scene import Failed

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'faults.c')
# The fields of faults.c's struct, 32 bits each.
FIELDS = ('kind', 'dump', 'error', 'times', 'hits', 'unprotected', 'delay', 'events', 'missed')

# Types of messages (linux/netfilter/nfnetlink_conntrack.h, nf_tables.h), and whether it is the dump: the requests that a relay makes.
CREATE, GET, LIST, DELETE = (0x100, 0), (0x101, 0), (0x101, 1), (0x102, 0)
ADD, ELEMENTS, REMOVE = (0xa0c, 0), (0xa0d, 1), (0xa0e, 0)
KINDS = {'create': CREATE, 'get': GET, 'list': LIST, 'delete': DELETE, 'add': ADD, 'elements': ELEMENTS, 'remove': REMOVE}
# The table as a whole.
FIND, MAKE = (0xa01, 0), (0xa00, 0)
LOST = 0


class Faults:
    """What is preloaded into the relays of a scene that are started from now on."""

    def __init__(self, scene):
        library, path = (os.path.join(scene.scratch, name) for name in ('faults.so', 'faults'))
        run('cc', '-O1', '-shared', '-fPIC', '-o', library, SOURCE, '-ldl')
        with open(path, 'w+b') as f:
            f.truncate(4 * len(FIELDS))
            self.memory = mmap.mmap(f.fileno(), 0)
        scene.daemons.before = ['env', 'LD_PRELOAD=' + library, 'NETLINK_FAULTS=' + path]

    def set(self, **values):
        for name, value in values.items():
            struct.pack_into('=I', self.memory, 4 * FIELDS.index(name), value)

    def get(self, name):
        return struct.unpack_from('=I', self.memory, 4 * FIELDS.index(name))[0]

    def fail(self, kind, error, times):
        self.set(times=0)
        self.set(kind=kind[0], dump=kind[1], error=error, hits=0)
        self.set(times=times)


def with_faults(scene, **values):
    """As World, on a relay whose requests can fail and where nothing of others is."""
    made = World(scene, start=False)
    faults = Faults(scene)
    faults.set(**values)
    made.start_relay()
    return made, faults


def survive(made, faults, name, error):
    """Calls begin, lose their entries, go on and end while requests of one kind fail."""
    faults.fail(KINDS[name], error, 2 if error else 1)
    calls = made.place(2)
    made.until_flowing(calls)
    if name == 'delete':
        netfilter.on(made.host, 'conntrack', '-F')
    go_on(made, calls, 0.3)
    if name == 'list':
        # Every few seconds, where flows are few.
        made.scene.loop.until(lambda: faults.get('hits'), 8, 'all entries to be listed')
    made.end(calls)
    if not faults.get('hits'):
        raise Failed('no request of the kind `%s` was made' % name)
    faults.set(times=0)


def every_kind(scene, error):
    made, faults = with_faults(scene)
    steady = made.ready(1)
    for name in KINDS:
        survive(made, faults, name, error)
        go_on(made, steady, 0)
    # Afterwards all is as ever.
    made.until_in_kernel(steady + made.place(1), 6)
    made.finish()


def register(name, error):
    def refused(scene):
        every_kind(scene, error)
    refused.__doc__ = 'Every kind of request to netfilter fails: %s.' % name
    kernel('fault-' + name.lower())(refused)


for NAME in ('EPERM', 'ENOMEM', 'EEXIST', 'EBUSY', 'ENOBUFS'):
    register(NAME, getattr(errno, NAME))
register('lost', LOST)


@kernel('flush-unprotected')
def flush_unprotected(scene):
    """A firewall reload where the kernel cannot protect the table: it is back at once, and the log says what was lost."""
    made, faults = with_faults(scene, unprotected=1)
    made.until_said('cannot protect the table')
    made.exact = False
    calls = made.ready(5)
    for error in (None, errno.ENOBUFS, LOST):
        # What fails is asked for again, by the next reading at the latest; until then media is lost.
        made.grant(0.1 if error is None else 3)
        if error is not None:
            faults.fail(MAKE, error, 1)
        netfilter.on(made.host, 'nft', 'flush', 'ruleset')
        made.until_said('somebody removed the relay.s nftables table.*packets that came meanwhile are lost' if error is None
                        else 'nftables table is back')
        made.until_flowing(calls, 6)
        made.until_in_kernel(calls, 20)
    made.finish()


@kernel('events-lost')
def events_lost(scene):
    """All entries are deleted and the kernel has no room to tell of it (ENOBUFS): the relay looks for itself."""
    made, faults = with_faults(scene)
    calls = made.ready(5)
    faults.set(events=1000)
    netfilter.on(made.host, 'conntrack', '-F')
    made.until_said('not in conntrack any more')
    if not faults.get('missed'):
        raise Failed('no event was lost')
    faults.set(events=0)
    go_on(made, calls)
    made.until_in_kernel(calls)
    made.finish()


@kernel('slow-netlink')
def slow_netlink(scene):
    """Every request takes half a second: no worker waits for it, media goes on as ever."""
    made, faults = with_faults(scene)
    calls = made.ready(2)
    faults.set(delay=500000)
    since = time.monotonic()
    calls += made.place(3)
    netfilter.on(made.host, 'conntrack', '-F')
    go_on(made, calls, 2)
    sent = {data: when for call in calls for end in call.all_ends() for data, (when, _) in end.sent.items()}
    late = [when - sent[data] for call in calls for end in call.all_ends() for when, data, _, _, _ in end.arrived
            if sent[data] > since]
    if max(late) > 0.4:
        raise Failed('a packet was under way for %.3f s' % max(late))
    faults.set(delay=0)
    made.until_in_kernel(calls, 6)
    made.finish()


@kernel('second-answer-slow')
def second_answer_slow(scene):
    """Each request takes a millisecond and a half, so that an answer that does not wait is wrong each time."""
    made, faults = with_faults(scene)
    faults.set(delay=1500)
    answer_often(made, 20, 15)


@kernel('second-answer-late')
def second_answer_late(scene):
    """Each request takes a fifth of a second: answers do not wait for that, and the log says so."""
    made, faults = with_faults(scene)
    faults.set(delay=200000)
    probe = answer_often(made, 4, 4)
    if not re.search(r'WARN.*answered before the kernel has let go of what the answer replaces, after 10 ms', scene.daemons.log('relay')):
        raise Failed('the log does not say that an answer did not wait')
    if max(probe.took) > 0.15:
        raise Failed('an answer took %.3f s' % max(probe.took))
