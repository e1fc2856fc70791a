//! `media-admin` on a terminal, driven under tmux: `top`, and tables where there is little room.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::daemons::{self, Daemons};
use crate::support::site::{ADMIN, Call, LONG, STEP, Site};
use crate::support::skip;

/// A terminal of our own, on a tmux server of our own.
struct Terminal<'a> {
    site: &'a Site,
}

impl Terminal<'_> {
    fn tmux(&self, arguments: &[&str]) -> String {
        let socket = self.site.scratch.path().join("tmux.sock");
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(socket)
            .args(["-f", "/dev/null"])
            .args(arguments);
        let output = command.env("TERM", "xterm").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(site: &Site) -> Terminal<'_> {
        let terminal = Terminal { site };
        terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", "sh"]);
        terminal.types("PS1='ready> '");
        terminal.shows("ready>");
        terminal
    }

    fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen has this.
    #[track_caller]
    fn shows(&self, part: &str) -> String {
        let mut waited = Duration::ZERO;
        loop {
            let screen = self.screen();
            if screen.contains(part) {
                return screen;
            }
            assert!(waited < LONG, "never {part:?}:\n{screen}");
            thread::sleep(STEP);
            waited += STEP;
        }
    }

    fn top(&self) {
        let socket = self.site.daemons().management_socket();
        let socket = socket.display();
        self.types(&format!(
            "clear; {ADMIN} --socket {socket} top --interval 0.3; echo status $?"
        ));
    }

    /// Whether typed text shows: the terminal is as before.
    #[track_caller]
    fn is_restored(&self, status: &str) {
        self.shows(status);
        self.types("stty -a | grep -c -e ' -echo ' -e ' -icanon' | sed s/^/off:/");
        self.shows("off:0");
        let shown = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(shown.trim(), "0 1", "alternate screen off, cursor on");
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let socket = self.site.scratch.path().join("tmux.sock");
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(socket)
            .arg("kill-server")
            .output();
    }
}

#[test]
fn top_shows_sorts_resizes_and_leaves_the_terminal_as_it_was() {
    if skip::missing(&["tmux"]).is_some() {
        skip::skip("tmux is not installed");
        return;
    }
    let site = Site::new("admin-top");
    let call = Call::place(&site, "seen@x").unwrap();
    call.speak(0, 20);
    let terminal = Terminal::start(&site);
    terminal.top();
    let screen = terminal.shows("seen@x");
    let lines: Vec<&str> = screen.lines().collect();
    assert!(
        lines[0].starts_with("media-admin top: 1 relay, 1 call, "),
        "{screen}"
    );
    assert!(
        lines[2].starts_with("RELAY") && lines[3].contains("active"),
        "{screen}"
    );
    assert!(
        screen.contains("calls by traffic") && lines[23].starts_with("q quit"),
        "{screen}"
    );
    for key in ["Up", "PageDown", "F5", "d"] {
        terminal.key(key);
    }
    terminal.shows("calls by duration");
    // A call in which one side is not heard is among the worst once it has lasted.
    terminal.shows("worst: one side is hardly heard");
    terminal.shows("one way");
    // The same on a smaller and on a larger screen, from the next picture on.
    terminal.resize(60, 15);
    let small = terminal.shows("q quit  Enter explain  t d w");
    assert!(small.lines().nth(14).unwrap().starts_with("q quit"));
    let calls = |screen: &str| {
        let mut lines = screen.lines().map(str::to_owned);
        let head = lines.find(|line| line.starts_with("  CALLER")).unwrap();
        let call = lines.next().unwrap();
        (head, call.strip_prefix("> ").unwrap().to_owned())
    };
    let (head, call) = calls(&small);
    assert!(
        head.ends_with("CALL-ID") && call.ends_with("seen@x"),
        "{small}"
    );
    assert!(
        !head.contains("KERNEL") && call.contains("one way"),
        "{small}"
    );
    terminal.resize(120, 30);
    let large = terminal.shows("sort: t traffic");
    assert!(
        large.lines().nth(29).unwrap().contains("r look now"),
        "{large}"
    );
    let (head, call) = calls(&large);
    assert!(
        head.contains("KERNEL") && head.ends_with("CALL-ID"),
        "{large}"
    );
    assert!(
        call.starts_with("alice@example.com  bob@example.com"),
        "{large}"
    );
    terminal.resize(80, 24);
    // What is cut can be read.
    terminal.shows("> alice@example.com to bob@example.com, Call-ID seen@x");
    terminal.key("Enter");
    let screen = terminal.shows("audio: the callee hears");
    assert!(
        screen.starts_with("media-admin top: call seen@x, lines 1 to "),
        "{screen}"
    );
    terminal.key("Escape");
    terminal.shows("calls by duration");
    terminal.key("q");
    terminal.is_restored("status 0");
    // A signal ends it as well as a key does.
    terminal.top();
    terminal.shows("one way");
    terminal.key("C-c");
    terminal.is_restored("status 0");
}

