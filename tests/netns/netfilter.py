"""What netfilter on a host holds: conntrack entries, the relay's table and its sets, the tables of others.

Only for reading, and for what others than the relay may have there (`Bystander`).
"""
import json
import re
from collections import namedtuple

from lab import run

# The mark of what the relay forwards in the kernel, unless the configuration says otherwise.
MARK = 0x4d500000
TABLE = 'mediaproxy_'

# Four-tuples (source, port, destination, port) as packets of both directions enter; the counters are None without accounting.
Entry = namedtuple('Entry', 'original reply mark status')


def on(host, *argv, stdin=None):
    """Runs a short command on a host; its output."""
    return run('ip', 'netns', 'exec', host, *argv, stdin=stdin)


def inverse(tuple_):
    """The four-tuple of the packets that go the other way, without NAT."""
    return tuple_[2:] + tuple_[:2]


def entries(host):
    """All conntrack entries for UDP over IPv4."""
    found = []
    for line in on(host, 'conntrack', '-L', '-f', 'ipv4', '-p', 'udp').splitlines():
        fields = re.findall(r'(src|dst|sport|dport|mark)=(\S+)', line)
        values = [value for name, value in fields if name != 'mark']
        if len(values) == 8:
            one, two = ((v[0], int(v[2]), v[1], int(v[3])) for v in (values[:4], values[4:]))
            found.append(Entry(one, two, int(dict(fields).get('mark', 0)), re.findall(r'\[(\w+)\]', line)))
    return found


def of_range(host, ports):
    """The entries that have a port of this range at their destination, in either direction; not a Bystander's."""
    return [e for e in entries(host) if any(ports[0] <= t[3] < ports[1] for t in (e.original, e.reply))
            and e.original[0] != Bystander.ENTRIES[0][0]]


def ruleset(host):
    """Everything in nf_tables, as nft shows it in JSON."""
    return json.loads(on(host, 'nft', '-j', 'list', 'ruleset'))['nftables'][1:]


def tables(host):
    """The names of the relays' tables."""
    return sorted(o['table']['name'] for o in ruleset(host) if o.get('table', {}).get('name', '').startswith(TABLE))


def elements(host, first_port, name):
    """A set of the table of the relay whose range begins there: {four-tuple: packets that its counter shows, or None}."""
    try:
        text = on(host, 'nft', '-j', 'list', 'set', 'ip', TABLE + str(first_port), name)
    except RuntimeError:
        return {}
    found = {}
    for item in json.loads(text)['nftables'][1]['set'].get('elem', []):
        counter = item['elem'].get('counter') if 'elem' in item else None
        value = item['elem']['val'] if 'elem' in item else item
        found[tuple(value['concat'])] = counter['packets'] if counter else None
    return found


class Bystander:
    """A table and conntrack entries of others on the relay's host, which no relay may touch.

    One entry has the relay's mark but no port of its, one a port of its but another address, one a mark of its own."""

    ENTRIES = (('10.99.0.1', 1000, '10.99.0.2', 2000, MARK), ('10.99.0.1', 1001, '10.99.0.2', 40000, MARK),
               ('10.99.0.1', 1002, '10.99.0.2', 2002, 7))
    RULES = 'table inet bystander {\n set s { type inet_service; elements = { 1, 2 }; }\n chain c { udp dport @s counter; }\n}\n'

    def __init__(self, host):
        self.host = host
        on(host, 'nft', '-f', '-', stdin=self.RULES)
        # One call: `conntrack -I` takes 20 ms, most of them for its start.
        on(host, 'conntrack', '-R', '-', stdin=''.join(
            '-A -p udp -s %s --sport %d -d %s --dport %d --timeout 900 --status ASSURED,SEEN_REPLY --mark %d\n' % e for e in self.ENTRIES))

    def missing(self):
        """What is no longer as it was, as text; nothing where all is."""
        bad = []
        # By its name: nft 1.0.6 cannot list a protected table whose relay was killed.
        try:
            if '{ 1, 2 }' not in on(self.host, 'nft', 'list', 'table', 'inet', 'bystander'):
                bad.append("another program's nftables table was changed")
        except RuntimeError:
            bad.append("another program's nftables table is gone")
        there = {e.original: e.mark for e in entries(self.host)}
        bad += ["another program's conntrack entry %s:%d %s:%d, mark %#x is gone or changed" % e for e in self.ENTRIES if there.get(e[:4]) != e[4]]
        return bad
