//! How many calls of one source are unanswered: no caller may take all ports by calls that nobody answers. A source is a
//! signaling address or a From user, each counted by itself. Pure; an entry goes with its last call.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::proto::{SessionId, Text};

/// How many calls of one source may be unanswered at a time, from the configuration keys of these names; 0 is any number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub max_unanswered_per_address: u32,
    pub max_unanswered_per_user: u32,
}

/// Whose calls are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Where its SIP came from; of IPv6 the /64, as whoever has one address of it has them all.
    Address(IpAddr),
    /// As the From header has it, without case and parameters.
    User(Text),
}

impl Source {
    fn address(address: IpAddr) -> Source {
        Source::Address(match address.to_canonical() {
            IpAddr::V6(six) => Ipv6Addr::from(u128::from(six) >> 64 << 64).into(),
            four => four,
        })
    }

    fn user(uri: &Text) -> Source {
        let bytes = uri.as_bytes();
        let is_end = |byte: &u8| matches!(byte, b';' | b'?');
        let end = bytes.iter().position(is_end).unwrap_or(bytes.len());
        let user = bytes.get(..end).unwrap_or(bytes).to_ascii_lowercase();
        Source::User(Text::from(user.as_slice()))
    }

    /// The key of the configuration that limits it.
    pub fn key(&self) -> &'static str {
        match self {
            Source::Address(_) => "max_unanswered_per_address",
            Source::User(_) => "max_unanswered_per_user",
        }
    }
}

/// A source has as many unanswered calls as it may have.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany {
    pub source: Source,
    limit: u32,
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = match self.limit {
            1 => "1 call".to_owned(),
            count => format!("{count} calls"),
        };
        match &self.source {
            Source::Address(IpAddr::V6(net)) => write!(f, "{net}/64")?,
            Source::Address(address) => address.fmt(f)?,
            Source::User(user) => write!(f, "From user {user}")?,
        }
        let key = self.source.key();
        write!(f, " has {calls} that nobody has answered ({key})")
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UnansweredCalls {
    limits: Limits,
    counts: HashMap<Source, u32>,
    /// Calls that were let in and are no sessions yet.
    placing: HashSet<SessionId>,
}

impl UnansweredCalls {
    pub(super) fn new(limits: Limits) -> UnansweredCalls {
        UnansweredCalls {
            limits,
            ..UnansweredCalls::default()
        }
    }

    /// A call wants to be placed. It counts from now on, until [`UnansweredCalls::placed`] takes it out.
    ///
    /// # Errors
    /// Its source has too many.
    pub(super) fn admit(
        &mut self,
        id: SessionId,
        address: Option<IpAddr>,
        user: &Text,
    ) -> Result<(), TooMany> {
        for (source, limit) in self.sources(address, user) {
            if self
                .counts
                .get(&source)
                .is_some_and(|count| *count >= limit)
            {
                return Err(TooMany { source, limit });
            }
        }
        self.placing.insert(id);
        self.enter(address, user);
        Ok(())
    }

    /// A call is a session now, or will not be one. Returns true if it was let in before, and counts: whoever asks has
    /// to see to it that it leaves.
    pub(super) fn placed(&mut self, id: SessionId) -> bool {
        self.placing.remove(&id)
    }

    /// A call of this source rings.
    pub(super) fn enter(&mut self, address: Option<IpAddr>, user: &Text) {
        for (source, _) in self.sources(address, user) {
            *self.counts.entry(source).or_default() += 1;
        }
    }

    /// It does so no more.
    pub(super) fn leave(&mut self, address: Option<IpAddr>, user: &Text) {
        for (source, _) in self.sources(address, user) {
            if let Some(count) = self.counts.get_mut(&source) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&source);
                }
            }
        }
    }

    /// What a call counts for, and the limit of each; nothing where there is none.
    fn sources(
        &self,
        address: Option<IpAddr>,
        user: &Text,
    ) -> impl Iterator<Item = (Source, u32)> + use<> {
        let (per_address, per_user) = (
            self.limits.max_unanswered_per_address,
            self.limits.max_unanswered_per_user,
        );
        let address = address.filter(|_| per_address > 0).map(Source::address);
        let user = (per_user > 0).then(|| Source::user(user));
        let address = address.map(|source| (source, per_address));
        address.into_iter().chain(user.map(|user| (user, per_user)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ringing(per_address: u32, per_user: u32) -> UnansweredCalls {
        UnansweredCalls::new(Limits {
            max_unanswered_per_address: per_address,
            max_unanswered_per_user: per_user,
        })
    }

    fn id(number: u128) -> SessionId {
        SessionId::from_random(number)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn each_source_has_a_limit_of_its_own() {
        let mut ringing = ringing(2, 3);
        let (here, there, user) = (
            ip("192.0.2.1"),
            ip("192.0.2.2"),
            Text::from("a@example.com"),
        );
        ringing.admit(id(1), here, &user).unwrap();
        ringing.admit(id(2), here, &user).unwrap();
        let refused = ringing.admit(id(3), here, &user).unwrap_err().to_string();
        assert_eq!(
            refused,
            "192.0.2.1 has 2 calls that nobody has answered (max_unanswered_per_address)"
        );
        ringing.admit(id(3), there, &user).unwrap();
        let refused = ringing.admit(id(4), there, &"A@Example.com;x=1".into());
        assert_eq!(
            refused.unwrap_err().to_string(),
            "From user a@example.com has 3 calls that nobody has answered (max_unanswered_per_user)"
        );
        ringing
            .admit(id(4), there, &"b@example.com".into())
            .unwrap();
        let refused = ringing.admit(id(5), None, &user).unwrap_err();
        assert_eq!(refused.source.key(), "max_unanswered_per_user");
        ringing.leave(here, &user);
        ringing.admit(id(5), here, &user).unwrap();
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_ipv4_in_it_is_ipv4() {
        let mut ringing = ringing(1, 0);
        let user = Text::from("a");
        ringing.admit(id(1), ip("2001:db8::1"), &user).unwrap();
        let refused = ringing.admit(id(2), ip("2001:db8::ffff:1"), &user);
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.starts_with("2001:db8::/64 has 1 call that"),
            "{refused}"
        );
        ringing.admit(id(2), ip("2001:db8:0:1::1"), &user).unwrap();
        ringing.admit(id(3), ip("::ffff:192.0.2.1"), &user).unwrap();
        assert!(ringing.admit(id(4), ip("192.0.2.1"), &user).is_err());
    }

    #[test]
    fn nothing_is_left_of_calls_that_have_left_nor_where_there_is_no_limit() {
        let mut limited = ringing(10, 10);
        for number in 0..1000 {
            let (address, user) = (
                ip("192.0.2.1"),
                Text::from(&*format!("{number}@example.com")),
            );
            limited.admit(id(number), address, &user).unwrap();
            assert!(limited.placed(id(number)) && !limited.placed(id(number)));
            limited.leave(address, &user);
        }
        assert!(limited.counts.is_empty() && limited.placing.is_empty());
        let mut open = ringing(0, 0);
        for number in 0..1000 {
            open.admit(id(number), ip("192.0.2.1"), &"a".into())
                .unwrap();
        }
        assert!(open.counts.is_empty());
    }
}
