//! The command `explain`: what the worker that has a call knows of it, and what of the host stands in its way
//! (docs/protocol.md section 9).
//!
//! The host is looked at by a thread of its own, which may take milliseconds for that and waits for a worker.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Map, Value};

use super::Shared;
use super::kernel::Order;
use super::surroundings::Surroundings;
use super::worker::Message;
use crate::moment::Now;
use crate::proto::CallId;
use crate::session::{Engine, ReplyTo};

/// Questions that may wait.
const WAITING: usize = 32;

/// How long a worker is waited for: less than `relay_timeout`, for which the dispatcher waits unless that was made shorter.
const PATIENCE: Duration = Duration::from_secs(4);

/// The answer where the worker has said that it has no such call, and nowhere else: the dispatcher may take the call for
/// over by it.
const NONE: &[u8] = b"error";

/// The answer where nobody could be asked.
pub const BUSY: &[u8] = b"error: busy";

/// Somebody wants to know about a call.
pub struct Question {
    worker: usize,
    call_id: CallId,
    reply_to: ReplyTo,
}

/// Where questions go, and where [`run`] gets them; none ends it.
pub fn channel() -> (Sender<Option<Question>>, Receiver<Option<Question>>) {
    bounded(WAITING)
}

/// Has it answered, once what the kernel has relayed is known. False where too many wait.
pub fn ask(shared: &Shared, worker: usize, call_id: CallId, reply_to: ReplyTo) -> bool {
    let question = Question {
        worker,
        call_id,
        reply_to,
    };
    shared.questions.try_send(Some(question)).is_ok()
}

/// The thread that answers.
pub fn run(shared: &Arc<Shared>, questions: &Receiver<Option<Question>>) {
    while let Ok(Some(question)) = questions.recv() {
        let reply_to = question.reply_to;
        let told = told_by_worker(shared, question);
        let answer = answer_by(told, || {
            let settings = &shared.settings;
            Surroundings::look(settings.port_range, settings.mark)
        });
        shared.reply(reply_to, &answer);
    }
}

/// What is answered where the worker has told this, or nothing.
fn answer_by(told: Option<Vec<u8>>, look: impl FnOnce() -> Surroundings) -> Vec<u8> {
    match told {
        None => BUSY.to_vec(),
        Some(told) if told == NONE => told,
        Some(told) => with_host(&told, look).unwrap_or(told),
    }
}

fn told_by_worker(shared: &Arc<Shared>, question: Question) -> Option<Vec<u8>> {
    let Question {
        worker, call_id, ..
    } = question;
    let (answer, told) = bounded(1);
    let message = Message::Explain(call_id, answer);
    let pass_on = move |shared: &Shared| {
        let postbox = shared.workers.get(worker);
        postbox.is_some_and(|postbox| postbox.send(message).is_ok())
    };
    match &shared.kernel {
        None => {
            pass_on(shared);
        }
        Some(kernel) => {
            let sharing = Arc::clone(shared);
            let read = Order::Read(Box::new(move || {
                // One that has ended has no calls.
                pass_on(&sharing);
            }));
            kernel.send(read).ok()?;
        }
    }
    told.recv_timeout(PATIENCE).ok()
}

/// A worker's array with what the host has to do with it.
fn with_host(told: &[u8], look: impl FnOnce() -> Surroundings) -> Option<Vec<u8>> {
    let mut sessions: Vec<Map<String, Value>> = serde_json::from_slice(told).ok()?;
    look().add_to(&mut sessions);
    serde_json::to_vec(&sessions).ok()
}

/// An array of the sessions of that call-id, or `error` where there is none.
pub fn answer(engine: &Engine, call_id: &CallId, now: Now) -> Vec<u8> {
    let mut answer = Vec::new();
    match engine.write_explained(&mut answer, call_id, now) {
        true => answer,
        false => NONE.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_looked_at_for_calls_that_are_there() {
        let look = || Surroundings::look((40_000, 40_100), (1, 1));
        let told = br#"[{"call_id": "a", "streams": []}, {"call_id": "b"}]"#;
        let answer = with_host(told, look).unwrap();
        let sessions: Vec<Value> = serde_json::from_slice(&answer).unwrap();
        for session in &sessions {
            assert!(session["host"]["input"].is_array(), "{session}");
            assert_eq!(session["host"]["routes"], serde_json::json!([]));
        }
        assert_eq!(sessions.len(), 2);
    }

    #[test]
    fn only_a_worker_says_that_a_call_is_not_there() {
        let unseen = || panic!("the host is not looked at");
        assert_eq!(answer_by(None, unseen), BUSY);
        assert_eq!(answer_by(Some(NONE.to_vec()), unseen), NONE);
        assert_ne!(BUSY, NONE);
    }
}
