//! What a relay needs of its host: an address, ports, open files. Taken by the relay at its start, judged here before.

use std::net::{Ipv4Addr, SocketAddr};

use log::warn;

use crate::sys::route;
use crate::sys::udp::MediaSocket;

/// Descriptors that a pair needs; a stream has one for each side.
pub const FILES_PER_PAIR: u64 = 2;

/// One for each side.
pub const PAIRS_PER_STREAM: usize = 2;

/// Open files beside media sockets.
pub const OTHER_FILES: u64 = 128;

/// What of the settings the host is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub relay_ip: Ipv4Addr,
    /// Each party gets the address of the interface that leads to it: any of them may carry media.
    pub auto_detect: bool,
    /// First port and the end, which is not included.
    pub port_range: (u16, u32),
    pub mark: u32,
    pub mark_mask: u32,
}

impl Wanted {
    /// The last port of the range.
    pub fn last_port(&self) -> u16 {
        u16::try_from(self.port_range.1.saturating_sub(1)).unwrap_or(u16::MAX)
    }

    pub fn ports(&self) -> u32 {
        let (first, end) = self.port_range;
        end.saturating_sub(u32::from(first))
    }
}

/// The address that media goes to: the one that is configured, or that of the interface with the default route.
///
/// # Errors
/// A sentence that names the setting.
pub fn relay_address(configured: Option<Ipv4Addr>, auto_detect: bool) -> Result<Ipv4Addr, String> {
    let Some(address) = configured else {
        return default_address(auto_detect);
    };
    MediaSocket::bind(SocketAddr::from((address, 0)))
        .map_err(|error| format!("relay_ip = {address}: media cannot be bound there: {error}; ip -4 address shows this host's"))?;
    Ok(address)
}

/// The address of the interface with the default route. A relay that takes each party's own can do without that
/// route: any address will do where nothing is known of a party.
fn default_address(auto_detect: bool) -> Result<Ipv4Addr, String> {
    let error = match route::default_address() {
        Ok(address) => return Ok(address),
        Err(error) => error,
    };
    if auto_detect {
        if let Ok(Some(address)) = route::first_address() {
            warn!(
                "there is no default route: {address} is used where no route to a party is known"
            );
            return Ok(address);
        }
    }
    Err(format!(
        "there is no default route to take the relay's address from ({error}): set relay_ip"
    ))
}
