#!/usr/bin/env python3
"""Packages as an administrator meets them, in a fresh Debian with the real systemd, and in one without any service manager: installed,
configured, upgraded while a call is up, taken away; all of it on this host's own release, the main things on the others that the packages
are for. As root. The last line is the sum.
"""
import argparse
import glob
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback

import artifacts
import build
import container
import debs
import roots
import without
from call import CONFIG, Call, linked, refused, sessions
from machine import Failed, Machine, Skipped, run, wait_for

PROJECT = artifacts.PROJECT
CACHE = os.path.join(PROJECT, 'target/packages')
RELAY, DISPATCHER = 'mediaproxy-relay', 'mediaproxy-dispatcher'


class Site:
    """What all cases need: the packages, the root, a scratch folder."""

    def __init__(self, folder, suite, mirror=None, packages=None):
        self.folder, self.suite, self.mirror = folder, suite, mirror
        self.packages = packages or sorted(glob.glob(PROJECT + '/target/deb/*.deb'))
        if len(self.packages) != 3:
            raise Failed('three packages are expected: %r' % self.packages)

    def of(self, suite, packages=None):
        """The same with another release."""
        return Site(self.folder, suite, packages=packages)

    def machine(self, kind='systemd'):
        """A new one; Skipped where its release cannot be had."""
        return Machine(roots.archive(CACHE, self.suite, self.mirror), self.folder, kind)

    def later(self, number):
        """The packages as a later build."""
        return [debs.renamed(package, '1:0.1.0+later%d' % number, self.folder) for package in self.packages]


def must(truth, what):
    if not truth:
        raise Failed(what)


def certificates(machine):
    machine.sh('mediaproxy-make-certs --key ec /etc/mediaproxy/tls all')


def configured(machine, site):
    """Installed, with a configuration and certificates, and started."""
    machine.install(*site.packages)
    machine.write('/etc/mediaproxy/config.ini', CONFIG)
    certificates(machine)
    machine.sh('systemctl restart %s %s' % (DISPATCHER, RELAY))
    linked(machine)


def main_pid(machine, unit):
    return int(machine.show(unit, 'MainPID'))


def program(machine, pid):
    """What a process runs; a file that was replaced meanwhile is marked as deleted."""
    return machine.sh('readlink /proc/%d/exe' % pid).strip()


def fresh_install(site):
    """Without configuration and certificates the services say what they lack, and do not try again and again."""
    with site.machine() as machine:
        machine.install(*site.packages)
        # Without certificates made by hand, nothing stays.
        machine.sh('dpkg --purge mediaproxy-relay mediaproxy-dispatcher mediaproxy-common; test ! -e /etc/mediaproxy')
        said = machine.install(*site.packages)
        must('not started; media-relay --check' in said and 'not started; media-admin doctor' in said, 'nothing is said of what to do:\n' + said)
        for unit in (RELAY, DISPATCHER):
            must(machine.call('systemctl is-enabled ' + unit).returncode == 0, unit + ' is not enabled')
            must(machine.show(unit, 'ActiveState') == 'failed', unit + ' has not failed')
            must(machine.show(unit, 'ExecMainStatus') == '78', unit + ': exit status')
        must('dispatchers' in machine.journal(RELAY), 'the relay does not name what it lacks')
        machine.write('/etc/mediaproxy/config.ini', CONFIG)
        machine.fails('systemctl start ' + RELAY, 1)
        for unit, name in ((RELAY, 'relay'), (DISPATCHER, 'dispatcher')):
            must('mediaproxy-make-certs /etc/mediaproxy/tls all' in machine.journal(unit), unit + ' does not say how certificates are made')
            must(machine.show(unit, 'NRestarts') == '0', unit + ' was started again and again')
        mode = machine.sh('stat -c "%a %U %G" /etc/mediaproxy/config.ini /var/lib/mediaproxy /var/log/mediaproxy')
        must(mode.split('\n')[1:3] == ['750 mediaproxy mediaproxy'] * 2, 'directories: ' + mode)
        certificates(machine)
        must(machine.sh('stat -c "%a %U %G" /etc/mediaproxy/tls/relay.key').strip() == '640 root mediaproxy', 'mode of the key')
        must(machine.sh('stat -c %a /etc/mediaproxy/tls/ca/ca.key').strip() == '600', "mode of the CA's key")
        machine.sh('systemctl start %s %s' % (RELAY, DISPATCHER))
        linked(machine)
        machine.sh('logrotate --debug /etc/logrotate.d/mediaproxy-dispatcher')


