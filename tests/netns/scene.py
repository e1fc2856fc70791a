"""One scenario's world: hosts around a router, the daemons, Kamailio, the phones, and the end of it all before the judge.

    caller (10.11.0.2) ---- 10.11.0.1 router 10.12.0.1 ---- (10.12.0.2) callee
                            Kamailio, dispatcher, and unless the scenario places it elsewhere the relay
"""
import os
import re
import sys
import time

import daemons as d
import paths
import records
from judge import GONE_WITHIN, Judge
from lab import Lab
from loop import Loop, TimedOut
from media import Capture, Party
from netfilter import Bystander
from script import CALLEE, CALLER, Call, Ended, Phone, start_sipp
from tap import Tap

PROXY = '10.11.0.1'


class Failed(Exception):
    """The scenario did not hold; what was wrong."""


class Scene:
    def __init__(self, options, mode, forwarding, prefix, scratch):
        self.options, self.mode, self.forwarding, self.scratch = options, mode, forwarding, scratch
        self.loop = Loop()
        self.lab = Lab(prefix, scratch, self.loop)
        self.daemons = d.Daemons(self.lab, options, forwarding)
        self.captures, self.parties, self.sipps, self.bad = {}, [], [], []
        self.tap = self.management = None
        self.relay_ips = {CALLER: {PROXY}, CALLEE: {PROXY}}
        # Parts of Kamailio's error lines that belong to the scenario.
        self.proxy_errors = ()
        self.router = None
        self.bystanders = []

    def open(self):
        """Makes the router. From here on close() has to be called."""
        self.router = self.lab.host('router')
        self.lab.forwarding(self.router)

    # The network

    def attach(self, role, number):
        """A host 10.N.0.2 on a wire of its own to the router, which is 10.N.0.1 there; (host, interface, address)."""
        host = self.lab.host(role)
        interface, _ = self.lab.wire(host, '10.%d.0.2/24' % number, self.router, '10.%d.0.1/24' % number)
        self.lab.route(host, 'default', '10.%d.0.1' % number)
        return host, interface, '10.%d.0.2' % number

    def watch(self, host, interface):
        self.captures[host] = Capture(self.lab, host, interface)

    def phone(self, role, number):
        """A phone with a host of its own at 10.N.0.2."""
        host, interface, ip = self.attach(role, number)
        self.watch(host, interface)
        return Phone(host, ip)

    def second_address(self, phone, ip):
        """Another address on the phone's host, as after a change of networks."""
        self.lab.address(phone.host, 'e0', ip + '/24')

    def phone_behind_nat(self, role, number, inside='192.168.0.2'):
        """A phone at a private address; its NAT is 10.N.0.2 and lets SIP in."""
        nat, outer, address = self.attach(role + '-nat', number)
        self.lab.forwarding(nat)
        host = self.lab.host(role)
        interface, _ = self.lab.wire(host, inside + '/24', nat, inside.rpartition('.')[0] + '.1/24')
        self.lab.route(host, 'default', inside.rpartition('.')[0] + '.1')
        self.lab.nft(nat, '''table ip nat {
            chain in { type nat hook prerouting priority dstnat; iifname "%s" udp dport 5060-5079 dnat to %s; }
            chain out { type nat hook postrouting priority srcnat; oifname "%s" masquerade; }
        }''' % (outer, inside, outer))
        self.watch(host, interface)
        return Phone(host, inside, reached_at=address)

    def two_phones(self):
        return self.phone(CALLER, 11), self.phone(CALLEE, 12)

    # The daemons

    def start(self, relays=None, defines=(), config=None, dispatcher=None):
        """Dispatcher, relays and Kamailio. relays: functions that start them; None: one on the router."""
        if self.options.standin:
            self.start_standin()
            self.stand_by(self.router)
        else:
            self.daemons.start_dispatcher(self.router, **(dispatcher or {}))
            for start in relays or [lambda: self.daemons.start_relay(self.router, '127.0.0.1', relay_ip=PROXY)]:
                start()
            for host in self.relay_hosts():
                self.stand_by(host)
        self.tap = Tap(self.loop, os.path.join(self.scratch, 'tap.sock'), self.daemons.socket)
        self.management = d.Management(self.loop, self.daemons.management)
        self.daemons.start_kamailio(self.router, PROXY, os.path.join(self.scratch, 'tap.sock'), self.mode == 'engage', config, defines)

    def stand_by(self, host):
        """Puts other programs' netfilter objects on a relay's host, which have to be there at the end."""
        if self.forwarding == 'kernel':
            self.bystanders.append(Bystander(host))

    def start_standin(self):
        os.makedirs(self.daemons.runtime)
        here = os.path.dirname(os.path.abspath(__file__))
        self.daemons.dispatcher = self.lab.start(self.router, [
            sys.executable, os.path.join(here, 'standin.py'), self.daemons.runtime, PROXY, d.PORTS[0], self.options.standin,
            self.forwarding], 'standin.log')
        self.daemons.dispatcher.host = self.router
        self.daemons.relays['standin'] = self.daemons.dispatcher
        self.loop.until(self.daemons.answers, 5, 'the stand-in to listen')

    # Calls

    def place(self, *calls, seconds=1.2, silent=()):
        """Starts both phones of each call; the callees listen before anybody calls. silent: roles that send no media."""
        for call in calls:
            pair = tuple(Party(self.lab, call, role, self.captures[call.phones[role].host], seconds, role in silent)
                         for role in (CALLER, CALLEE))
            self.parties.append(pair)
            callee = start_sipp(self.lab, call, CALLEE)
            self.sipps.append(callee)
            port = call.phones[CALLEE].sip_port
            self.loop.until(lambda: callee.poll() is not None or self.lab.listens(callee, port), 5, 'the callee to listen')
        for call in calls:
            self.sipps.append(start_sipp(self.lab, call, CALLER))

    def call(self, caller, callee, steps, number=1, **rules):
        return Call(number, caller, callee, steps, PROXY, **rules)

    def flowing(self, pair, packets=20):
        """Have both ends of this call received so many packets of each other?"""
        name = pair[0].call.call_id.encode()
        return all(sum(1 for p in party.capture.packets if not p.out and name in p.data) >= packets for party in pair)

    def until_flowing(self, *pairs, packets=20):
        for pair in pairs or self.parties:
            self.loop.until(lambda: self.flowing(pair, packets) or self.over(), 15, 'media in both directions')

    def over(self):
        return all(s.poll() is not None for s in self.sipps)

    def finish(self, seconds=40, conntrack=None):
        """Waits for the phones, then that the sessions are gone; ends everything and judges. Raises Failed.

        conntrack: the host of the relay, whose connection tracking is judged in mid-call."""
        judge = Judge(self.parties, list(self.captures.values()), self.tap, self.management, self.relay_ips, self.forwarding)
        if conntrack:
            self.until_flowing()
            paths.mid_call(self, conntrack, self.bad.append)
        self.loop.until(self.over, seconds, 'the phones to end their calls')
        for party in (party for pair in self.parties for party in pair):
            if party.ended is None and any(isinstance(s, Ended) for s in party.call.steps):
                self.bad.append('no BYE came to the %s: the dispatcher did not have the proxy end the call' % party.name)
        for sipp in self.sipps:
            if sipp.returncode != 0:
                self.bad.append('sipp, the %s, ended with status %d' % (sipp.label, sipp.returncode))
        self.gone()
        for host in self.relay_hosts():
            self.bad += paths.emptied(self, host)
        for capture in self.captures.values():
            capture.close()
        self.stop_daemons()
        relay_logs = ''.join(self.daemons.log(name) for name in self.daemons.relays)
        self.bad += judge.judge(relay_logs)
        if not self.options.standin:
            self.bad += records.judge(self.daemons.runtime, self.parties, judge.answered, relay_logs)
        if self.bad:
            raise Failed('\n'.join(self.bad))
        return judge

    def gone(self):
        """Every call has left `sessions`."""
        since = time.time()
        for pair in self.parties:
            call_id = pair[0].call.call_id
            try:
                self.loop.until(lambda: self.management.now_lists(call_id, since) is False, GONE_WITHIN, '`sessions` to be without the call')
            except TimedOut:
                self.bad.append('call %d is still in `sessions` %g s after its end' % (pair[0].call.number, GONE_WITHIN))

    def stop_daemons(self):
        """Kamailio first: it must not see the dispatcher go. Each daemon has to end cleanly on TERM."""
        if self.daemons.kamailio:
            self.lab.stop(self.daemons.kamailio)
        for part in (self.management, self.tap):
            if part:
                part.close()
        for process in list(self.daemons.relays.values()) + [self.daemons.dispatcher]:
            if process.poll() is None:
                status = self.lab.stop(process)
                if status != 0:
                    self.bad.append('%s ended with status %s on TERM' % (process.label, status))
        self.logs()
        for host in self.relay_hosts():
            self.bad += paths.after_the_daemons(host)
        for bystander in self.bystanders:
            self.bad += bystander.missing()

    def relay_hosts(self):
        """Where relays run or ended by themselves; one that was killed leaves what it had."""
        return {relay.host for relay in self.daemons.relays.values() if not relay.poll()}

    def logs(self):
        for process in [self.daemons.dispatcher] + list(self.daemons.relays.values()):
            text = self.daemons.log(process.label)
            if 'panicked at' in text:
                self.bad.append('%s panicked: %s' % (process.label, re.search(r'panicked at[^\n]*', text).group(0)))
        if self.daemons.kamailio is None:
            return
        errors = re.findall(r'(?m)^.*? (?:ERROR|CRITICAL|WARNING): (.*)$', self.daemons.log('kamailio'))
        for error in dict.fromkeys(errors):
            if not any(expected in error for expected in self.proxy_errors):
                self.bad.append('Kamailio: ' + error)

    def close(self):
        for pair in self.parties:
            for party in pair:
                party.close()
        self.lab.close()
