#!/usr/bin/env python3
"""Tests of the tests: each fault of the stand-in must be found and named, and without a fault everything must pass.

    selftest.py        as root, about two minutes; needs Kamailio and sipp but not the daemons
"""
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'run.py')
# fault, scenario, what the judge has to say (a regular expression)
CASES = [
    ('lose', 'plain/use/userspace', r'lost: \d+ packets of stream 0\.0 from the caller'),
    ('lose', 'nat/engage/userspace', r'lost: \d+ packets'),
    ('duplicate', 'plain/engage/userspace', r'duplicated: stream 0\.0'),
    ('source', 'plain/use/userspace', r'got media from 10\.11\.0\.1:\d+ at \S+, was told'),
    ('leak', 'plain/engage/userspace', r'still in `sessions`'),
    ('miscount', 'sipp-media/use/userspace', r'`sessions` counts \d+ packets'),
    ('moved-port', 'hold-caller/use/userspace', r'it had to stay'),
    ('far-end', 'plain/engage/userspace', r'was given port 7000, not one of the relay'),
    ('far-end', 'odd-offers/use/userspace', r'ICE: the callee got audio'),
    ('cross', 'two-calls/use/userspace', r'crossed: a packet of the'),
    ('stale', 'move-caller/engage/userspace', r'a fresh one was due'),
    ('overtake', 'plain/use/userspace', r'overtaken: stream 0\.0'),
    ('never', 'plain/use/kernel', r'no entry that joins 10\.11\.0\.2:6000 (.*\n)*.*user space had \d+ packets of audio'),
    ('unmarked', 'plain/engage/kernel', r'has mark 0x0'),
    ('one-way', 'audio-video/use/kernel', r'the set `forwarded` lacks 10\.12\.0\.2'),
    ('slow', 'nat/use/kernel', r'user space had \d+ packets of audio from the caller of call 1, at most'),
    ('entry-left', 'plain/use/kernel', r'a conntrack entry is left'),
    ('element-left', 'plain/use/kernel', r'an element of `leaving` is left'),
    ('table-left', 'plain/engage/kernel', r'the table mediaproxy_40000 is left'),
    ('trample', 'plain/use/kernel', r"program's nftables table is gone(.*\n)*.*program's conntrack entry"),
]


def find(case):
    """Runs a scenario with a fault; (was it found, what the runner said)."""
    fault, scenario, words = case
    done = subprocess.run([sys.executable, RUN, '--standin', fault, scenario], stdout=subprocess.PIPE, text=True)
    return done.returncode == 1 and re.search(words, done.stdout), done.stdout


def main():
    failed = 0
    with ThreadPoolExecutor(4) as pool:
        for (fault, scenario, _), (found, said) in zip(CASES, pool.map(find, CASES)):
            print('%-4s %s in %s' % ('ok' if found else 'FAIL', fault, scenario), flush=True)
            if not found:
                failed += 1
                print(said)
    clean = subprocess.run([sys.executable, RUN, '--standin', 'none'], check=False)
    failed += clean.returncode != 0
    print('%d passed, %d failed' % (len(CASES) + 1 - failed, failed))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