def protected_service(site):
    """Under systemd, with all that the units take away: a call in the kernel, settings written, rights as few as they should be."""
    with site.machine() as machine:
        configured(machine, site)
        with Call(machine, 'one') as call:
            call.goes_on()
            wait_for('packets that the kernel forwards', call.by_kernel)
            must('one' in machine.sh('media-admin sessions'), 'media-admin does not list the call')
            print('  %d packets, none lost' % call.end())
        status = dict(text.split(':\t', 1) for text in machine.sh('cat /proc/%d/status' % main_pid(machine, RELAY)).splitlines())
        must(status['CapEff'] == status['CapBnd'] == '%016x' % (1 << 12), 'rights of the relay: ' + status['CapEff'])
        must(status['Uid'].split()[0] != '0' and status['NoNewPrivs'] == '1' and status['Seccomp'] == '2', 'the relay is not confined')
        status = dict(text.split(':\t', 1) for text in machine.sh('cat /proc/%d/status' % main_pid(machine, DISPATCHER)).splitlines())
        must(int(status['CapBnd'], 16) == 0 and status['Seccomp'] == '2', 'rights of the dispatcher: ' + status['CapBnd'])
        settings = machine.sh('sysctl -n net.netfilter.nf_conntrack_acct net.ipv4.ip_local_reserved_ports')
        must(settings == '1\n40000-40399\n', 'settings: ' + settings)
        for unit in (RELAY, DISPATCHER):
            said = machine.journal(unit)
            must('WARN' not in said and 'rror' not in said, said)
            exposure = artifacts.protected(machine.sh('systemd-analyze security --no-pager --offline=true $(systemctl show -P FragmentPath %s)' % unit))
            print('  %s: %.1f of 10 exposed' % (unit, exposure))
        # The relay is not the only user of the runtime directory.
        machine.sh('systemctl stop ' + RELAY)
        must(os.path.exists(machine.path('/run/mediaproxy/dispatcher.sock')), "the relay's stop removed the dispatcher's socket")
        must(not machine.sh('true') and machine.show(RELAY, 'ActiveState') == 'inactive', 'a stopped relay stays down')
        machine.sh('systemctl start ' + RELAY)
        linked(machine)
        was = main_pid(machine, DISPATCHER)
        machine.sh('systemctl reload ' + DISPATCHER)
        wait_for('certificates looked at', lambda: 'certificates have not changed' in machine.journal(DISPATCHER))
        must(main_pid(machine, DISPATCHER) == was, 'a reload of the dispatcher restarts it')


def accounted(site):
    """The protected dispatcher writes its records to file and SQLite; the log rotation that is installed loses none."""
    with site.machine() as machine:
        configured(machine, site)
        machine.write('/etc/mediaproxy/config.ini', CONFIG + 'accounting = file, database\n[Database]\ndburi = sqlite:////var/lib/mediaproxy/calls.db\n')
        machine.sh('systemctl restart ' + DISPATCHER)
        linked(machine)
        records = '/var/log/mediaproxy/sessions.jsonl'
        for name in ('before', 'after'):
            with Call(machine, name) as call:
                call.goes_on()
                call.end()
            wait_for('a record of call ' + name, lambda: '"%s"' % name in machine.call('cat ' + records).stdout)
            if name == 'before':
                machine.sh('logrotate --force /etc/logrotate.d/mediaproxy-dispatcher')
        must('"before"' not in machine.sh('cat ' + records), 'the file was not rotated')
        must('"before"' in machine.sh('cat %s-*' % records), 'the rotated file lacks the record')
        wait_for('both calls in the database', lambda: {'before', 'after'} <= in_database(machine))


