//! What of this host's firewall keeps packets from ports of its own: chains at hooks prerouting and input. Looks only.

use std::collections::HashMap;
use std::io;

use super::host::base_chains;
use crate::netlink::chains::{self, BaseChain, Family};
use crate::netlink::nftables::Hook;
use crate::netlink::passage::{Passage, Ports, Refusal, Step};
use crate::netlink::socket::Netfilter;

/// Protocols whose ports are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A chain that refuses packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    chain: BaseChain,
    protocol: Protocol,
    refusal: Refusal,
}

/// What refuses packets to these ports; none where the chains cannot be read, for which root's rights are needed.
pub fn barriers(protocol: Protocol, ports: Ports) -> Option<Vec<Barrier>> {
    let netfilter = Netfilter::open();
    netfilter
        .and_then(|netfilter| read(netfilter, protocol, ports))
        .ok()
}

fn read(mut netfilter: Netfilter, protocol: Protocol, ports: Ports) -> io::Result<Vec<Barrier>> {
    let mut barriers = Vec::new();
    for chain in base_chains(&mut netfilter, &[Hook::Prerouting, Hook::Input])? {
        let rules = rules(&mut netfilter, &chain)?;
        let passage = Passage {
            rules: &rules,
            protocol: protocol as u8,
        };
        let refusals = passage.refused(&chain.name, chain.policy_drops, ports);
        barriers.extend(refusals.into_iter().map(|refusal| Barrier {
            chain: chain.clone(),
            protocol,
            refusal,
        }));
    }
    Ok(barriers)
}

/// All rules of a chain's table, by the names of their chains.
fn rules(netfilter: &mut Netfilter, chain: &BaseChain) -> io::Result<HashMap<String, Vec<Step>>> {
    let mut rules: HashMap<String, Vec<Step>> = HashMap::new();
    netfilter.list(
        |builder, number| chains::dump_rules(builder, number, chain.family),
        |message| {
            if let Some(rule) = chains::parse_rule(message, &chain.table)? {
                let steps = rules.entry(rule.chain).or_default();
                steps.extend(rule.step);
            }
            Ok(())
        },
    )?;
    Ok(rules)
}

impl Barrier {
    /// No rule lets these packets in before.
    pub fn is_sure(&self) -> bool {
        self.refusal.is_sure
    }

    /// What it is and does.
    pub fn describe(&self) -> String {
        let BaseChain { name, table, .. } = &self.chain;
        let (protocol, (first, last)) = (self.protocol.name(), self.refusal.ports);
        let how = match self.refusal.by_policy {
            true => "by its policy",
            false => "by a rule",
        };
        let ports = match first == last {
            true => format!("{protocol} port {first}"),
            false => format!("{protocol} ports {first} to {last}"),
        };
        match self.is_sure() {
            true => format!("chain {name} of table {table} refuses {ports} {how}"),
            false => format!(
                "chain {name} of table {table} refuses {ports} {how} where no rule before accepts them"
            ),
        }
    }

