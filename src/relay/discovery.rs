//! Looks up again and again which dispatchers there are, and has a link for each. A dispatcher that is no longer named
//! keeps its link until its sessions are over.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::{error, info, warn};

use super::Shared;
use super::backoff::Backoff;
use super::link::Link;
use super::message::Message;
use crate::resolver::{Directory, Resolver};
use crate::sys::{clock, random};

/// How long the workers may take to count a dispatcher's sessions.
const COUNT_LIMIT: Duration = Duration::from_secs(5);

/// Names that are not found for so long from the start on are not waited for: records are told to those dispatchers that
/// are there.
const WANTED: Duration = Duration::from_secs(3600);

/// The discovery thread.
pub(super) fn run(shared: &Arc<Shared>, mut directory: Directory, mut resolver: impl Resolver) {
    let interval = shared.settings.dns_check_interval;
    let mut backoff = Backoff::new(interval);
    loop {
        directory.refresh(&mut resolver);
        apply(shared, &directory.dispatchers());
        if directory.is_complete() || clock::mono() > shared.started + WANTED {
            shared.all_found.store(true, Ordering::Relaxed);
        }
        // A host that starts may have its relay before its network.
        let wait = match directory.is_complete() {
            true => {
                backoff = Backoff::new(interval);
                interval
            }
            false => backoff.next(random::bits()),
        };
        if shared.pause(wait) {
            return;
        }
    }
}

/// Makes a link for each dispatcher that is new, and ends those that are named no more and have no sessions.
pub(super) fn apply(shared: &Arc<Shared>, wanted: &BTreeMap<SocketAddr, String>) {
    for (address, name) in wanted {
        if let Err(why) = shared.ensure_link(*address, name) {
            error!("dispatcher {name} ({address}): {why}");
        }
    }
    for link in shared.all_links() {
        if wanted.contains_key(&link.address) || link.outbox.is_finishing() {
            continue;
        }
        match sessions_of(shared, &link) {
            Some(0) => {
                info!("{link}: no longer named, and its sessions are over: closed");
                // Those wait on: it may be named again.
                match link.outbox.kept() {
                    0 => {}
                    left => warn!("{link}: {left} ended calls were not reported to it"),
                }
                link.outbox.finish();
            }
            Some(count) => info!("{link}: no longer named; kept for {count} sessions"),
            None => {}
        }
    }
}

/// Sessions that a dispatcher is to be told of; none where the workers do not answer.
fn sessions_of(shared: &Shared, link: &Link) -> Option<usize> {
    let (answer, answers) = crossbeam_channel::unbounded();
    for worker in &shared.workers {
        let message = Message::Owned(link.owner, answer.clone());
        worker.send(message).ok()?;
    }
    let mut sum = 0;
    for _ in &shared.workers {
        sum += answers.recv_timeout(COUNT_LIMIT).ok()?;
    }
    Some(sum)
}
