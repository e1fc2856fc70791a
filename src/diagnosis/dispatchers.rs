//! Whether a relay's dispatchers can be found and reached.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::daemon::CONNECT_LIMIT;
use super::finding::{Finding, fine, warning};
use crate::config::{DispatcherEntry, Host};
use crate::resolver::{self, SystemResolver};
use crate::sys::clock;

/// After so long somebody who waits is told for what.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// How long names and connections may take in all.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Looks whether each dispatcher can be found and reached, all at the same time, and not for ever; the addresses found.
pub(super) fn reach(targets: &[DispatcherEntry]) -> (Vec<Finding>, BTreeSet<IpAddr>) {
    let (told, answers) = crossbeam_channel::unbounded();
    for (index, target) in targets.iter().enumerate() {
        let (target, told) = (target.clone(), told.clone());
        // A name server that does not answer keeps its thread; the process ends without it.
        let run = move || report(index, connect(&target), &told);
        let _ = thread::Builder::new().spawn(run);
    }
    drop(told);
    let found = collect(targets.len(), &answers, |open| {
        let names: Vec<String> = open
            .iter()
            .map(|index| targets[*index].host.to_string())
            .collect();
        eprintln!("still waiting for {} ...", names.join(", "));
    });
    let known = found.iter().flatten().flatten().flatten();
    let addresses = known.map(|(address, _)| address.ip()).collect();
    let all = targets.iter().zip(found);
    let findings = all.flat_map(|(target, found)| judge(target, found));
    (findings.collect(), addresses)
}

type Reached = Result<Vec<(SocketAddr, io::Result<()>)>, String>;

fn report(index: usize, reached: Reached, told: &Sender<(usize, Reached)>) {
    // Nobody waits any more for what comes late.
    let _ = told.send((index, reached));
}

fn connect(target: &DispatcherEntry) -> Reached {
    let addresses: BTreeSet<IpAddr> = match &target.host {
        Host::Address(address) => BTreeSet::from([*address]),
        Host::Name(name) => {
            let mut found = BTreeSet::new();
            resolver::look_up(name, false, &mut SystemResolver, &mut found)?;
            found
        }
    };
    let connect = |address: IpAddr| {
        let address = SocketAddr::new(address, target.port);
        let connected = TcpStream::connect_timeout(&address, CONNECT_LIMIT);
        (address, connected.map(drop))
    };
    Ok(addresses.into_iter().map(connect).collect())
}

/// The answers in their order, none where there is none in time; `slow` is told once who keeps us waiting.
fn collect(
    count: usize,
    answers: &Receiver<(usize, Reached)>,
    slow: impl FnOnce(&[usize]),
) -> Vec<Option<Reached>> {
    let mut found: Vec<Option<Reached>> = (0..count).map(|_| None).collect();
    let start = clock::moment();
    let mut slow = Some(slow);
    loop {
        let limit = if slow.is_some() {
            SILENCE_LIMIT
        } else {
            TIME_LIMIT
        };
        let left = (start + limit).since(clock::moment());
        match answers.recv_timeout(left) {
            Ok((index, reached)) => found[index] = Some(reached),
            Err(RecvTimeoutError::Timeout) => match slow.take() {
                Some(slow) => {
                    let open = (0..count).filter(|index| found[*index].is_none());
                    slow(&open.collect::<Vec<_>>());
                }
                None => return found,
            },
            Err(RecvTimeoutError::Disconnected) => return found,
        }
    }
}

fn judge(target: &DispatcherEntry, found: Option<Reached>) -> Vec<Finding> {
    let subject = "dispatcher";
    let name = &target.host;
    match found {
        None => vec![warning(
            subject,
            format!("{name}: nothing was heard in {} s: is its name server reachable (getent hosts)?", TIME_LIMIT.as_secs()),
        )],
        Some(Err(why)) => vec![warning(
            subject,
            format!("{name} cannot be looked up ({why}): see [Relay] dispatchers, and /etc/resolv.conf"),
        )],
        Some(Ok(all)) => all
            .into_iter()
            .map(|(address, connected)| match connected {
                Ok(()) => fine(subject, format!("{name} ({address}) accepts connections")),
                Err(error) => warning(
                    subject,
                    format!(
                        "{name} ({address}) cannot be reached ({error}): systemctl status mediaproxy-dispatcher there \
                         tells whether it runs; is TCP port {} open?",
                        target.port
                    ),
                ),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::finding::Severity;
    use std::net::Ipv4Addr;

    #[test]
    fn nobody_waits_for_ever() {
        let (told, answers) = crossbeam_channel::unbounded();
        told.send((1, Err("gone".to_owned()))).unwrap();
        drop(told);
        let found = collect(2, &answers, |_| panic!("not slow"));
        assert!(found[0].is_none() && found[1].is_some());
    }

    #[test]
    fn dispatchers_that_accept_and_that_do_not() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = |host, port| DispatcherEntry { host, port };
        let local = || Host::Address(Ipv4Addr::LOCALHOST.into());
        // Nobody listens on port 1; no name has a blank.
        let (found, addresses) = reach(&[
            target(local(), port),
            target(local(), 1),
            target(Host::Name("no such.invalid".to_owned()), port),
        ]);
        let verdicts: Vec<Severity> = found.iter().map(|finding| finding.severity).collect();
        assert_eq!(
            verdicts,
            [Severity::Fine, Severity::Warning, Severity::Warning],
            "{found:?}"
        );
        assert_eq!(addresses, BTreeSet::from([Ipv4Addr::LOCALHOST.into()]));
    }
}
