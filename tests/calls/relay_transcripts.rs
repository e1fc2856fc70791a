//! Plays `tests/transcripts/relay/*.txt` against a relay over TLS.
//!
//! `> text` is what the dispatcher sends (CRLF is added; see `script::unescape`), `< text` the exact line that the
//! relay answers next, pings left out. In an answer `<relay>` is the relay's address, `<name>` a number: any one the
//! first time, the same one from then on, another one for each name; `<*>` is the rest of the line, whatever it is. `#`
//! begins a comment.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::script::unescape;
use crate::support::relay_bed::{Bed, FakeLink, relay_ip};

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/relay");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    assert!(files.len() > 4, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        play(&name, &fs::read_to_string(&file).unwrap());
    }
}

fn play(name: &str, script: &str) {
    let bed = Bed::new();
    let mut link = bed.link();
    let mut numbers = HashMap::new();
    let mut pending = Vec::new();
    for (number, line) in script.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        if let Some(text) = line.strip_prefix('>') {
            pending.extend(unescape(text.strip_prefix(' ').unwrap_or(text)));
        } else if let Some(text) = line.strip_prefix("< ") {
            link.say_bytes(&std::mem::take(&mut pending));
            let got = answer(&mut link);
            let want = text.replace("<relay>", &relay_ip().to_string());
            assert!(
                matches(&want, &got, &mut numbers),
                "{place}: {got}, known {numbers:?}"
            );
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{place}: {line}");
        }
    }
    assert!(
        pending.is_empty(),
        "{name}: nothing is expected after the last request"
    );
}

fn answer(link: &mut FakeLink) -> String {
    loop {
        let line = link.next_line().expect("the relay has ended the link");
        if line != "ping" {
            return line;
        }
    }
}

/// Whether a line is as wanted; learns the numbers in it.
fn matches(want: &str, got: &str, numbers: &mut HashMap<String, String>) -> bool {
    let Some((before, rest)) = want.split_once('<') else {
        return want == got;
    };
    let (name, after) = rest.split_once('>').expect("a closing bracket");
    let Some(got) = got.strip_prefix(before) else {
        return false;
    };
    if name == "*" {
        return true;
    }
    let end = got.find(|c: char| !c.is_ascii_digit()).unwrap_or(got.len());
    let (number, got) = got.split_at(end);
    let known = numbers.get(name);
    let fits = match known {
        Some(known) => known == number,
        None => !number.is_empty() && number != "0" && !numbers.values().any(|n| n == number),
    };
    numbers.insert(name.to_owned(), number.to_owned());
    fits && matches(after, got, numbers)
}
