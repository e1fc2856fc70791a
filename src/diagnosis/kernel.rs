//! Whether the kernel can forward media on this host: a judgement of its facts.

use std::io;

use super::finding::{Finding, fine, problem, warning};
use super::host_facts::{
    ACCOUNTING, ENTRIES, EVENTS, ForwardChains, HostFacts, IP_FORWARD, Interface, MAX_ENTRIES,
    Setting,
};
use super::probe::{Missing, Probe};
use super::remedies::{is_off, let_through, set};
use super::requirements::Wanted;
use super::sysctl::{PortList, RESERVED_PORTS, of_interface};

/// Ports of the relay that one conntrack entry takes: one on each side.
const PORTS_PER_ENTRY: u32 = 2;

/// Everything that the kernel path needs, in the order in which one would mend it.
pub(super) fn judge(facts: &HostFacts, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = vec![right(facts.has_net_admin)];
    findings.extend(facts.probe.iter().flat_map(tried));
    findings.extend(ip_forward(facts, wanted));
    findings.push(accounting(&facts.accounting));
    findings.push(events(facts.events));
    findings.push(reserved(&facts.reserved, wanted));
    findings.extend(room(facts.entries, facts.most_entries, wanted));
    if facts.has_net_admin {
        findings.extend(forward_chains(&facts.forward, wanted));
    }
    findings.push(source_check(&facts.interfaces));
    findings.push(redirects(&facts.interfaces));
    findings.into_iter().map(Finding::for_kernel).collect()
}

/// Where only user space is wanted nothing is asked of the kernel.
pub(super) fn not_needed() -> Vec<Finding> {
    vec![fine("kernel", "not needed: forwarding = userspace").for_kernel()]
}

fn right(has_net_admin: bool) -> Finding {
    let subject = "CAP_NET_ADMIN";
    if has_net_admin {
        fine(subject, "the relay may use netfilter")
    } else {
        problem(
            subject,
            "the process may not use netfilter: run it as root, or with AmbientCapabilities=CAP_NET_ADMIN in its \
             systemd unit, or with --cap-add NET_ADMIN in a container",
        )
    }
}

fn tried(probe: &io::Result<Probe>) -> Vec<Finding> {
    let probe = match probe {
        Ok(probe) => probe,
        Err(error) => {
            let text = format!("the kernel has no netfilter sockets ({error}): modprobe nfnetlink");
            return vec![problem("nf_tables", text)];
        }
    };
    let table = match &probe.table {
        Err(missing) => problem("nf_tables", lacks(missing)),
        Ok(true) => fine(
            "nf_tables",
            "usable; a firewall's reload leaves the relay's table alone",
        ),
        Ok(false) => fine(
            "nf_tables",
            "usable; this kernel cannot protect a table (6.9 can): a firewall's reload removes the relay's for up to \
             20 ms",
        ),
    };
    let conntrack = match &probe.conntrack {
        Err(missing) => problem("conntrack", lacks(missing)),
        Ok(()) => fine("conntrack", "entries with address translation can be made"),
    };
    vec![table, conntrack]
}

fn lacks(missing: &Missing) -> String {
    let Missing {
        what,
        modules,
        error,
    } = missing;
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "in a container, give it CAP_NET_ADMIN over its own network namespace".to_owned()
        }
        _ => format!("modprobe {modules}, or a kernel that has it"),
    };
    format!("the kernel does not make {what} ({error}): {remedy}")
}

fn ip_forward(facts: &HostFacts, wanted: &Wanted) -> Vec<Finding> {
    if facts.ip_forward != Some(1) {
        return vec![problem("ip_forward", is_off(IP_FORWARD))];
    }
    let closed: Vec<Finding> = facts
        .interfaces
        .iter()
        .filter(|interface| !interface.is_forwarding && carries_media(interface, wanted))
        .map(|interface| {
            let name = of_interface(&interface.name, "forwarding");
            problem("ip_forward", is_off(&name))
        })
        .collect();
    if closed.is_empty() {
        vec![fine("ip_forward", "on")]
    } else {
        closed
    }
}

fn carries_media(interface: &Interface, wanted: &Wanted) -> bool {
    interface.addresses.contains(&wanted.relay_ip) || (wanted.auto_detect && !interface.is_loopback)
}

fn accounting(setting: &Setting<u32>) -> Finding {
    let subject = "accounting";
    match setting.value {
        Some(1) => fine(subject, "conntrack counts packets and bytes"),
        Some(_) if setting.is_writable => fine(
            subject,
            format!("off; the relay sets {ACCOUNTING} to 1 when it starts"),
        ),
        Some(_) => problem(
            subject,
            format!(
                "{ACCOUNTING} is 0 and the relay may not change it: {}",
                set(ACCOUNTING, "1")
            ),
        ),
        None => problem(
            subject,
            format!("there is no {ACCOUNTING}: modprobe nf_conntrack"),
        ),
    }
}

