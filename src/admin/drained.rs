//! `drain --wait`: waits for a drained relay's last call.

use std::thread;
use std::time::Duration;

use super::client::{Client, Failure};
use super::options::Options;
use super::print;
use super::show::read;
use super::view::Relay;
use crate::words::counted;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where it stands.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Calls(u64),
    /// Somebody has resumed it.
    Resumed,
    /// It does not answer.
    Silent,
}

/// Returns when the relay has no call any more. `answer` is what the dispatcher has answered to `drain`.
///
/// # Errors
/// It was resumed meanwhile, or the dispatcher is gone.
pub(super) fn wait(options: &Options, answer: &[String]) -> Result<(), Failure> {
    let relay = answer.first().and_then(|line| name(line));
    let relay = relay.ok_or_else(|| {
        Failure::Refused("the dispatcher has not said which relay it is: it is drained".to_owned())
    })?;
    let mut client = Client::connect(&options.target)?;
    let mut before = None;
    loop {
        let relays: Vec<Relay> = read(&client.ask("summary")?)?;
        let left = left(&relays, relay);
        match left {
            Left::Calls(0) => {
                print("drained: it has no calls left\n");
                return Ok(());
            }
            Left::Resumed => {
                return Err(Failure::Refused("it was resumed meanwhile".to_owned()));
            }
            _ => {}
        }
        if before.as_ref() != Some(&left) {
            match left {
                Left::Calls(calls) => print(&format!("waiting: {} left\n", counted(calls, "call"))),
                _ => print("waiting: the relay does not answer\n"),
            }
            before = Some(left);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// The relay's name in `drained: relay IP (NAME) gets ..`, or its address where it has none.
fn name(answer: &str) -> Option<&str> {
    let (key, _) = answer
        .strip_prefix("drained: relay ")?
        .split_once(" gets no new calls")?;
    let name = key
        .split_once(" (")
        .and_then(|(_, name)| name.strip_suffix(')'));
    Some(name.unwrap_or(key))
}

fn left(relays: &[Relay], relay: &str) -> Left {
    let is_it = |one: &&Relay| one.label() == relay;
    match relays.iter().find(is_it) {
        Some(one) if !one.drained => Left::Resumed,
        Some(one) if one.status == "error" && !one.away => Left::Silent,
        Some(one) => Left::Calls(one.session_count),
        None => Left::Resumed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_is_the_one_that_the_dispatcher_names() {
        let answer = "drained: relay 127.0.0.1 (r1:40000) gets no new calls, 3 calls are left there; A RESTART";
        assert_eq!(name(answer), Some("r1:40000"));
        let older =
            "drained: relay 192.0.2.1 gets no new calls, no call of this dispatcher is left there";
        assert_eq!(name(older), Some("192.0.2.1"));
        assert_eq!(name("ok"), None);
    }

    #[test]
    fn its_calls_are_counted_until_it_is_resumed() {
        let relay = |text: &str| {
            let text = format!(r#"{{"ip": "192.0.2.1", "name": "r1", {text}}}"#);
            vec![serde_json::from_str::<Relay>(&text).unwrap()]
        };
        let stands = |text: &str| left(&relay(text), "r1");
        assert_eq!(
            stands(r#""status": "active", "session_count": 3, "drained": true"#),
            Left::Calls(3)
        );
        assert_eq!(stands(r#""status": "active""#), Left::Resumed);
        assert_eq!(
            stands(r#""status": "error", "drained": true"#),
            Left::Silent
        );
        assert_eq!(
            stands(r#""status": "error", "away": true, "drained": true"#),
            Left::Calls(0),
            "it may have ended"
        );
        assert_eq!(left(&[], "r1"), Left::Resumed);
    }
}
