//! What is fuzzed: each target takes any bytes and panics where a promise of the code does not hold. Shared
//! by main.rs, which feeds them from libFuzzer, and by tests/fuzz_seeds.rs, which feeds them the seeds.

mod admin;
mod config;
mod desk;
mod dispatcher;
mod engine;
mod journal;
mod links;
mod metrics;
mod proto;
mod radius;
mod rehearsal;
mod relay;
mod saved;
mod tls;
mod words;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use mediaproxy::tls::Store;

/// One parser, or the engine, under any input.
pub struct Target {
    /// Its seeds are in fuzz/seeds/NAME.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Prepares a target before its first input, since this takes longer than libFuzzer allows an input.
    pub prepare: fn(),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    let prepare = || ();
    Target { name, run, prepare }
}

/// One that needs certificates.
const fn with_store(name: &'static str, run: fn(&[u8])) -> Target {
    let prepare = || drop(store());
    Target { name, run, prepare }
}

/// All there are.
pub const TARGETS: &[Target] = &[
    target("admin", admin::run),
    target("certificate", tls::certificate),
    target("config", config::run),
    target("demux", proto::demux),
    target("dialog_answer", desk::dialog_answer),
    target("dns", relay::dns),
    target("drained", desk::drained),
    target("engine", engine::run),
    target("explain", desk::explain),
    target("from_dispatcher", proto::from_dispatcher),
    target("from_relay", proto::from_relay),
    target("http", metrics::http),
    target("journal", journal::run),
    target("ledger", desk::ledger),
    with_store("links", links::run),
    target("management", desk::management),
    target("media", proto::media),
    target("netlink", relay::netlink),
    target("passport", tls::passport),
    target("proxy_requests", proto::proxy_requests),
    target("pem", tls::pem),
    target("position", desk::position),
    target("radius_answer", radius::answer),
    target("radius_files", radius::files),
    target("ranges", proto::ranges),
    with_store("rehearsal", rehearsal::run),
    target("revocations", tls::revocations),
    target("saved", saved::run),
    target("spool", relay::spool),
    target("statistics", dispatcher::statistics),
];

/// Log lines are formatted, so that what they make of the input is fuzzed as well, and thrown away.
struct Discard;

impl log::Log for Discard {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut line = Vec::new();
        let _ = write!(line, "{}", record.args());
        assert!(
            !line.iter().any(u8::is_ascii_control),
            "a control character in a log line: {}",
            String::from_utf8_lossy(&line)
        );
    }

    fn flush(&self) {}
}

/// To be called once before any target runs.
pub fn start() {
    if log::set_logger(&Discard).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}

/// Certificates, which nothing here looks at, for a store that has to have some.
fn store() -> Arc<Store> {
    static STORE: OnceLock<Arc<Store>> = OnceLock::new();
    let make = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let places = [root.join("tls"), root.join("../tls")];
        let script = places.map(|place| place.join("make-certs.sh"));
        let script: &PathBuf = script.iter().find(|p| p.exists()).expect("the script");
        let made = std::env::temp_dir().join(format!("mediaproxy-play-{}", std::process::id()));
        let run = Command::new(script)
            .args(["--key", "ec"])
            .arg(&made)
            .arg("all")
            .output();
        assert!(run.expect("it runs").status.success());
        let store = Store::open(&made, "dispatcher").expect("certificates");
        std::fs::remove_dir_all(made).expect("it goes");
        Arc::new(store)
    };
    Arc::clone(STORE.get_or_init(make))
}

/// What is logged of a peer's input cannot forge a line or steer a terminal.
fn visible(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// Reads choices out of a fuzzer's bytes. Digits stand for small numbers and blanks are skipped, so that a
/// seed can be written by hand.
struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Choices { bytes }
    }

    /// The next byte that is not blank; none at the end.
    fn byte(&mut self) -> Option<u8> {
        loop {
            let (&first, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            if !first.is_ascii_whitespace() {
                return Some(first);
            }
        }
    }

    /// Below `limit`; the last one at the end of the input is 0.
    fn below(&mut self, limit: usize) -> usize {
        let byte = self.byte().unwrap_or(b'0');
        usize::from(byte.wrapping_sub(b'0')) % limit
    }

    fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 1
    }
}
