#!/usr/bin/env python3
"""Real SIP and media through the daemons: hosts in network namespaces, Kamailio, sipp, judged packet by packet.

    run.py [--bin target/debug] [-j N] [SCENARIO[/MODE][/FORWARDING] ...]

Each scenario runs in a process of its own with its own namespaces, daemons and scratch folder. README.md tells the rest.
"""
import argparse
import ctypes
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import namedtuple

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import adoption  # noqa: E402,F401
import daemons  # noqa: E402
import dialogs  # noqa: E402,F401
import failures  # noqa: E402,F401 (they register themselves)
import faults  # noqa: E402,F401
import firewalls  # noqa: E402,F401
import flows  # noqa: E402,F401
import kernel  # noqa: E402,F401
import learning  # noqa: E402,F401
import loops  # noqa: E402,F401
import load  # noqa: E402,F401
import odd  # noqa: E402,F401
import readme  # noqa: E402,F401
import scenarios  # noqa: E402
import spray  # noqa: E402,F401
import verdicts  # noqa: E402,F401
from loop import TimedOut, starved  # noqa: E402
from scene import Failed, Scene  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FORWARDINGS = ('userspace', 'kernel')
TOOLS = ('ip', 'nft', 'kamailio', 'sipp', 'conntrack', 'openssl', 'sysctl', 'cc')
# A scenario that is not done by then is stuck, seconds.
LONGEST = 120
PASSED, FAILED, SKIPPED, STARVED = 0, 1, 77, 75
# A scenario that failed and had to wait so long for a processor, in seconds, is run once more, with nothing beside it:
# Kamailio gives the daemons 500 ms in all, and sends the call on without the relay after that.
HUNGER = 1.0


