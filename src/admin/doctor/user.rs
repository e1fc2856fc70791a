//! With whose rights files are looked at: those of the user that a daemon runs as, since root may read everything.

use super::{Daemon, Finding, fine, warning};
use crate::sys::identity::Identity;
use crate::sys::users::{self, User as Account};

/// The user of units, init scripts and packages.
const USUAL: &str = "mediaproxy";

/// See the module.
pub struct User {
    /// None where it is the one who asks.
    identity: Option<Identity>,
    /// What commands call it.
    pub name: String,
    /// Who it is.
    pub finding: Finding,
}

impl User {
    /// That of the daemon where one runs, or else the usual one.
    pub fn of(running: Option<&Daemon>) -> User {
        let process = running.and_then(|daemon| Some((daemon, Identity::of_process(daemon.pid?)?)));
        let own = users::own_number();
        match process {
            Some((daemon, identity)) if identity.uid == own => {
                User::who_asks(fine("user", runs_as(daemon, own)))
            }
            Some((daemon, identity)) if own == 0 => {
                let text = runs_as(daemon, identity.uid);
                User::other(identity, text)
            }
            _ if own == 0 => User::usual(),
            _ if shown(own) == USUAL => User::who_asks(fine("user", USUAL)),
            _ => User::who_asks(warning(
                "user",
                format!(
                    "files are looked at as {}; what {USUAL} may read and write is another matter: sudo media-admin doctor",
                    shown(own)
                ),
            )),
        }
    }

    fn usual() -> User {
        let found = users::user_by_name(USUAL);
        let identity =
            found.and_then(|account| account.as_ref().map(Identity::of_user).transpose());
        match identity {
            Ok(Some(identity)) => User::other(
                identity,
                format!("{USUAL}, with whose rights files are looked at"),
            ),
            Ok(None) => User::root_instead(warning(
                "user",
                format!(
                    "there is no user {USUAL}, as whom the units and init scripts run; files are looked at as root: \
                     useradd --system --user-group --home-dir /var/lib/mediaproxy --shell /usr/sbin/nologin {USUAL}, or \
                     systemd-sysusers"
                ),
            )),
            Err(error) => User::root_instead(warning(
                "user",
                format!(
                    "{USUAL} cannot be looked up ({error}); files are looked at as root: getent passwd {USUAL}"
                ),
            )),
        }
    }

    fn who_asks(finding: Finding) -> User {
        User {
            identity: None,
            name: shown(users::own_number()),
            finding,
        }
    }

    /// Root looks in the place of a user that there is not.
    fn root_instead(finding: Finding) -> User {
        User {
            name: USUAL.to_owned(),
            ..User::who_asks(finding)
        }
    }

    fn other(identity: Identity, text: String) -> User {
        let name = shown(identity.uid);
        match identity.run(|| ()) {
            Ok(()) => User {
                finding: fine("user", text),
                name,
                identity: Some(identity),
            },
            Err(error) => User {
                name,
                ..User::who_asks(warning(
                    "user",
                    format!(
                        "{text}; that is not allowed here ({error}), they are looked at as root: sudo media-admin doctor, \
                     outside of a container"
                    ),
                ))
            },
        }
    }

    /// Whether it may give its files to a group now.
    pub fn may_give(&self, gid: u32) -> bool {
        let own = || Identity::of_process(std::process::id().cast_signed());
        let identity = self.identity.clone().or_else(own);
        identity.is_none_or(|one| one.uid == 0 || one.gid == gid || one.groups.contains(&gid))
    }

    /// Whether it would be in a group after its next start.
    pub fn would_be_in(&self, gid: u32) -> bool {
        let account = users::user_by_name(&self.name).ok().flatten();
        let groups = account.and_then(|account| users::groups_of(&account).ok());
        groups.is_some_and(|groups| groups.contains(&gid))
    }

    /// Looks at something with this user's rights.
    pub fn run<T: Send>(&self, look: impl Fn() -> T + Sync) -> T {
        let found = self.identity.as_ref().map(|identity| identity.run(&look));
        match found {
            Some(Ok(found)) => found,
            // It has worked once.
            Some(Err(_)) | None => look(),
        }
    }
}

fn runs_as(daemon: &Daemon, uid: u32) -> String {
    format!("{}, as whom {} runs", shown(uid), daemon.name)
}

fn shown(uid: u32) -> String {
    match users::user_by_number(uid) {
        Ok(Some(Account { name, .. })) => name,
        _ => format!("user number {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Verdict;
    use crate::support::skip::skip;
    use std::process::Command;

    fn daemon(pid: u32) -> Daemon {
        Daemon {
            name: "media-relay",
            again: "",
            pid: Some(i32::try_from(pid).unwrap()),
        }
    }

    #[test]
    fn a_daemon_of_the_one_who_asks_needs_no_other_rights() {
        let user = User::of(Some(&daemon(std::process::id())));
        assert_eq!(user.finding.verdict, Verdict::Fine);
        assert!(user.finding.text.ends_with(", as whom media-relay runs"));
        assert_eq!(user.run(users::own_number), users::own_number());
    }

    #[test]
    fn root_looks_with_the_rights_of_the_daemon_that_runs() {
        if !users::is_root() {
            let user = User::of(None);
            let text = user.finding.text;
            assert!(text == USUAL || text.contains("sudo media-admin doctor"));
            skip("needs root");
            return;
        }
        let mut child = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--groups=12345",
                "sleep",
                "60",
            ])
            .spawn()
            .unwrap();
        let daemon = daemon(child.id());
        // It is root until it has become somebody else.
        while Identity::of_process(daemon.pid.unwrap()).unwrap().uid == 0 {
            std::thread::yield_now();
        }
        let user = User::of(Some(&daemon));
        let want = Identity {
            uid: 65534,
            gid: 65534,
            groups: vec![12345],
        };
        let thread = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let seen = user.run(thread);
        child.kill().and_then(|()| child.wait()).unwrap();
        assert_eq!(user.identity, Some(want));
        assert!(seen.contains("Uid:\t65534\t65534\t65534\t65534"), "{seen}");
        assert!(seen.contains("CapEff:\t0000000000000000"), "{seen}");
        assert_eq!(user.finding.verdict, Verdict::Fine);
    }
}
