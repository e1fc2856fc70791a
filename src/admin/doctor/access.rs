//! Looks whether the SIP proxy may use the dispatcher's socket: as that is where the dispatcher runs, and else as it would be.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::config::{DispatcherConfig, SocketGroup};
use crate::diagnosis::file_user::FileUser;
use crate::diagnosis::finding::{Finding, fine, problem, warning};
use crate::diagnosis::processes;
use crate::sys::host;
use crate::sys::identity::Identity;
use crate::sys::users::{self, User as Account};

const SUBJECT: &str = "socket_group";

/// What the dispatcher has to do before it has other groups.
const AGAIN: &str = "systemctl restart mediaproxy-dispatcher";

/// A SIP proxy of this host: a process, or a user that one would run as.
struct Proxy {
    program: &'static str,
    runs: bool,
    identity: Identity,
}

/// The processes of SIP proxies by the rights that they have, or where none runs the users for them.
fn proxies() -> Vec<Proxy> {
    let running = SocketGroup::USUAL.into_iter().flat_map(|program| {
        let pids = processes::named(program).into_iter();
        let identities: Vec<Identity> = pids.filter_map(Identity::of_process).collect();
        let mut distinct: Vec<Identity> = Vec::new();
        for identity in identities {
            if !distinct.contains(&identity) {
                distinct.push(identity);
            }
        }
        distinct.into_iter().map(move |identity| Proxy {
            program,
            runs: true,
            identity,
        })
    });
    let running: Vec<Proxy> = running.collect();
    // Of those who could run one only root sees what they may.
    if !running.is_empty() || !users::is_root() {
        return running;
    }
    let users = SocketGroup::USUAL.into_iter().filter_map(|program| {
        let account = users::user_by_name(program).ok()??;
        let identity = Identity::of_user(&account).ok()?;
        Some(Proxy {
            program,
            runs: false,
            identity,
        })
    });
    users.collect()
}

/// Judges it for the user that the dispatcher runs as.
pub(super) fn look(
    config: &DispatcherConfig,
    runtime_dir: &Path,
    user: &FileUser,
    runs: bool,
) -> Finding {
    let group = match chosen(&config.socket_group) {
        Ok(group) => group,
        Err(finding) => return finding,
    };
    let socket = runtime_dir.join(&config.socket_path);
    let proxies = proxies();
    let site = Site {
        group,
        is_auto: config.socket_group == SocketGroup::Auto,
        mode: config.socket_mode,
        user,
        socket,
    };
    match (runs, UnixStream::connect(&site.socket)) {
        (false, _) => site.as_it_would_be(&proxies),
        (true, Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => problem(
            SUBJECT,
            format!(
                "{}: {error}, although media-dispatcher runs: the file was removed or is another program's, or socket_path was \
                 changed, and every call of the SIP proxy fails: {AGAIN}",
                site.socket.display()
            ),
        ),
        (true, _) => site.as_it_is(&proxies),
    }
}

/// The group's name and number; none where there is none to choose.
fn chosen(wanted: &SocketGroup) -> Result<Option<(String, u32)>, Finding> {
    let number = |name: &str| users::group_by_name(name).ok().flatten();
    match wanted {
        SocketGroup::Named(name) => match number(name) {
            Some(id) => Ok(Some((name.clone(), id))),
            None => Err(problem(
                SUBJECT,
                format!(
                    "there is no group {name}, media-dispatcher will not start: groupadd {name}, or set socket_group"
                ),
            )),
        },
        SocketGroup::Auto => {
            let mut usual = SocketGroup::USUAL.into_iter();
            Ok(usual.find_map(|name| Some((name.to_owned(), number(name)?))))
        }
    }
}

struct Site<'a> {
    group: Option<(String, u32)>,
    is_auto: bool,
    mode: u32,
    user: &'a FileUser,
    socket: PathBuf,
}

