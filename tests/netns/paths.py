"""Which path the media took: user space or the kernel, as the relay's host and the relay's figures show it.

In user space nothing of the media is in connection tracking, and there is no table. In the kernel every stream that flows has
its entry and its elements; user space has packets only while a party is learned; afterwards nothing is left.
"""
import json
import re
from collections import defaultdict

import netfilter
from daemons import PORTS
from loop import TimedOut
from script import CALLEE, CALLER

# From when both parties are known until the kernel forwards, seconds; two cores run a whole lab.
HAND_OVER = 0.15
# Until an entry is there, while the phones send on, and until what is withdrawn is gone, seconds.
# What a removed flow has counted stays for a second, for a relay that takes over.
THERE, GONE = 0.5, 3


def mid_call(scene, host, bad):
    """While the calls are up; `bad` is a function that takes what is wrong."""
    if scene.forwarding == 'userspace':
        return in_user_space(host, bad)
    wrong = []

    def right():
        wrong[:] = [text for pair in scene.parties for text in not_in_kernel(scene, host, pair)]
        return not wrong
    try:
        scene.loop.until(right, THERE, 'the kernel to forward')
    except TimedOut:
        for text in wrong:
            bad(text)


def in_user_space(host, bad):
    ours = netfilter.of_range(host, PORTS)
    if ours:
        bad('conntrack has %d entries of the relay although it forwards in user space: %s' % (len(ours), ours[0]))
    for name in netfilter.tables(host):
        bad('there is a table %s although the relay forwards in user space' % name)


def not_in_kernel(scene, host, pair):
    """What misses of the streams of this call on which both parties send now, as texts."""
    sample = scene.management.last_with(pair[0].call.call_id)
    if sample is None:
        return ['`sessions` does not list call %d' % pair[0].call.number]
    hidden = pair[0].call.rules.get('hidden', ())
    # The RTCP of a phone behind a NAT comes from a port that `sessions` does not show.
    components = (0,) if hidden else (0, 1)
    flows = []
    for stream in sample[1]['streams']:
        for component in components if stream['media_type'] != 'image' else (0,):
            if all(sends(party, stream, component) for party in pair):
                flows.append(flow(stream, component))
    if not flows:
        return ['no stream of call %d flows in `sessions`' % pair[0].call.number]
    return [text for one in flows for text in lacks(host, *one)]


def sends(party, stream, component):
    """Does the party send on this stream of `sessions` now, and has something of it arrived there?"""
    local, remote = stream[party.role + '_local'], stream[party.role + '_remote']
    if stream['status'] != 'active' or remote == 'Unknown' or not party.commits:
        return False
    for position, line in enumerate(party.commits[-1].remote):
        if line.port == int(local.rpartition(':')[2]):
            source = party.streams.get(position)
            return source is not None and source.until is not None and source.sent[component] > 0
    return False


def flow(stream, component):
    """The caller's four-tuple as its packets enter the relay, and the callee's."""
    def place(name):
        ip, _, port = stream[name].rpartition(':')
        return ip, int(port) + component
    return tuple(place(role + '_remote') + place(role + '_local') for role in (CALLER, CALLEE))


def lacks(host, caller, callee, mark=netfilter.MARK):
    """What misses of one flow in the kernel: an entry that joins both directions, with mark; elements in both sets."""
    bad = []
    joined = [e for e in netfilter.entries(host) if {e.original, e.reply} == {caller, callee}]
    name = '%s:%d > %s:%d' % caller
    if not joined:
        bad.append('conntrack has no entry that joins %s with %s:%d > %s:%d' % ((name,) + callee))
    elif joined[0].mark != mark or 'ASSURED' not in joined[0].status:
        bad.append('the entry of %s has mark %#x, status %s' % (name, joined[0].mark, joined[0].status))
    for set_name, wanted in (('forwarded', (caller, callee)), ('leaving', (netfilter.inverse(caller), netfilter.inverse(callee)))):
        there = netfilter.elements(host, PORTS[0], set_name)
        bad += ['the set `%s` lacks %s:%d > %s:%d' % ((set_name,) + w) for w in wanted if w not in there]
    return bad


