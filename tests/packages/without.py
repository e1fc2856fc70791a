"""The same packages on a host without systemd: the init scripts."""
from call import CONFIG, Call, linked, refused
from machine import Failed, wait_for

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
        machine.sh(script + ' start')
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
        was = pid(machine, 'relay')
        machine.sh(SCRIPTS['relay'] + ' restart')
        if pid(machine, 'relay') == was:
            raise Failed('the relay was not restarted')
        for script in SCRIPTS.values():
            machine.sh(script + ' stop')
            machine.fails(script + ' status', 3)
            machine.sh(script + ' stop')
            machine.fails(script + ' reload', 7)
            machine.fails(script + ' dance', 2)


def upgrade_in_a_call(site):
    """The relay goes on with its call, and the new one is started when it is over; a purge stops both."""
    with site.machine('plain') as machine:
        configured(machine, site)
        with Call(machine, 'old') as call:
            call.goes_on()
            was = pid(machine, 'relay')
            machine.install(*site.later(4))
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
