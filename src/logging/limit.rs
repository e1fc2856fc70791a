//! How many lines one place in the program may log: what a stranger, a client or a peer can cause at will must not fill a
//! disk. Those left out are counted, and told when it is quiet there again, or once a minute. Pure; times are passed in.

use std::collections::HashMap;
use std::time::Duration;

use log::Level;

use crate::moment::Moment;

/// Lines of one place at once, and one more each such time after that.
const BURST: u32 = 100;
const LINE_INTERVAL: Duration = Duration::from_millis(100);

/// A place is quiet when none of its lines was left out for so long.
const QUIET_TIME: Duration = Duration::from_secs(5);
/// A place that never is quiet has its number told this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks which numbers are to be told.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where a line is logged, its file and number in it: there are as many as the program has, whatever peers do.
pub(super) type Site = (&'static str, u32);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Limit {
    sites: HashMap<Site, SiteState>,
    /// Places of which lines were left out, and not told yet.
    silenced: usize,
    look_at: Moment,
}

#[derive(Debug)]
struct SiteState {
    /// When all that was logged would be through if it came at its regular pace.
    paid: Moment,
    left_out: u64,
    /// Of those: when the first and the last came, and what the first one said.
    first: Moment,
    last: Moment,
    level: Level,
    example: String,
}

impl Limit {
    /// Returns true if this line may be written. Else it is counted.
    pub(super) fn admits(&mut self, site: Site, level: Level, text: &str, now: Moment) -> bool {
        let state = self.sites.entry(site).or_insert(SiteState {
            paid: now,
            left_out: 0,
            first: now,
            last: now,
            level,
            example: String::new(),
        });
        let paid = state.paid.max(now) + LINE_INTERVAL;
        if paid <= now + LINE_INTERVAL * BURST {
            state.paid = paid;
            return true;
        }
        if state.left_out == 0 {
            self.silenced += 1;
            state.first = now;
            state.level = level;
            text.clone_into(&mut state.example);
        }
        state.left_out += 1;
        state.last = now;
        false
    }

    /// Something will be to be told.
    pub(super) fn is_waiting(&self) -> bool {
        self.silenced > 0
    }

    /// What is to be told now, of each place one line; of all places where this is the end.
    pub(super) fn due(&mut self, now: Moment, is_end: bool) -> Vec<(Level, String)> {
        if !self.is_waiting() || now < self.look_at && !is_end {
            return Vec::new();
        }
        self.look_at = now + LOOK_INTERVAL;
        let is_due = |state: &&mut SiteState| {
            let is_time = now >= state.last + QUIET_TIME || now >= state.first + REPORT_INTERVAL;
            state.left_out > 0 && (is_time || is_end)
        };
        let due: Vec<_> = self.sites.values_mut().filter(is_due).collect();
        self.silenced -= due.len();
        due.into_iter().map(|state| state.told(now)).collect()
    }
}

impl SiteState {
    fn told(&mut self, now: Moment) -> (Level, String) {
        let count = std::mem::take(&mut self.left_out);
        let seconds = now.since(self.first).as_secs().max(1);
        let text = format!(
            "{count} more lines like the next one were left out in {seconds} s: {}",
            std::mem::take(&mut self.example)
        );
        (self.level, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Site = ("here.rs", 1);

    fn at(milliseconds: u64) -> Moment {
        Moment::after_start(Duration::from_millis(milliseconds))
    }

    fn count(limit: &mut Limit, site: Site, times: impl Iterator<Item = u64>) -> usize {
        let mut admits = |time| limit.admits(site, Level::Warn, &format!("at {time}"), at(time));
        times.filter(|time| admits(*time)).count()
    }

    #[test]
    fn a_burst_and_ten_a_second_of_each_place() {
        let mut limit = Limit::default();
        let flood = (0..60_000).flat_map(|time| [time; 4]);
        assert_eq!(count(&mut limit, HERE, flood), 100 + 599);
        let other = ("here.rs", 2);
        assert_eq!(
            count(&mut limit, other, 0..50),
            50,
            "has nothing to do with it"
        );
        // What comes no faster than that is never left out.
        let steady = (0..100_000).step_by(100);
        assert_eq!(count(&mut limit, ("slow.rs", 1), steady), 1000);
    }

    #[test]
    fn the_rest_is_told_when_it_is_quiet_and_once_a_minute() {
        let mut limit = Limit::default();
        assert!(!limit.is_waiting());
        assert_eq!(count(&mut limit, HERE, [7; 3512].into_iter()), 100);
        assert!(limit.is_waiting());
        assert_eq!(limit.due(at(4000), false), []);
        let told = "3412 more lines like the next one were left out in 5 s: at 7";
        assert_eq!(limit.due(at(5007), false), [(Level::Warn, told.to_owned())]);
        assert!(!limit.is_waiting() && limit.due(at(90_000), false).is_empty());
        // One that goes on and on.
        let mut lines = Vec::new();
        for second in 100..230 {
            count(&mut limit, HERE, [second * 1000; 50].into_iter());
            lines.extend(limit.due(at(second * 1000 + 1), false));
        }
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].1.contains(" in 60 s: at "), "{lines:?}");
        assert_eq!(limit.due(at(230_000), true).len(), 1, "the end tells all");
    }
}
