//! What OpenSIPS does when it is told to end a dialog, version by version, as its sources have it (modules dialog and
//! mi_datagram), and as 2.4.11, 3.0.0, 3.0.5, 3.1.0 and 3.6.8 were seen to do.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How `dlg_end_dlg` is told which dialog is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Before 2.3: two lines of text.
    V2_2,
    /// 2.3 and 2.4: a line of text, with the number or the Call-ID.
    V2_4,
    /// 3.0: JSON, with the number or the Call-ID. The module of 3.0.0 says `h:i`, that of 3.0.1 the number.
    V3_0,
    /// 3.1 and later: the DID or the Call-ID.
    V3_1,
    /// One that has no known form any more, but for what its list shows.
    Later,
}

/// A dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    pub entry: u32,
    pub id: u32,
    pub call_id: String,
}

impl Dialog {
    pub fn new(entry: u32, id: u32, call_id: &str) -> Dialog {
        Dialog {
            entry,
            id,
            call_id: call_id.to_owned(),
        }
    }

    pub fn number(&self) -> String {
        (u64::from(self.entry) << 32 | u64::from(self.id)).to_string()
    }

    pub fn did(&self) -> String {
        let digits = |half: u32| -> String { format!("{half:x}").chars().rev().collect() };
        format!("{}.{}", digits(self.entry), digits(self.id))
    }
}

/// What it has, what it was asked, and how it answers.
#[derive(Debug)]
pub struct State {
    pub version: Version,
    pub dialogs: Vec<Dialog>,
    /// What came, as it came.
    pub asked: Vec<String>,
    /// `dlg_list` is no command here.
    pub lists_nothing: bool,
    /// Asked to end what is there, it says 404.
    pub finds_nothing: bool,
}

/// A stand-in that answers until it is dropped.
#[derive(Clone, Debug)]
pub struct OpenSips(Arc<Mutex<State>>);

impl OpenSips {
    pub fn listen(path: &Path, version: Version) -> OpenSips {
        let socket = UnixDatagram::bind(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let state = State {
            version,
            dialogs: Vec::new(),
            asked: Vec::new(),
            lists_nothing: false,
            finds_nothing: false,
        };
        let state = Arc::new(Mutex::new(state));
        let weak = Arc::downgrade(&state);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Some(state) = weak.upgrade() {
                let (length, from) = match socket.recv_from(&mut buffer) {
                    Ok(came) => came,
                    Err(error) if is_passing(&error) => continue,
                    Err(error) => panic!("{error}"),
                };
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                let answer = state
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .answer(&text);
                // Who asked may be gone.
                let _ = socket.send_to_addr(answer.as_bytes(), &from);
            }
        });
        OpenSips(state)
    }

    pub fn with<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.asked))
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

impl State {
    fn answer(&mut self, text: &str) -> String {
        match self.version {
            Version::V2_2 | Version::V2_4 => self.answer_lines(text),
            _ => self.answer_json(text),
        }
    }

    fn answer_lines(&mut self, text: &str) -> String {
        let Some(rest) = text.strip_prefix(":dlg_end_dlg:\n") else {
            self.asked.push("no command".to_owned());
            return "500 command not available\n".to_owned();
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        self.asked.push(words.join(" "));
        let ended = match (self.version, &words[..]) {
            (Version::V2_2, [entry, id]) => self.take(|d| {
                (d.entry.to_string(), d.id.to_string()) == ((*entry).to_owned(), (*id).to_owned())
            }),
            (Version::V2_4, [name]) => self.take(|d| d.number() == *name || d.call_id == *name),
            _ => return "400 Too few or too many arguments\n".to_owned(),
        };
        if ended {
            "200 OK\n".to_owned()
        } else {
            "404 Requested Dialog not found\n".to_owned()
        }
    }

    fn answer_json(&mut self, text: &str) -> String {
        let Ok(request) = serde_json::from_str::<Value>(text) else {
            self.asked.push("no JSON".to_owned());
            return json!({"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}).to_string();
        };
        let params = &request["params"];
        let name = params[0].as_str().unwrap_or_default().to_owned();
        let answer = match request["method"].as_str() {
            Some("dlg_end_dlg") => {
                self.asked.push(name.clone());
                let version = self.version;
                let is = |dialog: &Dialog| match version {
                    Version::V3_0 if name.bytes().all(|b| b.is_ascii_digit()) => {
                        dialog.number() == name
                    }
                    Version::V3_0 => dialog.call_id == name,
                    Version::Later => format!("v{}", dialog.number()) == name,
                    _ => dialog.did() == name || dialog.call_id == name,
                };
                if !self.finds_nothing && self.take(is) {
                    json!({"result": "OK"})
                } else {
                    json!({"error": {"code": 404, "message": "Requested Dialog not found"}})
                }
            }
            Some("dlg_list") if !self.lists_nothing => {
                let call_id = params["callid"].as_str().unwrap_or_default();
                self.asked.push(format!("list {call_id}"));
                match self.dialogs.iter().find(|dialog| dialog.call_id == call_id) {
                    Some(dialog) => json!({"result": {"Dialog": shown(dialog, self.version)}}),
                    None => json!({"error": {"code": 404, "message": "No such dialog"}}),
                }
            }
            other => {
                self.asked.push(format!("no command: {other:?}"));
                json!({"error": {"code": -32601, "message": "Method not found"}})
            }
        };
        let mut answer = answer;
        answer["jsonrpc"] = json!("2.0");
        answer["id"] = request["id"].clone();
        answer.to_string()
    }

    /// Ends a dialog, and says whether there was one.
    fn take(&mut self, is: impl Fn(&Dialog) -> bool) -> bool {
        let before = self.dialogs.len();
        if let Some(at) = self.dialogs.iter().position(is) {
            self.dialogs.remove(at);
        }
        self.dialogs.len() < before
    }
}

fn shown(dialog: &Dialog, version: Version) -> Value {
    let (number, call_id) = (dialog.number(), &dialog.call_id);
    match version {
        Version::V3_0 => json!({"ID": number, "state": 4, "callid": call_id}),
        Version::Later => {
            json!({"ID": format!("v{number}"), "db_id": number, "state": 4, "callid": call_id})
        }
        _ => json!({"ID": dialog.did(), "db_id": number, "state": 4, "callid": call_id}),
    }
}
