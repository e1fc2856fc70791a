//! The end of a relay whose calls go on: they stay in the kernel, and their state on disk, for the process that comes next.

use std::sync::atomic::Ordering;

use crossbeam_channel::unbounded;
use log::warn;

use super::message::Message;
use super::{CLOSING_LIMIT, KERNEL_LIMIT, REPORTING_LIMIT, Running};
use crate::sys::clock;

impl Running {
    /// Returns true if calls can go to another process: their state is kept, and it is wanted.
    pub fn can_hand_over(&self) -> bool {
        self.shared.state.is_some() && !self.shared.settings.adopt_within.is_zero()
    }

    /// Takes no request any more, answers those that were taken, saves all calls, and ends the threads. What the kernel
    /// forwards stays there for `adopt_within`. Once is enough.
    pub fn hand_over(&self) {
        let shared = &self.shared;
        if shared.ending.has_begun() {
            return;
        }
        // What dispatchers ask from now on is for the next process.
        shared.is_handing_over.store(true, Ordering::Relaxed);
        let within = shared.settings.adopt_within;
        for dispatcher in shared.dispatchers.all() {
            dispatcher.queue.say_leaving(within);
        }
        let deadline = clock::moment() + REPORTING_LIMIT;
        self.await_workers(Message::Settle, deadline, "answer its requests");
        self.close_links(deadline.min(clock::moment() + CLOSING_LIMIT));
        shared
            .sockets
            .settle(deadline.min(clock::moment() + CLOSING_LIMIT));
        let (release, released) = unbounded();
        let message = |done| Message::HandOver(done, released.clone());
        self.await_workers(message, deadline, "save its calls");
        shared.sockets.settle(deadline);
        if !shared.kernel.leave(within, KERNEL_LIMIT) {
            warn!("the kernel thread did not end in time");
        }
        if let Some(state) = &shared.state {
            state.leave(within, CLOSING_LIMIT);
        }
        if let Some(spool) = &shared.ended.spool {
            spool.quit(CLOSING_LIMIT);
        }
        self.end_threads();
        drop(release);
    }
}
