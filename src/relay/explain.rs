//! The command `explain`: what the worker that has a call knows of it, and what of the host stands in its way
//! (docs/protocol.md section 9).
//!
//! The host is looked at by a thread of its own, which may take milliseconds for that and waits for a worker. What other
//! programs have set up there is read for an explanation only: should that fail, calls go on and the answer has less.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use log::warn;
use serde_json::{Map, Value};

use super::message::Message;
use super::question::Question;
use super::shared::Shared;
use crate::diagnosis::obstacles::Obstacles;
use crate::logging::sparse::Sparse;
use crate::moment::Now;
use crate::proto::CallId;
use crate::session::{Engine, ReplyTo};

/// How long a worker is waited for: less than `relay_timeout`, for which the dispatcher waits unless that was made shorter.
const WORKER_LIMIT: Duration = Duration::from_secs(4);

/// The answer where the worker has said that it has no such call, and nowhere else: the dispatcher may take the call for
/// over by it.
const NONE: &[u8] = b"error";

/// The answer where nobody could be asked.
pub(super) const BUSY: &[u8] = b"error: busy";

/// Has it answered, once what the kernel has relayed is known. False where too many wait.
pub(super) fn ask(shared: &Shared, worker: usize, call_id: CallId, reply_to: ReplyTo) -> bool {
    let question = Question {
        worker,
        call_id,
        reply_to,
    };
    shared.questions.try_send(Some(question)).is_ok()
}

/// The thread that answers.
pub(super) fn run(shared: &Arc<Shared>, questions: &Receiver<Option<Question>>) {
    let mut failures = Sparse::default();
    while let Ok(Some(question)) = questions.recv() {
        let reply_to = question.reply_to;
        let told = told_by_worker(shared, question);
        let settings = &shared.settings;
        let look = || Obstacles::look(settings.port_range, settings.mark);
        let (answer, is_whole) = answer_by(told, look);
        let is_due = (!is_whole).then(|| failures.due());
        if let Some(left_out) = is_due.flatten() {
            warn!(
                "explain: what this host has to do with a call could not be looked at, which is an error of this program: \
                 told without it{left_out}"
            );
        }
        shared.dispatchers.reply(reply_to, &answer);
    }
}

/// What is answered where the worker has told this, or nothing; false where the look at the host has failed.
fn answer_by(told: Option<Vec<u8>>, look: impl FnOnce() -> Obstacles) -> (Vec<u8>, bool) {
    let told = match told {
        None => return (BUSY.to_vec(), true),
        Some(told) if told == NONE => return (told, true),
        Some(told) => told,
    };
    let looked = catch_unwind(AssertUnwindSafe(|| with_host(&told, look)));
    match looked.ok().flatten() {
        Some(answer) => (answer, true),
        None => (told, false),
    }
}

fn told_by_worker(shared: &Arc<Shared>, question: Question) -> Option<Vec<u8>> {
    let told = ask_worker(shared, question)?;
    told.recv_timeout(WORKER_LIMIT).ok()
}

/// Has a worker tell. None where nobody can be asked.
pub(super) fn ask_worker(shared: &Arc<Shared>, question: Question) -> Option<Receiver<Vec<u8>>> {
    let Question {
        worker, call_id, ..
    } = question;
    let (answer, told) = bounded(1);
    let sharing = Arc::clone(shared);
    let pass_on = move || {
        // One that has ended has no calls.
        sharing
            .workers
            .send(worker, Message::Explain(call_id, answer));
    };
    shared.kernel.after_reading(pass_on).then_some(told)
}

/// A worker's array with what the host has to do with it.
fn with_host(told: &[u8], look: impl FnOnce() -> Obstacles) -> Option<Vec<u8>> {
    let mut sessions: Vec<Map<String, Value>> = serde_json::from_slice(told).ok()?;
    look().add_to(&mut sessions);
    serde_json::to_vec(&sessions).ok()
}

/// An array of the sessions of that call-id, or `error` where there is none.
pub(super) fn answer(engine: &Engine, call_id: &CallId, now: Now) -> Vec<u8> {
    let mut answer = Vec::new();
    if engine.write_explained(&mut answer, call_id, now) {
        answer
    } else {
        NONE.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_looked_at_for_calls_that_are_there() {
        let look = || Obstacles::look((40_000, 40_100), (1, 1));
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
        assert_eq!(answer_by(None, unseen), (BUSY.to_vec(), true));
        let none = NONE.to_vec();
        assert_eq!(answer_by(Some(none.clone()), unseen), (none, true));
        assert_ne!(BUSY, NONE);
    }

    #[test]
    fn a_look_at_the_host_that_fails_is_left_out() {
        let told = br#"[{"call_id": "a"}]"#.to_vec();
        let answer = answer_by(Some(told.clone()), || panic!("on purpose"));
        assert_eq!(answer, (told, false));
    }
}