impl Site<'_> {
    /// The socket that is there, and who may write to it.
    fn as_it_is(&self, proxies: &[Proxy]) -> Finding {
        let refused: Vec<&Proxy> = proxies
            .iter()
            .filter(|proxy| !may_connect(&proxy.identity, &self.socket))
            .collect();
        // Of users of whom none runs a proxy now, one that is let in will do.
        let is_good = if proxies.iter().any(|proxy| proxy.runs) {
            refused.is_empty()
        } else {
            refused.len() < proxies.len()
        };
        match refused.first() {
            Some(proxy) if !is_good => self.refuses(proxy),
            _ if proxies.is_empty() => self.nobody(),
            _ => {
                let let_in = proxies
                    .iter()
                    .find(|proxy| may_connect(&proxy.identity, &self.socket));
                let name = let_in.map_or(String::new(), |proxy| account(proxy.identity.uid));
                fine(SUBJECT, format!("{} lets {name} in", self.socket.display()))
            }
        }
    }

    /// Who runs no dispatcher yet can still be told whether the socket will have its group.
    fn as_it_would_be(&self, proxies: &[Proxy]) -> Finding {
        let Some((name, id)) = &self.group else {
            return self.nobody();
        };
        if !self.user.may_give(*id) {
            let what = if self.is_auto {
                "may not give the socket to it, the SIP proxy will get \"Permission denied\""
            } else {
                "may not give the socket to it, media-dispatcher will not start"
            };
            let user = &self.user.name;
            let text = format!(
                "{name}: {user} is not in that group and {what}: {}",
                self.join(name)
            );
            return problem(SUBJECT, text);
        }
        let refused = proxies.iter().find(|proxy| {
            let Identity { uid, gid, groups } = &proxy.identity;
            *uid != 0 && gid != id && !groups.contains(id)
        });
        match refused {
            Some(proxy) if proxy.runs || proxies.len() == 1 => self.refuses(proxy),
            _ => fine(SUBJECT, self.shown(name)),
        }
    }

    fn shown(&self, name: &str) -> String {
        if self.is_auto {
            format!("{name} (auto)")
        } else {
            name.to_owned()
        }
    }

    /// There is no SIP proxy that is known, or no group of one.
    fn nobody(&self) -> Finding {
        match &self.group {
            Some((name, _)) => fine(SUBJECT, self.shown(name)),
            None => warning(
                SUBJECT,
                format!(
                    "there is no group of {}: a SIP proxy that is not root cannot connect; set socket_group to its group",
                    SocketGroup::USUAL.join(", ")
                ),
            ),
        }
    }

    /// One that is not let in gets no relay for any call.
    fn refuses(&self, proxy: &Proxy) -> Finding {
        let who = account(proxy.identity.uid);
        let socket = self.socket.display();
        let program = match proxy.program {
            "kamailio" => "Kamailio",
            "opensips" => "OpenSIPS",
            _ => "OpenSER",
        };
        problem(
            SUBJECT,
            format!(
                "{socket}: {program}'s user {who} may not connect, it gets \"Permission denied\" for every call: {}",
                self.remedy(proxy)
            ),
        )
    }

    fn remedy(&self, proxy: &Proxy) -> String {
        let Identity {
            uid: _,
            gid,
            groups,
        } = &proxy.identity;
        let own = users::group_by_number(*gid).ok().flatten();
        let own = own.unwrap_or_else(|| gid.to_string());
        let fits = self
            .group
            .as_ref()
            .filter(|(_, id)| id == gid || groups.contains(id));
        let Some((name, id)) = fits else {
            // Another group is to be chosen, and the dispatcher must be allowed to give it.
            return format!(
                "set socket_group = {own} in [Dispatcher], and {}",
                self.join(&own)
            );
        };
        match fs::symlink_metadata(&self.socket) {
            Ok(meta) if meta.gid() != *id => self.join(name),
            Ok(meta) if meta.mode() & 0o020 == 0 => format!(
                "set socket_mode = 0660 in [Dispatcher] (it is {:04o}), and {AGAIN}",
                self.mode
            ),
            Ok(_) => match closed(&proxy.identity, &self.socket) {
                Some(directory) => format!("chmod o+x {}", directory.display()),
                None => format!("{AGAIN}, and the SIP proxy, whose groups are those of its start"),
            },
            Err(_) => self.join(name),
        }
    }

    /// Makes the dispatcher's user a member of a group where it is none.
    fn join(&self, group: &str) -> String {
        let user = &self.user.name;
        let id = users::group_by_name(group).ok().flatten();
        if id.is_some_and(|id| self.user.would_be_in(id)) {
            format!("{AGAIN} ({user} is in group {group} since its start)")
        } else {
            format!("usermod -aG {group} {user} && {AGAIN}")
        }
    }
}

fn account(uid: u32) -> String {
    match users::user_by_number(uid) {
        Ok(Some(Account { name, .. })) => name,
        _ => format!("number {uid}"),
    }
}

/// Returns true if a socket may be written to by somebody and can be reached: by its rights where only root can try.
fn may_connect(identity: &Identity, socket: &Path) -> bool {
    let tried = identity.run(|| host::may_send(socket).is_ok());
    tried.unwrap_or_else(|_| has(identity, socket, 2) && closed(identity, socket).is_none())
}

/// The outermost directory on the way that somebody may not enter.
fn closed<'a>(identity: &Identity, path: &'a Path) -> Option<&'a Path> {
    let way: Vec<&Path> = path.ancestors().skip(1).collect();
    let mut way = way.into_iter().rev();
    way.find(|directory| !has(identity, directory, 1))
}

/// Returns true if somebody has these of the three rights by owner, group and others.
fn has(identity: &Identity, path: &Path, right: u32) -> bool {
    let Ok(meta) = fs::metadata(path) else {
        // What cannot be seen is not said.
        return true;
    };
    let groups: BTreeSet<u32> = identity
        .groups
        .iter()
        .copied()
        .chain([identity.gid])
        .collect();
    let shift = match () {
        () if identity.uid == 0 => return true,
        () if meta.uid() == identity.uid => 6,
        () if groups.contains(&meta.gid()) => 3,
        () => 0,
    };
    meta.mode() >> shift & right == right
}
