"""A host without systemd: the init scripts, of the same packages and of `make install`."""
import glob
import os
import shutil

import debs
from artifacts import PROJECT
from call import CONFIG, Call, linked, refused, sessions
from machine import Failed, run, wait_for

SCRIPTS = {'relay': '/etc/init.d/mediaproxy-relay', 'dispatcher': '/etc/init.d/mediaproxy-dispatcher'}


def pid(machine, daemon):
    """None while there is none."""
    done = machine.call('cat /run/mediaproxy/media-%s.pid' % daemon)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else None


def configured(machine, site):
    said = machine.install(*site.packages)
    if 'not started' not in said:
        raise Failed('a start without configuration says nothing:\n' + said)
    machine.write('/etc/mediaproxy/config.ini', CONFIG)
    machine.fails(SCRIPTS['dispatcher'] + ' start', 6)
    machine.sh('mediaproxy-make-certs --key ec /etc/mediaproxy/tls all')
    for script in SCRIPTS.values():
        machine.fails(script + ' status', 3)
        said = machine.sh(script + ' start')
        if 'nothing listens on /dev/log: ' not in said:
            raise Failed('no word of logs that go nowhere:\n' + said)
        machine.sh(script + ' status')
    linked(machine)


def init_scripts(site):
    """start, stop, restart, reload and status of both, and a call that the kernel forwards."""
    with site.machine('plain') as machine:
        configured(machine, site)
        with Call(machine, 'one') as call:
            call.goes_on()
            wait_for('packets that the kernel forwards', call.by_kernel)
            was = {daemon: pid(machine, daemon) for daemon in SCRIPTS}
            # What runs is not started twice; the dispatcher may be restarted in a call.
            machine.sh('; '.join(script + ' start' for script in SCRIPTS.values()))
            machine.sh(SCRIPTS['dispatcher'] + ' reload')
            if {daemon: pid(machine, daemon) for daemon in SCRIPTS} != was:
                raise Failed('another process than before')
            machine.sh(SCRIPTS['dispatcher'] + ' restart')
            if pid(machine, 'dispatcher') == was['dispatcher']:
                raise Failed('the dispatcher was not restarted')
            linked(machine)
            machine.sh(SCRIPTS['relay'] + ' reload')
            wait_for('new calls refused', lambda: refused(machine, 'late'))
            call.goes_on()
            print('  %d packets, none lost' % call.end())
        wait_for('a relay after the drained one', lambda: pid(machine, 'relay') not in (None, was['relay']))
        linked(machine)
        status = dict(text.split(':\t', 1) for text in machine.sh('cat /proc/%d/status' % pid(machine, 'relay')).splitlines())
        if status['CapEff'] != '%016x' % (1 << 12) or status['Uid'].split()[0] == '0':
            raise Failed('rights of the relay: %(Uid)s %(CapEff)s' % status)
        with Call(machine, 'two') as call:
            call.goes_on()
            wait_for('packets that the kernel forwards', call.by_kernel)
            was = pid(machine, 'relay')
            said = machine.sh(SCRIPTS['relay'] + ' restart')
            if pid(machine, 'relay') == was or 'running calls go on' not in said:
                raise Failed('the relay was not restarted, or the calls were cut:\n' + said)
            linked(machine)
            call.goes_on()
            print('  over a restart: %d packets, none lost' % call.end())
        with Call(machine, 'three') as call:
            call.goes_on()
            machine.sh(SCRIPTS['relay'] + ' stop')
            wait_for('no call in the list', lambda: not sessions(machine))
        machine.sh(SCRIPTS['relay'] + ' start')
        for script in SCRIPTS.values():
            machine.sh(script + ' stop')
            machine.fails(script + ' status', 3)
            machine.sh(script + ' stop')
            machine.fails(script + ' reload', 7)
            machine.fails(script + ' dance', 2)


def upgrade_in_a_call(site):
    """The new relay goes on with the call, or where that was chosen follows when it is over; a purge stops both."""
    with site.machine('plain') as machine:
        configured(machine, site)
        with Call(machine, 'old') as call:
            call.goes_on()
            wait_for('packets that the kernel forwards', call.by_kernel)
            was = pid(machine, 'relay')
            machine.install(*site.later(8))
            if pid(machine, 'relay') in (None, was):
                raise Failed('the relay was not restarted')
            linked(machine)
            call.goes_on()
            machine.sh("sed -i 's/^UPGRADE=.*/UPGRADE=wait/' /etc/default/mediaproxy-relay")
            was = pid(machine, 'relay')
            machine.install(*site.later(9))
            call.goes_on()
            if pid(machine, 'relay') != was:
                raise Failed('the relay was restarted')
            linked(machine)
            print('  %d packets, none lost' % call.end())
        wait_for('the new relay', lambda: pid(machine, 'relay') not in (None, was))
        linked(machine)
        machine.sh('dpkg --purge mediaproxy-relay mediaproxy-dispatcher mediaproxy-common')
        if machine.call('pidof media-relay media-dispatcher').stdout:
            raise Failed('a daemon is still there after the purge')
        machine.sh('test ! -e /run/mediaproxy -a ! -e /etc/init.d/mediaproxy-relay')


