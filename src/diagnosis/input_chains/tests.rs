//! Tests of input_chains.

use super::*;
use crate::diagnosis::tests::namespace::{in_namespace, shell};

/// Whether what refuses the media of a default relay is certain; none where it gets in.
fn media() -> Option<bool> {
    let found = input_refusals(Protocol::Udp, (40_000, 59_999)).unwrap();
    found.iter().map(InputRefusal::is_sure).max()
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
            let found = input_refusals(Protocol::Udp, (40_000, 59_999)).unwrap();
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
        assert_eq!(
            input_refusals(Protocol::Tcp, (25_060, 25_060)),
            Some(Vec::new())
        );
        let closed = input_refusals(Protocol::Tcp, (25_061, 25_061)).unwrap();
        let want = "chain INPUT of table filter refuses tcp port 25061 by its policy";
        assert_eq!(closed[0].describe(), want);
    });
}
