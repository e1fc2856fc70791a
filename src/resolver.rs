//! Which addresses the configured dispatchers have: some are given, names and domains are looked up.
//!
//! A domain's SRV records for `_sip._udp` win over the addresses of the same name (RFC 2782); only their
//! targets count, since their port is the SIP proxy's. What cannot be looked up stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use log::{info, warn};
use simple_dns::Packet;
use simple_dns::rdata::RData;

use crate::config::{DispatcherEntry, Host};
use crate::sys::dns::{self, Failure};

/// The record type (RFC 2782).
const SRV: u16 = 33;

/// What asks the name servers; another one in tests.
pub trait Resolver {
    /// The targets of a name's SRV records.
    ///
    /// # Errors
    /// See [`Failure`].
    fn srv_targets(&mut self, name: &str) -> Result<Vec<String>, Failure>;

    /// The addresses of a host.
    ///
    /// # Errors
    /// Why there are none, for the log.
    fn addresses(&mut self, host: &str) -> Result<Vec<IpAddr>, String>;
}

/// The C library's resolver.
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn srv_targets(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        parse_srv(&dns::query(name, SRV)?).ok_or(Failure::TryAgain)
    }

    fn addresses(&mut self, host: &str) -> Result<Vec<IpAddr>, String> {
        let found = (host, 0u16).to_socket_addrs();
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// The targets in an answer; none where it is not an answer at all. Public for the fuzz targets alone.
#[doc(hidden)]
pub fn parse_srv(answer: &[u8]) -> Option<Vec<String>> {
    let packet = Packet::parse(answer).ok()?;
    let targets = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::SRV(srv) => Some(srv.target.to_string()),
            _ => None,
        });
    // A target of the root says that there is no such service (RFC 2782).
    Some(targets.filter(|target| !target.is_empty()).collect())
}

/// What the configuration's names stand for, as far as it is known.
pub struct Directory {
    entries: Vec<Entry>,
}

struct Entry {
    target: DispatcherEntry,
    known: BTreeSet<IpAddr>,
    /// The last failure, said once.
    failure: Option<String>,
}

impl Directory {
    pub fn new(targets: &[DispatcherEntry]) -> Directory {
        let entry = |target: &DispatcherEntry| Entry {
            target: target.clone(),
            known: match target.host {
                Host::Address(address) => BTreeSet::from([address]),
                Host::Name(_) => BTreeSet::new(),
            },
            failure: None,
        };
        Directory {
            entries: targets.iter().map(entry).collect(),
        }
    }

    /// Returns true if everything is named by its address.
    pub fn is_fixed(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.all(|entry| matches!(entry.target.host, Host::Address(_)))
    }

    /// Returns true if each name stands for somebody, and all of them are known.
    pub fn is_complete(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.all(|entry| !entry.known.is_empty() && entry.failure.is_none())
    }

    /// Looks all names up.
    pub fn refresh(&mut self, resolver: &mut impl Resolver) {
        for entry in &mut self.entries {
            if let Host::Name(name) = &entry.target.host {
                let mut found = BTreeSet::new();
                let looked_up = look_up(name, !entry.known.is_empty(), resolver, &mut found);
                match looked_up {
                    Ok(()) => {
                        entry.known = found;
                        if entry.failure.take().is_some() {
                            info!("dispatchers: {name} is found again");
                        }
                    }
                    Err(why) => {
                        entry.known.append(&mut found);
                        if entry.failure.as_ref() != Some(&why) {
                            let rest = match entry.known.len() {
                                0 => "",
                                _ => "; keeping the known addresses",
                            };
                            warn!("dispatchers: {name}: {why}{rest}");
                            entry.failure = Some(why);
                        }
                    }
                }
            }
        }
    }

    /// All dispatchers, with the name that each goes by.
    pub fn dispatchers(&self) -> BTreeMap<SocketAddr, String> {
        let mut all = BTreeMap::new();
        for entry in &self.entries {
            for address in &entry.known {
                let address = SocketAddr::new(*address, entry.target.port);
                let name = match &entry.target.host {
                    Host::Address(address) => address.to_string(),
                    Host::Name(name) => name.clone(),
                };
                all.entry(address).or_insert(name);
            }
        }
        all
    }
}

/// The addresses behind a name go to `found`; where that fails, those that it was possible to find: one target that
/// is gone keeps nobody from the others. Where its SRV records cannot be asked for, the name itself counts only
/// if nothing better is known.
pub(crate) fn look_up(
    name: &str,
    is_known: bool,
    resolver: &mut impl Resolver,
    found: &mut BTreeSet<IpAddr>,
) -> Result<(), String> {
    match resolver.srv_targets(&format!("_sip._udp.{name}")) {
        Ok(targets) if !targets.is_empty() => {
            let mut result = Ok(());
            for target in targets {
                match resolver.addresses(&target) {
                    Ok(addresses) => found.extend(of_one_family(addresses)),
                    Err(why) => result = Err(format!("{target}: {why}")),
                }
            }
            result
        }
        Err(failure) if is_known && failure != Failure::NoSuchRecord => {
            Err(format!("SRV records: {failure}"))
        }
        _ => {
            found.extend(of_one_family(resolver.addresses(name)?));
            if found.is_empty() {
                return Err("it has no address".to_owned());
            }
            Ok(())
        }
    }
}

/// The IPv4 addresses, or the others where there are none: a host with both is one dispatcher, not two.
fn of_one_family(addresses: Vec<IpAddr>) -> BTreeSet<IpAddr> {
    let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        addresses.into_iter().partition(IpAddr::is_ipv4);
    if v4.is_empty() { v6 } else { v4 }
}

#[cfg(test)]
mod tests;