def from_mediaproxy(site):
    """Beside a relay of MediaProxy that still runs none is started."""
    with site.machine('plain') as machine:
        machine.install(*debs.mediaproxy(site.folder, CONFIG))
        # Whoever runs this may ignore HUP (nohup), and a shell can't trap what it was started with ignored.
        machine.sh('setsid env --default-signal=HUP /usr/bin/media-relay </dev/null >/dev/null 2>&1 &')
        theirs = wait_for("MediaProxy's relay", lambda: machine.call('pidof -x media-relay').stdout.strip())
        said = machine.install(*site.packages)
        if 'kill -HUP %s\n' % theirs not in said:
            raise Failed('no word of the relay that runs:\n' + said)
        machine.sh('mediaproxy-make-certs --key ec /etc/mediaproxy/tls all; %s start' % SCRIPTS['dispatcher'])
        machine.fails(SCRIPTS['relay'] + ' start', 1)
        machine.sh('kill -HUP ' + theirs)
        wait_for('its end', lambda: not machine.call('pidof -x media-relay').stdout)
        machine.sh(SCRIPTS['relay'] + ' start')
        linked(machine)


def source(machine):
    """The sources in the machine, with what was built of them, and make."""
    folder = machine.path('/tmp/source')
    os.mkdir(folder)
    run('tar', '-C', folder, '--strip-components=1', '-xf', *glob.glob(PROJECT + '/target/deb/mediaproxy_*.tar.xz'))
    shutil.copytree(PROJECT + '/target/deb/cargo/release', folder + '/target/release', ignore=lambda path, names: [
        name for name in names if not os.access(os.path.join(path, name), os.X_OK) or os.path.isdir(os.path.join(path, name))])
    shutil.copy(shutil.which('make'), machine.path('/usr/local/bin'))


CONFIG_INI = '/opt/etc/mediaproxy/config.ini'
PLACE = 'PATH=/usr/local/bin:$PATH make -s -C /tmp/source install-files PREFIX=/opt/relay SYSCONFDIR=/opt/etc INITDIR=/etc/init.d'


def placed(machine):
    """`make install` before and after there is the user: what is to be done is said. Then over a configuration that is there, which stays."""
    said = machine.sh(PLACE)
    if 'chgrp mediaproxy ' + CONFIG_INI not in said or machine.sh('stat -c "%a %G" ' + CONFIG_INI) != '640 root\n':
        raise Failed('configuration of nobody: ' + said)
    said = machine.fails(SCRIPTS['relay'] + ' start', 6)
    machine.sh(said[said.index('useradd'):].split('\n')[0])
    machine.sh('rm %s; %s' % (CONFIG_INI, PLACE))
    if machine.sh('stat -c "%a %U %G" ' + CONFIG_INI) != '640 root mediaproxy\n':
        raise Failed('mode of the configuration')
    config = CONFIG + 'accounting = file\n'
    machine.write(CONFIG_INI, config, 0o640)
    machine.sh(PLACE)
    if machine.sh('cat ' + CONFIG_INI) != config or machine.sh('stat -c "%a %G" ' + CONFIG_INI) != '640 mediaproxy\n':
        raise Failed('a second installation has changed the configuration')


def make_install(site):
    """By `make install` with a prefix; started by its init scripts, a call, drained for what is installed then, stopped."""
    with site.machine('plain') as machine:
        source(machine)
        placed(machine)
        machine.sh('/opt/relay/sbin/mediaproxy-make-certs --key ec /opt/etc/mediaproxy/tls all')
        for script in SCRIPTS.values():
            machine.sh(script + ' start')
            machine.sh(script + ' status')
        linked(machine)
        with Call(machine, 'one') as call:
            call.goes_on()
            wait_for('packets that the kernel forwards', call.by_kernel)
            print('  %d packets, none lost' % call.end())
        wait_for('a record of the call', lambda: '"one"' in machine.call('cat /var/log/mediaproxy/sessions.jsonl').stdout)
        if machine.sh('stat -c "%a %U" /var/lib/mediaproxy /var/log/mediaproxy') != '750 mediaproxy\n' * 2:
            raise Failed('directories of state and records')
        was = pid(machine, 'relay')
        machine.sh(PLACE + '; %s reload' % SCRIPTS['relay'])
        wait_for('a relay after the drained one', lambda: pid(machine, 'relay') not in (None, was))
        for daemon, script in SCRIPTS.items():
            command = machine.sh('tr "\\0" " " </proc/%d/cmdline' % pid(machine, daemon))
            if command != '/opt/relay/sbin/media-%s --config-dir /opt/etc/mediaproxy ' % daemon:
                raise Failed('what runs is %r' % command)
            machine.sh(script + ' stop')
            machine.fails(script + ' status', 3)
