//! A line of a management client as a command. Pure.
//!
//! Words stand between blanks; one that begins with a quotation mark is a JSON string, so that what `sessions` shows
//! can be pasted whatever it holds. Bytes that are not UTF-8 are read as they are shown, `\xe9`.

use std::net::{IpAddr, SocketAddr};

use super::end::EndRequest;
use super::filter::Filter;
use crate::proto::escaped;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Sessions(Filter),
    Summary,
    Metrics,
    Version,
    Help,
    Explain {
        call_id: String,
        /// One JSON object for each session instead of lines for people.
        json: bool,
    },
    End(EndRequest),
    /// The relay's name or address, both.
    Drain(String),
    Resume(String),
    Quit,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Not known: which there are.
    Unknown(String),
    /// Known, and wrongly used: how it is used.
    Usage(String),
}

/// Characters that are shown of a word that is no command.
const SHOWN: usize = 40;

/// What `help` answers.
pub(crate) const HELP: [&str; 18] = [
    "sessions                    all calls, a JSON object each",
    "sessions KEY=VALUE ...      those that fit all of: call_id=ID, user=PART of a URI or username,",
    "                            address=IP or IP:PORT of a party or of the relay, relay=RELAY",
    "sessions WORD               those with this part of a URI, address or beginning of a Call-ID",
    "summary                     all relays, a JSON object each",
    "metrics                     what Prometheus reads of this dispatcher, lines of text",
    "explain CALL-ID             who hears whom in a call, and why not; addresses, drops, time-outs",
    "explain json CALL-ID        the same as JSON objects",
    "end CALL-ID [FROM-TAG]      ends its dialog at the SIP proxy, or else its session on the relay",
    "end media CALL-ID ...       ends its session on the relay only",
    "drain RELAY                 gives a relay no new calls, until resume",
    "resume RELAY                gives it calls again",
    "version, help, quit, exit",
    "RELAY is a name or an address as in summary; a value with blanks is a JSON string: \"a b\".",
    "CALL-ID may be its beginning, 4 characters or more, where no other call's begins so.",
    "Bytes of a call-id that are not UTF-8 are shown, and can be given, as \\xe9.",
    "end, drain and resume need the management socket, or TLS and management_passport.",
    "An answer ends with an empty line; one that begins with error: says what is wrong.",
];

/// Reads a line without its end.
///
/// # Errors
/// See [`Bad`].
pub(crate) fn parse(line: &[u8]) -> Result<Command, Bad> {
    let text = escaped(line);
    let text = text.trim();
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    // Without arguments these are as old as the protocol.
    match (word, rest) {
        ("sessions", rest) => return parse_filter(rest).map(Command::Sessions),
        ("summary", "") => return Ok(Command::Summary),
        ("metrics", "") => return Ok(Command::Metrics),
        ("version", "") => return Ok(Command::Version),
        ("help", "") => return Ok(Command::Help),
        ("quit" | "exit", "") => return Ok(Command::Quit),
        ("explain" | "end" | "drain" | "resume", _) => {}
        ("summary" | "metrics" | "version" | "help" | "quit" | "exit", _) => {
            return Err(Bad::Usage(format!(
                "{word} takes no argument; help shows all"
            )));
        }
        _ => return Err(Bad::Unknown(unknown(word))),
    }
    let words = words(rest).map_err(Bad::Usage)?;
    if words.iter().any(|word| word.contains(['\r', '\n', '\0'])) {
        return Err(Bad::Usage(
            "nothing here has a CR, LF or NUL in its name".to_owned(),
        ));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let usage = |text: &str| Err(Bad::Usage(format!("usage: {text}; help shows all")));
    match (word, words.as_slice()) {
        ("explain", ["json", call_id]) => Ok(explain(call_id, true)),
        ("explain", [call_id]) => Ok(explain(call_id, false)),
        ("end", ["media", call_id]) => Ok(end(call_id, None, true)),
        ("end", ["media", call_id, from_tag]) => Ok(end(call_id, Some(from_tag), true)),
        ("end", [call_id]) => Ok(end(call_id, None, false)),
        ("end", [call_id, from_tag]) => Ok(end(call_id, Some(from_tag), false)),
        ("drain", [relay]) => Ok(Command::Drain((*relay).to_owned())),
        ("resume", [relay]) => Ok(Command::Resume((*relay).to_owned())),
        ("explain", _) => usage("explain CALL-ID, or explain json CALL-ID"),
        ("end", _) => usage("end CALL-ID [FROM-TAG], or end media CALL-ID [FROM-TAG]"),
        (word, _) => usage(&format!("{word} RELAY")),
    }
}

fn unknown(word: &str) -> String {
    const ALL: &str =
        "sessions, summary, explain, end, drain, resume, metrics, version, help, quit";
    match word {
        "" => format!("an empty line; commands: {ALL}"),
        word => {
            let shown: String = word.chars().take(SHOWN).collect();
            format!("no command \"{}\"; commands: {ALL}", shown.escape_debug())
        }
    }
}

fn explain(call_id: &str, json: bool) -> Command {
    let call_id = call_id.to_owned();
    Command::Explain { call_id, json }
}

fn end(call_id: &str, from_tag: Option<&str>, media_only: bool) -> Command {
    Command::End(EndRequest {
        call_id: call_id.to_owned(),
        from_tag: from_tag.map(str::to_owned),
        media_only,
    })
}

/// Words as they are meant: JSON strings without their quotation marks.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, more) = value(rest)?;
        words.push(word);
        rest = more.trim_start();
    }
    Ok(words)
}

