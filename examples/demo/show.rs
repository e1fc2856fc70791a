//! What the demo shows: events and a live table while the calls last, the books afterwards.

use std::collections::HashMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use serde_json::Value;

use crate::calls::Call;

/// How often the table is drawn anew on a terminal, and printed elsewhere.
const ON_TERMINAL: Duration = Duration::from_millis(250);
const ELSEWHERE: Duration = Duration::from_secs(3);

/// Events above, and on a terminal the table below, drawn again in its place.
pub struct Screen {
    is_terminal: bool,
    /// Lines of the table that stand on the screen.
    drawn: usize,
    next: Duration,
    /// By call and stream: when it was looked at last, and its bytes then.
    before: HashMap<String, (Duration, u64)>,
}

impl Screen {
    pub fn new() -> Screen {
        Screen {
            is_terminal: stdout().is_terminal(),
            drawn: 0,
            next: Duration::from_secs(1),
            before: HashMap::new(),
        }
    }

    /// Something happened: a line that stays.
    pub fn event(&mut self, passed: Duration, what: &str) {
        self.erase();
        println!("   {:4.1} s  {what}", passed.as_secs_f32());
    }

    /// Shows what is relayed, when it is time to.
    pub fn update(
        &mut self,
        passed: Duration,
        sessions: impl FnOnce() -> Result<Vec<String>, String>,
    ) -> Result<(), String> {
        if passed < self.next {
            return Ok(());
        }
        self.next = passed
            + if self.is_terminal {
                ON_TERMINAL
            } else {
                ELSEWHERE
            };
        let lines = self.table(passed, &sessions()?);
        self.erase();
        println!("{}", lines.join("\n"));
        if self.is_terminal {
            self.drawn = lines.len();
        }
        Ok(())
    }

    /// The table stays as it is.
    pub fn finish(&mut self) {
        self.drawn = 0;
        println!();
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            // Up to the table's first line, and clear from there.
            print!("\x1b[{}A\x1b[J", self.drawn);
            let _ = stdout().flush();
            self.drawn = 0;
        }
    }

    fn table(&mut self, passed: Duration, sessions: &[String]) -> Vec<String> {
        let mut lines = vec![format!(
            " {:<17} {:<5} {:<8} {:>6} {:>6} {:>6}  {:<11} {}",
            "session", "media", "status", "caller", "callee", "kbit/s", "codec", "relay ports"
        )];
        let sessions = sessions.iter().flat_map(|line| serde_json::from_str(line));
        let mut sessions: Vec<Value> = sessions.collect();
        sessions.sort_by(|a, b| text(&a["call_id"]).cmp(text(&b["call_id"])));
        for session in &sessions {
            let call = text(&session["call_id"]);
            let streams = session["streams"].as_array().map_or(&[][..], Vec::as_slice);
            for (index, stream) in streams.iter().enumerate() {
                lines.push(self.row(passed, call, index, stream));
            }
        }
        lines
    }

    fn row(&mut self, passed: Duration, call: &str, index: usize, stream: &Value) -> String {
        let number = |name: &str| stream[name].as_u64().unwrap_or(0);
        let bytes = number("caller_bytes") + number("callee_bytes");
        let seen = self
            .before
            .insert(format!("{call} {index}"), (passed, bytes));
        let (then, old) = seen.unwrap_or((Duration::ZERO, 0));
        let seconds = (passed - then).as_secs_f64().max(0.001);
        let rate = bytes.saturating_sub(old) as f64 * 8.0 / seconds / 1000.0;
        let port = |name: &str| text(&stream[name]).rsplit(':').next().unwrap_or("");
        format!(
            " {:<17} {:<5} {:<8} {:>6} {:>6} {:>6.0}  {:<11} {:>5} {:>5}",
            call,
            text(&stream["media_type"]),
            text(&stream["status"]),
            number("caller_packets"),
            number("callee_packets"),
            rate,
            text(&stream["caller_codec"]),
            port("caller_local"),
            port("callee_local"),
        )
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// The books of all flows. Whether everything arrived once, and the relay counted what was sent.
pub fn totals(calls: &[Call], sessions: &[String]) -> bool {
    println!(
        "{:<28} {:>5} {:>8} {:>4} {:>7} {:>7} {:>6} {:>7}",
        "Packets", "sent", "received", "lost", "doubled", "crossed", "median", "max ms"
    );
    let mut clean = true;
    let mut all = (0, 0);
    for call in calls {
        let sums = call.sums();
        println!("{}", call.title);
        for (direction, sum) in &sums {
            println!(
                "  {direction:<26} {:>5} {:>8} {:>4} {:>7} {:>7} {:>6.3} {:>7.3}",
                sum.sent,
                sum.received,
                sum.lost,
                sum.duplicated,
                sum.crossed,
                sum.median.as_secs_f64() * 1000.0,
                sum.longest.as_secs_f64() * 1000.0
            );
            clean &= sum.is_clean() && sum.sent > 0;
            all = (all.0 + sum.sent, all.1 + sum.received);
        }
        let sent: u64 = sums.iter().map(|(_, sum)| sum.sent).sum();
        let counted = relayed(sessions, &call.call_id);
        if counted != sent {
            println!(
                "{}: {sent} packets sent, but the relay counted {counted}",
                call.title
            );
            clean = false;
        }
    }
    let verdict = if clean {
        "nothing lost, doubled or crossed, and the relay counted every packet"
    } else {
        "NOT everything arrived once, see above"
    };
    println!("\n{} packets sent, {} received: {verdict}.", all.0, all.1);
    clean
}

/// Packets that the relay counted in all streams of a call.
fn relayed(sessions: &[String], call_id: &str) -> u64 {
    let sessions = sessions
        .iter()
        .flat_map(|line| serde_json::from_str::<Value>(line));
    let mut count = 0;
    for session in sessions.filter(|session| session["call_id"] == call_id) {
        for stream in session["streams"].as_array().into_iter().flatten() {
            count += stream["caller_packets"].as_u64().unwrap_or(0);
            count += stream["callee_packets"].as_u64().unwrap_or(0);
        }
    }
    count
}
