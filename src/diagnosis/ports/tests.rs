//! Tests of ports.

use super::*;
use crate::diagnosis::sockets::parse;
use crate::diagnosis::tests::namespace::{in_namespace, shell};

fn wanted() -> Wanted {
    Wanted {
        relay_ip: Ipv4Addr::LOCALHOST,
        auto_detect: false,
        port_range: (40000, 40100),
        mark: 0,
        mark_mask: 0,
    }
}

#[test]
fn ports_of_others_are_read_from_proc() {
    let table = "  sl  local_address rem_address   st\n\
        12: 00000000:9C40 00000000:0000 07 0:0 00:0 0 0 0 71 2\n 13: 0100007F:9C42 00000000:0000 07 0:0 00:0 0 0 0 72 2\n\
        14: 0200007F:9C44 00000000:0000 07 0:0 00:0 0 0 0 73 2\n 15: 00000000:9C46 00000000:0000 07\n junk\n";
    let found = parse(table).into_iter();
    let found = by_inode(found.filter(|one| hinders(one.local.ip(), Ipv4Addr::LOCALHOST)));
    let want = if cfg!(target_endian = "little") {
        vec![(71, 40000), (72, 40002)]
    } else {
        vec![(71, 40000)]
    };
    assert_eq!(found, want.into_iter().collect());
    let finding = taken_by_others(&wanted(), [39999, 40000, 40002, 40100].into_iter());
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.text.starts_with("2 of 100 ports"), "{finding:?}");
    assert_eq!(
        taken_by_others(&wanted(), [40100].into_iter()).severity,
        Severity::Fine
    );
}

#[test]
fn a_bound_port_is_seen() {
    // Where nobody else binds: a socket that goes hides another one from who reads on.
    in_namespace("bound ports", || {
        shell("ip link set lo up");
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let seen = |address| {
            bound_udp_ports(address)
                .into_values()
                .any(|one| one == port)
        };
        assert!(seen(Ipv4Addr::LOCALHOST) && !seen(Ipv4Addr::new(127, 0, 0, 2)));
    });
}

#[test]
fn ports_beside_a_relay_are_those_of_others() {
    in_namespace("ports beside a relay", || {
        shell("ip link set lo up");
        let bind = |port| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let _sockets = [40000, 40002, 40098].map(bind);
        let inode = |port| {
            let bound = bound_udp_ports(Ipv4Addr::LOCALHOST);
            let mut bound = bound.into_iter().filter(|(_, one)| *one == port);
            bound.next().unwrap().0
        };
        let own = HashSet::from([40000, 40002].map(inode));
        let found = of_others(&wanted(), || Some(own.clone())).unwrap();
        let begin = "1 of 100 ports are taken by other programs, 40098 among them";
        assert!(found.text.starts_with(begin), "{found:?}");
        // A port that comes while they are told of, and one that goes.
        let mut passing = Some(bind(40096));
        let all = own.iter().copied().chain([inode(40098)]).collect();
        let found = of_others(&wanted(), || {
            drop(passing.take());
            passing = Some(bind(40094));
            Some(all)
        });
        assert_eq!(found, None);
        assert_eq!(of_others(&wanted(), || None), None);
    });
}

#[test]
fn what_fits_is_what_is_neither_bound_nor_without_files() {
    in_namespace("room of a relay", || {
        shell("ip link set lo up");
        let bind = |port| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let streams = |own: Option<&HashSet<u64>>, files| {
            let Streams { left, all } = streams(&wanted(), own, files);
            (left, all)
        };
        assert_eq!(streams(None, None), (25, 25));
        let _other = bind(40_099);
        assert_eq!(streams(Some(&HashSet::new()), None), (24, 25));
        let sockets: Vec<_> = (40_000..40_096).map(bind).collect();
        let inodes = |socket: &std::net::UdpSocket| {
            let port = socket.local_addr().unwrap().port();
            let bound = by_inode(listed("udp"))
                .into_iter()
                .find(|(_, one)| *one == port);
            bound.unwrap().0
        };
        let own: HashSet<u64> = sockets.iter().map(inodes).collect();
        assert_eq!(streams(Some(&own), None), (0, 25), "one pair is no stream");
        assert_eq!(streams(None, None), (0, 25), "whose they are is not seen");
        let files = |count: u64| Some(OTHER_FILES + count);
        assert_eq!(streams(Some(&own), files(96)), (0, 24));
        drop(sockets);
        assert_eq!(streams(Some(&own), files(40)), (10, 10));
    });
}

#[test]
fn a_range_that_others_have_is_a_problem() {
    let rtp = (40_000..40_100).step_by(2);
    let verdict = |free: usize| taken_by_others(&wanted(), rtp.clone().skip(free)).severity;
    assert_eq!(
        [0, 1, 2].map(verdict),
        [Severity::Problem, Severity::Problem, Severity::Warning]
    );
}

#[test]
fn a_relay_that_runs_is_named() {
    in_namespace("a relay that runs", || {
        assert_eq!(look(&wanted())[0].severity, Severity::Fine);
        let _held = range_lock::lock((40098, 40200)).unwrap();
        let finding = &look(&wanted())[0];
        assert_eq!(finding.severity, Severity::Warning);
        assert!(
            finding.text.contains("a relay with ports 40098 to 40199"),
            "{finding:?}"
        );
    });
}

#[test]
fn files_that_do_not_suffice() {
    assert_eq!(
        files(100 + OTHER_FILES, None, &wanted()).severity,
        Severity::Fine
    );
    let finding = files(40 + OTHER_FILES, Some(1_000_000), &wanted());
    assert!(
        finding.text.contains("10 streams fit") && finding.text.contains("room for 25"),
        "{finding:?}"
    );
    assert!(!finding.text.contains("sysctl"), "{finding:?}");
    let finding = files(40 + OTHER_FILES, Some(99), &wanted());
    assert!(
        finding
            .text
            .contains("sysctl -w fs.nr_open=228, and LimitNOFILE=228")
    );
}
