//! Plays `tests/transcripts/dispatcher/*.txt` against a dispatcher, byte for byte.
//!
//! A line is `ACTOR> text`, what somebody sends (CRLF is added), or `ACTOR< text`, the exact line that it
//! gets next; `ACTOR<` alone is the connection's end. Actors are connections: `proxy...` to the proxy's
//! socket, `client...` to the management socket, `relay...` over TLS; each connects when it is first named. `#`
//! begins a comment. In what is sent, `\xNN` is a byte, `\\` a backslash and `{c*n}` the character c n times;
//! a text that ends in `\` is sent without CRLF. `{version}` stands for this program's version, `session_id: {new}` for that header with a UUID. What one actor sends in consecutive lines goes out at once.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::script::unescape;
use crate::support::bed::{Bed, FakeRelay, Proxy};
use mediaproxy::config::ManagementFormat;
use mediaproxy::dispatcher::Limits;
use mediaproxy::proto::SessionId;

enum Actor {
    Relay(Box<FakeRelay>),
    Line(Proxy),
}

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/dispatcher");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let script = fs::read_to_string(&file).unwrap();
        play(
            &name,
            &script.replace("{version}", env!("CARGO_PKG_VERSION")),
        );
    }
}

fn play(name: &str, script: &str) {
    let bed = Bed::with(|settings| {
        if name.contains("array") {
            settings.management_format = ManagementFormat::Array;
        }
        if name.contains("unanswered") {
            settings.limits = Limits {
                max_unanswered_per_address: 2,
                max_unanswered_per_user: 2,
            };
        }
    });
    let mut actors: HashMap<String, Actor> = HashMap::new();
    let mut pending: Option<(String, Vec<u8>)> = None;
    for (number, line) in script.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let end = line
            .find(['<', '>'])
            .unwrap_or_else(|| panic!("{place}: {line}"));
        let (who, direction) = (&line[..end], &line[end..=end]);
        let text = line[end + 1..].strip_prefix(' ');
        if pending
            .as_ref()
            .is_some_and(|(sender, _)| direction == "<" || sender != who)
        {
            let (sender, bytes) = pending.take().unwrap();
            send(&bed, &mut actors, &sender, &bytes);
        }
        if direction == ">" {
            let (_, bytes) = pending.get_or_insert_with(|| (who.to_owned(), Vec::new()));
            bytes.extend(unescape(text.unwrap_or_default()));
            continue;
        }
        let got = match actor(&bed, &mut actors, who) {
            Actor::Relay(relay) => relay.next_line(),
            Actor::Line(proxy) => proxy.line_or_end(),
        };
        let got = got.map(|line| shown(&String::from_utf8_lossy(&line)));
        assert_eq!(got.as_deref(), text, "{place}");
    }
    if let Some((sender, bytes)) = pending {
        send(&bed, &mut actors, &sender, &bytes);
    }
}

/// The dispatcher makes up what sessions are called.
fn shown(line: &str) -> String {
    match line
        .strip_prefix("session_id: ")
        .map(str::parse::<SessionId>)
    {
        Some(Ok(_)) => "session_id: {new}".to_owned(),
        _ => line.to_owned(),
    }
}

fn actor<'a>(bed: &Bed, actors: &'a mut HashMap<String, Actor>, who: &str) -> &'a mut Actor {
    actors.entry(who.to_owned()).or_insert_with(|| {
        if who.starts_with("relay") {
            Actor::Relay(Box::new(bed.link()))
        } else if who.starts_with("client") {
            Actor::Line(bed.management())
        } else {
            assert!(who.starts_with("proxy"), "who is {who}?");
            Actor::Line(bed.proxy())
        }
    })
}

fn send(bed: &Bed, actors: &mut HashMap<String, Actor>, who: &str, bytes: &[u8]) {
    match actor(bed, actors, who) {
        Actor::Relay(relay) => relay.say_bytes(bytes),
        Actor::Line(proxy) => proxy.send(bytes),
    }
}
