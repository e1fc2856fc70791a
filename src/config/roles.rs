//! What runs on a host, as far as its files tell.

use std::path::Path;

use super::section::Section;
use super::{FILE_NAME, contents, ini, values};

/// Which daemons the files of a host are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub relay: bool,
    pub dispatcher: bool,
    /// Nothing but its certificate tells of the dispatcher: it may have come here with a relay's.
    pub dispatcher_by_certificate: bool,
}

/// A daemon that has a key in its section, or else its certificate in `certs_path`. Headers alone say nothing: the
/// sample has them all. What cannot be read is no sign of anything; the daemon's own reader tells of it.
pub fn roles(dir: &Path) -> Roles {
    let mut told = Vec::new();
    let bytes = contents(&dir.join(FILE_NAME)).unwrap_or_default();
    let file = ini::parse(&bytes, &mut told);
    let mut tls = Section::new("TLS", &file, &mut told);
    let certificates = tls.value("certs_path", values::path(dir));
    let mut has_keys = |section| Section::new(section, &file, &mut told).has_keys();
    let (relay, dispatcher) = (has_keys("Relay"), has_keys("Dispatcher"));
    let has = |certificate: &str| {
        let directory = certificates.as_ref();
        directory.is_some_and(|directory| directory.join(certificate).exists())
    };
    let dispatcher_by_certificate = !dispatcher && has("dispatcher.crt");
    Roles {
        relay: relay || has("relay.crt"),
        dispatcher: dispatcher || dispatcher_by_certificate,
        dispatcher_by_certificate,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::scratch::Scratch;

    fn with(text: &str) -> Scratch {
        let dir = Scratch::new("roles");
        fs::write(dir.path().join(FILE_NAME), text).unwrap();
        dir
    }

    #[test]
    fn a_key_or_a_certificate_tells_what_runs_here() {
        let roles = |text: &str, certificates: &[&str]| {
            let dir = with(text);
            for name in certificates {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            let roles = super::roles(dir.path());
            (roles.relay, roles.dispatcher)
        };
        let headers = "[Relay]\n;dispatchers = a\n[Dispatcher]\n listen =\n";
        assert_eq!(roles(headers, &[]), (false, false));
        assert_eq!(roles(headers, &["tls/relay.crt"]), (true, false));
        let elsewhere = "[TLS]\ncerts_path = x\n[relay]\n";
        assert_eq!(
            roles(elsewhere, &["tls/relay.crt", "x/dispatcher.crt"]),
            (false, true)
        );
        assert_eq!(
            roles("[Dispatcher]\nlisten = any", &["tls/relay.crt"]),
            (true, true)
        );
    }

    #[test]
    fn a_header_counts_for_who_runs_here_as_the_daemons_read_it() {
        let roles = |text: &str| {
            let roles = super::roles(with(text).path());
            (roles.relay, roles.dispatcher)
        };
        for header in [
            "[Relay]",
            "[Relay ]",
            "[ Relay]",
            "  [RELAY] ; x",
            "\u{feff}[relay]\r",
        ] {
            let text = format!("{header}\ndispatchers = a\n");
            assert_eq!(roles(&text), (true, false), "{header:?}");
        }
        let dispatcher = "[ dispatcher ] # y\nlisten: any";
        assert_eq!(roles(dispatcher), (false, true));
        // A comment, no header at all, and a line that continues a value.
        for text in [
            ";[Relay]\ndispatchers = a\n",
            "[Relay\ndispatchers = a\n",
            "[File]\npath = a\n [Relay]\n dispatchers = a\n",
        ] {
            assert_eq!(roles(text), (false, false), "{text:?}");
        }
    }
}