def in_database(machine):
    """The call-ids in a copy of the database: who opens the original may leave files there."""
    with tempfile.TemporaryDirectory() as folder:
        for path in glob.glob(machine.path('/var/lib/mediaproxy/calls.db*')):
            shutil.copy(path, folder)
        database = sqlite3.connect(folder + '/calls.db')
        try:
            return {row[0] for row in database.execute('SELECT call_id FROM media_sessions')}
        finally:
            database.close()


def watchdog(site):
    """systemd hears of both all the time, and starts one again that stands still."""
    with site.machine() as machine:
        configured(machine, site)
        for unit in (RELAY, DISPATCHER):
            folder = '/run/systemd/system/%s.service.d' % unit
            machine.sh('mkdir -p ' + folder)
            machine.write(folder + '/soon.conf', '[Service]\nWatchdogSec=2\n')
        machine.sh('systemctl daemon-reload; systemctl restart %s %s' % (DISPATCHER, RELAY))
        linked(machine)
        for unit in (RELAY, DISPATCHER):
            pid = main_pid(machine, unit)
            heard = lambda: int(machine.show(unit, 'WatchdogTimestampMonotonic'))
            first = heard()
            wait_for('%s heard of for two intervals' % unit, lambda: heard() > first + 4_000_000)
            must(main_pid(machine, unit) == pid, unit + ' was restarted although it is well')
            machine.sh('kill -STOP %d' % pid)
            wait_for('%s started again' % unit, lambda: main_pid(machine, unit) not in (0, pid))
            must('Watchdog timeout' in machine.journal(unit), unit + ': no word of the watchdog')
        linked(machine)


def kept_sockets(machine):
    """How many systemd keeps for the relay."""
    return int(machine.show(RELAY, 'NFileDescriptorStore'))


class TwoCalls:
    """One that the kernel forwards and one in user space, whatever becomes of the relay. To be used with `with`."""

    def __init__(self, machine):
        self.machine = machine
        self.relay = main_pid(machine, RELAY)

    def __enter__(self):
        self.calls = [Call(self.machine, 'kernel'), Call(self.machine, 'user', on_host=True)]
        kernel, user = self.calls
        wait_for('packets that the kernel forwards', kernel.by_kernel)
        wait_for('the sockets of the other call with systemd', lambda: kept_sockets(self.machine) >= 4)
        must(not user.by_kernel(), 'the kernel forwards to this very host')
        return self

    def survive(self, what, act):
        """Another relay has taken both over, and each packet goes on."""
        machine = self.machine
        was = main_pid(machine, RELAY)
        began = time.monotonic()
        said = act()
        wait_for("another relay after %s\n%s" % (what, said or ""), lambda: main_pid(machine, RELAY) not in (0, was))
        took = time.monotonic() - began
        for call in self.calls:
            call.goes_on()
        linked(machine)
        listed = wait_for('both calls in the list after ' + what, lambda: (lambda all: all if {'kernel', 'user'} <= set(all) else None)(sessions(machine)))
        must('took over 2 calls' in machine.sh('journalctl -o cat -u %s _PID=%d' % (RELAY, main_pid(machine, RELAY))), 'the log says nothing of the calls')
        print('  %s: another relay after %.2f s' % (what, took))

    def end(self):
        """No packet was lost or doubled, each is counted, and nothing is left."""
        machine = self.machine
        for call in self.calls:
            total = call.end()
            counted = lambda: [record for record in records(machine) if record['call_id'] == call.name]
            wait_for('a record of call ' + call.name, counted)
            must(len(counted()) == 1, 'accounted twice: %r' % counted())
            stream = counted()[0]['streams'][0]
            told = stream['caller_packets'] + stream['callee_packets']
            must(told == total, 'call %s: %d packets, %d counted' % (call.name, total, told))
            print('  call %s: %d packets, none lost, all counted' % (call.name, total))
        wait_for('no socket left with systemd', lambda: kept_sockets(machine) == 0)

    def __exit__(self, *_):
        for call in self.calls:
            call.stop()


def records(machine):
    return [json.loads(line) for line in machine.call('cat /var/log/mediaproxy/sessions.jsonl').stdout.splitlines() if line.startswith('{')]


