//! What a SIP proxy is asked so that it ends a dialog, and what its answers mean (docs/protocol.md section 7).
//!
//! OpenSIPS has named its dialogs in several ways, and says 404 to a name of another version as it does to a dialog that
//! is over. So one that it does not find is asked for by its other names, and looked for in the list of dialogs, before
//! it is taken for over.

use std::collections::VecDeque;
use std::fmt;

use serde_json::{Value, json};

use super::Proxy;
use crate::proto::{CallId, DialogId, Excerpt};

/// How a dialog is named to OpenSIPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `e2b.d23aac64`: 3.1 and later.
    Did,
    /// `h_entry` and `h_id` as one number: up to 3.0.
    Number,
    /// As the mediaproxy module has said it.
    Sent,
    CallId,
    /// The id that its list of dialogs shows.
    Listed,
    /// The number on a line of its own, no JSON: 2.3 and 2.4.
    Line,
    /// `h_entry` and `h_id` on two lines: before 2.3.
    TwoLines,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Did => "its id in hexadecimal digits, as 3.1 and later do",
            Form::Number => "its number, as 3.0 does",
            Form::Sent => "its dialog_id as it is",
            Form::CallId => "its Call-ID",
            Form::Listed => "the ID that dlg_list shows",
            Form::Line => "its number in a line of text, as 2.3 and 2.4 do",
            Form::TwoLines => "two lines of text, as versions before 2.3 do",
        })
    }
}

/// The names of a dialog.
#[derive(Clone, Debug)]
struct Names {
    sent: String,
    /// `h_entry` and `h_id`, where that is what was sent, or one number of both.
    halves: Option<(u32, u32)>,
    call_id: Option<String>,
}

impl Names {
    fn new(call_id: &CallId, dialog_id: &DialogId) -> Option<Names> {
        let sent = std::str::from_utf8(dialog_id.0.as_bytes()).ok()?;
        let call_id = std::str::from_utf8(call_id.0.as_bytes()).ok();
        Some(Names {
            halves: dialog_id.halves().or_else(|| {
                let number: u64 = sent.parse().ok()?;
                Some(((number >> 32) as u32, number as u32))
            }),
            sent: sent.to_owned(),
            call_id: call_id
                .filter(|id| !is_like_a_dialog_id(id))
                .map(str::to_owned),
        })
    }

    fn number(&self) -> Option<String> {
        let (entry, id) = self.halves?;
        Some((u64::from(entry) << 32 | u64::from(id)).to_string())
    }

    fn did(&self) -> Option<String> {
        let (entry, id) = self.halves?;
        Some(format!("{}.{}", backwards(entry), backwards(id)))
    }

    fn of(&self, form: Form) -> Option<String> {
        match form {
            Form::Did => self.did(),
            Form::Number | Form::Line => self.number(),
            Form::Sent => Some(self.sent.clone()),
            Form::CallId => self.call_id.clone(),
            Form::Listed => None,
            Form::TwoLines => self.halves.map(|(entry, id)| format!("{entry}\n{id}")),
        }
    }
}

/// Hexadecimal digits, the last one first.
fn backwards(number: u32) -> String {
    format!("{number:x}").chars().rev().collect()
}

/// OpenSIPS would take such a Call-ID for the id of a dialog, which may be another one's.
fn is_like_a_dialog_id(call_id: &str) -> bool {
    let digits = call_id.trim_start().trim_start_matches(['+', '-']);
    let are_hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let halves = call_id.split_once('.');
    digits.bytes().all(|byte| byte.is_ascii_digit())
        || halves.is_some_and(|(entry, id)| are_hexadecimal(entry) && are_hexadecimal(id))
}

/// What an answer says.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Result(Value),
    /// There is no such dialog.
    Unknown,
    Refused {
        why: String,
        /// It is no JSON.
        is_plain: bool,
    },
}

/// Which request an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Number(u128),
    /// It has no number, and belongs to what was asked first: OpenSIPS may answer `code message`, and JSON that it cannot
    /// read without a number.
    First,
    Nothing,
}

