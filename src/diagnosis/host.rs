//! What there is on the host, as seen from the calling thread's network namespace: interfaces and their settings,
//! chains that stand in the way of forwarded packets, rights. Looks only; `kernel` judges.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use super::probe::{self, Probe};
use super::requirements::Wanted;
use super::sysctl::{self, PortList, RESERVED_PORTS, of_interface};
use crate::netlink::chains::{self, BaseChain, Family, Rule};
use crate::netlink::nftables::Hook;
use crate::netlink::socket::Netfilter;
use crate::sys::interfaces;

pub const ACCOUNTING: &str = "net.netfilter.nf_conntrack_acct";
pub const EVENTS: &str = "net.netfilter.nf_conntrack_events";
pub const ENTRIES: &str = "net.netfilter.nf_conntrack_count";
pub const MOST_ENTRIES: &str = "net.netfilter.nf_conntrack_max";
pub const IP_FORWARD: &str = "net.ipv4.ip_forward";

/// Of the calling thread: all the others are of the process's first one.
pub const PROC_NET: &str = "/proc/thread-self/net";

/// The bit of CAP_NET_ADMIN (capabilities(7), linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

/// What the kernel path stands on.
#[derive(Debug)]
pub struct Facts {
    pub has_net_admin: bool,
    /// None without the right to try.
    pub probe: Option<io::Result<Probe>>,
    pub ip_forward: Option<u32>,
    pub accounting: Setting<u32>,
    pub reserved: Setting<PortList>,
    pub events: Option<u32>,
    pub entries: Option<u32>,
    pub most_entries: Option<u32>,
    pub interfaces: Vec<Interface>,
    pub walls: Walls,
}

/// A setting that the relay changes itself.
#[derive(Debug)]
pub struct Setting<T> {
    /// None where it cannot be read.
    pub value: Option<T>,
    pub is_writable: bool,
}

/// An interface that is up, and the settings that hold for it, those of all interfaces included.
#[derive(Clone, Debug)]
pub struct Interface {
    pub name: String,
    pub is_loopback: bool,
    pub addresses: Vec<Ipv4Addr>,
    /// A route to more than its own addresses leads out of it.
    pub has_routes: bool,
    pub is_forwarding: bool,
    /// Packets are dropped that came in by another interface than the one that leads to their source.
    pub is_strict: bool,
    pub sends_redirects: bool,
}

/// What refuses forwarded packets that it does not know.
#[derive(Clone, Debug, Default)]
pub struct Walls {
    /// None where they cannot be read.
    pub chains: Option<Vec<Wall>>,
    /// iptables-legacy has a filter table, which nothing but itself can read.
    pub has_legacy: bool,
}

/// A chain at hook forward that drops or rejects what none of its rules accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wall {
    pub family: Family,
    pub table: String,
    pub chain: String,
    /// By its policy, or else by its last rule.
    pub by_policy: bool,
    /// A rule of its table looks at the conntrack mark.
    pub knows_mark: bool,
}

/// Looks at everything. Leaves nothing behind.
pub fn look(wanted: &Wanted) -> Facts {
    let has_net_admin = has_net_admin();
    // First: it loads the modules that bring the settings.
    let probe = has_net_admin.then(|| probe::run(wanted.mark));
    Facts {
        has_net_admin,
        probe,
        ip_forward: sysctl::number(IP_FORWARD),
        accounting: Setting {
            value: sysctl::number(ACCOUNTING),
            is_writable: sysctl::is_writable(ACCOUNTING),
        },
        reserved: Setting {
            value: sysctl::reserved().ok(),
            is_writable: sysctl::is_writable(RESERVED_PORTS),
        },
        events: sysctl::number(EVENTS),
        entries: sysctl::number(ENTRIES),
        most_entries: sysctl::number(MOST_ENTRIES),
        interfaces: interfaces(),
        walls: walls(),
    }
}

