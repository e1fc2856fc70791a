//! The judgement of a host, fact by fact: a host where all is well, and what is said when one thing is not.

use std::net::Ipv4Addr;

use super::*;
use crate::diagnosis::host::Wall;
use crate::diagnosis::problems_for_kernel;
use crate::netlink::chains::Family;

const RELAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn wanted() -> Wanted {
    Wanted {
        relay_ip: RELAY,
        auto_detect: false,
        port_range: (40000, 60000),
        mark: 0x4d50_0000,
        mark_mask: 0xffff_0000,
    }
}

fn interface(name: &str, address: Ipv4Addr) -> Interface {
    Interface {
        name: name.to_owned(),
        is_loopback: address.is_loopback(),
        addresses: vec![address],
        has_routes: true,
        is_forwarding: true,
        is_strict: false,
        sends_redirects: false,
    }
}

fn good() -> Facts {
    Facts {
        has_net_admin: true,
        probe: Some(Ok(Probe {
            table: Ok(true),
            conntrack: Ok(()),
        })),
        ip_forward: Some(1),
        accounting: Setting {
            value: Some(1),
            is_writable: true,
        },
        reserved: Setting {
            value: PortList::parse("40000-59999"),
            is_writable: true,
        },
        events: Some(2),
        entries: Some(100),
        most_entries: Some(262_144),
        interfaces: vec![
            interface("lo", Ipv4Addr::LOCALHOST),
            interface("eth0", RELAY),
            interface("eth1.5", Ipv4Addr::new(10, 0, 0, 1)),
        ],
        walls: Walls {
            chains: Some(Vec::new()),
            has_legacy: false,
        },
    }
}

/// The only finding that is not fine on a good host with this change.
fn only(change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = good();
    change(&mut facts);
    let findings = judge(&facts, &wanted());
    let mut bad = findings.iter().filter(|one| one.verdict != Verdict::Fine);
    let first = bad.next().expect("a finding").clone();
    assert_eq!(bad.next(), None);
    first
}

fn expect(finding: &Finding, verdict: Verdict, texts: &[&str]) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    for text in texts {
        assert!(finding.text.contains(text), "{text}: {finding:?}");
    }
}

#[test]
fn a_good_host_is_fine() {
    let findings = judge(&good(), &wanted());
    let is_fine = |one: &Finding| one.verdict == Verdict::Fine && one.need == Need::Kernel;
    assert!(findings.iter().all(is_fine), "{findings:?}");
    assert_eq!(problems_for_kernel(&findings), None);
}

#[test]
fn without_the_right_nothing_else_is_tried() {
    let finding = only(|facts| {
        facts.has_net_admin = false;
        facts.probe = None;
        facts.walls.chains = None;
    });
    expect(
        &finding,
        Verdict::Problem,
        &["AmbientCapabilities=CAP_NET_ADMIN"],
    );
}

#[test]
fn what_the_kernel_lacks_is_named_with_its_modules() {
    let missing = |error: i32| Missing {
        what: "a nat chain",
        modules: "nft_chain_nat nf_nat",
        error: io::Error::from_raw_os_error(error),
    };
    let with = |table, conntrack| only(|facts| facts.probe = Some(Ok(Probe { table, conntrack })));
    let finding = with(Err(missing(libc::ENOENT)), Ok(()));
    expect(
        &finding,
        Verdict::Problem,
        &["does not make a nat chain", "modprobe nft_chain_nat nf_nat"],
    );
    let finding = with(Ok(true), Err(missing(libc::EPERM)));
    expect(&finding, Verdict::Problem, &["container"]);
    let finding = only(|facts| facts.probe = Some(Err(io::ErrorKind::Unsupported.into())));
    expect(&finding, Verdict::Problem, &["modprobe nfnetlink"]);
}

#[test]
fn a_table_without_protection_is_only_a_note() {
    let mut facts = good();
    facts.probe = Some(Ok(Probe {
        table: Ok(false),
        conntrack: Ok(()),
    }));
    let findings = judge(&facts, &wanted());
    assert!(findings.iter().any(|one| one.text.contains("up to 20 ms")));
    assert!(findings.iter().all(|one| one.verdict == Verdict::Fine));
}

#[test]
fn forwarding_is_needed_where_media_comes_in() {
    let finding = only(|facts| facts.ip_forward = Some(0));
    expect(
        &finding,
        Verdict::Problem,
        &["sysctl -w net.ipv4.ip_forward=1"],
    );
    let finding = only(|facts| facts.interfaces[1].is_forwarding = false);
    expect(
        &finding,
        Verdict::Problem,
        &["sysctl -w net.ipv4.conf.eth0.forwarding=1"],
    );
    let mut facts = good();
    facts.interfaces[0].is_forwarding = false;
    facts.interfaces[2].is_forwarding = false;
    assert_eq!(problems_for_kernel(&judge(&facts, &wanted())), None);
    let each = Wanted {
        auto_detect: true,
        ..wanted()
    };
    let text = problems_for_kernel(&judge(&facts, &each)).unwrap();
    assert!(text.contains("net.ipv4.conf.eth1/5.forwarding=1"), "{text}");
}

