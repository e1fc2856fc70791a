"""Forwarding in the kernel for the stand-in: what an administrator would type with nft and conntrack, one command at a time.

Slow and simple. It shows that the lab's demands can be met, and which of its faults the judge finds.
"""
import json
import subprocess
import time

from netfilter import MARK, TABLE

RULES = '''table ip %(table)s {
    set addresses { type ipv4_addr; elements = { %(ip)s }; }
    set forwarded { type ipv4_addr . inet_service . ipv4_addr . inet_service; size 65535; }
    set leaving { type ipv4_addr . inet_service . ipv4_addr . inet_service; size 65535; counter; }
    chain raw_in { type filter hook prerouting priority raw;
        udp dport %(range)s ip saddr . udp sport . ip daddr . udp dport @forwarded accept;
        udp dport %(range)s ip daddr @addresses notrack; }
    chain raw_out { type filter hook output priority raw;
        ip saddr @addresses udp sport %(range)s notrack;
        ip daddr @addresses udp dport %(range)s notrack; }
    chain strays { type filter hook prerouting priority mangle; ct state new udp dport %(range)s ip daddr @addresses ct mark set %(mark)d; }
    chain leaving { type filter hook postrouting priority 110; ct state established udp sport %(range)s ip saddr . udp sport . ip daddr . udp dport @leaving; }
    chain nat_in { type nat hook prerouting priority dstnat; }
    chain nat_out { type nat hook postrouting priority srcnat; }
}
'''


def run(*argv, stdin=None):
    return subprocess.run(argv, input=stdin, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout


class NoKernel:
    """Everything stays in user space."""

    def install(self, _caller, _callee):
        return None

    def withdraw(self, _flow):
        return [0, 0], [0, 0]

    counters = withdraw

    def close(self):
        pass


class Kernel:
    """A flow is its two four-tuples as packets enter: (the caller's, the callee's)."""

    def __init__(self, ip, first, fault):
        self.fault, self.ip, self.table, self.late = fault, ip, TABLE + str(first), {}
        run('nft', '-f', '-', stdin=RULES % {'table': self.table, 'ip': ip, 'mark': MARK, 'range': '%d-%d' % (first, first + 999)})
        run('sysctl', '-qw', 'net.netfilter.nf_conntrack_acct=1')

    def install(self, caller, callee):
        """The entry first, then the elements. None where it is to be tried again with the next packet."""
        if self.fault == 'slow' and time.monotonic() < self.late.setdefault(caller, time.monotonic() + 0.6):
            return None
        mark = 0 if self.fault == 'unmarked' else MARK
        # conntrack 1.4.7 takes the status for the mark where that comes first.
        run('conntrack', '-I', '-p', 'udp', '--status', 'ASSURED,SEEN_REPLY,FIXED_TIMEOUT', '--mark', str(mark), '--timeout', '3600',
            '-s', caller[0], '--sport', str(caller[1]), '-d', caller[2], '--dport', str(caller[3]),
            '--dst-nat', '%s:%d' % callee[:2], '--src-nat', '%s:%d' % callee[2:])
        flow = caller, callee
        self.elements('add', 'leaving', *(t[2:] + t[:2] for t in flow))
        self.elements('add', 'forwarded', *(flow[:1] if self.fault == 'one-way' else flow))
        return flow

    def elements(self, what, name, *tuples):
        run('nft', what, 'element', 'ip', self.table, name, '{ %s }' % ', '.join('%s . %d . %s . %d' % t for t in tuples))

    def counters(self, flow):
        """([packets, bytes] from the caller, from the callee): what left towards the other one."""
        if flow is None:
            return [0, 0], [0, 0]
        listed = json.loads(run('nft', '-j', 'list', 'set', 'ip', self.table, 'leaving'))['nftables'][1]['set']['elem']
        seen = {tuple(e['elem']['val']['concat']): [e['elem']['counter'][k] for k in ('packets', 'bytes')] for e in listed}
        caller, callee = flow
        return seen[callee[2:] + callee[:2]], seen[caller[2:] + caller[:2]]

    def withdraw(self, flow):
        if flow is None:
            return [0, 0], [0, 0]
        caller, callee = flow
        self.elements('delete', 'forwarded', *(flow[:1] if self.fault == 'one-way' else flow))
        if self.fault != 'entry-left':
            run('conntrack', '-D', '-p', 'udp', '-s', caller[0], '--sport', str(caller[1]), '-d', caller[2], '--dport', str(caller[3]))
        last = self.counters(flow)
        if self.fault != 'element-left':
            self.elements('delete', 'leaving', *(t[2:] + t[:2] for t in flow))
        return last

    def close(self):
        if self.fault == 'trample':
            run('nft', 'flush', 'ruleset')
            run('conntrack', '-F')
        elif self.fault != 'table-left':
            run('nft', 'delete', 'table', 'ip', self.table)
