//! The command `explain`: what the worker that has a call knows of it (docs/protocol.md section 9).

use std::sync::Arc;

use super::Shared;
use super::kernel::Order;
use super::worker::Message;
use crate::moment::Now;
use crate::proto::CallId;
use crate::session::{Engine, ReplyTo};

/// Has a worker answer, once what the kernel has relayed is known. False where nobody will.
pub fn ask(shared: &Arc<Shared>, worker: usize, call_id: CallId, reply_to: ReplyTo) -> bool {
    let message = Message::Explain(call_id, reply_to);
    let Some(kernel) = &shared.kernel else {
        let postbox = shared.workers.get(worker);
        return postbox.is_some_and(|postbox| postbox.send(message).is_ok());
    };
    let shared = Arc::clone(shared);
    let pass_on = move || {
        if let Some(postbox) = shared.workers.get(worker) {
            // One that has ended has no calls.
            let _ = postbox.send(message);
        }
    };
    kernel.send(Order::Read(Box::new(pass_on))).is_ok()
}

/// An array of the sessions of that call-id, or `error` where there is none.
pub fn answer(engine: &Engine, call_id: &CallId, now: Now) -> Vec<u8> {
    let mut answer = Vec::new();
    match engine.write_explained(&mut answer, call_id, now) {
        true => answer,
        false => b"error".to_vec(),
    }
}