def records_calls(machine, site):
    """Configured, with accounting."""
    configured(machine, site)
    machine.write('/etc/mediaproxy/config.ini', CONFIG + 'accounting = file\n')
    machine.sh('systemctl restart ' + DISPATCHER)
    linked(machine)


def calls_survive(site):
    """A relay that is restarted, killed, frozen, upgraded, or dies with the dispatcher: calls in the kernel and in user space go on, and not one
    packet is lost or counted wrongly. A stop ends them, and they are accounted."""
    with site.machine() as machine:
        records_calls(machine, site)
        with TwoCalls(machine) as calls:
            kill = lambda unit, signal: machine.sh('kill -%s %d' % (signal, main_pid(machine, unit)))
            calls.survive('a restart', lambda: machine.sh('systemctl restart ' + RELAY))
            calls.survive('kill -9', lambda: kill(RELAY, 'KILL'))
            calls.survive('an abort', lambda: kill(RELAY, 'ABRT'))
            folder = '/run/systemd/system/%s.service.d' % RELAY
            machine.sh('mkdir -p ' + folder)
            machine.write(folder + '/soon.conf', '[Service]\nWatchdogSec=1\n')
            machine.sh('systemctl daemon-reload')
            calls.survive('a restart with another unit', lambda: machine.sh('systemctl restart ' + RELAY))
            calls.survive('the watchdog', lambda: kill(RELAY, 'STOP'))
            machine.sh('rm -r %s; systemctl daemon-reload' % folder)
            calls.survive('an upgrade', lambda: machine.install(*site.later(1)))
            must(not program(machine, main_pid(machine, RELAY)).endswith('(deleted)'), 'not the program that is installed')
            calls.survive('kill -9 of both daemons', lambda: (kill(DISPATCHER, 'KILL'), kill(RELAY, 'KILL')))
            calls.end()
        with TwoCalls(machine) as calls:
            machine.sh('systemctl stop ' + RELAY)
            wait_for('no call in the list', lambda: not sessions(machine))
            wait_for('both calls accounted', lambda: len(records(machine)) == 4)
            must(machine.show(RELAY, 'ActiveState') == 'inactive' and kept_sockets(machine) == 0, 'a stopped relay leaves something behind')
            machine.sh('systemctl start ' + RELAY)
            linked(machine)
            must(not sessions(machine), 'a call is back after a stop')


def upgrade_that_waits(site):
    """Where that was chosen: the relay is not touched while a call is up, and takes new ones; the dispatcher is new at once; then the relay
    follows by itself."""
    with site.machine() as machine:
        configured(machine, site)
        machine.sh("sed -i 's/^UPGRADE=.*/UPGRADE=wait/' /etc/default/mediaproxy-relay")
        relay, dispatcher = (main_pid(machine, unit) for unit in (RELAY, DISPATCHER))
        with Call(machine, 'old') as old:
            old.goes_on()
            said = machine.install(*site.later(2))
            must('keeps its calls' in said, 'dpkg says nothing of the running relay:\n' + said)
            old.goes_on()
            must(main_pid(machine, RELAY) == relay, 'the relay was restarted')
            must(program(machine, relay).endswith('(deleted)'), 'the file of the relay is not new')
            new = main_pid(machine, DISPATCHER)
            must(new not in (0, dispatcher) and not program(machine, new).endswith('(deleted)'), 'the dispatcher is not the new one')
            linked(machine)
            wait_for('the call in the list of the new dispatcher', lambda: 'old' in sessions(machine))
            must('ends when there are none' in wait_for('a status', lambda: machine.show(RELAY, 'StatusText')), 'status of the relay')
            with Call(machine, 'during') as during:
                during.goes_on()
                print('  %d packets of the call, none lost' % old.end())
                during.goes_on()
                must(main_pid(machine, RELAY) == relay, 'the relay ended in a call')
                during.end()
        follows(machine, relay)
        # Without a call at once.
        relay = main_pid(machine, RELAY)
        machine.install(*site.later(3))
        follows(machine, relay)
        with Call(machine, 'new') as call:
            call.goes_on()
            call.end()