pub(crate) fn understand(answer: &[u8]) -> (To, Answer) {
    let Ok(mut value) = serde_json::from_slice::<Value>(answer) else {
        return (To::First, plain(answer.trim_ascii()));
    };
    let number = match &value["id"] {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().map(u128::from),
    };
    let error = value.get("error").filter(|error| !error.is_null());
    match (error, number) {
        (Some(error), number) => {
            let to = number.map_or(To::First, To::Number);
            let answer = match error["code"].as_i64() {
                Some(404) => Answer::Unknown,
                _ => Answer::Refused {
                    why: error.to_string(),
                    is_plain: false,
                },
            };
            (to, answer)
        }
        (None, Some(number)) if value.get("result").is_some() => {
            (To::Number(number), Answer::Result(value["result"].take()))
        }
        (None, _) => (To::Nothing, Answer::Result(Value::Null)),
    }
}

/// Lines of text: `code message`, and perhaps more.
fn plain(text: &[u8]) -> Answer {
    match text.get(..3) {
        Some(b"200") => Answer::Result(Value::Null),
        Some(b"404") => Answer::Unknown,
        _ => Answer::Refused {
            why: Excerpt(text).to_string(),
            is_plain: true,
        },
    }
}

impl Answer {
    pub(crate) fn silence() -> Answer {
        Answer::Refused {
            why: "no answer".to_owned(),
            is_plain: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// To end it, by a name.
    End(Form, String),
    /// To show it, by its Call-ID.
    List(String),
    /// To end it, at Kamailio.
    Halves(u32, u32),
}

/// What the list of dialogs shows under a dialog's Call-ID.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    /// It could not be asked, and why.
    Unseen(String),
    /// None, or another one.
    Absent,
    There(String),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Ask,
    Ended(Option<Form>),
    /// The proxy does not have it any more.
    Gone,
    Refused(String),
    /// It is not found, and may be there all the same.
    Unclear(String),
}

/// The questions about one dialog, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    names: Names,
    now: Step,
    left: VecDeque<Step>,
    tried: Vec<String>,
    listed: Listed,
}

impl Questions {
    /// None where the dialog's id has not the form that the proxy gives. `learned` is the form that OpenSIPS took last.
    pub(crate) fn new(
        proxy: Proxy,
        call_id: &CallId,
        dialog_id: &DialogId,
        learned: Option<Form>,
    ) -> Option<Questions> {
        let names = Names::new(call_id, dialog_id)?;
        let mut left = match proxy {
            Proxy::OpenSips => steps(&names, learned),
            Proxy::Kamailio => {
                let (entry, id) = dialog_id.halves().filter(|_| !names.sent.contains('-'))?;
                VecDeque::from([Step::Halves(entry, id)])
            }
        };
        let now = left.pop_front()?;
        Some(Questions {
            names,
            now,
            left,
            tried: Vec::new(),
            listed: Listed::Unseen("its Call-ID cannot be asked for".to_owned()),
        })
    }

    /// The request for what is asked now.
    pub(crate) fn request(&self, number: u128) -> String {
        let (method, params) = match &self.now {
            Step::End(Form::Line | Form::TwoLines, name) => {
                return format!(":dlg_end_dlg:\n{name}\n\n");
            }
            Step::End(_, name) => ("dlg_end_dlg", json!([name])),
            Step::List(call_id) => ("dlg_list", json!({"callid": call_id})),
            Step::Halves(entry, id) => ("dlg.end_dlg", json!([entry, id])),
        };
        let id = number.to_string();
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
    }

    /// Says whether there is more to ask where this is not answered.
    pub(crate) fn may_fail(&self) -> bool {
        matches!(self.now, Step::List(_))
    }

    /// Takes the answer to what was asked now.
    pub(crate) fn answered(&mut self, answer: Answer, learned: Option<Form>) -> Next {
        match (self.now.clone(), answer) {
            (Step::End(form, _), Answer::Result(_)) => return Next::Ended(Some(form)),
            (Step::Halves(..), Answer::Result(_)) => return Next::Ended(None),
            (Step::Halves(..), Answer::Unknown) => return Next::Gone,
            (Step::End(Form::Line | Form::TwoLines, _), Answer::Unknown) => return Next::Gone,
            (Step::End(_, name), Answer::Unknown) => self.tried.push(name),
            (Step::List(_), Answer::Result(result)) => self.look_at(&result["Dialog"]),
            (Step::List(_), Answer::Unknown) => self.listed = Listed::Absent,
            // So do 3.0.0 to 3.0.3 and 3.1.0 where there is one.
            (Step::List(_), Answer::Refused { why, .. }) => {
                self.listed = Listed::Unseen(format!("dlg_list fails: {why}"));
                if self.is_sure(learned) {
                    self.spare_the_call_id();
                }
            }
            (step, Answer::Refused { why, is_plain }) => match self.as_lines(&step, is_plain) {
                Some(step) => self.left = VecDeque::from([step]),
                None => return Next::Refused(why),
            },
        }
        match self.left.pop_front() {
            Some(step) => {
                self.now = step;
                Next::Ask
            }
            None => self.verdict(learned),
        }
    }

