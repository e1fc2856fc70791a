"""Who hears whom: phones (direct.End) that belong to no judged call, and conditions on what came to them.

Everything is a condition that is waited for, or what has to hold for every packet of a while. Where one fails the report tells what
`explain` says of every call.
"""
import itertools
import json
import re
import time

import daemons as d
from direct import End
from loop import TimedOut
from scene import Failed
from script import CALLEE, CALLER

# How long a packet may be under way on a machine that is busy, seconds.
UNDER_WAY = 0.5


class Hall:
    """The phones of one scenario. `places`: {role: (host, ip)}."""

    def __init__(self, scene, places=None):
        self.scene, self.ends = scene, []
        self.places = places or {role: scene.attach(role, n)[::2] for role, n in ((CALLER, 11), (CALLEE, 12))}
        self.ports = itertools.count(20000, 4)

    def phone(self, name, role=CALLER, port=None, kind=End, ip=None):
        """A phone on this role's host; silent until it is told where to send."""
        host, address = self.places[role]
        end = kind(self, name, host, (ip or address, port or next(self.ports)))
        self.ends.append(end)
        return end

    def pair(self, name):
        return self.phone(name + ' caller', CALLER), self.phone(name + ' callee', CALLEE)

    # What is heard

    def until_heard(self, *pairs, seconds=1.5, packets=10):
        """Each (listener, speaker): so many packets come that were sent after this call."""
        since, end = time.monotonic(), time.monotonic() + seconds
        deaf = []

        def all_hear():
            deaf[:] = ['%s hears nothing of %s' % (by.name, of.name) for by, of in pairs if heard(by, of, since) < packets]
            return not deaf
        try:
            self.scene.loop.until(all_hear, max(0.05, end - time.monotonic()), 'all to hear')
        except TimedOut:
            self.fail('within %g s: %s' % (seconds, ', '.join(deaf)))

    def nothing_lost(self, *pairs, seconds=0.5):
        """Each (listener, speaker): everything that is sent from now on for a while comes, once."""
        since = time.monotonic()
        self.scene.loop.pause(seconds)
        until = time.monotonic()
        lost = []

        def all_came():
            lost[:] = [text for by, of in pairs for text in missing(by, of, since, until)]
            return not lost
        try:
            self.scene.loop.until(all_came, UNDER_WAY, 'what was sent to come')
        except TimedOut:
            self.fail('\n'.join(lost))

    def unheard(self, *pairs, since):
        """Each (listener, speaker): no packet that was sent after `since` has come."""
        found = [(heard(by, of, since), of, by) for by, of in pairs]
        if any(count for count, _, _ in found):
            self.fail('; '.join('%d packets of %s came to %s' % (count, of.name, by.name) for count, of, by in found if count))

    def fail(self, text):
        raise Failed(text + '\n' + '\n'.join(self.explained()))

    # What the daemons say

    def sessions(self):
        return [json.loads(line) for line in d.ask(self.scene.daemons.management, 'sessions', 5)]

    def explained(self):
        names = dict.fromkeys(s['call_id'] for s in self.sessions())
        return [line for name in names for line in d.ask(self.scene.daemons.management, 'explain ' + name, 5)]

    def until(self, condition, seconds, what):
        try:
            return self.scene.loop.until(condition, seconds, what)
        except TimedOut as error:
            self.fail(str(error))

    def until_explained(self, name, pattern, seconds=3):
        def told():
            text[0] = '\n'.join(d.ask(self.scene.daemons.management, 'explain ' + name, 5))
            return re.search(pattern, text[0])
        text = ['']
        try:
            return self.scene.loop.until(told, seconds, '`explain` to tell')
        except TimedOut:
            raise Failed('`explain` does not tell %s:\n%s' % (pattern, text[0]))

    def finish(self):
        """Ends phones and daemons. Raises Failed where something was found on the way."""
        for end in self.ends:
            end.close()
        self.scene.stop_daemons()
        if self.scene.bad:
            raise Failed('\n'.join(dict.fromkeys(self.scene.bad)))


def heard(listener, speaker, since=0):
    """How many RTP packets that `speaker` sent after `since` have come to `listener`."""
    sent = speaker.sent
    return sum(1 for _, data, _, component, _ in listener.arrived if component == 0 and data in sent and sent[data][0] > since)


def missing(listener, speaker, since, until):
    """What is wrong with what was sent between these times, as texts."""
    came = {}
    for _, data, _, component, _ in listener.arrived:
        if component == 0:
            came[data] = came.get(data, 0) + 1
    sent = [(when, data) for data, (when, component) in speaker.sent.items() if component == 0 and since < when < until]
    lost = [when - since for when, data in sent if data not in came]
    if not sent:
        return ['%s sent nothing' % speaker.name]
    if lost:
        return ['%s did not get %d of %d packets of %s, sent from %.2f s to %.2f s after' % (
            listener.name, len(lost), len(sent), speaker.name, min(lost), max(lost))]
    doubled = sum(1 for _, data in sent if came[data] > 1)
    return ['%s got %d packets of %s twice' % (listener.name, doubled, speaker.name)] if doubled else []
