//! `media-admin` as an administrator runs it, against real daemons on loopback with a call that talks.

use std::net::{SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

#[path = "support/daemons.rs"]
mod daemons;
#[path = "support/management.rs"]
mod management;
#[path = "support/proxy.rs"]
mod proxy;

use daemons::{Daemons, PortRange, Scratch, make_certificates, write_config};
use proxy::{Media, Message, Proxy};

/// Longer than anything here takes; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(50);

const ADMIN: &str = env!("CARGO_BIN_EXE_media-admin");

fn binaries() -> &'static Path {
    Path::new(ADMIN).parent().unwrap()
}

/// Both daemons in a scratch directory.
struct Site {
    scratch: Scratch,
    daemons: Option<Daemons>,
}

impl Site {
    fn new(name: &str) -> Site {
        Site::with(name, |config| config)
    }

    /// With another configuration than the usual one.
    fn with(name: &str, change: impl FnOnce(String) -> String) -> Site {
        let scratch = Scratch::new(name).unwrap();
        make_certificates(scratch.path()).unwrap();
        write_config(scratch.path(), PortRange::find(200).unwrap()).unwrap();
        let path = scratch.path().join("config.ini");
        let config = change(std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, config).unwrap();
        let daemons = Some(Daemons::start(binaries(), scratch.path()).unwrap());
        Site { scratch, daemons }
    }

    fn daemons(&self) -> &Daemons {
        self.daemons.as_ref().unwrap()
    }

    fn admin(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(ADMIN);
        command
            .arg("--socket")
            .arg(self.daemons().management_socket());
        command.args(arguments).output().unwrap()
    }

