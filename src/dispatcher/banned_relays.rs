//! Relays that were cut off, which come back later each time, and what the relays of an address may tell of sessions that
//! are not known, over all their links. Pure: the time is passed in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::limits::{Excess, Records};
use crate::moment::Moment;

/// How long the first one stays away; each further one twice as long.
const FIRST_BAN: Duration = Duration::from_secs(10);
const MAX_BAN: Duration = Duration::from_secs(600);

/// After so long without one, all is forgiven.
const FORGIVEN: Duration = Duration::from_secs(3600);

/// Addresses that are kept; beyond this the one that was quiet for longest is forgotten.
const MAX_ADDRESSES: usize = 1024;

/// Names of an address; beyond this all are meant.
const NAMES: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct BannedRelays(HashMap<IpAddr, Ban>);

#[derive(Debug)]
struct Ban {
    records: Records,
    /// How often one was cut off.
    strikes: u32,
    until: Moment,
    /// Those that were cut off since the last forgiveness.
    names: Vec<Option<Arc<str>>>,
    /// When there was last something to remember.
    last: Moment,
}

impl BannedRelays {
    /// A session's end that is not known, of so many bytes. False where it is to be left out.
    ///
    /// # Errors
    /// As of [`Records::take`].
    pub(super) fn record(
        &mut self,
        address: IpAddr,
        bytes: usize,
        now: Moment,
    ) -> Result<bool, Excess> {
        let place = self.place(address, now);
        place.last = now;
        place.records.take(bytes, now)
    }

    /// A relay was cut off. Returns for how long.
    pub(super) fn cut(&mut self, address: IpAddr, name: Option<&str>, now: Moment) -> Duration {
        let place = self.place(address, now);
        let doubled = FIRST_BAN.saturating_mul(1 << place.strikes.min(10));
        let away = doubled.min(MAX_BAN);
        place.strikes += 1;
        place.until = now + away;
        place.last = now;
        let name = name.map(Arc::from);
        if !place.names.contains(&name) && place.names.len() < NAMES {
            place.names.push(name);
        }
        away
    }

    /// How long a relay is not let in yet. One of that address that is known, and was not cut off itself, is let in.
    pub(super) fn wait(
        &self,
        address: IpAddr,
        name: Option<&str>,
        is_known: bool,
        now: Moment,
    ) -> Option<Duration> {
        let place = self.0.get(&prefix(address))?;
        let is_it = |cut: &Option<Arc<str>>| cut.as_deref() == name;
        let is_meant = !is_known || place.names.len() == NAMES || place.names.iter().any(is_it);
        let left = place.until.since(now);
        (is_meant && !left.is_zero()).then_some(left)
    }

    fn place(&mut self, address: IpAddr, now: Moment) -> &mut Ban {
        let key = prefix(address);
        let is_old = |place: &Ban| place.last + FORGIVEN <= now;
        if self.0.get(&key).is_some_and(is_old) {
            self.0.remove(&key);
        }
        if !self.0.contains_key(&key) && self.0.len() >= MAX_ADDRESSES {
            let quiet = self.0.iter().min_by_key(|(_, place)| place.last);
            let quiet = quiet.map(|(key, _)| *key);
            quiet.map(|key| self.0.remove(&key));
        }
        self.0.entry(key).or_insert_with(|| Ban {
            records: Records::new(now),
            strikes: 0,
            until: Moment::START,
            names: Vec::new(),
            last: now,
        })
    }
}

/// Whoever has an IPv6 address has a network of them.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn r6_who_was_cut_off_stays_away_longer_each_time() {
        let (mut outcasts, here) = (BannedRelays::default(), ip("192.0.2.1"));
        assert_eq!(outcasts.wait(here, Some("a"), false, at(0)), None);
        let times: Vec<u64> = (0..9)
            .map(|_| outcasts.cut(here, Some("a"), at(100)).as_secs())
            .collect();
        assert_eq!(times, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(
            outcasts.wait(here, Some("a"), true, at(150)),
            Some(secs(550))
        );
        assert_eq!(outcasts.wait(here, Some("a"), true, at(700)), None);
        // After an hour without another it is the first again.
        assert_eq!(outcasts.cut(here, Some("a"), at(100 + 3600)), secs(10));
    }

    #[test]
    fn r6_another_name_of_that_address_is_let_in_where_it_is_known() {
        let (mut outcasts, here) = (BannedRelays::default(), ip("2001:db8:1:2:3::4"));
        outcasts.cut(here, Some("rogue"), at(0));
        let wait = |name, is_known| outcasts.wait(ip("2001:db8:1:2::9"), name, is_known, at(1));
        assert_eq!(wait(Some("honest"), true), None);
        assert_eq!(wait(Some("invented"), false), Some(secs(9)));
        assert_eq!(wait(None, false), Some(secs(9)), "an older one");
        assert_eq!(
            outcasts.wait(ip("2001:db8:1:3::9"), None, false, at(1)),
            None
        );
    }

    #[test]
    fn records_count_over_all_links_and_names_and_addresses_are_bounded() {
        let mut outcasts = BannedRelays::default();
        for number in 0..=u32::try_from(MAX_ADDRESSES).unwrap() {
            let there = IpAddr::from(number.to_be_bytes());
            assert_eq!(outcasts.record(there, 1, at(u64::from(number))), Ok(true));
        }
        assert_eq!(outcasts.0.len(), MAX_ADDRESSES);
        assert!(!outcasts.0.contains_key(&ip("0.0.0.0")), "the oldest went");
        let here = ip("192.0.2.1");
        let taken = (0..).take_while(|_| outcasts.record(here, 1, at(2000)) == Ok(true));
        assert_eq!(taken.count(), super::super::limits::RECORDS);
    }
}
