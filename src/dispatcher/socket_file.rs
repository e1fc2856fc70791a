//! Listening UNIX sockets: the file of a crashed daemon is replaced, that of a live one is not.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::settings::Group;
use crate::sys::{unix_socket, users};

/// Listens on a socket file with this mode and group.
///
/// # Errors
/// A sentence that names the file: somebody listens there, it is something else than a socket, or it cannot
/// be made.
pub(super) fn listen(path: &Path, mode: u32, group: Option<Group>) -> Result<UnixListener, String> {
    let shown = path.display();
    check_free(path)?;
    // The file appears with its mode and group set: the proxy never finds one that it may not use.
    let fresh = fresh_name(path);
    let failed = |what: &str, error: io::Error| {
        let _ = fs::remove_file(&fresh);
        format!("socket {shown}: cannot {what}: {error}")
    };
    let _ = fs::remove_file(&fresh);
    // Nobody can connect, by that name either, before all is as it shall be.
    let listener = unix_socket::stream(&fresh).map_err(|e| failed("listen", e))?;
    if let Some(Group { id, is_required }) = group {
        match chown(&fresh, None, Some(id)) {
            Ok(()) => {}
            Err(error) if is_required => {
                let what = format!("give it to group {}", group_name(id));
                return Err(format!("{}: {}", failed(&what, error), remedy(id)));
            }
            Err(error) => log::warn!(
                "socket {shown}: cannot be given to group {}: {error}; it keeps the daemon's own, and a SIP proxy of that \
                 group may not use it: {}",
                group_name(id),
                remedy(id)
            ),
        }
    }
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))
        .map_err(|e| failed(&format!("set mode {mode:04o}"), e))?;
    unix_socket::listen(&listener).map_err(|e| failed("listen", e))?;
    fs::rename(&fresh, path).map_err(|e| failed("put it in place", e))?;
    Ok(listener)
}

fn group_name(id: u32) -> String {
    let name = users::group_by_number(id).ok().flatten();
    name.unwrap_or_else(|| id.to_string())
}

/// What lets this daemon give its files to a group.
fn remedy(group: u32) -> String {
    let number = users::own_number();
    let user = users::user_by_number(number).ok().flatten();
    let user = user.map_or_else(|| number.to_string(), |user| user.name);
    format!("usermod -aG {} {user}, then restart it", group_name(group))
}

fn check_free(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("socket {shown}: {error}")),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(format!("socket {shown}: something else has this name"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(format!(
            "socket {shown}: another process listens there; stop it first or choose another path"
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            log::info!("socket {shown}: left by a process that has ended: replaced");
            Ok(())
        }
        Err(error) => Err(format!("socket {shown}: {error}")),
    }
}

fn fresh_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("unix-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let folder = Folder::new("stale");
        let path = folder.0.join("socket");
        drop(listen(&path, 0o660, None).unwrap());
        assert!(path.exists(), "left behind");
        let live = listen(&path, 0o600, None).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = listen(&path, 0o660, None).unwrap_err();
        assert!(error.contains("another process listens there"), "{error}");
        assert!(UnixStream::connect(&path).is_ok(), "it still listens");
        drop(live);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = Folder::new("file");
        let path = folder.0.join("file");
        fs::write(&path, "precious").unwrap();
        let error = listen(&path, 0o660, None).unwrap_err();
        assert!(error.contains("something else"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let error = listen(&folder.0.join("none/socket"), 0o660, None).unwrap_err();
        assert!(error.contains("cannot listen"), "{error}");
    }
}