    /// Versions before 3.0 do not read JSON, those before 2.3 want two lines. Their module says `h:i`.
    fn as_lines(&self, step: &Step, is_plain: bool) -> Option<Step> {
        let form = match step {
            Step::End(Form::Line, _) => Form::TwoLines,
            Step::End(Form::TwoLines, _) | Step::Halves(..) | Step::List(_) => return None,
            Step::End(..) => Form::Line,
        };
        let is_old = is_plain && self.names.sent.contains(':');
        let name = self.names.of(form).filter(|_| is_old)?;
        Some(Step::End(form, name))
    }

    fn look_at(&mut self, dialog: &Value) {
        let (id, number) = (dialog["ID"].as_str(), dialog["db_id"].as_str());
        let Some(id) = id else {
            self.listed = Listed::Unseen("dlg_list shows something else".to_owned());
            return;
        };
        let names = [Form::Sent, Form::Number, Form::Did].map(|form| self.names.of(form));
        let is = |text: &str| names.iter().flatten().any(|name| name == text);
        let is_it = is(id) || number.is_some_and(is);
        let has_halves = || DialogId(id.into()).halves().is_some();
        let is_another = !is_it && (number.is_some() || has_halves() || is_like_a_dialog_id(id));
        if is_another {
            self.spare_the_call_id();
            self.listed = Listed::Absent;
            return;
        }
        self.listed = Listed::There(id.to_owned());
        if is_it && !self.tried.iter().any(|name| name == id) {
            self.left.push_front(Step::End(Form::Listed, id.to_owned()));
        }
    }

    /// It would end another dialog.
    fn spare_the_call_id(&mut self) {
        self.left
            .retain(|step| !matches!(step, Step::End(Form::CallId, _)));
    }

    /// A form that OpenSIPS took before has been answered 404.
    fn is_sure(&self, learned: Option<Form>) -> bool {
        let name = learned.and_then(|form| self.names.of(form));
        name.is_some_and(|name| self.tried.contains(&name))
    }

    /// It was not found by any name.
    fn verdict(&self, learned: Option<Form>) -> Next {
        match &self.listed {
            Listed::Absent => Next::Gone,
            Listed::Unseen(_) if self.is_sure(learned) => Next::Gone,
            Listed::Unseen(why) => Next::Unclear(format!(
                "OpenSIPS answers 404 to all its names ({}), which may be none of this version, and {why}",
                self.tried.join(", ")
            )),
            Listed::There(id) => Next::Unclear(format!(
                "OpenSIPS lists it as {id} and answers 404 to that and to its other names ({})",
                self.tried.join(", ")
            )),
        }
    }
}

/// How a dialog is looked for: by its names, by that first which was right last, then in the list, and by its Call-ID last,
/// since two dialogs may have the same.
fn steps(names: &Names, learned: Option<Form>) -> VecDeque<Step> {
    let is_old = names.sent.contains(':');
    let forms = if is_old {
        [Form::Sent, Form::Number, Form::Did]
    } else {
        [Form::Did, Form::Number, Form::Sent]
    };
    let is_text = |form: &Form| matches!(form, Form::Line | Form::TwoLines);
    let first = learned.filter(|form| is_old || !is_text(form));
    let mut steps = VecDeque::new();
    let mut add = |form: Form| {
        let Some(name) = names.of(form) else { return };
        let is_there = |step: &Step| matches!(step, Step::End(_, text) if *text == name);
        if !steps.iter().any(is_there) {
            steps.push_back(Step::End(form, name));
        }
    };
    if let Some(form) = first.filter(|form| *form != Form::CallId) {
        add(form);
    }
    if first.as_ref().is_some_and(is_text) {
        return steps;
    }
    forms.into_iter().for_each(add);
    let by_call_id = names
        .call_id
        .iter()
        .flat_map(|id| [Step::List(id.clone()), Step::End(Form::CallId, id.clone())]);
    for (n, step) in by_call_id.enumerate() {
        match first {
            Some(Form::CallId | Form::Listed) => steps.insert(n, step),
            _ => steps.push_back(step),
        }
    }
    steps
}

#[cfg(test)]
mod tests;