    /// The command that lets them in.
    pub fn opening(&self) -> String {
        let BaseChain {
            name,
            table,
            family,
            ..
        } = &self.chain;
        let (protocol, (first, last)) = (self.protocol.name(), self.refusal.ports);
        let is_of_iptables =
            *family == Family::Ip && ["INPUT", "PREROUTING"].contains(&name.as_str());
        match (is_of_iptables, table.as_str()) {
            (true, "filter") => {
                format!("iptables -I {name} -p {protocol} --dport {first}:{last} -j ACCEPT")
            }
            (true, table) => format!(
                "iptables -t {table} -I {name} -p {protocol} --dport {first}:{last} -j ACCEPT"
            ),
            (false, table) => format!(
                "nft insert rule {} {table} {name} {protocol} dport {first}-{last} accept",
                family.name()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::testing::{in_namespace, shell};

    /// Whether what refuses the media of a default relay is certain; none where it gets in.
    fn media() -> Option<bool> {
        let found = barriers(Protocol::Udp, (40_000, 59_999)).unwrap();
        found.iter().map(Barrier::is_sure).max()
    }

    const INPUT: &str =
        "nft add table inet a; nft add chain inet a in '{ type filter hook input priority 0; }'";

    /// Rules of nft in a chain with this policy.
    fn with(policy: &str, rules: &[&str]) -> Option<bool> {
        let rules = rules
            .iter()
            .map(|rule| format!("; nft 'add rule inet a in {rule}'"));
        let rules: String = rules.collect();
        shell(&format!(
            "{INPUT}; nft 'chain inet a in {{ policy {policy}; }}'{rules}"
        ));
        let found = media();
        shell("nft delete table inet a");
        found
    }

    #[test]
    fn what_nft_refuses_is_told_from_what_it_lets_in() {
        in_namespace("a firewall of nft", || {
            assert_eq!(media(), None);
            let ours = "udp dport 40000-59999 accept";
            let loopback = "iif lo accept";
            let state = "ct state established,related accept";
            for (policy, rules, want) in [
                ("accept", &["udp dport 40000-59999 drop"][..], Some(true)),
                ("accept", &["udp dport 50000 drop"], Some(true)),
                ("accept", &["udp dport >= 50000 reject"], Some(true)),
                ("accept", &["counter log drop"], Some(true)),
                (
                    "accept",
                    &[loopback, state, "ip protocol udp drop"],
                    Some(true),
                ),
                ("accept", &["iifname != lo drop"], Some(true)),
                (
                    "drop",
                    &[loopback, state, "tcp dport 22 accept"],
                    Some(true),
                ),
                ("drop", &["udp dport 40000-50000 accept"], Some(true)),
                // Nothing of it is the media's.
                (
                    "accept",
                    &["tcp dport 40000-59999 drop", "udp dport 5060 drop"],
                    None,
                ),
                (
                    "accept",
                    &[
                        "ct state invalid drop",
                        "meta nfproto ipv6 drop",
                        "iif lo drop",
                    ],
                    None,
                ),
                ("accept", &[ours, "drop"], None),
                ("drop", &[state, ours], None),
                (
                    "drop",
                    &[
                        "udp dport 40000-49999 accept",
                        "udp dport 50000-59999 accept",
                    ],
                    None,
                ),
                // For some of it.
                (
                    "accept",
                    &[
                        "ip saddr 10.0.0.0/8 drop",
                        "iifname eth7 drop",
                        "ct state new drop",
                    ],
                    None,
                ),
                (
                    "accept",
                    &["ip saddr 10.0.0.0/8 accept", "udp dport 40000-59999 drop"],
                    Some(false),
                ),
                ("drop", &["ip saddr 10.0.0.0/8 accept"], Some(false)),
                (
                    "drop",
                    &["udp dport { 22, 40000-59999 } accept"],
                    Some(false),
                ),
            ] {
                assert_eq!(with(policy, rules), want, "{policy} {rules:?}");
            }
        });
    }

    #[test]
    fn chains_of_chains_are_followed() {
        in_namespace("a firewall of many chains", || {
            for (rules, want) in [
                ("deny { udp dport 40000-59999 drop; }", Some(true)),
                ("deny { udp dport 40000-59999 return; drop; }", None),
                ("deny { ip saddr 10.0.0.0/8 return; drop; }", None),
                ("deny { jump deeper; drop; }", None),
                ("deny { goto deeper; drop; }", None),
            ] {
                shell(&format!(
                    "{INPUT}; nft 'table inet a {{ chain deeper {{ udp dport 40000-59999 accept; }}; \
                     chain {rules}; }}'; nft add rule inet a in jump deny"
                ));
                assert_eq!(media(), want, "{rules}");
                shell("nft delete table inet a");
            }
        });
    }

    #[test]
    fn what_iptables_refuses_comes_with_the_rule_to_add() {
        in_namespace("a firewall of iptables", || {
            let state = "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT";
            shell(&format!("{state}; iptables -A INPUT -i lo -j ACCEPT"));
            for rule in [
                "iptables -A INPUT -p udp --dport 40000:59999 -j DROP",
                "iptables -A INPUT -p udp -m udp --dport 40000:59999 -m comment --comment no -j REJECT",
                "iptables -A INPUT -p udp -m multiport --dports 40000:59999 -j DROP",
                "iptables -t raw -A PREROUTING -p udp --dport 40000:59999 -j DROP",
                "iptables -P INPUT DROP",
            ] {
                shell(rule);
                let found = barriers(Protocol::Udp, (40_000, 59_999)).unwrap();
                assert_eq!(found.len(), 1, "{rule}: {found:?}");
                assert!(found[0].is_sure(), "{rule}: {found:?}");
                shell(&found[0].opening());
                assert_eq!(media(), None, "{rule}");
                shell("iptables -P INPUT ACCEPT; iptables -t raw -F");
                shell(&format!(
                    "iptables -F; {state}; iptables -A INPUT -i lo -j ACCEPT"
                ));
            }
            // A new connection is not untracked.
            shell(
                "iptables -P INPUT DROP; iptables -A INPUT -p tcp --dport 25060 -m conntrack --ctstate NEW -j ACCEPT",
            );
            assert_eq!(barriers(Protocol::Tcp, (25_060, 25_060)), Some(Vec::new()));
            let closed = barriers(Protocol::Tcp, (25_061, 25_061)).unwrap();
            let want = "chain INPUT of table filter refuses tcp port 25061 by its policy";
            assert_eq!(closed[0].describe(), want);
        });
    }
}