def upgrade_of_what_cannot_hand_over(site):
    """A relay of a version that QUIT would kill is asked to end when idle; one whose successor could not start is left alone."""
    with site.machine() as machine:
        configured(machine, site)
        relay = main_pid(machine, RELAY)
        machine.sh("sed -i 's/^port_range.*/port_range = nonsense/' /etc/mediaproxy/config.ini")
        said = machine.install(*site.later(4))
        must('the running relay goes on, since the new one cannot use the configuration' in said and 'port_range' in said, said)
        must(main_pid(machine, RELAY) == relay, 'the relay was restarted')
        # Its place is taken by what knows no signal at all.
        folder = '/run/systemd/system/%s.service.d' % RELAY
        machine.sh('systemctl stop %s; rm /usr/sbin/media-relay; cp /bin/sleep /usr/sbin/media-relay; mkdir -p %s' % (RELAY, folder))
        machine.write(folder + '/old.conf', '[Service]\nType=simple\nExecStart=\nExecStart=/usr/sbin/media-relay 1000\n')
        machine.sh('systemctl daemon-reload; systemctl start ' + RELAY)
        said = machine.install(*site.later(5))
        must('keeps its calls' in said, 'no word of waiting:\n' + said)
        wait_for('its end by USR2', lambda: 'status=12/USR2' in machine.journal(RELAY))


def follows(machine, relay):
    """The relay that is installed has taken the place of process `relay`."""
    wait_for('the new relay', lambda: main_pid(machine, RELAY) not in (0, relay))
    must(not program(machine, main_pid(machine, RELAY)).endswith('(deleted)'), 'not the new program')
    linked(machine)


def reload_drains(site):
    """On the administrator's word the relay takes no new calls; when the last one is over the installed one is started."""
    with site.machine() as machine:
        configured(machine, site)
        machine.sh("sed -i 's/^UPGRADE=.*/UPGRADE=wait/' /etc/default/mediaproxy-relay")
        with Call(machine, 'last') as call:
            call.goes_on()
            machine.install(*site.later(6))
            relay = main_pid(machine, RELAY)
            machine.sh('systemctl reload ' + RELAY)
            wait_for('new calls refused', lambda: refused(machine, 'late'))
            call.goes_on(100)
            must(main_pid(machine, RELAY) == relay, 'the relay ended in a call')
            print('  %d packets, none lost' % call.end())
        follows(machine, relay)


def proxy_reaches_socket(site):
    """Whichever is installed first: the SIP proxy's user may use the dispatcher's socket, others may not."""
    probe = 'setpriv --reuid %s --regid %s --init-groups sh -c "test -w /run/mediaproxy/dispatcher.sock"'
    for first in ('dispatcher', 'kamailio'):
        with site.machine() as machine:
            proxy = debs.kamailio(site.folder)
            if first == 'kamailio':
                machine.install(proxy)
            configured(machine, site)
            if first == 'dispatcher':
                machine.install(proxy)
            wait_for("the socket in the proxy's group (%s first)" % first, lambda: machine.call(probe % ('kamailio', 'kamailio')).returncode == 0)
            must(machine.call(probe % ('nobody', 'nogroup')).returncode != 0, 'anybody may use the socket')