#[test]
fn the_relay_s_own_settings_are_a_problem_only_where_it_may_not_write_them() {
    let mut facts = good();
    facts.accounting.value = Some(0);
    facts.reserved.value = PortList::parse("8080");
    let findings = judge(&facts, &wanted());
    assert!(findings.iter().all(|one| one.verdict == Verdict::Fine));
    let finding = only(|facts| {
        facts.accounting = Setting {
            value: Some(0),
            is_writable: false,
        }
    });
    expect(
        &finding,
        Verdict::Problem,
        &["sysctl -w net.netfilter.nf_conntrack_acct=1"],
    );
    let finding = only(|facts| facts.accounting.value = None);
    expect(&finding, Verdict::Problem, &["modprobe nf_conntrack"]);
    let finding = only(|facts| {
        facts.reserved = Setting {
            value: PortList::parse("8080"),
            is_writable: false,
        }
    });
    let command = "sysctl -w net.ipv4.ip_local_reserved_ports=8080,40000-59999";
    expect(&finding, Verdict::Warning, &[command]);
}

#[test]
fn conntrack_without_events_and_without_room() {
    let finding = only(|facts| facts.events = Some(0));
    expect(&finding, Verdict::Warning, &["nf_conntrack_events=2"]);
    let finding = only(|facts| facts.events = None);
    expect(&finding, Verdict::Warning, &["CONFIG_NF_CONNTRACK_EVENTS"]);
    // 20000 ports are 10000 entries.
    let finding = only(|facts| facts.entries = Some(252_145));
    expect(&finding, Verdict::Warning, &["nf_conntrack_max=524288"]);
    for (entries, most) in [(252_144, 262_144), (1_000_000, 0)] {
        let finding = room(Some(entries), Some(most), &wanted()).unwrap();
        assert_eq!(finding.verdict, Verdict::Fine);
    }
}

#[test]
fn chains_that_drop_are_warned_of_until_they_know_the_mark() {
    let wall = |table: &str, chain: &str| Wall {
        family: if table == "filter" {
            Family::Ip
        } else {
            Family::Inet
        },
        table: table.to_owned(),
        chain: chain.to_owned(),
        by_policy: true,
        knows_mark: false,
    };
    let known = Wall {
        knows_mark: true,
        ..wall("firewalld", "known")
    };
    let with = |one| only(|facts| facts.walls.chains = Some(vec![one, known.clone()]));
    let command = "iptables -I FORWARD -m connmark --mark 0x4d500000/0xffff0000 -j ACCEPT";
    let finding = with(wall("filter", "FORWARD"));
    expect(&finding, Verdict::Warning, &["policy drop", command]);
    let finding = with(wall("firewalld", "filter_FORWARD"));
    let command =
        "nft insert rule inet firewalld filter_FORWARD ct mark and 0xffff0000 == 0x4d500000 accept";
    expect(&finding, Verdict::Warning, &[command]);
    let finding = only(|facts| facts.walls.has_legacy = true);
    expect(&finding, Verdict::Warning, &["iptables-legacy -I FORWARD"]);
    let finding = only(|facts| facts.walls.chains = None);
    expect(&finding, Verdict::Warning, &["nft list ruleset"]);
}

#[test]
fn strict_source_checks_matter_with_several_ways_out() {
    let finding = only(|facts| facts.interfaces[2].is_strict = true);
    expect(
        &finding,
        Verdict::Warning,
        &[
            "strict on eth1.5",
            "sysctl -w net.ipv4.conf.eth1/5.rp_filter=2",
        ],
    );
    let mut facts = good();
    facts.interfaces[1].is_strict = true;
    facts.interfaces[2].has_routes = false;
    let findings = judge(&facts, &wanted());
    assert!(findings.iter().all(|one| one.verdict == Verdict::Fine));
}

#[test]
fn redirects_matter_with_one_interface() {
    let finding = only(|facts| {
        facts.interfaces.pop();
        facts.interfaces[1].sends_redirects = true;
    });
    let command =
        "sysctl -w net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0";
    expect(&finding, Verdict::Warning, &[command]);
    let mut facts = good();
    facts.interfaces[1].sends_redirects = true;
    let findings = judge(&facts, &wanted());
    assert!(findings.iter().all(|one| one.verdict == Verdict::Fine));
}