def left_over(host, ports, mark):
    """Entries and elements that are still there, as texts."""
    left = ['a conntrack entry is left: %s' % (e,) for e in netfilter.of_range(host, ports) if e.mark == mark]
    for name in ('forwarded', 'leaving'):
        left += ['an element of `%s` is left: %s' % (name, e) for e in netfilter.elements(host, ports[0], name)]
    return left


def emptied(scene, host, ports=PORTS, mark=netfilter.MARK):
    """After the last call: no entry and no element is left. What is wrong, as texts."""
    left = []

    def none():
        left[:] = left_over(host, ports, mark)
        return not left
    try:
        scene.loop.until(none, GONE, 'the kernel to have nothing left')
    except TimedOut:
        pass
    return left


def after_the_daemons(host):
    """What is wrong on a host whose relay has ended, as texts."""
    return ['the table %s is left after the relay' % name for name in netfilter.tables(host)]


# The figures


def all_last_words(log):
    """The statistics with which a log ends each call: the dispatcher's, or the relay's at DEBUG."""
    return [json.loads(text) for text in re.findall(r'\[session \S+\] [^{\n]*(\{.*\})$', log, re.M)]


def last_words(log, call_id):
    """Those of this call, or None."""
    return next((s for s in reversed(all_last_words(log)) if s['call_id'] == call_id), None)


def learning(judge, pair):
    """When a packet may go through user space, and be overtaken at the hand-over: {(position, component): [(start, end)]}.

    From each exchange that gives a stream its addresses until both parties have sent there, and a little longer."""
    sent = defaultdict(list)
    for one in judge.sent.values():
        if one.party in pair:
            sent[(one.party.role, one.position, one.component)].append(one.packet.time)
    windows = defaultdict(list)
    for position, component in {key[1:] for key in sent}:
        for offered, taken_up in moves(judge, pair, position):
            firsts = [min((t for t in sent[(role, position, component)] if t >= taken_up[role]), default=float('inf'))
                      for role in (CALLER, CALLEE)]
            windows[(position, component)].append((offered, max(firsts) + HAND_OVER))
    return windows


def moves(judge, pair, position):
    """When this stream got new addresses at either end: (when it was offered, {role: when that party took it up})."""
    start = float('-inf')
    found = [(start, {CALLER: start, CALLEE: start})]
    for party, peer in (pair, pair[::-1]):
        for before, commit in zip(party.commits, party.commits[1:]):
            if judge.places(before, position) != judge.places(commit, position):
                theirs = judge.counterpart_commit(party, peer, commit)
                found.append((party.exchanges[commit.exchange].time,
                              {party.role: commit.time, peer.role: (theirs or commit).time}))
    return found


def within(windows, place, time):
    return any(start <= time <= end for start, end in windows.get(place, ()))


def shares(mode, stream, party, sent, windows):
    """Judges how one party's packets of one stream were shared out between the paths; what is wrong, as texts.

    sent: those of its packets that arrived by this stream."""
    role, name = party.role, '%s from the %s' % (stream['media_type'], party.name)
    user, kernel = (stream['%s_packets_%s' % (role, path)] for path in ('user_space', 'kernel'))
    for unit in ('packets', 'bytes'):
        whole = '%s_%s' % (role, unit)
        if stream[whole + '_user_space'] + stream[whole + '_kernel'] != stream[whole]:
            return ['the %s by path of %s do not add up: %s' % (unit, name, stream)]
    if mode == 'userspace':
        return ['%d packets of %s went through the kernel' % (kernel, name)] if kernel else []
    learned = sum(1 for s in sent if within(windows, (s.position, s.component), s.packet.time))
    return ['user space had %d packets of %s, at most %d were sent while it was learned' % (user, name, learned)] if user > learned else []


def order(judge, pair, windows):
    """Packets of one stream arrive in the order in which they were sent, but for the hand-over. What is wrong, as texts."""
    bad = []
    arrived = defaultdict(list)
    for data, packets in judge.received.items():
        sent = judge.sent[data]
        if sent.party in pair:
            arrived[(sent.party.name, sent.position, sent.component)] += [(p.time, sent.packet.time) for p in packets]
    for (name, *place), times in arrived.items():
        latest = 0
        for _, sent in sorted(times):
            if sent < latest and not within(windows, tuple(place), sent):
                bad.append('overtaken: stream %d.%d from the %s, a packet sent at %.3f' % (*place, name, sent % 1000))
                break
            latest = max(latest, sent)
    return bad