def from_mediaproxy(site):
    """AG Projects' packages are upgraded to these: configuration and certificates stay and can be read, nobody is asked anything."""
    with site.machine() as machine:
        config = CONFIG + '; a word of the administrator\n'
        machine.install(*debs.mediaproxy(site.folder, '; as it was shipped\n'))
        machine.write('/etc/mediaproxy/config.ini', config, 0o600)
        run('tls/make-certs.sh', '--key', 'ec', '--group', 'root', machine.path('/etc/mediaproxy/tls'), 'all', cwd=PROJECT)
        machine.sh('chmod 600 /etc/mediaproxy/tls/*.key; chmod 700 /etc/mediaproxy/tls; systemctl restart %s %s' % (RELAY, DISPATCHER))
        sums = 'cd /etc/mediaproxy && sha256sum config.ini tls/* 2>/dev/null || true'
        before = machine.sh(sums)
        relay, dispatcher = (main_pid(machine, unit) for unit in (RELAY, DISPATCHER))
        said = machine.install(*site.packages, by='apt-get install -y --no-install-recommends')
        must("MediaProxy's relay keeps its calls" in said, 'no word of the relay that runs:\n' + said)
        must(machine.sh(sums) == before, 'files have changed')
        must(machine.call('dpkg -s mediaproxy-common-dbg').returncode == 1 and machine.sh('dpkg --audit') == '', 'packages that do not fit:\n' + said)
        machine.sh('test -e /etc/mediaproxy/web/media_sessions.conf -a ! -e /usr/lib/python3/dist-packages/mediaproxy')
        must(main_pid(machine, DISPATCHER) not in (0, dispatcher), "MediaProxy's dispatcher still runs")
        must('# theirs' not in machine.sh('cat /etc/init.d/mediaproxy-relay'), 'the old init script is still there')
        # Neither a later upgrade ends the old relay, nor does systemd, which hears nothing from it.
        machine.sh('mkdir /run/systemd/system/%s.service.d' % RELAY)
        machine.write('/run/systemd/system/%s.service.d/soon.conf' % RELAY, '[Service]\nWatchdogSec=1\n')
        machine.sh('systemctl daemon-reload')
        machine.install(*site.later(7))
        must(main_pid(machine, RELAY) == relay, "MediaProxy's relay was ended")
        machine.sh('rm -r /run/systemd/system/%s.service.d; systemctl daemon-reload; systemctl reload %s' % (RELAY, RELAY))
        linked(machine)
        must(program(machine, main_pid(machine, RELAY)) == '/usr/sbin/media-relay', 'not the new relay')
        must(machine.sh('stat -c %a /etc/mediaproxy/config.ini').strip() == '640', 'mode of config.ini')
        with Call(machine, 'one') as call:
            call.goes_on()
            call.end()


def taken_away(site):
    """Removed: services are gone, configuration and data stay. Purged: what is left was made by hand."""
    with site.machine() as machine:
        before = machine.sh('find / -xdev -not -path "/tmp/*" -not -path "/var/*" | sort').splitlines()
        configured(machine, site)
        names = 'mediaproxy-relay mediaproxy-dispatcher mediaproxy-common'
        machine.sh('dpkg --remove ' + names)
        must(machine.call('systemctl is-active %s %s' % (RELAY, DISPATCHER)).stdout.split() == ['inactive'] * 2, 'still there')
        must(machine.call('pidof media-relay media-dispatcher').stdout == '', 'daemons still run')
        machine.sh('test -e /etc/mediaproxy/config.ini && test -d /var/lib/mediaproxy')
        machine.install(*site.packages)
        machine.sh('systemctl restart %s %s' % (DISPATCHER, RELAY))
        linked(machine)
        machine.sh('dpkg --purge ' + names)
        after = machine.sh('find / -xdev -not -path "/tmp/*" -not -path "/var/*" | sort').splitlines()
        # The user of files that may still be there, and keys.
        stays = ('/etc/mediaproxy', '/etc/passwd-', '/etc/shadow-', '/etc/group-', '/etc/gshadow-', '/etc/subuid-', '/etc/subgid-', '/etc/.pwd.lock')
        left = [path for path in sorted(set(after) - set(before)) if path not in stays and not path.startswith('/etc/mediaproxy/tls')]
        must(not left, 'left behind: %r' % left)
        machine.sh('test ! -e /var/lib/mediaproxy -a ! -e /var/log/mediaproxy -a ! -e /run/mediaproxy -a -e /etc/mediaproxy/tls/ca/ca.key')
        must(not machine.call('ls -d /var/lib/systemd/deb-systemd-helper*/*mediaproxy*').stdout.startswith('/'), 'systemd helper files are left')


def no_mirror():
    """Where no mirror can be reached, what starts from a fresh root is skipped with the reason, and all else is tried."""
    said = run(sys.executable, __file__, '--suite', 'nowhere=http://127.0.0.1:9/debian', 'artifacts.security', 'systemd.fresh_install')
    reason = 'needs root' if os.geteuid() else 'nowhere/InRelease: [Errno 111] Connection refused'
    must('1 passed, 0 failed, 1 skipped: systemd.fresh_install\n' in said and reason in said, said)


