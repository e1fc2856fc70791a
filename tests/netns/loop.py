"""One event loop for everything that a scenario watches: captures, phones, the recorder, the management port.

A scenario runs in a process and a thread of its own; it says what it waits for and the loop serves
all sockets and timers meanwhile. Nothing here sleeps for a guessed time.
"""
import heapq
import itertools
import selectors
import time

# How often a condition is looked at when nothing happens on any socket, seconds.
LOOK = 0.01


class TimedOut(Exception):
    """What was waited for did not happen."""


def starved():
    """How long this process was ready to run and had no processor, seconds (/proc/self/schedstat, second field)."""
    try:
        with open('/proc/self/schedstat') as f:
            return int(f.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0


class Loop:
    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.timers = []
        self.order = itertools.count()

    def add(self, sock, on_readable):
        self.selector.register(sock, selectors.EVENT_READ, on_readable)

    def remove(self, sock):
        try:
            self.selector.unregister(sock)
        except (KeyError, ValueError):
            pass

    def at(self, when, call):
        """Calls `call()` at time.monotonic() `when`."""
        heapq.heappush(self.timers, (when, next(self.order), call))

    def after(self, seconds, call):
        self.at(time.monotonic() + seconds, call)

    def turn(self, longest=LOOK):
        """Serves what is due; waits `longest` seconds at most for something to happen."""
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            heapq.heappop(self.timers)[2]()
        if self.timers:
            longest = max(0, min(longest, self.timers[0][0] - time.monotonic()))
        for key, _ in self.selector.select(longest):
            key.data()

    def until(self, condition, seconds, what):
        """Serves everything until condition() gives something true, which is returned.

        Raises TimedOut, naming `what`, after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            result = condition()
            if result:
                return result
            if time.monotonic() > end:
                raise TimedOut('waited %g s for %s' % (seconds, what))
            self.turn()

    def pause(self, seconds):
        """Serves everything for so long: for scenarios in which time itself matters."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()
