//! What a relay's host must have: looked at by its own start, by `media-relay --check` and by `media-admin doctor`.

use std::collections::HashSet;

use super::certificates::certificates;
use super::finding::{Finding, Severity, fine, warning};
use super::ports::{self, Streams};
use super::requirements::Wanted;
use super::{advertised, dispatchers, host_facts, kernel, sysctl};
use crate::config::{Forwarding, Loaded, RelayConfig};

/// What the relay does to the host when it starts and is to use the kernel: conntrack counts from now on, and no
/// program is given a port of the range by chance. Then everything that the kernel path needs, judged.
pub fn prepare(wanted: &Wanted) -> Vec<Finding> {
    // The probe comes first, since it loads what has the settings; the settings are looked at again.
    let mut facts = host_facts::look(wanted);
    if facts.accounting.value != Some(1) {
        let written = sysctl::write(host_facts::ACCOUNTING, "1");
        facts.accounting.value = sysctl::number(host_facts::ACCOUNTING);
        facts.accounting.is_writable = written.is_ok();
    }
    let reserved = sysctl::reserve(wanted.port_range.0, wanted.last_port());
    facts.reserved.value = sysctl::reserved().ok();
    facts.reserved.is_writable = reserved.is_ok();
    kernel::judge(&facts, wanted)
}

/// Why the kernel cannot forward media here, in one sentence; none where it can.
pub fn problems_for_kernel(findings: &[Finding]) -> Option<String> {
    let is_problem =
        |finding: &&Finding| finding.is_for_kernel && finding.severity == Severity::Problem;
    let mut problems = findings.iter().filter(is_problem);
    let first = problems.next()?;
    let more = match problems.count() {
        0 => String::new(),
        more => format!(" (and {more} more: media-relay --check shows all)"),
    };
    Some(format!(
        "the kernel cannot forward media: {}{more}",
        first.text
    ))
}

/// What works, but not as well as it could, in the kernel.
pub fn warnings(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings
        .iter()
        .filter(|one| one.is_for_kernel && one.severity == Severity::Warning)
}

/// Everything that `--check` looks at.
pub fn look(loaded: &Loaded<RelayConfig>) -> Vec<Finding> {
    let mut findings = files(loaded);
    findings.extend(host(&loaded.config));
    findings
}

/// What must be readable with the rights of the calling thread.
pub fn files(loaded: &Loaded<RelayConfig>) -> Vec<Finding> {
    let mut findings = configuration(loaded);
    findings.extend(certificates(&loaded.config.tls.certs_path, "relay"));
    findings
}

fn configuration(loaded: &Loaded<RelayConfig>) -> Vec<Finding> {
    let subject = "configuration";
    let warnings = loaded.warnings.iter();
    let mut findings: Vec<Finding> = warnings.map(|text| warning(subject, text)).collect();
    if findings.is_empty() {
        findings.push(fine(subject, loaded.path.display().to_string()));
    }
    findings
}

/// All the rest. The kernel's part needs root's rights, or the relay's.
pub fn host(config: &RelayConfig) -> Vec<Finding> {
    let (address, wanted) = wanted(config);
    let mut findings = vec![address];
    let (reached, addresses) = dispatchers::reach(&config.dispatchers);
    let relay_ip = wanted.map(|wanted| wanted.relay_ip);
    findings.extend(relay_ip.and_then(|ip| advertised::judge(config, ip, addresses.into_iter())));
    if let Some(wanted) = wanted {
        findings.extend(ports::look(&wanted));
        findings.extend(match config.forwarding {
            Forwarding::Userspace => kernel::not_needed(),
            _ => kernel::judge(&host_facts::look(&wanted), &wanted),
        });
    }
    findings.extend(reached);
    findings
}

/// What is to be looked for, where it is known at which address.
fn wanted(config: &RelayConfig) -> (Finding, Option<Wanted>) {
    let (finding, relay_ip) = ports::address(config);
    let wanted = relay_ip.map(|relay_ip| Wanted {
        relay_ip,
        auto_detect: config.auto_detect_interfaces,
        port_range: (config.port_range.start, config.port_range.end),
        mark: config.mark,
        mark_mask: config.mark_mask,
    });
    (finding, wanted)
}

/// What of the port range of a relay that runs other programs have; `own` tells the inodes of all its sockets.
pub fn ports_beside(
    config: &RelayConfig,
    own: impl FnOnce() -> Option<HashSet<u64>>,
) -> Option<Finding> {
    let wanted = wanted(config).1?;
    ports::of_others(&wanted, own)
}

/// How many streams fit into a relay that runs; `own` and `files` as of [`ports::streams`].
pub fn streams(
    config: &RelayConfig,
    own: Option<&HashSet<u64>>,
    files: Option<u64>,
) -> Option<Streams> {
    let wanted = wanted(config).1?;
    Some(ports::streams(&wanted, own, files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::finding::problem;
    use crate::diagnosis::tests::namespace::{in_namespace, shell};
    use std::net::Ipv4Addr;

    #[test]
    fn what_makes_the_kernel_path_impossible_is_one_sentence() {
        let mut findings = vec![
            warning("subject", "a").for_kernel(),
            problem("subject", "b"),
        ];
        assert_eq!(problems_for_kernel(&findings), None);
        findings.push(problem("subject", "c: do d").for_kernel());
        assert_eq!(
            problems_for_kernel(&findings).unwrap(),
            "the kernel cannot forward media: c: do d"
        );
        findings.push(problem("subject", "e").for_kernel());
        let text = problems_for_kernel(&findings).unwrap();
        assert!(text.ends_with("c: do d (and 1 more: media-relay --check shows all)"));
    }

    fn wanted() -> Wanted {
        Wanted {
            relay_ip: Ipv4Addr::new(192, 0, 2, 1),
            auto_detect: false,
            port_range: (40000, 60000),
            mark: 0x4d50_0000,
            mark_mask: 0xffff_0000,
        }
    }

    #[test]
    fn a_host_is_prepared_and_judged_for_real() {
        in_namespace("a host prepared for the kernel path", || {
            shell(
                "ip link set lo up; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
                 ip addr add 192.0.2.1/24 dev v0; sysctl -qw net.ipv4.ip_forward=0
                 sysctl -qw net.netfilter.nf_conntrack_acct=0 net.ipv4.ip_local_reserved_ports=8080",
            );
            let text = problems_for_kernel(&prepare(&wanted())).unwrap();
            assert!(text.contains("sysctl -w net.ipv4.ip_forward=1"), "{text}");
            shell("sysctl -qw net.ipv4.ip_forward=1");
            let findings = prepare(&wanted());
            assert_eq!(problems_for_kernel(&findings), None, "{findings:?}");
            let set =
                shell("sysctl -n net.netfilter.nf_conntrack_acct net.ipv4.ip_local_reserved_ports");
            assert_eq!(set, "1\n8080,40000-59999\n");
        });
    }

    #[test]
    fn a_look_changes_nothing() {
        in_namespace("a look at a host", || {
            let settings = "sysctl -a 2>/dev/null | grep -e ^net.ipv4 -e '^net.netfilter.nf_conntrack_[ae]'; nft list ruleset";
            shell("sysctl -qw net.netfilter.nf_conntrack_acct=0");
            let before = shell(settings);
            let findings = kernel::judge(&host_facts::look(&wanted()), &wanted());
            assert!(
                findings
                    .iter()
                    .any(|finding| finding.text.contains("when it starts"))
            );
            assert_eq!(shell(settings), before);
        });
    }
}