/// The value that a text begins with, and what follows it.
fn value(text: &str) -> Result<(String, &str), String> {
    if !text.starts_with('"') {
        let end = text.find([' ', '\t']).unwrap_or(text.len());
        return Ok((text[..end].to_owned(), &text[end..]));
    }
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match strings.next() {
        Some(Ok(word)) => {
            let rest = &text[strings.byte_offset()..];
            if rest.is_empty() || rest.starts_with([' ', '\t']) {
                Ok((word, rest))
            } else {
                Err("a blank must follow a JSON string".to_owned())
            }
        }
        _ => Err(
            "what begins with a quotation mark must be a JSON string, as sessions shows it"
                .to_owned(),
        ),
    }
}

fn parse_filter(text: &str) -> Result<Filter, Bad> {
    let mut filter = Filter::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let allowed = "allowed: call_id=, user=, address=, relay=, or a word";
        let is_word = |text: &str| {
            let end = text.find([' ', '\t']).unwrap_or(text.len());
            text.starts_with('"') || !text[..end].contains('=')
        };
        if is_word(rest) {
            let (word, more) = value(rest).map_err(Bad::Usage)?;
            rest = more.trim_start();
            if filter.any.replace(word).is_some() {
                return Err(Bad::Usage(format!("one word is enough; {allowed}")));
            }
            continue;
        }
        let Some((key, more)) = rest.split_once('=') else {
            return Err(Bad::Usage(allowed.to_owned()));
        };
        let (value, more) = value(more).map_err(Bad::Usage)?;
        rest = more.trim_start();
        let place = match key {
            "call_id" => &mut filter.call_id,
            "user" => &mut filter.user,
            "address" => &mut filter.address,
            "relay" => &mut filter.relay,
            other => {
                let text = format!("no filter \"{}\"; {allowed}", other.escape_debug());
                return Err(Bad::Usage(text));
            }
        };
        if value.is_empty() {
            return Err(Bad::Usage(format!("{key}= has no value")));
        }
        if key == "address" && !is_address(&value) {
            let shown = value.escape_debug();
            let text = format!("address={shown}: allowed: IP or IP:PORT");
            return Err(Bad::Usage(text));
        }
        if place.replace(value).is_some() {
            return Err(Bad::Usage(format!("{key}= is given twice")));
        }
    }
    Ok(filter)
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(line: &str) -> String {
        match parse(line.as_bytes()) {
            Err(Bad::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn commands_and_their_words() {
        for (line, command) in [
            ("summary", Command::Summary),
            ("metrics", Command::Metrics),
            (" version\t", Command::Version),
            ("help", Command::Help),
            ("exit", Command::Quit),
            ("sessions", Command::Sessions(Filter::default())),
            ("explain a@b", explain("a@b", false)),
            ("explain json a@b", explain("a@b", true)),
            ("explain json", explain("json", false)),
            ("end media", end("media", None, false)),
            ("end  media   \"media\" ", end("media", None, true)),
            ("end a t", end("a", Some("t"), false)),
            ("end media a t", end("a", Some("t"), true)),
            ("end \"a b\\u001b\\\"\"", end("a b\u{1b}\"", None, false)),
            ("end x\"y", end("x\"y", None, false)),
            (
                "drain 192.0.2.1:40000",
                Command::Drain("192.0.2.1:40000".into()),
            ),
            ("resume a", Command::Resume("a".into())),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
        assert_eq!(parse(b"end caf\xe9"), Ok(end("caf\\xe9", None, false)));
    }

    #[test]
    fn filters() {
        let line = br#"sessions call_id="a b" user=alice relay=r=1 address=192.0.2.1:4000"#;
        let filter = Filter {
            call_id: Some("a b".into()),
            user: Some("alice".into()),
            address: Some("192.0.2.1:4000".into()),
            relay: Some("r=1".into()),
            ..Filter::default()
        };
        assert_eq!(parse(line), Ok(Command::Sessions(filter)));
        for (line, part) in [
            ("sessions a b", "one word is enough; allowed: call_id=,"),
            ("sessions \"a", "must be a JSON string"),
            (
                "sessions callid=x",
                "no filter \"callid\"; allowed: call_id=",
            ),
            ("sessions user=", "user= has no value"),
            ("sessions user=a user=b", "user= is given twice"),
            ("sessions address=here", "address=here: allowed: IP"),
            ("sessions a\u{1b}[2J=x", "no filter \"a\\u{1b}[2J\""),
            ("sessions address=\u{7}", "address=\\u{7}: allowed: IP"),
            ("sessions user=\"a", "must be a JSON string"),
            ("sessions user=\"a\"b", "a blank must follow"),
        ] {
            assert!(usage(line).contains(part), "{line}: {}", usage(line));
        }
    }

    #[test]
    fn a_word_is_what_a_session_is_looked_for_by() {
        for (line, word) in [
            ("sessions alice", "alice"),
            ("sessions \"a=b c\"", "a=b c"),
            ("sessions relay=r 10.0.0.5 user=u", "10.0.0.5"),
        ] {
            let Ok(Command::Sessions(filter)) = parse(line.as_bytes()) else {
                panic!("{line}")
            };
            assert_eq!(filter.any.as_deref(), Some(word), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_which_commands_there_are() {
        for line in ["", "what", "Summary", "session", "\u{0}"] {
            let Err(Bad::Unknown(told)) = parse(line.as_bytes()) else {
                panic!("{line}")
            };
            assert!(
                told.contains("; commands: sessions, summary, explain,"),
                "{told}"
            );
        }
        let long = "x".repeat(10_000);
        assert!(matches!(parse(long.as_bytes()), Err(Bad::Unknown(told)) if told.len() < 200));
        for (line, part) in [
            ("summary all", "summary takes no argument"),
            ("metrics all", "metrics takes no argument"),
            ("quit now", "quit takes no argument"),
            ("explain", "usage: explain CALL-ID"),
            ("explain a b", "usage: explain CALL-ID"),
            ("end", "usage: end CALL-ID"),
            ("drain", "usage: drain RELAY"),
            ("drain a b", "usage: drain RELAY"),
            ("drain \"", "must be a JSON string"),
            (
                "explain \"a\\r\\n\\r\\nsummary 8\"",
                "nothing here has a CR",
            ),
            ("end \"a\\u0000\"", "nothing here has a CR"),
        ] {
            assert!(usage(line).contains(part), "{line}: {}", usage(line));
        }
    }

    #[test]
    fn every_command_is_in_the_help() {
        for word in [
            "sessions", "summary", "metrics", "explain", "end", "drain", "resume", "version",
            "quit",
        ] {
            assert!(HELP.iter().any(|line| line.contains(word)), "{word}");
        }
        assert!(
            HELP.iter()
                .all(|line| line.len() <= 100 && !line.is_empty())
        );
    }
}
