//! Looks up again and again which dispatchers there are, and has a link for each. A dispatcher that is no longer named
//! keeps its link until its sessions are over.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use log::{error, info, warn};

use super::backoff::Backoff;
use super::dispatcher::Dispatcher;
use super::link;
use super::message::Message;
use super::shared::Shared;
use crate::resolver::{Directory, Resolver};
use crate::sys::{clock, random};

/// How long the workers may take to count a dispatcher's sessions.
const COUNT_LIMIT: Duration = Duration::from_secs(5);

/// Names that are not found for so long from the start on are not waited for: records are told to those dispatchers that
/// are there.
const SEARCH_LIMIT: Duration = Duration::from_secs(3600);

/// The discovery thread.
pub(super) fn run(shared: &Arc<Shared>, mut directory: Directory, mut resolver: impl Resolver) {
    let interval = shared.settings.dns_check_interval;
    let mut backoff = Backoff::new(interval);
    loop {
        directory.refresh(&mut resolver);
        apply(shared, &directory.dispatchers());
        if directory.is_complete() || clock::moment() > shared.started + SEARCH_LIMIT {
            shared.dispatchers.set_found();
        }
        // A host that starts may have its relay before its network.
        let wait = if directory.is_complete() {
            backoff = Backoff::new(interval);
            interval
        } else {
            backoff.next(random::bits())
        };
        if shared.ending.pause(wait) {
            return;
        }
    }
}

/// Makes a link for each dispatcher that is new, and ends those that are named no more and have no sessions.
pub(super) fn apply(shared: &Arc<Shared>, wanted: &BTreeMap<SocketAddr, String>) {
    for (address, name) in wanted {
        if let Err(why) = link::ensure(shared, *address, name) {
            error!("dispatcher {name} ({address}): {why}");
        }
    }
    for dispatcher in shared.dispatchers.all() {
        if wanted.contains_key(&dispatcher.address) || dispatcher.queue.is_finishing() {
            continue;
        }
        match sessions_of(shared, &dispatcher) {
            Some(0) => {
                info!("{dispatcher}: no longer named, and its sessions are over: closed");
                // Those wait on: it may be named again.
                match dispatcher.queue.kept() {
                    0 => {}
                    left => warn!("{dispatcher}: {left} ended calls were not reported to it"),
                }
                dispatcher.queue.finish();
            }
            Some(count) => info!("{dispatcher}: no longer named; kept for {count} sessions"),
            None => {}
        }
    }
}

/// Sessions that a dispatcher is to be told of; none where the workers do not answer.
fn sessions_of(shared: &Shared, dispatcher: &Dispatcher) -> Option<usize> {
    let (answer, answers) = crossbeam_channel::unbounded();
    let ask = || Message::Owned(dispatcher.owner, answer.clone());
    if !shared.workers.send_all(ask) {
        return None;
    }
    let mut sum = 0;
    for _ in 0..shared.workers.count() {
        sum += answers.recv_timeout(COUNT_LIMIT).ok()?;
    }
    Some(sum)
}
