//! What a host must have for a relay, and above all for media in the kernel: looked at before the relay starts, by
//! its own start and by `media-relay --check`. Each finding that is not fine says what mends it.
//!
//! ```text
//!  prepare        what the relay changes on the host when it starts, then the findings
//!  main           all of `media-relay --check`: a table                                   table
//!  kernel         judges the host for the kernel path          host, probe, sysctl look
//!  service        ports, files, dispatchers                    certificates, told
//! ```

mod barrier;
mod certificates;
pub mod host;
mod kernel;
pub mod obstacles;
mod probe;
pub mod requirements;
mod service;
pub mod stuck_flow;
pub mod sysctl;
mod table;
#[cfg(test)]
pub mod testing;
pub mod told;

use std::collections::HashSet;
use std::io::{self, Write};
use std::process::ExitCode;

pub use self::barrier::{Barrier, Protocol, barriers};
pub use self::certificates::certificates;
use self::requirements::Wanted;
pub use self::service::Streams;
use self::table::Table;
use crate::cli::Options;
use crate::config::{self, Forwarding, Loaded, RelayConfig};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Fine,
    /// Works, but not as well as it could, or not for everybody.
    Warning,
    /// Does not work.
    Problem,
}

/// What it is bad for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Any relay.
    Relay,
    /// Media in the kernel.
    Kernel,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub need: Need,
    /// What was looked at, in a word or two.
    pub subject: String,
    pub verdict: Verdict,
    /// What there is; where it is not fine, what is wrong and the command or file that mends it.
    pub text: String,
}

impl Finding {
    fn new(need: Need, subject: &str, verdict: Verdict, text: impl Into<String>) -> Finding {
        Finding {
            need,
            subject: subject.to_owned(),
            verdict,
            text: text.into(),
        }
    }

    /// How bad it is with this setting: a relay that can do without the kernel works all the same.
    pub fn weight(&self, forwarding: Forwarding) -> Verdict {
        match (self.need, forwarding) {
            (Need::Kernel, Forwarding::Auto) => self.verdict.min(Verdict::Warning),
            _ => self.verdict,
        }
    }
}

/// What the relay does to the host when it starts and is to use the kernel: conntrack counts from now on, and no
/// program is given a port of the range by chance. Then everything that the kernel path needs, judged.
pub fn prepare(wanted: &Wanted) -> Vec<Finding> {
    // The probe comes first, since it loads what has the settings; the settings are looked at again.
    let mut facts = host::look(wanted);
    if facts.accounting.value != Some(1) {
        let written = sysctl::write(host::ACCOUNTING, "1");
        facts.accounting.value = sysctl::number(host::ACCOUNTING);
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
        |finding: &&Finding| finding.need == Need::Kernel && finding.verdict == Verdict::Problem;
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
        .filter(|one| one.need == Need::Kernel && one.verdict == Verdict::Warning)
}

/// `media-relay --check`: prints what was found. Exit status 0 when nothing is a problem, else 1.
pub fn main(options: &Options) -> ExitCode {
    let loaded = match config::load_relay(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let forwarding = loaded.config.forwarding;
    let findings = look(&loaded);
    // Nobody to read it is no reason to fail.
    let _ = io::stdout().write_all(Table::new(&findings, forwarding).to_string().as_bytes());
    let worst = findings
        .iter()
        .map(|finding| finding.weight(forwarding))
        .max();
    match worst {
        Some(Verdict::Problem) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// Everything that `--check` looks at.
pub fn look(loaded: &Loaded<RelayConfig>) -> Vec<Finding> {
    let mut findings = files(loaded);
    findings.extend(host(&loaded.config));
    findings
}

/// What must be readable with the rights of the calling thread.
pub fn files(loaded: &Loaded<RelayConfig>) -> Vec<Finding> {
    let mut findings = service::configuration(loaded);
    findings.extend(certificates(&loaded.config.tls.certs_path, "relay"));
    findings
}

/// All the rest. The kernel's part needs root's rights, or the relay's.
pub fn host(config: &RelayConfig) -> Vec<Finding> {
    let (address, wanted) = wanted(config);
    let mut findings = vec![address];
    let (reached, addresses) = service::dispatchers(&config.dispatchers);
    let relay_ip = wanted.map(|wanted| wanted.relay_ip);
    findings.extend(relay_ip.and_then(|ip| told::judge(config, ip, addresses.into_iter())));
    if let Some(wanted) = wanted {
        findings.extend(service::ports(&wanted));
        findings.extend(match config.forwarding {
            Forwarding::Userspace => kernel::not_needed(),
            _ => kernel::judge(&host::look(&wanted), &wanted),
        });
    }
    findings.extend(reached);
    findings
}

/// What is to be looked for, where it is known at which address.
fn wanted(config: &RelayConfig) -> (Finding, Option<Wanted>) {
    let (finding, relay_ip) = service::address(config);
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
    service::ports_beside(&wanted, own)
}

/// How many streams fit into a relay that runs; `own` and `files` as of [`service::streams`].
pub fn streams(
    config: &RelayConfig,
    own: Option<&HashSet<u64>>,
    files: Option<u64>,
) -> Option<Streams> {
    let wanted = wanted(config).1?;
    Some(service::streams(&wanted, own, files))
}

#[cfg(test)]
mod tests {
    use super::testing::{in_namespace, shell};
    use super::*;
    use std::net::Ipv4Addr;

    fn finding(need: Need, verdict: Verdict, text: &str) -> Finding {
        Finding::new(need, "subject", verdict, text)
    }

    #[test]
    fn what_makes_the_kernel_path_impossible_is_one_sentence() {
        let mut findings = vec![
            finding(Need::Kernel, Verdict::Warning, "a"),
            finding(Need::Relay, Verdict::Problem, "b"),
        ];
        assert_eq!(problems_for_kernel(&findings), None);
        findings.push(finding(Need::Kernel, Verdict::Problem, "c: do d"));
        assert_eq!(
            problems_for_kernel(&findings).unwrap(),
            "the kernel cannot forward media: c: do d"
        );
        findings.push(finding(Need::Kernel, Verdict::Problem, "e"));
        let text = problems_for_kernel(&findings).unwrap();
        assert!(text.ends_with("c: do d (and 1 more: media-relay --check shows all)"));
    }

    #[test]
    fn problems_of_the_kernel_path_are_warnings_where_user_space_will_do() {
        let kernel = finding(Need::Kernel, Verdict::Problem, "");
        let relay = finding(Need::Relay, Verdict::Problem, "");
        assert_eq!(kernel.weight(Forwarding::Auto), Verdict::Warning);
        assert_eq!(kernel.weight(Forwarding::Kernel), Verdict::Problem);
        assert_eq!(relay.weight(Forwarding::Auto), Verdict::Problem);
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
            let findings = kernel::judge(&host::look(&wanted()), &wanted());
            assert!(
                findings
                    .iter()
                    .any(|finding| finding.text.contains("when it starts"))
            );
            assert_eq!(shell(settings), before);
        });
    }
}
