//! `explain`: one call in full, from its relay and from what the dispatcher knows of both.

use std::io;

use serde_json::{Map, Value};

use super::answer::{Client, List};
use super::lookup::FoundSession;
use super::naming::Meant;
use super::text;
use crate::dispatcher::registry::About;
use crate::dispatcher::relay_id::RelayKey;
use crate::dispatcher::shared::Dispatcher;
use crate::proto::{CallId, Visible};
use crate::sys::sync::lock;

impl Client<'_> {
    pub(super) fn explain(&mut self, call_id: &str, json: bool) -> io::Result<()> {
        let (call_id, sessions) = match self.dispatcher.call_named(call_id) {
            Ok(Meant::Live(call_id, found)) => (call_id, found),
            Ok(Meant::Over(call_id, fate)) => return self.explain_past(&call_id, &fate, json),
            Err(why) => return self.fail(&why),
        };
        let explained = sessions
            .into_iter()
            .map(|found| self.dispatcher.with_own_knowledge(&call_id, found));
        let explained: Vec<Map<String, Value>> = explained.collect();
        if !json {
            return match text::lines(explained) {
                Ok(lines) => self.lines(lines),
                Err(error) => self.fail(&format!(
                    "what the relay says of call {call_id} cannot be read: {error}"
                )),
            };
        }
        let mut list = List::new(self);
        for mut object in explained {
            let said = text::verdict_of(object.clone());
            object.insert("verdict".to_owned(), said.into());
            list.add(&Value::from(object).to_string())?;
        }
        list.end()
    }

    /// A call that is over, and how that came about.
    fn explain_past(&mut self, call_id: &CallId, fate: &str, json: bool) -> io::Result<()> {
        if !json {
            let line = format!("call {call_id} {fate}");
            return self.lines([Visible(line.as_bytes()).to_string()]);
        }
        let object = serde_json::json!({"call_id": call_id.0.escaped(), "past": fate});
        let mut list = List::new(self);
        list.add(&object.to_string())?;
        list.end()
    }
}

impl Dispatcher {
    /// Adds what the dispatcher knows of the call and of its relay.
    fn with_own_knowledge(&self, call_id: &CallId, found: FoundSession) -> Map<String, Value> {
        let registry = lock(&self.registry);
        let (held, is_connected) = registry.relays.held(&found.at.relay);
        let about = registry.calls.live.about(call_id).into_iter();
        drop(registry);
        let about = about.filter(|about| found.is_of(&about.name));
        let about: Option<About> = about.max_by_key(|about| found.fit(&about.name));
        let refusal = self.refusal_of(call_id, &found);
        let FoundSession { at, mut object } = found;
        let link = match held {
            _ if !is_connected => "lost just now",
            held if held.timed_out => "does not answer",
            held if held.drained => "drained",
            held if held.halting => "halting",
            _ => "connected",
        };
        object.insert("relay".to_owned(), relay(&at.relay));
        object.insert("relay_link".to_owned(), link.into());
        if let Some(why) = refusal {
            object.insert("refused".to_owned(), why.into());
        }
        object.insert("relay_explains".to_owned(), at.handle.explains().into());
        let dialog = about.as_ref().and_then(|about| about.dialog_id.as_ref());
        let dialog = dialog.and_then(|dialog| serde_json::to_value(dialog).ok());
        // A dispatcher that was restarted has it from the relay alone.
        let known = object.entry("dialog_id").or_insert(Value::Null);
        if let Some(dialog) = dialog {
            *known = dialog;
        }
        if let Some(about) = about {
            let answered = object.entry("answered").or_insert(Value::Bool(false));
            *answered = (answered.as_bool() == Some(true) || about.answered).into();
        }
        object
    }
}

fn relay(key: &RelayKey) -> Value {
    let name = key.name.as_deref();
    serde_json::json!({"ip": key.address.to_string(), "name": name})
}
