//! What others must be able to do while an attack goes on: an honest relay comes back, an administrator asks, a scraper
//! scrapes, and a dialog's end is what the SIP proxy says of it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use mediaproxy::sys::clock;

use super::field::Target;
use super::rogues::Peer;
use crate::support::management;
use crate::support::proxy::Proxy;

/// In so long each has to be done.
const LIMIT: Duration = Duration::from_secs(2);

/// Where the honest ones come from.
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
const ADMINISTRATOR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 78);

/// Something that must be possible, and what it is called.
pub type Probe = (&'static str, fn(&Target) -> Result<(), String>);

/// Runs one; how long it took, or what went wrong.
pub fn run((name, probe): Probe, target: &Target) -> Result<Duration, String> {
    let start = clock::moment();
    let done = probe(target);
    let taken = clock::moment() - start;
    match done {
        Ok(()) if taken <= LIMIT => Ok(taken),
        Ok(()) => Err(format!("{name}: {} ms", taken.as_millis())),
        Err(why) => Err(format!("{name}: {why}")),
    }
}

pub const RELAY_CONNECTS: Probe = ("a relay that was here before connects", |target| {
    let mut relay = Peer::relay(target, RELAY)?;
    // It takes no calls: it is here to be let in.
    relay.introduce("honest", "[]").map_err(|e| e.to_string())?;
    relay.say("ping").map_err(|e| e.to_string())?;
    while relay.line().map_err(|e| e.to_string())? != "pong" {}
    relay.reader.closer().close();
    Ok(())
});

pub const ADMINISTRATOR_ASKS: Probe = ("an administrator asks over TLS", |target| {
    let mut client = Peer::administrator(target, ADMINISTRATOR)?;
    client.say("version").map_err(|e| e.to_string())?;
    while !client.line().map_err(|e| e.to_string())?.is_empty() {}
    Ok(())
});

pub const ADMINISTRATOR_ASKS_HERE: Probe = ("an administrator asks on the host", |target| {
    // Not for a summary, which waits for relays that do not answer.
    let lines = management::ask(&target.management_socket, "version").map_err(|e| e.to_string())?;
    if lines.is_empty() {
        Err("no version".to_owned())
    } else {
        Ok(())
    }
});

pub const BOTH_SCRAPED: Probe = ("both daemons are scraped", |target| {
    target
        .metrics
        .iter()
        .try_for_each(|address| scrape(*address))
});

fn scrape(address: SocketAddr) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{address}: {error}");
    let mut socket = TcpStream::connect(address).map_err(told)?;
    socket.set_read_timeout(Some(LIMIT)).map_err(told)?;
    socket
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .map_err(told)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).map_err(told)?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.contains("mediaproxy_") {
        Ok(())
    } else {
        Err(format!("{address}: {answer:.100}"))
    }
}

/// OpenSIPS is busy, and says so when it is asked to end this call: whoever says something else is believed wrongly.
pub const DIALOG_REFUSED: Probe = (
    "the end of a dialog is refused, as OpenSIPS refuses it",
    |target| {
        let mut proxy = Proxy::connect(&target.control).map_err(|e| e.to_string())?;
        let message = |kind: &str, tag: &str, port: u16| {
            format!(
                "update\r\ntype: {kind}\r\ndialog_id: 8800000\r\ncall_id: probed\r\ncseq: 1\r\nfrom_uri: carol@example.com\r\n\
             to_uri: dave@example.com\r\nfrom_tag: from\r\nto_tag: {tag}\r\nuser_agent: phone\r\nsignaling_ip: 127.0.0.1\r\n\
             media_relay: 127.0.0.1\r\nmedia: audio:127.0.9.1:{port}:sendrecv:ice=no\r\n\r\n"
            )
        };
        for request in [message("request", "", 4000), message("reply", "to", 4002)] {
            let answer = proxy.ask(&request).map_err(|e| e.to_string())?;
            if answer == "error" {
                return Err("the call was refused".to_owned());
            }
        }
        let told =
            management::ask(&target.management_socket, "end probed").map_err(|e| e.to_string());
        let removed =
            proxy.ask("remove\r\ncall_id: probed\r\nfrom_tag: from\r\nto_tag: to\r\n\r\n");
        let told = told?.join(" / ");
        match (
            told.starts_with("error") && told.contains("busy"),
            removed.as_deref(),
        ) {
            (true, Ok("removed")) => Ok(()),
            _ => Err(format!("{told}; then {removed:?}")),
        }
    },
);