def arguments():
    parser = argparse.ArgumentParser(description='Calls through the daemons in network namespaces; needs root.')
    parser.add_argument('--bin', default=os.path.join(ROOT, 'target/debug'), help='directory of the built daemons and of examples/')
    parser.add_argument('--forwarding', choices=FORWARDINGS, action='append', help="the relay's forwarding; both where it is not given")
    parser.add_argument('--readme', default=os.path.join(ROOT, 'README.md'), help='file with the Kamailio snippet')
    parser.add_argument('--keep', action='store_true', help='keep the scratch folder and say where it is')
    parser.add_argument('--list', action='store_true', help='list the scenarios')
    parser.add_argument('--standin', metavar='FAULT', help='test the tests: a stand-in instead of the daemons, with this fault or `none`')
    parser.add_argument('-j', type=int, default=4, metavar='N', help='scenarios at a time (4)')
    parser.add_argument('scenario', nargs='*', help='NAME, with /engage or /use, with /userspace or /kernel; none: all')
    parser.add_argument('--job', nargs=2, metavar=('PREFIX', 'SCRATCH'), help=argparse.SUPPRESS)
    parser.add_argument('--certificates', help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.bin = os.path.abspath(options.bin)
    options.forwarding = options.forwarding or list(FORWARDINGS)
    return options


class Job(namedtuple('Job', 'scenario mode forwarding')):
    """One scenario as it is run: with engage_media_proxy() or use_media_proxy(), and who forwards."""

    def __str__(self):
        return '/'.join(part for part in (self.scenario.name, self.mode, self.forwarding) if part)

    def fits(self, wish):
        """Is this one asked for by NAME, NAME/MODE, NAME/FORWARDING or all three?"""
        name, *rest = wish.split('/')
        return name == self.scenario.name and all(part in (self.mode, self.forwarding) for part in rest)


def chosen(options):
    """What is asked for, those that run alone last."""
    jobs = [Job(s, m, f) for f in options.forwarding for s in scenarios.ALL.values() for m in s.modes
            if f in s.forwarding and (s.standin or not options.standin)]
    unknown = [wish for wish in options.scenario if not any(job.fits(wish) for job in jobs)]
    if unknown:
        sys.exit('run.py: no such scenario: %s (--list shows them)' % ' '.join(unknown))
    if options.scenario:
        jobs = [job for job in jobs if any(job.fits(wish) for wish in options.scenario)]
    return sorted(jobs, key=lambda job: job.scenario.alone)


def missing(options):
    """Why nothing can run here, or None."""
    if os.geteuid() != 0:
        return 'needs root'
    path = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    tools = [tool for tool in TOOLS if not shutil.which(tool, path=path)]
    if tools:
        return 'not installed: ' + ' '.join(tools)
    if not any(glob.glob(folder + '/kamailio/modules/mediaproxy.so') for folder in ('/usr/lib*', '/usr/lib/*', '/usr/local/lib*')):
        return "Kamailio's mediaproxy module is not installed"
    if not options.standin:
        absent = [n for n in ('media-dispatcher', 'media-relay') if not os.access(os.path.join(options.bin, n), os.X_OK)]
        if absent:
            return 'not built in %s: %s' % (options.bin, ' '.join(absent))
    return None


# One scenario, in its own process


def run_one(options):
    """Runs the scenario, says on stdout what was wrong; the exit status tells passed, failed or skipped."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: clean up also where the runner was killed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner passes it on as TERM
    prefix, scratch = options.job
    job, = chosen(options)
    scene = Scene(options, job.mode, job.forwarding, prefix, scratch)
    try:
        scene.open()
        said = job.scenario.run(scene)
    except scenarios.Skip as reason:
        print(reason)
        return SKIPPED
    except (Failed, TimedOut) as error:
        print(error)
    except Exception:  # a broken test is a failed one, with its trace
        traceback.print_exc(file=sys.stdout)
    else:
        if said:
            print(said)
        return PASSED
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on it is being cleaned up
        scene.close()
    tell(scene)
    if starved() > HUNGER:
        print('the machine was too busy: this scenario waited %.1f s for a processor' % starved())
        return STARVED
    return FAILED


def tell(scene):
    """What passed in a failed scenario, and the ends of the logs."""
    for party in (party for pair in scene.parties for party in pair):
        print('  %s:' % party.name)
        for sdp in party.passed:
            print('    %.3f %s %s %s' % (sdp.time % 1000, 'sent' if sdp.out else 'got ', sdp.carrier,
                                         ' '.join('%s %s:%d %s' % line for line in sdp.lines)))
    for command in scene.tap.commands if scene.tap else ():
        print('  ' + str(command))
    print('\n'.join(daemons.tails(scene.scratch)))


# All of them


class Runner:
    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.running, self.counts, self.serial = {}, {PASSED: 0, FAILED: 0, SKIPPED: 0}, 0
        self.again = []

    def launch(self, job):
        self.serial += 1
        folder = os.path.join(self.scratch, '%d-%s' % (self.serial, str(job).replace('/', '-')))
        os.makedirs(folder)
        o = self.options
        command = [sys.executable, os.path.abspath(__file__), '--bin', o.bin, '--forwarding', job.forwarding, '--readme', o.readme,
                   '--certificates', os.path.join(self.scratch, 'tls'), '--job', 'mp%d-%d' % (os.getpid(), self.serial), folder]
        command += (['--standin', o.standin] if o.standin else []) + [str(job)]
        with open(os.path.join(folder, 'report'), 'w') as report:
            process = subprocess.Popen(command, stdout=report, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.running[process] = (job, folder, time.monotonic())

    def reap(self):
        """Reports those that are done; ends those that are stuck."""
        for process, (job, folder, started) in list(self.running.items()):
            took = time.monotonic() - started
            if process.poll() is None:
                if took > LONGEST:
                    process.terminate()
                continue
            del self.running[process]
            with open(os.path.join(folder, 'report'), errors='replace') as report:
                text = report.read().rstrip()
            if process.returncode == STARVED and job not in self.again:
                lines = text.split('\n')
                print('rerun %s: %s (%s)' % (job, lines[-1], lines[0]), flush=True)
                self.again.append(job)
                continue
            status = process.returncode if process.returncode in self.counts else FAILED
            self.counts[status] += 1
            word = {PASSED: 'ok', FAILED: 'FAIL', SKIPPED: 'SKIP'}[status]
            first = ': ' + text.split('\n')[0] if text else ''
            print('%-4s %s (%.1f s)%s' % (word, job, took, first), flush=True)
            if status != FAILED and not self.options.keep:
                shutil.rmtree(folder, ignore_errors=True)
            if status == FAILED:
                print('\n'.join('     ' + line for line in text.split('\n')[1:]), flush=True)

    def run(self, jobs):
        self.run_all(jobs, self.options.j)
        self.run_all(list(self.again), 1)

    def run_all(self, jobs, at_once):
        for job in jobs:
            while len(self.running) >= at_once or (job.scenario.alone and self.running) or \
                    any(running.scenario.alone for running, _, _ in self.running.values()):
                self.reap()
                time.sleep(0.02)
            self.launch(job)
        while self.running:
            self.reap()
            time.sleep(0.02)

    def stop(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait()


def main():
    options = arguments()
    if options.job:
        return run_one(options)
    jobs = chosen(options)
    if options.list:
        print('\n'.join(map(str, jobs)))
        return 0
    reason = missing(options)
    if reason:
        print('SKIP tests/netns: %s' % reason)
        print('0 passed, 0 failed, %d skipped' % len(jobs))
        return 0
    os.environ['PATH'] = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    # In memory where that can be: a disk that stalls would stop whoever writes a log.
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    scratch = tempfile.mkdtemp(prefix='mediaproxy-netns.', dir=memory)
    runner = Runner(options, scratch)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    try:
        daemons.make_certificates(os.path.join(scratch, 'tls'))
        runner.run(jobs)
    finally:
        runner.stop()
        if options.keep:
            print('kept: ' + scratch)
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    c = runner.counts
    print('%d passed, %d failed, %d skipped' % (c[PASSED], c[FAILED], c[SKIPPED]))
    return 1 if c[FAILED] else 0


if __name__ == '__main__':
    sys.exit(main())
