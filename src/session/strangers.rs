//! Tells the log of sources that send to calls and are not believed: one line for a call, one for all in a minute, as a
//! flood has no end.

use std::net::SocketAddr;
use std::time::Duration;

use log::{info, warn};

use crate::moment::Moment;
use crate::proto::{CallId, Component, Party};

const MINUTE: Duration = Duration::from_secs(60);
/// Lines for calls in one minute; a flood over a range reaches all of them.
const LINES_A_MINUTE: u32 = 10;

/// What was told of late.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// The minute began; none where nothing was refused since the last one.
    since: Option<Moment>,
    lines: u32,
    /// Calls that had no line of their own.
    untold: u64,
    packets: u64,
    last: Option<SocketAddr>,
}

impl Strangers {
    /// A packet of a call was refused, and nothing speaks for who sent it. The call may have a line of that already.
    pub(super) fn note(
        &mut self,
        call_id: &CallId,
        is_told: &mut bool,
        (party, component): (Party, Component),
        from: SocketAddr,
        now: Moment,
    ) {
        let is_first = !std::mem::replace(is_told, true);
        if self.count(is_first, from, now) {
            info!(
                "[session {call_id}] {from} sends {component} to the {party}'s port, and nothing says that it is the {party}: \
                 refused until it is a stream and nobody better is heard (learning)"
            );
        }
    }

    /// Returns true if a call's first such packet has a line of its own.
    fn count(&mut self, is_first: bool, from: SocketAddr, now: Moment) -> bool {
        self.tick(now);
        self.since.get_or_insert(now);
        self.packets += 1;
        self.last = Some(from);
        let has_line = is_first && self.lines < LINES_A_MINUTE;
        self.lines += u32::from(has_line);
        self.untold += u64::from(is_first && !has_line);
        has_line
    }

    /// When [`Strangers::tick`] has something to say.
    pub(super) fn due(&self) -> Option<Moment> {
        Some(self.since.filter(|_| self.untold > 0)? + MINUTE)
    }

    /// Says what was left out when the minute is over.
    pub(super) fn tick(&mut self, now: Moment) {
        if self.since.is_none_or(|since| now < since + MINUTE) {
            return;
        }
        let over = std::mem::take(self);
        if let Some(from) = over.last.filter(|_| over.untold > 0) {
            warn!(
                "{} packets of unknown sources were refused in a minute, at the ports of {} more calls: the last came \
                 from {from}; explain CALL shows what is known of a call",
                over.packets, over.untold
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_calls_have_a_line_and_the_rest_one_when_the_minute_is_over() {
        let mut strangers = Strangers::default();
        let from = SocketAddr::new([192, 0, 2, 1].into(), 5000);
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        let lines = (0..10).filter(|_| strangers.count(true, from, at(5)));
        assert_eq!(lines.count(), 10);
        assert_eq!(strangers.due(), None, "all was said");
        let lines = (0..500).filter(|number| strangers.count(number % 2 == 0, from, at(6)));
        assert_eq!(lines.count(), 0);
        assert_eq!((strangers.packets, strangers.untold), (510, 250));
        assert_eq!(strangers.due(), Some(at(65)));
        strangers.tick(at(64));
        assert_eq!(strangers.untold, 250, "not yet");
        strangers.tick(at(65));
        assert_eq!((strangers.packets, strangers.due()), (0, None));
        assert!(strangers.count(true, from, at(100)), "a new minute");
    }
}
