//! Takes over the calls of the process before this one, before anything else is done: their ports are bound again, what the
//! kernel forwards goes on there without a gap, and what cannot be had any more is ended and reported.

use std::fmt;
use std::thread;
use std::time::Duration;

use log::{info, warn};

use super::shared::Shared;
use super::state_log::{Legacy, Saved};
use super::worker::Worker;
use crate::moment::Moment;
use crate::session::{self, Owner};
use crate::sys::clock;
use crate::words::counted;

/// What became of the calls of the process before this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TakenOver {
    pub adopted: usize,
    /// Ended, and told as expired; or not to be read.
    pub lost: usize,
    pub took: Duration,
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TakenOver {
            adopted,
            lost,
            took,
        } = self;
        write!(f, "took over {}", counted(*adopted, "call"))?;
        if *lost > 0 {
            write!(f, " ({lost} could not be)")?;
        }
        write!(f, " in {:.2} s", took.as_secs_f32())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_over_is_one_line() {
        let mut taken_over = TakenOver {
            adopted: 350,
            lost: 0,
            took: Duration::from_millis(184),
        };
        assert_eq!(taken_over.to_string(), "took over 350 calls in 0.18 s");
        taken_over.lost = 2;
        assert_eq!(
            taken_over.to_string(),
            "took over 350 calls (2 could not be) in 0.18 s"
        );
    }
}
