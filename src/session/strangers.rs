//! Tells the log of sources that send to calls and are not believed: one line for a call, one for all in a minute, as a
//! flood has no end.

use std::net::SocketAddrV4;
use std::time::Duration;

use log::{info, warn};

use super::call::Session;
use crate::proto::{Component, Party};

const MINUTE: Duration = Duration::from_secs(60);
/// Lines for calls in one minute; a flood over a range reaches all of them.
const LINES: u32 = 10;

/// What was told of late.
#[derive(Debug, Default)]
pub struct Strangers {
    since: Option<Duration>,
    lines: u32,
    /// Calls that had no line of their own.
    untold: u64,
    packets: u64,
}

impl Strangers {
    /// A packet was refused, and nothing speaks for who sent it.
    pub fn note(
        &mut self,
        session: &mut Session,
        (party, component): (Party, Component),
        from: SocketAddrV4,
        now: Duration,
    ) {
        self.packets += 1;
        if self.since.is_none_or(|since| now >= since + MINUTE) {
            if self.since.is_some() && self.untold > 0 {
                warn!(
                    "{} packets of unknown sources were refused in a minute, at the ports of {} more calls: the last came \
                     from {from}; explain CALL shows what is known of a call",
                    self.packets, self.untold
                );
            }
            *self = Strangers {
                since: Some(now),
                ..Strangers::default()
            };
        }
        if std::mem::replace(&mut session.stranger_told, true) {
            return;
        }
        if self.lines == LINES {
            self.untold += 1;
            return;
        }
        self.lines += 1;
        info!(
            "[session {}] {from} sends {component} to the {party}'s port, and nothing says that it is the {party}: \
             refused until it is a stream and nobody better is heard (learning)",
            session.call_id
        );
    }
}