fn has_net_admin() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective_capabilities(&status).is_some_and(|set| set >> CAP_NET_ADMIN & 1 == 1)
}

/// The set in /proc/PID/status (proc_pid_status(5)).
fn effective_capabilities(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let digits = lines.find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// The interfaces that are up and have IPv4 addresses.
pub fn interfaces() -> Vec<Interface> {
    let routed = routed(&fs::read_to_string(format!("{PROC_NET}/route")).unwrap_or_default());
    let all = interfaces::list().unwrap_or_default();
    let up = all.into_iter().filter(|interface| interface.is_up);
    up.map(|interface| {
        let own = |setting| sysctl::number(&of_interface(&interface.name, setting)).unwrap_or(0);
        let common = |setting| sysctl::number(&of_interface("all", setting)).unwrap_or(0);
        // How the two go together is in linux/inetdevice.h.
        Interface {
            is_forwarding: own("forwarding") != 0,
            is_strict: own("rp_filter").max(common("rp_filter")) == 1,
            sends_redirects: own("send_redirects") != 0 || common("send_redirects") != 0,
            has_routes: routed.contains(&interface.name),
            is_loopback: interface.is_loopback,
            name: interface.name,
            addresses: interface.addresses,
        }
    })
    .collect()
}

/// The interfaces in /proc/net/route, which lists the main table.
fn routed(table: &str) -> Vec<String> {
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The chains at hook forward that refuse what they do not know; only CAP_NET_ADMIN shows them.
pub fn walls() -> Walls {
    let legacy = fs::read_to_string(format!("{PROC_NET}/ip_tables_names")).unwrap_or_default();
    Walls {
        chains: Netfilter::open().and_then(read_walls).ok(),
        has_legacy: legacy.lines().any(|table| table == "filter"),
    }
}

/// The chains that these hooks call.
pub fn base_chains(netfilter: &mut Netfilter, hooks: &[Hook]) -> io::Result<Vec<BaseChain>> {
    let mut found = Vec::new();
    netfilter.list(chains::dump_chains, |message| {
        let chain = chains::parse_chain(message)?;
        let is_called = |chain: &BaseChain| hooks.iter().any(|hook| chain.hook == *hook as u32);
        found.extend(chain.filter(is_called));
        Ok(())
    })?;
    Ok(found)
}

fn read_walls(mut netfilter: Netfilter) -> io::Result<Vec<Wall>> {
    let mut walls = Vec::new();
    for chain in base_chains(&mut netfilter, &[Hook::Forward])? {
        let mut view = View::default();
        netfilter.list(
            |builder, number| chains::dump_rules(builder, number, chain.family),
            |message| {
                let rule = chains::parse_rule(message, &chain.table)?;
                rule.iter().for_each(|rule| view.add(rule, &chain.name));
                Ok(())
            },
        )?;
        walls.extend(view.wall(chain));
    }
    Ok(walls)
}

/// What the rules of a chain's table come to.
#[derive(Default)]
struct View {
    knows_mark: bool,
    ends_refusing: bool,
}

impl View {
    fn add(&mut self, rule: &Rule, chain: &str) {
        self.knows_mark |= rule.reads_mark;
        if rule.chain == chain {
            self.ends_refusing = rule.refuses_all;
        }
    }

    fn wall(self, chain: BaseChain) -> Option<Wall> {
        (chain.policy_drops || self.ends_refusing).then_some(Wall {
            family: chain.family,
            table: chain.table,
            chain: chain.name,
            by_policy: chain.policy_drops,
            knows_mark: self.knows_mark,
        })
    }
}

impl Wall {
    /// The command that lets media with this mark pass.
    pub fn remedy(&self, mark: u32, mask: u32) -> String {
        if self.family == Family::Ip && self.table == "filter" && self.chain == "FORWARD" {
            return format!("iptables -I FORWARD -m connmark --mark {mark:#x}/{mask:#x} -j ACCEPT");
        }
        format!(
            "nft insert rule {} {} {} ct mark and {mask:#x} == {mark:#x} accept",
            self.family.name(),
            self.table,
            self.chain
        )
    }

    /// What it is and does.
    pub fn describe(&self) -> String {
        let (family, table, chain) = (self.family.name(), &self.table, &self.chain);
        let how = match self.by_policy {
            true => "has policy drop",
            false => "ends with a rule that refuses everything",
        };
        format!("chain {chain} of table {family} {table} at hook forward {how}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::testing::{in_namespace, shell};

    #[test]
    fn capabilities_and_routes_are_read() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n";
        assert_eq!(effective_capabilities(status), Some(1 << CAP_NET_ADMIN));
        assert_eq!(effective_capabilities("CapEff:\tx\n"), None);
        let table = "Iface\tDestination\tGateway\neth0\t00000000\t0102000A\neth1.5\t0002000A\t0\n";
        assert_eq!(routed(table), ["eth0", "eth1.5"]);
    }

    #[test]
    fn interfaces_have_their_settings() {
        in_namespace("settings of interfaces", || {
            shell(
                "ip link set lo up; ip link add v0 type veth peer name v1; ip link set v0 up
                 ip link set v1 up; ip addr add 192.0.2.1/24 dev v0
                 sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.v0.rp_filter=1
                 sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.lo.forwarding=0",
            );
            let seen = interfaces();
            let names: Vec<&str> = seen.iter().map(|one| &*one.name).collect();
            assert_eq!(names, ["lo", "v0"], "v1 has no address");
            let [lo, v0] = seen.as_slice() else { panic!() };
            assert!(lo.is_loopback && !lo.has_routes && !lo.is_forwarding && !lo.is_strict);
            assert!(v0.has_routes && v0.is_forwarding && v0.is_strict && v0.sends_redirects);
            assert_eq!(v0.addresses, [Ipv4Addr::new(192, 0, 2, 1)]);
            shell("sysctl -qw net.ipv4.conf.all.rp_filter=2");
            assert!(!interfaces()[1].is_strict, "the greater one counts");
        });
    }

    #[test]
    fn chains_that_refuse_are_found_and_the_rule_to_add_is_accepted() {
        in_namespace("chains of hook forward", || {
            assert!(walls().chains.unwrap().is_empty());
            shell(
                "nft add table inet a; nft 'add chain inet a open { type filter hook forward priority 0; }'
                 nft add chain inet a closing '{ type filter hook forward priority 1; }'
                 nft add rule inet a closing ct state established accept
                 nft add rule inet a closing counter reject
                 nft add chain inet a local '{ type filter hook input priority 0; policy drop; }'
                 nft add table ip6 b; nft add chain ip6 b c '{ type filter hook forward priority 0; policy drop; }'
                 iptables -P FORWARD DROP",
            );
            let found = walls().chains.unwrap();
            let names: Vec<_> = found.iter().map(Wall::describe).collect();
            assert_eq!(
                names,
                [
                    "chain closing of table inet a at hook forward ends with a rule that refuses everything",
                    "chain FORWARD of table ip filter at hook forward has policy drop",
                ]
            );
            for wall in &found {
                assert!(!wall.knows_mark, "{wall:?}");
                shell(&wall.remedy(0x4d50_0000, 0xffff_0000));
            }
            let found = walls().chains.unwrap();
            assert!(found.iter().all(|wall| wall.knows_mark));
        });
    }

    #[test]
    fn the_kernel_is_tried_and_nothing_stays() {
        in_namespace("a probe of the kernel", || {
            let probe = probe::run(0x4d50_0000).unwrap();
            assert!(probe.table.is_ok() && probe.conntrack.is_ok(), "{probe:?}");
            assert_eq!(
                shell("nft list ruleset; conntrack -L 2>&1"),
                shell("conntrack -L 2>&1")
            );
            assert!(walls().chains.unwrap().is_empty());
        });
    }
}
