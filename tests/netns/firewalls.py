"""The rules of docs/firewalls.md, on a relay's host: calls lose nothing with them, in the kernel and in user space."""
import os
import re
import shutil

import netfilter
from direct import World
from kernel import go_on, kernel
from loop import TimedOut
from scenarios import Skip
from scene import Failed

PAGE = os.path.join(os.path.dirname(__file__), '..', '..', 'docs', 'firewalls.md')


def block(name):
    """The fenced block after `<!-- name -->`."""
    with open(PAGE) as f:
        found = re.search(r'<!-- %s -->\n```\w*\n(.*?)\n```' % re.escape(name), f.read(), re.S)
    if not found:
        raise Failed('docs/firewalls.md has no block %s' % name)
    return found.group(1)


def protected(scene, set_rules):
    """Calls with the page's rules: new ones in user space first, then in the kernel, and after a conntrack flush once more."""
    made = World(scene, start=False)
    set_rules(made.host)
    made.start_relay()
    calls = made.ready(2)
    go_on(made, calls)
    netfilter.on(made.host, 'conntrack', '-F')
    go_on(made, calls)
    made.until_in_kernel(calls)
    made.finish()
    log = scene.daemons.log('relay')
    if 'do not leave' in log or re.search('WARN.*FORWARD', log):
        raise Failed('the relay finds a firewall in its way')


@kernel('firewall-nft')
def nft(scene):
    """Loaded twice: the page says that the file replaces its own table."""
    def rules(host):
        scene.lab.nft(host, block('relay.nft'))
        scene.lab.nft(host, block('relay.nft'))
        scene.lab.nft(host, block('relay-output.nft'))
    protected(scene, rules)


@kernel('firewall-iptables')
def iptables(scene):
    protected(scene, lambda host: netfilter.on(host, 'sh', '-ec', block('relay.iptables')))


@kernel('firewall-ufw')
def ufw(scene):
    """The real ufw, with its files in the scratch folder."""
    root = os.path.join(scene.scratch, 'ufw')
    if not os.path.exists('/usr/sbin/ufw'):
        raise Skip('ufw is not installed')
    for folder in ('etc/ufw', 'lib/ufw', 'usr/share/ufw'):
        shutil.copytree('/' + folder, os.path.join(root, folder))
    os.makedirs(os.path.join(root, 'etc/default'), exist_ok=True)
    shutil.copy('/etc/default/ufw', os.path.join(root, 'etc/default/ufw'))
    before = os.path.join(root, 'etc/ufw/before.rules')
    with open(before) as f:
        text = f.read()
    with open(before, 'w') as f:
        f.write(text.replace('\nCOMMIT', '\n%s\nCOMMIT' % block('before.rules')))

    def rules(host):
        here = 'ufw() { /usr/sbin/ufw --rootdir=%s --datadir=%s "$@"; }\n' % (root, root)
        netfilter.on(host, 'sh', '-ec', here + block('relay.ufw'))
        if 'ufw-before-forward -m connmark' not in netfilter.on(host, 'iptables', '-S'):
            raise Failed('ufw has not taken the rule for the mark')
    protected(scene, rules)


# dockerd with all that is its own in $1. Its cgroups are a mount of this process alone: `ip netns exec` hides the host's.
DOCKERD = '''
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
exec dockerd --storage-driver vfs --data-root "$1/data" --exec-root "$1/x" --pidfile "$1/docker.pid" --host "unix://$1/docker.sock"
'''


def start_docker(scene, host):
    """Started before the host forwards, as at boot: it switches that on and has FORWARD drop."""
    if not shutil.which('dockerd'):
        raise Skip('dockerd is not installed')
    netfilter.on(host, 'sysctl', '-qw', 'net.ipv4.ip_forward=0')
    dockerd = scene.lab.start(host, ['unshare', '-m', 'sh', '-ec', DOCKERD, 'dockerd', scene.scratch], 'dockerd.log')
    log = os.path.join(scene.scratch, 'dockerd.log')

    def said():
        with open(log) as f:
            return f.read()
    scene.loop.until(lambda: 'has completed initialization' in said() or dockerd.poll() is not None, 30, 'dockerd to be ready')
    if dockerd.poll() is not None:
        raise Skip('dockerd does not start here: %s' % said().strip().split('\n')[-1])
    if '-P FORWARD DROP' not in netfilter.on(host, 'iptables', '-S'):
        raise Failed('Docker has not set the policy of FORWARD to DROP')


@kernel('firewall-docker')
def docker(scene):
    """The real dockerd on the relay's host."""
    def rules(host):
        start_docker(scene, host)
        netfilter.on(host, 'sh', '-ec', block('docker.iptables'))
    protected(scene, rules)


@kernel('firewall-user-space')
def user_space(scene):
    """What is said of untracked packets: without the rule for the port range nothing comes in, by `established` or otherwise."""
    made = World(scene, start=False)
    rules = [line for line in block('relay.nft').splitlines() if 'udp dport' not in line]
    scene.lab.nft(made.host, '\n'.join(rules))
    made.start_relay(forwarding='userspace')
    call, = made.place(1)
    made.grant(60)
    try:
        made.until_flowing([call], seconds=1.5)
    except TimedOut:
        pass
    else:
        raise Failed('media came in without the rule for the port range')
    scene.lab.nft(made.host, block('relay.nft'))
    made.until_flowing([call])
    made.finish()


@kernel('firewall-established')
def established(scene):
    """As in ufw's before.rules: FORWARD drops, but for what is established. What the kernel forwards is."""
    made = World(scene, start=False)
    netfilter.on(made.host, 'sh', '-ec', 'iptables -P FORWARD DROP; iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT')
    made.start_relay()
    calls = made.ready(2)
    go_on(made, calls)
    netfilter.on(made.host, 'conntrack', '-F')
    go_on(made, calls)
    made.until_in_kernel(calls)
    made.finish()