fn events(setting: Option<u32>) -> Finding {
    let subject = "events";
    let late = "it is noticed up to half a second late when somebody deletes the relay's entries";
    match setting {
        Some(0) => {
            let text = format!("{EVENTS} is 0, so {late}: {}", set(EVENTS, "2"));
            warning(subject, text)
        }
        Some(_) => fine(subject, "conntrack tells of deleted entries"),
        None => warning(
            subject,
            format!("the kernel is built without CONFIG_NF_CONNTRACK_EVENTS, so {late}"),
        ),
    }
}

fn reserved(setting: &Setting<PortList>, wanted: &Wanted) -> Finding {
    let subject = "reserved ports";
    let (first, last) = (wanted.port_range.0, wanted.last_port());
    match &setting.value {
        Some(list) if list.contains(first, last) => fine(
            subject,
            format!("no other program is given {first} to {last} by chance"),
        ),
        Some(_) if setting.is_writable => fine(
            subject,
            format!("the relay adds {first}-{last} to {RESERVED_PORTS} when it starts"),
        ),
        Some(list) => {
            let all = list.with(first, last).to_string();
            let text = format!(
                "the relay may not change {RESERVED_PORTS}, so other programs may be given its ports: {}",
                set(RESERVED_PORTS, &all)
            );
            warning(subject, text)
        }
        None => warning(
            subject,
            format!(
                "{RESERVED_PORTS} cannot be read, so other programs may be given the relay's ports: \
                     mount /proc/sys"
            ),
        ),
    }
}

/// None where the numbers cannot be read; what is wrong then is said elsewhere.
fn room(entries: Option<u32>, most: Option<u32>, wanted: &Wanted) -> Option<Finding> {
    let (entries, most) = (entries?, most?);
    let needed = wanted.ports() / PORTS_PER_ENTRY;
    let sum = entries.saturating_add(needed);
    // Without a limit it is 0.
    if most == 0 || sum <= most {
        let text = format!("{entries} entries, room for {needed} more of the relay's");
        return Some(fine("conntrack table", text));
    }
    let enough = sum.checked_next_power_of_two().unwrap_or(sum);
    let text = format!(
        "{ENTRIES} is {entries} and {MAX_ENTRIES} is {most}, while port_range may need {needed} entries more: {}",
        set(MAX_ENTRIES, &enough.to_string())
    );
    Some(warning("conntrack table", text))
}

fn forward_chains(found: &ForwardChains, wanted: &Wanted) -> Vec<Finding> {
    let subject = "FORWARD";
    let mut findings = Vec::new();
    let Some(chains) = &found.chains else {
        let text =
            "the chains at hook forward cannot be read: nft list ruleset shows whether one drops";
        return vec![warning(subject, text)];
    };
    for chain in chains {
        let what = chain.describe();
        if chain.knows_mark {
            let text = format!("{what}, and its table has a rule on the conntrack mark");
            findings.push(fine(subject, text));
        } else {
            let remedy = chain.remedy(wanted.mark, wanted.mark_mask);
            let text = format!("{what}, and relayed media passes it: {remedy}");
            findings.push(warning(subject, text));
        }
    }
    if found.has_legacy {
        let text = format!(
            "iptables-legacy is in use and only itself can tell its rules: where iptables-legacy -S FORWARD drops, {}",
            let_through("iptables-legacy", wanted.mark, wanted.mark_mask)
        );
        findings.push(warning(subject, text));
    }
    if findings.is_empty() {
        findings.push(fine(subject, "no chain drops what it does not know"));
    }
    findings
}

/// Strict only hurts where a party's packets may come in by one interface while another leads to it.
fn source_check(interfaces: &[Interface]) -> Finding {
    let subject = "rp_filter";
    let routed = |interface: &&Interface| interface.has_routes && !interface.is_loopback;
    let strict: Vec<&Interface> = interfaces
        .iter()
        .filter(|interface| routed(interface) && interface.is_strict)
        .collect();
    if strict.is_empty() || interfaces.iter().filter(routed).count() < 2 {
        return fine(subject, "drops nothing that a relay receives");
    }
    let names: Vec<&str> = strict.iter().map(|interface| &*interface.name).collect();
    let loose: Vec<String> = strict
        .iter()
        .map(|interface| format!("{}=2", of_interface(&interface.name, "rp_filter")))
        .collect();
    let text = format!(
        "strict on {}: media of parties that another interface leads to is dropped there; where that can happen: \
         sysctl -w {}, and the same in /etc/sysctl.d/60-mediaproxy.conf",
        names.join(", "),
        loose.join(" ")
    );
    warning(subject, text)
}

/// A relay with one interface sends media out where it came in, as a router on the wrong path would.
fn redirects(interfaces: &[Interface]) -> Finding {
    let subject = "redirects";
    let outward = interfaces.iter().filter(|one| !one.is_loopback);
    let outward: Vec<&Interface> = outward.collect();
    match outward.as_slice() {
        [only] if only.sends_redirects => {
            let text = format!(
                "with one interface the kernel sends ICMP redirects to phones on its network: sysctl -w \
                 net.ipv4.conf.all.send_redirects=0 {}=0, and both in /etc/sysctl.d/60-mediaproxy.conf",
                of_interface(&only.name, "send_redirects")
            );
            warning(subject, text)
        }
        [_] => fine(subject, "off"),
        _ => fine(subject, "none with several interfaces"),
    }
}

#[cfg(test)]
mod tests;