    /// What it prints where it ends well.
    fn prints(&self, arguments: &[&str]) -> String {
        let output = self.admin(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Prints it again and again until it has this.
    fn prints_at_last(&self, arguments: &[&str], part: &str) -> String {
        let mut waited = Duration::ZERO;
        loop {
            let text = self.prints(arguments);
            if text.contains(part) {
                return text;
            }
            assert!(waited < LONG, "never {part:?}: {text}");
            thread::sleep(STEP);
            waited += STEP;
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let ended = self.daemons.take().map(Daemons::stop);
        if !thread::panicking() {
            ended.unwrap_or(Ok(())).unwrap();
        }
    }
}

/// An answered call in which only the caller has spoken.
struct Call {
    phones: [UdpSocket; 2],
    /// Where each phone sends to.
    relay: [SocketAddrV4; 2],
}

fn phone() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

impl Call {
    fn place(site: &Site, call_id: &str) -> Result<Call, String> {
        let mut proxy = Proxy::connect(&site.daemons().control_socket()).unwrap();
        let phones = [phone(), phone()];
        let ends = [&phones[0], &phones[1]].map(|phone| Media::audio_at(phone).address);
        let ports = proxy.place(call_id, ends)?;
        Ok(Call {
            phones,
            relay: ports.map(|port| SocketAddrV4::new([127, 0, 0, 1].into(), port)),
        })
    }

    /// So many packets from one to the other, each seen to arrive.
    fn speak(&self, from: usize, count: usize) {
        let mut packet = [0; 172];
        packet[..2].copy_from_slice(&[0x80, 8]);
        for _ in 0..count {
            self.phones[from]
                .send_to(&packet, self.relay[from])
                .unwrap();
            assert_eq!(self.phones[1 - from].recv(&mut [0; 200]).unwrap(), 172);
        }
    }
}

fn error_of(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_call_is_listed_explained_and_ended() {
    let site = Site::new("admin-call");
    assert_eq!(site.prints(&["sessions"]), "no calls\n");
    let call = Call::place(&site, "first@x").unwrap();
    call.speak(0, 3);
    call.speak(1, 1);
    // A stranger at the callee's port.
    phone().send_to(&[0x80, 8, 0, 0], call.relay[1]).unwrap();
    let other = Call::place(&site, "second@x").unwrap();

    let table = site.prints(&["sessions", "--sort", "packets"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("CALLER") && lines[0].ends_with("CALL-ID"),
        "{table}"
    );
    assert!(
        lines[1].contains("alice@example.com") && lines[1].ends_with("first@x"),
        "{table}"
    );
    assert!(
        lines[1].contains("G711a") && lines[1].contains("3/1"),
        "{table}"
    );
    assert!(lines[2].ends_with("second@x"), "{table}");
    assert!(!table.contains('\x1b'), "no terminal, no colours");

    let callers = call.phones[0].local_addr().unwrap().to_string();
    let one = site.prints(&["sessions", "--json", "--address", &callers, "--user", "BOB"]);
    let json: serde_json::Value = serde_json::from_str(one.trim()).unwrap();
    assert_eq!(
        (&json["call_id"], one.lines().count()),
        (&"first@x".into(), 1)
    );
    assert_eq!(site.prints(&["sessions", "--user", "carol"]), "no calls\n");

    let explained = site.prints_at_last(&["explain", "first@x"], "wrong source");
    assert!(
        explained.starts_with("call first@x: answered, "),
        "{explained}"
    );
    assert!(
        explained.contains(&format!("caller: seen at {callers}")),
        "{explained}"
    );
    assert!(explained.contains("DROPPED: 1 wrong source"), "{explained}");
    assert!(
        explained.contains("RTP goes by user space: this relay does not use the kernel"),
        "{explained}"
    );
    let json = site.prints(&["explain", "--json", "first@x"]);
    let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(json["streams"][0]["callee"]["dropped"]["wrong source"], 1);

    let ended = site.prints(&["end", "first@x"]);
    assert!(
        ended.starts_with("ended: call first@x, its session on relay 127.0.0.1"),
        "{ended}"
    );
    let left = site.prints(&["sessions", "--json"]);
    assert!(
        left.contains("second@x") && !left.contains("first@x"),
        "{left}"
    );
    // The proxy knows nothing of it and removes the call when the phones hang up.
    let mut proxy = Proxy::connect(&site.daemons().control_socket()).unwrap();
    proxy.hang_up("first@x").unwrap();
    let log = std::fs::read_to_string(site.scratch.path().join("media-dispatcher.log")).unwrap();
    assert!(
        log.contains("[session first@x] to be ended: local client (uid "),
        "{log}"
    );
    assert!(
        log.contains("[session first@x] finished: ended by the administrator"),
        "{log}"
    );
    drop(other);
}

#[test]
fn calls_whose_identifiers_are_not_utf_8_are_ended_by_what_is_shown() {
    let site = Site::new("admin-bytes");
    let mut proxy = Proxy::connect(&site.daemons().control_socket()).unwrap();
    let media = [Media::audio_at(&phone())];
    for byte in [0xe8, 0xe9] {
        for message in [
            Message::offer("caf#@x", &media),
            Message::answer("caf#@x", &media),
        ] {
            let request = message
                .update()
                .replace("from_tag: from", "from_tag: from#");
            let mut request = request.into_bytes();
            for place in request.iter_mut().filter(|place| **place == b'#') {
                *place = byte;
            }
            let answer = proxy.ask_bytes(&request).unwrap();
            assert!(answer.starts_with("127.0.0.1 "), "{answer}");
        }
    }
    let table = site.prints(&["sessions"]);
    assert!(
        table.contains("caf\\xe8@x") && table.contains("caf\\xe9@x"),
        "{table}"
    );
    let one = site.prints(&["sessions", "--call-id", "caf\\xe9@x", "--json"]);
    assert_eq!(one.lines().count(), 1, "{one}");
    let explained = site.prints(&["explain", "caf\\xe9@x"]);
    assert!(
        explained.starts_with("call caf\\xe9@x: answered"),
        "{explained}"
    );
    assert!(
        explained.contains("\n  tags from\\xe9 and to\n"),
        "{explained}"
    );
    let ended = site.prints(&["end", "caf\\xe9@x"]);
    assert!(
        ended.starts_with("ended: call caf\\xe9@x, its session on relay"),
        "{ended}"
    );
    let left = site.prints(&["sessions"]);
    assert!(
        left.contains("caf\\xe8@x") && !left.contains("caf\\xe9@x"),
        "{left}"
    );
}

#[test]
fn a_relay_is_drained_and_resumed() {
    let site = Site::new("admin-drain");
    let first = Call::place(&site, "first").unwrap();
    let drained = site.prints(&["drain", "127.0.0.1"]);
    assert!(
        drained.contains("gets no new calls, 1 call is left there; NO OTHER RELAY"),
        "{drained}"
    );
    let summary = site.prints(&["summary"]);
    assert!(
        summary.lines().nth(1).unwrap().contains("drained"),
        "{summary}"
    );
    assert!(Call::place(&site, "second").is_err(), "no new call");
    first.speak(0, 1);
    site.prints(&["end", "first"]);
    let log = site.scratch.path().join("media-dispatcher.log");
    let mut waited = Duration::ZERO;
    while !std::fs::read_to_string(&log)
        .unwrap()
        .contains("drained, it has no calls left")
    {
        assert!(waited < LONG, "it is never said");
        thread::sleep(STEP);
        waited += STEP;
    }
    let resumed = site.prints(&["resume", "127.0.0.1"]);
    assert!(resumed.starts_with("resumed: relay 127.0.0.1"), "{resumed}");
    Call::place(&site, "third").unwrap();
}

#[test]
fn exit_statuses() {
    let site = Site::new("admin-status");
    let status = |arguments: &[&str]| site.admin(arguments).status.code();
    assert_eq!(status(&["version"]), Some(0));
    assert_eq!(status(&["explain", "nothing"]), Some(1));
    assert_eq!(status(&["drain", "nobody"]), Some(1));
    assert_eq!(status(&["dance"]), Some(2));
    let refused = site.admin(&["end", "no\x1b[2J"]);
    assert_eq!(
        error_of(&refused),
        "media-admin: no relay has call no\\u{1b}[2J\n"
    );
    let nowhere = Command::new(ADMIN)
        .args(["--socket", "/nonexistent", "summary"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(3));
    assert!(error_of(&nowhere).contains("is media-dispatcher running on this host?"));
    // Over TCP without TLS everybody may look and nobody may change anything.
    let config = std::fs::read_to_string(site.scratch.path().join("config.ini")).unwrap();
    let address = config
        .lines()
        .find_map(|line| line.strip_prefix("listen_management = "))
        .unwrap();
    let over_tcp = |arguments: &[&str]| {
        let mut command = Command::new(ADMIN);
        command
            .args(["--connect", address])
            .args(arguments)
            .output()
            .unwrap()
    };
    assert_eq!(over_tcp(&["summary"]).status.code(), Some(0));
    let refused = over_tcp(&["drain", "127.0.0.1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        error_of(&refused).contains("needs the management socket"),
        "{refused:?}"
    );
}

#[test]
fn over_tls_with_a_certificate_that_the_passport_allows() {
    let tls = |config: String| {
        config.replace(
            "management_use_tls = no",
            "management_use_tls = yes\nmanagement_passport = CN:dispatcher",
        )
    };
    let site = Site::with("admin-tls", tls);
    let config = std::fs::read_to_string(site.scratch.path().join("config.ini")).unwrap();
    let mut lines = config.lines();
    let address = lines
        .find_map(|line| line.strip_prefix("listen_management = "))
        .unwrap();
    let certs = site.scratch.path().join("tls");
    let file = |name: &str| certs.join(name).display().to_string();
    let admin = |options: &[&str]| {
        let mut command = Command::new(ADMIN);
        let command = command.args(["--connect", address, "--timeout", "10"]);
        command.args(options).output().unwrap()
    };
    let directory = certs.display().to_string();
    let drained = admin(&["--certs", &directory, "drain", "127.0.0.1"]);
    assert_eq!(drained.status.code(), Some(0), "{drained:?}");
    let json = site.prints(&["summary", "--json"]);
    assert!(json.contains("\"drained\":true"), "{json}");
    // Another certificate of the same CA.
    let (cert, key) = (file("relay.crt"), file("relay.key"));
    let own = [
        "--certs", &directory, "--cert", &cert, "--key", &key, "summary",
    ];
    let refused = admin(&own);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        error_of(&refused).contains("management_passport"),
        "{refused:?}"
    );
    let plain = admin(&["summary"]);
    assert_eq!(plain.status.code(), Some(3), "no TLS: {plain:?}");
    let none = admin(&["--certs", "/nonexistent", "summary"]);
    assert_eq!(none.status.code(), Some(3));
    assert!(error_of(&none).contains("/nonexistent/"), "{none:?}");
}

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
    if Command::new("tmux").arg("-V").output().is_err() {
        println!("SKIP: top under tmux: tmux is not installed");
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
        lines[0].starts_with("media-admin top: 1 relays, 1 calls, "),
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
    terminal.key("d");
    terminal.shows("calls by duration");
    // A call in which one side is not heard is among the worst once it has lasted.
    terminal.shows("worst: one side is hardly heard");
    terminal.shows("one way");
    // The same on a smaller and on a larger screen, from the next picture on.
    terminal.resize(60, 15);
    let small = terminal.shows("q quit  sort by: t d");
    assert!(small.lines().nth(14).unwrap().starts_with("q quit"));
    let calls = |screen: &str| {
        let mut lines = screen.lines().map(str::to_owned);
        let head = lines.find(|line| line.starts_with("CALLER")).unwrap();
        (head, lines.next().unwrap())
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
    terminal.key("q");
    terminal.is_restored("status 0");
    // A signal ends it as well as a key does.
    terminal.top();
    terminal.shows("one way");
    terminal.key("C-c");
    terminal.is_restored("status 0");
}

#[test]
fn tables_fit_narrow_terminals_and_pipes_get_all() {
    if Command::new("tmux").arg("-V").output().is_err() {
        println!("SKIP: tables under tmux: tmux is not installed");
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
            folded.contains("(sent to until it is seen), sendrecv"),
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
    if Command::new("tmux").arg("-V").output().is_err() {
        println!("SKIP: top under tmux: tmux is not installed");
        return;
    }
    let mut site = Site::new("admin-away");
    let socket = site.daemons().management_socket();
    {
        let terminal = Terminal::start(&site);
        terminal.top();
        terminal.shows("1 relays");
        let pid = site.daemons().dispatcher.pid();
        daemons::signal(pid, "KILL").unwrap();
        terminal.shows("old figures: ");
        terminal.shows("1 relays");
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

/// What `doctor` finds, an object a line, and its exit status.
fn doctor(directory: &Path) -> (Vec<serde_json::Value>, Option<i32>) {
    let output = Command::new(ADMIN)
        .args(["doctor", "--json", "--config-dir"])
        .arg(directory)
        .arg("--runtime-dir")
        .arg(directory.join("run"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let findings = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (findings.collect(), output.status.code())
}

#[track_caller]
fn found(findings: &[serde_json::Value], area: &str, subject: &str, verdict: &str) -> String {
    let fits = |finding: &&serde_json::Value| {
        finding["area"] == area && finding["subject"] == subject && finding["verdict"] == verdict
    };
    match findings.iter().find(fits) {
        Some(finding) => finding["text"].as_str().unwrap().to_owned(),
        None => panic!("no {verdict} for {subject} of the {area}: {findings:#?}"),
    }
}

#[test]
fn doctor_finds_nothing_on_a_host_that_works() {
    let site = Site::new("admin-doctor");
    let (findings, status) = doctor(site.scratch.path());
    let bad: Vec<_> = findings
        .iter()
        .filter(|one| one["verdict"] == "problem")
        .collect();
    assert_eq!((status, bad), (Some(0), vec![]), "{findings:#?}");
    let running = found(&findings, "dispatcher", "daemon", "ok");
    assert!(running.contains("1 relay(s) take calls"), "{running}");
    found(&findings, "dispatcher", "listen", "ok");
    // They are valid for a day.
    found(&findings, "dispatcher", "certificates", "warning");
    found(&findings, "relay", "certificates", "warning");
    let link = found(&findings, "relay", "TLS", "ok");
    assert!(link.ends_with("the relay has a link there"), "{link}");
    found(&findings, "relay", "dispatcher", "ok");
    let ports = found(&findings, "relay", "ports", "ok");
    assert_eq!(ports, "in use by the media-relay that runs here");
    site.prints(&["drain", "127.0.0.1"]);
    let (findings, status) = doctor(site.scratch.path());
    assert_eq!(status, Some(1));
    let none = found(&findings, "dispatcher", "daemon", "problem");
    assert!(none.contains("media-admin resume"), "{none}");
}

#[test]
fn doctor_tries_the_relays_certificate_at_the_dispatcher() {
    let mut site = Site::new("admin-handshake");
    let Daemons {
        relay, dispatcher, ..
    } = site.daemons.take().unwrap();
    relay.stop().unwrap();
    let (findings, _) = doctor(site.scratch.path());
    let accepted = found(&findings, "relay", "TLS", "ok");
    assert!(
        accepted.ends_with("both certificates are accepted"),
        "{accepted}"
    );
    // One of another CA.
    let other = Scratch::new("admin-other-ca").unwrap();
    make_certificates(other.path()).unwrap();
    let tls = site.scratch.path().join("tls");
    for file in ["relay.crt", "relay.key"] {
        std::fs::copy(other.path().join("tls").join(file), tls.join(file)).unwrap();
    }
    let (findings, status) = doctor(site.scratch.path());
    assert_eq!(status, Some(1));
    let refused = found(&findings, "relay", "TLS", "problem");
    assert!(
        refused.contains("does not accept our certificate"),
        "{refused}"
    );
    dispatcher.stop().unwrap();
}

#[test]
fn doctor_names_what_is_broken_and_what_mends_it() {
    let scratch = Scratch::new("admin-broken").unwrap();
    let directory = scratch.path();
    make_certificates(directory).unwrap();
    write_config(directory, PortRange::find(200).unwrap()).unwrap();
    // The dispatcher's port is somebody else's, and the relay is sent where nobody is.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let path = directory.join("config.ini");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some(("listen", _)) => format!("listen = {taken}"),
        Some(("dispatchers", _)) => "dispatchers = 127.0.0.1:1".to_owned(),
        Some(("state_dir", _)) => format!("state_dir = {}", directory.join("nowhere").display()),
        _ => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n")
        + "\naccounting = database, radius, file\n[Database]\ndburi = mysql://u:secret@127.0.0.1:1/x\n"
        + "[Radius]\nconfig_file = /nonexistent/radius.conf\n[File]\npath = /nonexistent/calls.json\n"
        + "[Kamailio]\nsocket_path = /nonexistent/kamailio.sock\n";
    std::fs::write(&path, text).unwrap();
    expire(directory, "relay");
    std::fs::remove_file(directory.join("tls/dispatcher.key")).unwrap();
    let (findings, status) = doctor(directory);
    assert_eq!(status, Some(1));
    let is = |area: &str, subject: &str, verdict: &str, part: &str| {
        let text = found(&findings, area, subject, verdict);
        assert!(text.contains(part), "{text}");
    };
    is("relay", "certificates", "problem", "renew relay");
    is("relay", "dispatcher", "warning", "cannot be reached");
    is("relay", "state_dir", "warning", "install -d -m 750");
    is(
        "dispatcher",
        "certificates",
        "problem",
        "dispatcher.key: no such file",
    );
    is("dispatcher", "listen", "problem", "ss -ltnp");
    is(
        "dispatcher",
        "database",
        "problem",
        "MySQL: 127.0.0.1 port 1 cannot be reached",
    );
    is(
        "dispatcher",
        "RADIUS",
        "problem",
        "/nonexistent/radius.conf",
    );
    is("dispatcher", "file", "problem", "/nonexistent/calls.json");
    is("dispatcher", "SIP proxy", "problem", "dgram_socket");
    is("dispatcher", "daemon", "warning", "does not run here");
    assert!(!format!("{findings:?}").contains("secret"), "a password");
    // A file that cannot be used is a finding, too.
    std::fs::write(&path, "[Relay]\nport_range = x\n").unwrap();
    let (findings, status) = doctor(directory);
    assert_eq!(status, Some(1));
    let text = found(&findings, "relay", "configuration", "problem");
    assert!(text.contains("config.ini:2"), "{text}");
}

/// Gives a role a certificate that ended in the last century, for the same key and of the same CA.
fn expire(directory: &Path, role: &str) {
    let tls = directory.join("tls");
    let script = format!(
        "set -e; openssl req -new -key {role}.key -subj /CN={role} -out old.csr
         touch index.txt; echo 99 >serial
         printf '[a]\\ndatabase=index.txt\\nserial=serial\\nnew_certs_dir=.\\ndefault_md=sha256\\npolicy=p\\n[p]\\ncommonName=supplied\\n' >ca.cnf
         openssl ca -batch -config ca.cnf -name a -cert ca.pem -keyfile \"$(ls ca/*.key | head -1)\" \
            -startdate 19980101000000Z -enddate 19990101000000Z -in old.csr -out {role}.crt -notext"
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&tls)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