#[test]
fn a_long_list_is_scrolled() {
    if skip::missing(&["tmux"]).is_some() {
        skip::skip("tmux is not installed");
        return;
    }
    let site = Site::new("admin-scroll");
    let calls: Vec<Call> = (0..30)
        .map(|n| Call::place(&site, &format!("call-{n:02}@x")).unwrap())
        .collect();
    let terminal = Terminal::start(&site);
    terminal.top();
    terminal.key("c");
    let screen = terminal.shows("calls by caller: 1 to ");
    assert!(
        screen.contains(" of 30\n") && screen.contains("\n> alice@"),
        "{screen}"
    );
    terminal.key("End");
    let screen = terminal.shows("to 30 of 30");
    assert!(screen.contains("Call-ID call-29@x"), "{screen}");
    terminal.key("Up");
    terminal.shows("Call-ID call-28@x");
    terminal.key("Enter");
    terminal.shows("media-admin top: call call-28@x, lines 1 to ");
    terminal.key("q");
    terminal.key("Home");
    terminal.shows("calls by caller: 1 to ");
    terminal.key("q");
    terminal.is_restored("status 0");
    drop(calls);
}

#[test]
fn top_can_be_suspended_and_goes_on() {
    if skip::missing(&["tmux"]).is_some() {
        skip::skip("tmux is not installed");
        return;
    }
    let site = Site::new("admin-suspend");
    let _call = Call::place(&site, "seen@x").unwrap();
    let terminal = Terminal::start(&site);
    terminal.top();
    for round in ["one", "two"] {
        terminal.shows("calls by traffic");
        terminal.key("C-z");
        // What a shell says of a command that SIGTSTP, 20, has stopped; and it does nothing meanwhile.
        terminal.is_restored(if round == "one" {
            "status 148"
        } else {
            "back 148"
        });
        let jobs = format!("jobs; echo round {round}");
        terminal.types(&jobs);
        let screen = terminal.shows(&format!("\nround {round}"));
        assert!(
            screen.contains("Stopped") || screen.contains("Suspended"),
            "{screen}"
        );
        terminal.types("clear; fg; echo back $?");
    }
    terminal.shows("calls by traffic");
    terminal.key("d");
    terminal.shows("calls by duration");
    terminal.key("q");
    terminal.is_restored("back 0");
}

#[test]
fn tables_fit_narrow_terminals_and_pipes_get_all() {
    if skip::missing(&["tmux"]).is_some() {
        skip::skip("tmux is not installed");
        return;
    }
    let site = Site::new("admin-narrow");
    let call_id = format!("{}@phone.example.com", "0123456789abcdef".repeat(3));
    let call = Call::place(&site, &call_id).unwrap();
    call.speak(0, 20);
    let terminal = Terminal::start(&site);
    let mut count = 0;
    let mut run = |command: &str| {
        let socket = site.daemons().management_socket();
        count += 1;
        // The end is told apart from what was typed, and from the end before.
        let line = format!(
            "clear; {ADMIN} --socket {} {command}; echo do''ne {count}",
            socket.display()
        );
        terminal.types(&line);
        terminal.shows(&format!("done {count}\nready>"))
    };
    for (columns, without) in [(60, "PACKETS"), (80, "BYTES")] {
        terminal.resize(columns, 40);
        let screen = run("sessions");
        let lines: Vec<&str> = screen.lines().collect();
        assert!(
            lines[0].ends_with("CALL-ID") && !lines[0].contains(without),
            "{screen}"
        );
        assert!(
            lines[1].starts_with("alice@exampl") && lines[1].ends_with('…'),
            "{screen}"
        );
        assert!(
            lines[2].starts_with("done"),
            "a line for each call: {screen}"
        );
        let screen = run("summary");
        let lines: Vec<&str> = screen.lines().collect();
        assert!(
            lines[0].starts_with("RELAY") && lines[0].contains("BIT/S"),
            "{screen}"
        );
        assert!(lines[1].contains("active"), "{screen}");
        assert!(lines[2].starts_with("done"), "{screen}");
        // Broken at blanks, and nothing is lost.
        let screen = run(&format!("explain {call_id}"));
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let folded = words(&screen);
        assert!(
            folded.contains("early media") || folded.contains(": answered"),
            "{screen}"
        );
        assert!(
            folded.contains("(media goes there until something comes from the party), sendrecv"),
            "{screen}"
        );
    }
    let table = site.prints(&["sessions"]);
    assert!(table.lines().nth(1).unwrap().ends_with(&call_id), "{table}");
    for name in ["MEDIA", "CODEC", "PACKETS", "BYTES", "KERNEL", "RELAY"] {
        assert!(table.contains(name), "{table}");
    }
}

#[test]
fn top_outlives_a_dispatcher_that_is_away() {
    if skip::missing(&["tmux"]).is_some() {
        skip::skip("tmux is not installed");
        return;
    }
    let mut site = Site::new("admin-away");
    let socket = site.daemons().management_socket();
    {
        let terminal = Terminal::start(&site);
        terminal.top();
        terminal.shows("1 relay, ");
        let pid = site.daemons().dispatcher.pid();
        daemons::signal(pid, "KILL").unwrap();
        terminal.shows("old figures: ");
        terminal.shows("1 relay, ");
        terminal.key("q");
        terminal.is_restored("status 0");
    }
    // The socket's file is still there and nobody listens.
    let nobody = Command::new(ADMIN)
        .arg("--socket")
        .arg(&socket)
        .arg("summary")
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
    let Daemons {
        relay, dispatcher, ..
    } = site.daemons.take().unwrap();
    drop(dispatcher);
    relay.stop().unwrap();
}
