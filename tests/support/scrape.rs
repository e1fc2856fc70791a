//! What Prometheus would read, and what a test wants to know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// Longer than anything here takes; only a failing test waits for it.
pub const LONG: Duration = Duration::from_secs(20);

/// One scrape: samples by name and labels as they stand in the text, and the families' types.
#[derive(Clone, Debug)]
pub struct Scrape {
    pub text: String,
    pub samples: BTreeMap<String, f64>,
    pub types: BTreeMap<String, String>,
}

/// Everything that is answered to these bytes.
pub fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).expect("the metrics port");
    socket.set_read_timeout(Some(LONG)).unwrap();
    // What is refused early may be reset before all of it is sent, or before all is read.
    let _ = socket.write_all(request);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The body of a GET, which must succeed.
pub fn get(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    body.to_owned()
}

pub fn scrape(address: SocketAddr) -> Scrape {
    parse(&get(address, "/metrics"))
}

pub fn parse(text: &str) -> Scrape {
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert!(
                types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "twice: {line}"
            );
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').expect(line);
            let value = value.parse().expect(line);
            assert!(
                samples.insert(name.to_owned(), value).is_none(),
                "twice: {line}"
            );
        }
    }
    let text = text.to_owned();
    Scrape {
        text,
        samples,
        types,
    }
}

impl Scrape {
    /// A sample that must be there.
    pub fn value(&self, sample: &str) -> f64 {
        let value = self.samples.get(sample);
        *value.unwrap_or_else(|| panic!("no sample {sample}:\n{}", self.text))
    }

    /// The sum of a family's samples.
    pub fn sum(&self, family: &str) -> f64 {
        let is_it = |name: &str| name == family || name.starts_with(&format!("{family}{{"));
        let samples = self.samples.iter().filter(|(name, _)| is_it(name));
        samples.map(|(_, value)| value).sum()
    }

    /// No counter may have fallen since an earlier scrape, and none may be gone.
    pub fn assert_follows(&self, earlier: &Scrape) {
        let counters = earlier.types.iter().filter(|(_, kind)| *kind != "gauge");
        let counters: BTreeSet<&str> = counters.map(|(name, _)| name.as_str()).collect();
        let mut compared = 0;
        for (sample, before) in &earlier.samples {
            let name = sample.split('{').next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            let is_counted =
                counters.contains(name) || family.is_some_and(|name| counters.contains(name));
            if is_counted {
                assert!(
                    self.value(sample) >= *before,
                    "{sample} fell from {before}:\n{}",
                    self.text
                );
                compared += 1;
            }
        }
        assert!(compared > 20, "only {compared} counters");
    }
}

/// A scrape that is not the same text as an earlier one, which is given out again for a moment: what was done since is
/// in it.
pub fn scrape_after(address: SocketAddr, earlier: &Scrape) -> Scrape {
    scrape_until(address, "a new text", |scrape| scrape.text != earlier.text)
}

/// Scrapes until a condition holds.
pub fn scrape_until(address: SocketAddr, what: &str, holds: impl Fn(&Scrape) -> bool) -> Scrape {
    read_until(what, || scrape(address), holds)
}

/// Reads metrics, however they are got, until a condition holds.
pub fn read_until(
    what: &str,
    read: impl Fn() -> Scrape,
    holds: impl Fn(&Scrape) -> bool,
) -> Scrape {
    for _ in 0..400 {
        let scrape = read();
        if holds(&scrape) {
            return scrape;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("not in time: {what}:\n{}", read().text);
}

/// Names in a text that look like metrics of ours or of the process; `family` as exported, so without the endings of
/// a histogram's samples.
pub fn names_in(text: &str, types: &BTreeMap<String, String>) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    let names = words.filter(|word| {
        ["mediaproxy_dispatcher_", "mediaproxy_relay_", "process_"]
            .iter()
            .any(|start| word.starts_with(start))
    });
    let family = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        let base = ends.iter().find_map(|end| name.strip_suffix(end));
        let base = base.filter(|base| types.get(*base).is_some_and(|kind| kind == "histogram"));
        base.unwrap_or(name).to_owned()
    };
    names.map(family).collect()
}
