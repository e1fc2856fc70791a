//! Takes over the calls of the process before this one, before anything else is done: their ports are bound again, what the
//! kernel forwards goes on there without a gap, and what cannot be had any more is ended and reported.

use std::thread;

use log::{info, warn};

use super::shared::Shared;
use super::state_log::{Legacy, Saved};
use super::taken_over::TakenOver;
use super::worker::Worker;
use crate::moment::Moment;
use crate::session::{self, Owner};
use crate::sys::clock;
use crate::words::counted;

/// Has the workers, which do not run yet, take over what a process before this one has left.
pub(super) fn take_over(shared: &Shared, workers: &mut [Worker], legacy: Legacy, began: Moment) {
    let Legacy { sessions, too_late } = legacy;
    let found = sessions.len();
    if found == 0 {
        return;
    }
    let shares = distribute(shared, workers.len(), sessions);
    let flows = thread::scope(|scope| {
        let workers = workers.iter_mut().zip(shares);
        let threads: Vec<_> = workers
            .map(|(worker, share)| scope.spawn(move || worker.adopt(share, too_late.is_some())))
            .collect();
        // What a session brings about is caught there.
        let flows = threads.into_iter().filter_map(|thread| thread.join().ok());
        flows.flatten().collect::<Vec<_>>()
    });
    // Also where there is none: what nobody claims goes.
    shared.kernel.adopt(flows);
    let adopted = workers.iter().map(Worker::live_sessions).sum();
    let taken_over = TakenOver {
        adopted,
        lost: found.saturating_sub(adopted),
        took: clock::moment().since(began),
    };
    let _ = shared.taken_over.set(taken_over);
    match too_late {
        Some(within) => warn!(
            "{} handed over to a relay that was to start within {} s: too late, they are reported as ended",
            counted(found, "call"),
            within.as_secs()
        ),
        None => info!("{taken_over}"),
    }
}

/// Each session to its worker, and to who has it now.
fn distribute(shared: &Shared, workers: usize, sessions: Vec<Saved>) -> Vec<Vec<(Saved, Owner)>> {
    let mut shares: Vec<Vec<(Saved, Owner)>> = (0..workers).map(|_| Vec::new()).collect();
    for saved in sessions {
        let known = shared
            .dispatchers
            .of_adopted(saved.dispatcher, saved.confirms);
        let call_id = session::saved_call_id(&saved.state);
        match (known, call_id) {
            (Ok(owner), Ok(call_id)) => {
                if let Some(share) = shares.get_mut(shared.workers.of(&call_id)) {
                    share.push((saved, owner));
                }
            }
            (Err(why), _) | (_, Err(why)) => {
                warn!(
                    "session {} of an earlier run cannot be taken over: {why}",
                    saved.id
                );
                if let Some(log) = &shared.state {
                    log.put([(saved.id, None)]);
                }
            }
        }
    }
    shares
}
