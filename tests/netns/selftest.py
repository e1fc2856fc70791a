#!/usr/bin/env python3
"""Tests of the tests: each fault of the stand-in must be found and named, and without a fault everything must pass.

    selftest.py        as root, about a minute; needs Kamailio and sipp but not the daemons
"""
import os
import re
import subprocess
import sys

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'run.py')
# fault, scenario, what the judge has to say (a regular expression)
CASES = [
    ('lose', 'plain/use', r'lost: \d+ packets of stream 0\.0 from the caller'),
    ('lose', 'nat/engage', r'lost: \d+ packets'),
    ('duplicate', 'plain/engage', r'duplicated: stream 0\.0'),
    ('source', 'plain/use', r'got media from 10\.11\.0\.1:\d+ at \S+, was told'),
    ('leak', 'plain/engage', r'still in `sessions`'),
    ('miscount', 'sipp-media/use', r'`sessions` counts \d+ packets'),
    ('moved-port', 'hold-caller/use', r'it had to stay'),
    ('far-end', 'plain/engage', r'was given port 7000, not one of the relay'),
    ('far-end', 'odd-offers/use', r'ICE: the callee got audio'),
    ('cross', 'two-calls/use', r'crossed: a packet of the'),
    ('stale', 'move-caller/engage', r'a fresh one was due'),
]


def main():
    bad = []
    for fault, scenario, words in CASES:
        done = subprocess.run([sys.executable, RUN, '--standin', fault, scenario], stdout=subprocess.PIPE, text=True)
        found = done.returncode == 1 and re.search(words, done.stdout)
        print('%-4s %s in %s' % ('ok' if found else 'FAIL', fault, scenario), flush=True)
        if not found:
            bad.append(fault)
            print(done.stdout)
    clean = subprocess.run([sys.executable, RUN, '--standin', 'none'], check=False)
    failed = len(bad) + (clean.returncode != 0)
    print('%d passed, %d failed' % (len(CASES) + 1 - failed, failed))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
