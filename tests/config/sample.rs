//! `conf/config.ini` against the table of keys, both ways, and as a configuration.

use std::fs;
use std::path::{Path, PathBuf};

use mediaproxy::config::{self, KEYS, Key};

/// A key as the sample shows it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    section: String,
    name: String,
    value: String,
    /// The comment above, one line for each of its lines.
    comment: Vec<String>,
}

fn sample() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/config.ini");
    fs::read_to_string(path).unwrap()
}

/// The keys, each written as `;name = value` below its comment, whose lines begin with `; `.
fn shown(sample: &str) -> Vec<Shown> {
    let mut keys = Vec::new();
    let mut section = String::new();
    let mut comment = Vec::new();
    for line in sample.lines() {
        if line.is_empty() || line == ";" {
            comment.clear();
        } else if let Some(text) = line.strip_prefix("; ") {
            comment.push(text.to_owned());
        } else if let Some(text) = line.strip_prefix(';') {
            let (name, value) = text.split_once(" =").expect(line);
            keys.push(Shown {
                section: section.clone(),
                name: name.to_owned(),
                value: value.trim().to_owned(),
                comment: std::mem::take(&mut comment),
            });
        } else {
            let name = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            section = name.expect(line).to_owned();
            comment.clear();
        }
    }
    keys
}

fn expected(key: &Key) -> (String, String) {
    let default = match (key.default, key.unit) {
        ("", _) => "none".to_owned(),
        (default, "") => default.to_owned(),
        (default, unit) => format!("{default} {unit}"),
    };
    (key.meaning.to_owned(), format!("Default: {default}"))
}

#[test]
fn every_key_with_default_unit_and_meaning() {
    let sample = sample();
    let mut shown = shown(&sample);
    for key in KEYS {
        let place = shown
            .iter()
            .position(|shown| shown.section == key.section && shown.name == key.name);
        let place =
            place.unwrap_or_else(|| panic!("[{}] {} is not in the sample", key.section, key.name));
        let mut found = shown.remove(place);
        let default = found.comment.pop().unwrap_or_default();
        assert_eq!(found.value, key.default, "{}", key.name);
        assert_eq!(
            (found.comment.join(" "), default),
            expected(key),
            "{}",
            key.name
        );
    }
    assert_eq!(shown, [], "not in the table, or there twice");
}

#[test]
fn nothing_is_switched_on() {
    for line in sample().lines() {
        assert!(line.is_empty() || line.starts_with([';', '[']), "{line}");
    }
}

fn load(name: &str, text: &str, check: impl Fn(&Path)) {
    let dir: PathBuf =
        std::env::temp_dir().join(format!("mediaproxy-{name}-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.ini"), text).unwrap();
    check(&dir);
    fs::remove_dir_all(&dir).unwrap();
}

/// All defaults written out mean the same as none of them.
#[test]
fn uncommented_it_is_the_default() {
    let sample = sample();
    let uncommented: String = sample
        .lines()
        .filter(|line| !line.starts_with("; ") && *line != ";")
        .map(|line| match line.strip_prefix(';') {
            Some("dispatchers =") => "dispatchers = sip.example.com\n".to_owned(),
            Some(key) => format!("{key}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let ignored = |section: &str| {
        let of_section = KEYS.iter().filter(|key| key.section == section);
        of_section.filter(|key| key.ignored.is_some()).count()
    };
    load("sample", &uncommented, |dir| {
        let written = config::load_relay(dir).unwrap();
        assert_eq!(
            written.warnings.len(),
            ignored("Relay"),
            "{:?}",
            written.warnings
        );
        fs::write(
            dir.join("config.ini"),
            "[Relay]\ndispatchers = sip.example.com",
        )
        .unwrap();
        assert_eq!(written.config, config::load_relay(dir).unwrap().config);
    });
    load("sample-dispatcher", &uncommented, |dir| {
        let written = config::load_dispatcher(dir).unwrap();
        assert_eq!(
            written.warnings.len(),
            ignored("OpenSIPS"),
            "{:?}",
            written.warnings
        );
        fs::write(dir.join("config.ini"), &sample).unwrap();
        let default = config::load_dispatcher(dir).unwrap();
        assert_eq!(default.warnings, [""; 0]);
        assert_eq!(written.config, default.config);
    });
}

/// The metrics port has no password: beyond loopback that is a warning, and each daemon has its own usual port.
#[test]
fn a_metrics_port_that_others_reach_is_warned_about() {
    let addresses = [("192.0.2.1", 0), ("[::]", 1), ("127.0.0.1:9", 0)];
    for (address, warned) in addresses {
        let text = format!(
            "[Relay]\ndispatchers = a\nlisten_metrics = {address}\n[Dispatcher]\nlisten_metrics = {address}\n"
        );
        load("metrics-port", &text, |dir| {
            let relay = config::load_relay(dir).unwrap();
            let dispatcher = config::load_dispatcher(dir).unwrap();
            let metrics = (
                relay.config.listen_metrics,
                dispatcher.config.listen_metrics,
            );
            let (relay_port, dispatcher_port) = if address.contains(":9") {
                (9, 9)
            } else {
                (25063, 25062)
            };
            let with = |port: u16| {
                let host = address.trim_end_matches(":9");
                Some(format!("{host}:{port}").parse().unwrap())
            };
            assert_eq!(metrics, (with(relay_port), with(dispatcher_port)));
            for (section, port, warnings) in [
                ("Relay", relay_port, relay.warnings),
                ("Dispatcher", dispatcher_port, dispatcher.warnings),
            ] {
                let want = format!("[{section}] listen_metrics: port {port} on every address");
                let found = warnings.iter().filter(|text| text.contains(&want)).count();
                assert_eq!((found, warnings.len()), (warned, warned), "{warnings:?}");
            }
        });
    }
}
