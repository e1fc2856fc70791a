//! What of this host's firewall keeps packets from ports of its own: chains at hooks prerouting and input. Looks only.

use std::collections::HashMap;
use std::io;

use super::host_facts::base_chains;
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
pub struct InputRefusal {
    chain: BaseChain,
    protocol: Protocol,
    refusal: Refusal,
}

/// What refuses packets to these ports; none where the chains cannot be read, for which root's rights are needed.
pub fn input_refusals(protocol: Protocol, ports: Ports) -> Option<Vec<InputRefusal>> {
    let netfilter = Netfilter::open();
    netfilter
        .and_then(|netfilter| read(netfilter, protocol, ports))
        .ok()
}

fn read(
    mut netfilter: Netfilter,
    protocol: Protocol,
    ports: Ports,
) -> io::Result<Vec<InputRefusal>> {
    let mut barriers = Vec::new();
    for chain in base_chains(&mut netfilter, &[Hook::Prerouting, Hook::Input])? {
        let rules = rules(&mut netfilter, &chain)?;
        let passage = Passage {
            rules: &rules,
            protocol: protocol as u8,
        };
        let refusals = passage.refused(&chain.name, chain.policy_drops, ports);
        barriers.extend(refusals.into_iter().map(|refusal| InputRefusal {
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

impl InputRefusal {
    /// No rule lets these packets in before.
    pub fn is_sure(&self) -> bool {
        self.refusal.is_sure
    }

    /// What it is and does.
    pub fn describe(&self) -> String {
        let BaseChain { name, table, .. } = &self.chain;
        let (protocol, (first, last)) = (self.protocol.name(), self.refusal.ports);
        let how = if self.refusal.by_policy {
            "by its policy"
        } else {
            "by a rule"
        };
        let ports = if first == last {
            format!("{protocol} port {first}")
        } else {
            format!("{protocol} ports {first} to {last}")
        };
        if self.is_sure() {
            format!("chain {name} of table {table} refuses {ports} {how}")
        } else {
            format!(
                "chain {name} of table {table} refuses {ports} {how} where no rule before accepts them"
            )
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
mod tests;
