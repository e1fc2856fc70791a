//! The terminal while `top` has it: alternate screen, no cursor, each key at once. It is as before whenever this ends.

use std::io::{self, IsTerminal, Read, Write};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::sys::signals::SignalWaiter;
use crate::sys::terminal::{self, Keys};

/// Alternate screen, no cursor, no line goes on in the next (it may just have become narrower); and the reverse
/// (xterm's control sequences, which all terminals of today have).
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What happens while it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    Key(u8),
    /// No more keys will come.
    NoKeys,
    /// Somebody wants this program to end.
    Signal,
}

/// See the module.
pub(super) struct Screen {
    keys: Keys,
    pub happenings: Receiver<Happening>,
}

impl Screen {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// Standard input or output is none.
    pub(super) fn open() -> io::Result<Screen> {
        let (input, output) = (io::stdin(), io::stdout());
        if !input.is_terminal() || !output.is_terminal() {
            return Err(io::Error::other(
                "top needs a terminal; see summary and sessions",
            ));
        }
        // Before any thread is started.
        let signals = SignalWaiter::block();
        let keys = Keys::take(&input)?;
        let (sender, happenings) = unbounded();
        let told = sender.clone();
        spawn("signals", move || {
            signals.wait();
            // It ends then; nobody may listen any more.
            let _ = told.send(Happening::Signal);
        })?;
        spawn("keys", move || read_keys(&sender))?;
        say(ENTER)?;
        Ok(Screen { keys, happenings })
    }

    /// Leaves the terminal to the shell until that lets us go on; the screen is empty then.
    pub(super) fn suspend(&self) -> io::Result<()> {
        say(LEAVE)?;
        self.keys.suspend()?;
        say(ENTER)
    }

    /// Columns and rows, as they are now.
    pub(super) fn size(&self) -> (usize, usize) {
        terminal::size(io::stdout()).unwrap_or((80, 24))
    }

    /// Shows these lines: as many as the screen has rows, none longer than it is wide.
    pub(super) fn show(&self, lines: &[String]) -> io::Result<()> {
        // What was there goes first: behind a line that is as long as the screen is wide, its last character would.
        let mut text = "\x1b[H\x1b[K".to_owned();
        text.push_str(&lines.join("\r\n\x1b[K"));
        say(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no more.
        let _ = say(LEAVE);
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all(text.as_bytes())?;
    output.flush()
}

fn read_keys(sender: &Sender<Happening>) {
    let mut key = [0];
    loop {
        match io::stdin().read(&mut key) {
            Ok(1) if sender.send(Happening::Key(key[0])).is_ok() => {}
            // To be stopped is no end.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    // As above.
    let _ = sender.send(Happening::NoKeys);
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    let run = || {
        terminal::keep_from_stopping();
        run();
    };
    builder.spawn(run).map(drop)
}