def on_another(suite):
    """The main things on another release: services start and are confined, the kernel forwards a call, all of it goes again."""
    def case(site):
        there = site.of(suite)
        protected_service(there)
        taken_away(there)

    case.__name__, case.__doc__ = 'on_' + suite, on_another.__doc__
    return case


def compiled_on(suite):
    """Compiled there with this host's Rust, and a call through what came out."""
    def case(site):
        protected_service(site.of(suite, build.packages(CACHE, site.folder, suite)))

    case.__name__, case.__doc__ = 'compiled_on_' + suite, compiled_on.__doc__
    return case


CASES = [artifacts.security, artifacts.lintian, artifacts.make_install, artifacts.dist, no_mirror, fresh_install, protected_service, accounted,
         watchdog, calls_survive, upgrade_that_waits, upgrade_of_what_cannot_hand_over, reload_drains, proxy_reaches_socket, from_mediaproxy, taken_away, *map(on_another, roots.others()),
         without.init_scripts, without.upgrade_in_a_call, without.from_mediaproxy, without.make_install, artifacts.static, container.calls]
# Minutes each, so on demand.
BUILDS = [*map(compiled_on, roots.others())]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('cases', metavar='NAME', nargs='*', help='only cases whose name contains one of these')
    parser.add_argument('--suite', metavar='SUITE[=MIRROR]', help='all that needs a machine, on this release instead: '
                        + ', '.join(roots.SUITES) + ', or any other with its mirror')
    parser.add_argument('--build', action='store_true', help='instead: compile the packages on the other releases and use them there')
    parser.add_argument('--root', action='store_true', help='only make what machines start from, where it is not there yet')
    return parser.parse_args()


def make_roots():
    """Where one cannot be made, the case that needs it says so."""
    for suite in [roots.own()[0]] + roots.others():
        try:
            roots.archive(CACHE, suite)
        except (Failed, Skipped) as error:
            print('   no root of %s: %s' % (suite, error), flush=True)


def main(asked):
    os.makedirs(CACHE, exist_ok=True)
    if asked.root:
        make_roots()
        return 0
    suite, _, mirror = (asked.suite or roots.own()[0]).partition('=')
    cases = [case for case in (BUILDS if asked.build else CASES) if not asked.cases or any(word in name(case) for word in asked.cases)]
    if asked.suite and not asked.cases:
        cases = [case for case in cases if case.__code__.co_argcount and not case.__name__.startswith('on_')]
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        try:
            site = Site(folder, suite, mirror)
        except Failed as error:
            print(error)
            return 1
        return tried(cases, site)


def tried(cases, site):
    """Each for itself, and the sum; the exit status."""
    outcomes = {'passed': [], 'failed': [], 'skipped': []}
    for case in cases:
        start = time.monotonic()
        print('-- %s: %s' % (name(case), case.__doc__.split('\n')[0]), flush=True)
        try:
            case(*[site][:case.__code__.co_argcount])
            outcomes['passed'].append(name(case))
        except Skipped as reason:
            outcomes['skipped'].append(name(case))
            print('   SKIP: %s: %s' % (name(case), reason))
        except Exception as error:  # the rest is still worth knowing
            outcomes['failed'].append(name(case))
            print('   FAILED: %s' % (error if isinstance(error, Failed) else traceback.format_exc()))
        print('   %.1f s' % (time.monotonic() - start), flush=True)
    failed, skipped = outcomes['failed'], outcomes['skipped']
    print('%d passed, %d failed%s%s' % (len(outcomes['passed']), len(failed), ': ' + ', '.join(failed) if failed else '',
                                        ', %d skipped: %s' % (len(skipped), ', '.join(skipped)) if skipped else ''))
    return 1 if failed else 0


def name(case):
    return '%s.%s' % (case.__module__.replace('__main__', 'systemd'), case.__name__)


if __name__ == '__main__':
    # Machines and folders go when this is ended from outside, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended by a signal'))
    sys.exit(main(arguments()))
