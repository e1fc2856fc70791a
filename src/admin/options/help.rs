//! The commands and options of `media-admin` in words, for `--help`.

/// A command, as its help tells it.
pub(super) struct About {
    pub name: &'static str,
    pub arguments: &'static str,
    pub what: &'static str,
    /// Options and their meanings.
    pub options: &'static [(&'static str, &'static str)],
    pub more: &'static str,
}

const JSON: (&str, &str) = ("--json", "JSON instead, one object a line");

pub(super) const COMMANDS: &[About] = &[
    About {
        name: "summary",
        arguments: "",
        what: "all relays: state, calls, streams, traffic",
        options: &[JSON],
        more: "Exit status 1 where a relay does not answer, and where none takes new calls.",
    },
    About {
        name: "sessions",
        arguments: "[WORD]",
        what: "all calls, or those that fit the word and every filter",
        options: &[
            (
                "--call-id ID",
                "the call with this Call-ID, or those whose Call-IDs begin so",
            ),
            (
                "--user TEXT",
                "part of the caller's or callee's URI, or of the username",
            ),
            (
                "--address IP[:PORT]",
                "in the SDP, learned, or the relay's own",
            ),
            (
                "--relay RELAY",
                "on this relay: its name or address, see summary",
            ),
            (
                "--sort KEY",
                "start (default), duration, traffic, packets, quality, caller, callee, status",
            ),
            JSON,
        ],
        more: "WORD is a part of a URI or username, an address, or the beginning of a Call-ID.\n\
               Quality puts the worst first: calls in which one side is hardly or not heard.",
    },
    About {
        name: "top",
        arguments: "",
        what: "relays with their rates, busiest and worst calls, live",
        options: &[
            ("--interval SECONDS", "time between looks (2)"),
            ("--sort KEY", "as of sessions (traffic)"),
        ],
        more: "Keys: q quits; t traffic, d duration, w worst (quality), p packets, c caller, s status; r looks now.",
    },
    About {
        name: "explain",
        arguments: "CALL-ID",
        what: "who hears whom in a call, and why not; addresses, paths, drops, time-outs",
        options: &[JSON],
        more: "CALL-ID may be its beginning, 4 characters or more. Calls are known for 15 minutes after their end.",
    },
    About {
        name: "end",
        arguments: "CALL-ID [FROM-TAG]",
        what: "ends a call: its dialog at the SIP proxy, or else its session on the relay",
        options: &[(
            "--media",
            "only the session on the relay, whatever the proxy says",
        )],
        more: "Where several sessions share the Call-ID, all are ended; with FROM-TAG the one that this tag opened.\n\
               Needs the socket, or TLS with a certificate that management_passport allows.",
    },
    About {
        name: "drain",
        arguments: "RELAY",
        what: "gives a relay no new calls",
        options: &[(
            "--wait",
            "and waits until its last call is over; ^C leaves it drained",
        )],
        more: "RELAY is a name or an address as summary shows it. Holds until resume, over lost links and restarts of\n\
               the dispatcher; each dispatcher has to be told. Its log says when the last call is over.\n\
               Needs the socket, or TLS with a certificate that management_passport allows.",
    },
    About {
        name: "resume",
        arguments: "RELAY",
        what: "gives a drained relay calls again",
        options: &[],
        more: "Needs the socket, or TLS with a certificate that management_passport allows.",
    },
    About {
        name: "doctor",
        arguments: "",
        what: "looks at this host: what is wrong, and the command that mends it",
        options: &[
            (
                "--config-dir PATH",
                "directory of config.ini (/etc/mediaproxy)",
            ),
            (
                "--runtime-dir PATH",
                "directory of sockets and pid files (/run/mediaproxy)",
            ),
            JSON,
        ],
        more: "Looks at what config.ini has: [Relay], [Dispatcher] or both. Changes nothing. Exit status 1 where\n\
               something does not work.",
    },
    About {
        name: "version",
        arguments: "",
        what: "the dispatcher's version",
        options: &[],
        more: "",
    },
];

/// Options of all that ask a dispatcher.
pub(super) const CONNECTION: &[(&str, &str)] = &[
    (
        "--socket PATH",
        "the dispatcher's management socket (/run/mediaproxy/management.sock)",
    ),
    (
        "--connect HOST[:PORT]",
        "TCP instead; port 25061 unless given",
    ),
    ("--tls", "TLS over TCP, as management_use_tls wants it"),
    (
        "--certs DIR",
        "where its files are (/etc/mediaproxy/tls): ca.pem, crl.pem, and admin.crt with admin.key,",
    ),
    ("", "or those of dispatcher or relay; implies --tls"),
    (
        "--cert FILE, --key FILE, --ca FILE, --crl FILE",
        "single files instead; each implies --tls",
    ),
    ("--timeout SECONDS", "longest wait for an answer (15)"),
];

const ENDING: &str = "Exit status: 0 fine; 1 a problem was found or the dispatcher refused; 2 wrong command line; \
                      3 no connection.\nColour only on a terminal, and not where NO_COLOR is set.\n";

/// `media-admin --help`.
pub(super) fn help() -> String {
    let mut text = "media-admin: shows and changes what media-dispatcher and its relays do\n\n\
                    usage: media-admin [OPTIONS] COMMAND\n\nCommands (media-admin COMMAND --help tells more):\n"
        .to_owned();
    let commands: Vec<(String, &str)> = COMMANDS
        .iter()
        .map(|about| (format!("{} {}", about.name, about.arguments), about.what))
        .collect();
    let lines: Vec<(&str, &str)> = commands
        .iter()
        .map(|(left, right)| (left.as_str(), *right))
        .collect();
    list(&mut text, &lines);
    text.push_str("\nOptions:\n");
    list(&mut text, CONNECTION);
    list(
        &mut text,
        &[
            ("--version", "show the version"),
            ("--help", "show this text"),
        ],
    );
    text.push('\n');
    text.push_str(ENDING);
    text
}

/// `media-admin COMMAND --help`.
pub(super) fn help_of(about: &About) -> String {
    let About {
        name,
        arguments,
        what,
        options,
        more,
    } = about;
    let usage = format!("usage: media-admin [OPTIONS] {name} {arguments}");
    let mut text = format!("media-admin {name}: {what}\n\n{}\n", usage.trim_end());
    if !options.is_empty() {
        text.push('\n');
        list(&mut text, options);
    }
    if !more.is_empty() {
        text.push('\n');
        text.push_str(more);
        text.push('\n');
    }
    if *name != "doctor" {
        text.push_str("\nThe connection:\n");
        list(&mut text, CONNECTION);
    }
    text.push('\n');
    text.push_str(ENDING);
    text
}

/// Two columns; what is too long for the first has a line to itself.
fn list(text: &mut String, lines: &[(&str, &str)]) {
    const LEFT: usize = 22;
    for (left, right) in lines {
        if left.len() <= LEFT {
            text.push_str(&format!("  {left:LEFT$}  {right}\n"))
        } else {
            text.push_str(&format!("  {left}\n  {:LEFT$}  {right}\n", ""))
        }
    }
}
