//! The socket that a SIP proxy answers to, and who is believed to be that proxy: any local user may send to it.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::question::{Answer, To, understand};
use super::{ANSWER_LIMIT, Proxy, TURN, WINDOW};
use crate::dispatcher::settings::Group;
use crate::dispatcher::threads::spawn;
use crate::logging::sparse::Sparse;
use crate::proto::Excerpt;
use crate::sys::datagram::{Sender as From, await_one, name_senders, receive, undisturbed};
use crate::sys::sync::lock;
use crate::sys::thread::run_tenaciously;
use crate::sys::{random, unix_socket, users};

/// The longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The users that ask this dispatcher for relays, as a SIP proxy does.
pub(super) type Askers = Arc<Mutex<BTreeSet<u32>>>;

/// Binds the answers' socket. Who may ask this dispatcher may answer it: the proxy, which runs as another user, does both.
/// The socket of a live dispatcher is left alone: it would get no answer any more.
pub(super) fn bind(path: &Path, mode: u32, group: Option<Group>) -> io::Result<UnixDatagram> {
    if UnixDatagram::unbound()?.connect(path).is_ok() {
        let text = "another process listens there; stop it first or choose another --runtime-dir";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // It has its name for good: the proxy answers to the one that it was bound to.
    let socket = unix_socket::datagram(path)?;
    name_senders(&socket)?;
    if let Some(group) = group {
        // Where that is not allowed, the socket of requests tells, which is treated alike.
        let _ = chown(path, None, Some(group.id));
    }
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    // A proxy that does not read holds up nobody but the dialogs that wait for it.
    socket.set_write_timeout(Some(ANSWER_LIMIT))?;
    Ok(socket)
}

/// An answer, and how often the socket had been emptied before it was read.
pub(super) type Came = (To, Answer, u64);

/// Where answers come from, and the half of all requests' numbers that nobody can guess.
pub(super) struct Answers {
    pub secret: u64,
    pub came: Receiver<Came>,
    pub emptied: Arc<AtomicU64>,
}

/// Whom to believe.
pub(super) struct Credible {
    pub secret: u64,
    /// Where the proxy may listen.
    pub paths: Vec<PathBuf>,
    pub askers: Askers,
}

/// Starts the thread that reads what comes, asked for or not: a socket that is full holds up the proxy. It ends when
/// nobody has the answers any more and the socket is shut down.
///
/// # Errors
/// No thread, or no second descriptor.
pub(super) fn listen(
    proxy: Proxy,
    paths: &[PathBuf],
    askers: &Askers,
    socket: &UnixDatagram,
) -> io::Result<Answers> {
    let socket = socket.try_clone()?;
    let (sender, came) = bounded(WINDOW);
    let secret = random::bits() as u64;
    let credible = Credible {
        secret,
        paths: paths.to_vec(),
        askers: Arc::clone(askers),
    };
    let emptied = Arc::new(AtomicU64::new(0));
    let seen = Arc::downgrade(&emptied);
    spawn("dialog answers", move || {
        run_tenaciously("dialog answers", || {
            read(proxy, &credible, &socket, &seen, &sender);
        });
    })?;
    Ok(Answers {
        secret,
        came,
        emptied,
    })
}

fn read(
    proxy: Proxy,
    credible: &Credible,
    socket: &UnixDatagram,
    emptied: &Weak<AtomicU64>,
    answers: &Sender<Came>,
) {
    let mut buffer = vec![0; MAX_ANSWER];
    let mut odd = Sparse::default();
    loop {
        let waited = undisturbed(|| await_one(socket));
        let Some(emptied) = emptied.upgrade().map(|count| count.load(Ordering::SeqCst)) else {
            return;
        };
        // It is emptied first and counted then: what is taken after this look was not there before.
        let (length, from) = match waited.and_then(|()| receive(socket, &mut buffer)) {
            Ok(came) => came,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                if let Some(skipped) = odd.due() {
                    log::error!("{proxy}: its answers cannot be read: {error}{skipped}");
                }
                std::thread::sleep(TURN);
                continue;
            }
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        let (to, answer) = understand(bytes);
        if credible.believes(&from, to) {
            if answers.send((to, answer, emptied)).is_err() {
                return;
            }
        } else if let Some(skipped) = odd.due() {
            let user = from
                .user
                .map_or_else(|| "?".to_owned(), |id| id.to_string());
            let shown = Excerpt(bytes);
            log::warn!(
                "{proxy}: what user {user} has sent is no answer: it has no id of a request, and that user neither asks this \
                 dispatcher for relays nor owns the socket where {proxy} is asked: {shown}{skipped}"
            );
        }
    }
}

impl Credible {
    /// Both proxies answer from a socket without a name. Who knows the number has read the request; of an answer without
    /// one its user is all that tells who has sent it.
    pub(super) fn believes(&self, from: &From, to: To) -> bool {
        let knows = matches!(to, To::Number(number) if number as u64 == self.secret);
        let is_elsewhere = from.path.as_ref().is_some_and(|path| !self.is_one(path));
        !is_elsewhere && (knows || from.user.is_some_and(|user| self.is_its(user)))
    }

    fn is_one(&self, path: &Path) -> bool {
        let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        let is = |one: &PathBuf| {
            one == path || file(path).is_ok_and(|there| file(one).is_ok_and(|file| file == there))
        };
        self.paths.iter().any(is)
    }

    fn is_its(&self, user: u32) -> bool {
        let owns = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|file| file.uid() == user);
        [0, users::own_number()].contains(&user)
            || lock(&self.askers).contains(&user)
            || self.paths.iter().any(owns)
    }
}
