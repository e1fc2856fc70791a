//! The commands that let the daemons' user do what the system refused.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::host;

/// For a file that cannot be read; none where rights are not the reason.
pub fn to_read(path: &Path, error: &io::Error) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let directory = path.parent();
    let (path, mode) = match closed(path) {
        Some(outer) if Some(outer) != directory => return Some(to_enter(outer)),
        Some(directory) => (directory, 750),
        None => (path, 640),
    };
    let path = path.display();
    Some(format!("chgrp mediaproxy {path} && chmod {mode} {path}"))
}

/// For a directory in which no files can be made.
pub fn to_write(directory: &Path, error: &io::Error) -> String {
    let shown = directory.display();
    match error.raw_os_error() {
        Some(libc::ENOENT) => format!("install -d -m 750 -o mediaproxy -g mediaproxy {shown}"),
        Some(libc::EROFS) => {
            format!(
                "findmnt -T {shown} shows what is mounted read-only there; choose another place"
            )
        }
        _ => match closed(directory) {
            Some(outer) => to_enter(outer),
            None => format!("chown mediaproxy: {shown}"),
        },
    }
}

/// What is wrong with a file of secrets that others may read or change, and the command against it.
pub fn open_to_all(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    let what = match (mode & 0o004 != 0, mode & 0o002 != 0) {
        (false, false) => return None,
        (true, false) => "read",
        (false, true) => "change",
        (true, true) => "read and change",
    };
    let path = path.display();
    Some(format!(
        "every user of this host may {what} it (mode {:04o}): chgrp mediaproxy {path} && chmod 640 {path}",
        mode & 0o7777
    ))
}

/// The outermost directory on the way that the calling thread may not enter.
fn closed(path: &Path) -> Option<&Path> {
    let way: Vec<&Path> = path.ancestors().skip(1).collect();
    let refuses = |directory: &&Path| {
        let entered = host::may_enter(directory);
        entered.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    way.into_iter().rev().find(refuses)
}

/// Through a directory that has more in it than what is the daemons': what it lists stays as hidden as it was.
fn to_enter(directory: &Path) -> String {
    format!("chmod o+x {}", directory.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::identity::Identity;
    use crate::sys::scratch::Scratch;
    use crate::sys::users;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_of_secrets_is_the_daemons_alone() {
        let scratch = Scratch::new("secrets");
        let file = scratch.path().join("config.ini");
        std::fs::write(&file, "").unwrap();
        for (mode, what) in [
            (0o640, None),
            (0o644, Some("read it (mode 0644)")),
            (0o642, Some("change it")),
            (0o666, Some("read and change it")),
        ] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let told = open_to_all(&file);
            assert_eq!(told.is_some(), what.is_some(), "{mode:o}");
            let told = told.unwrap_or_default();
            assert!(told.contains(what.unwrap_or_default()), "{told}");
            assert!(what.is_none() || told.ends_with(&format!("chmod 640 {}", file.display())));
        }
    }

    #[test]
    fn each_refusal_has_its_command() {
        let error = io::Error::from_raw_os_error;
        let here = std::env::temp_dir();
        let shown = here.display();
        assert_eq!(to_read(&here, &error(libc::ENOENT)), None);
        assert_eq!(
            to_read(&here, &error(libc::EACCES)).unwrap(),
            format!("chgrp mediaproxy {shown} && chmod 640 {shown}")
        );
        let command = |number| to_write(Path::new("/d"), &error(number));
        assert_eq!(command(libc::EACCES), "chown mediaproxy: /d");
        assert_eq!(
            command(libc::ENOENT),
            "install -d -m 750 -o mediaproxy -g mediaproxy /d"
        );
        assert!(command(libc::EROFS).starts_with("findmnt -T /d"));
    }

    #[test]
    fn what_hides_behind_a_directory_comes_with_the_directory() {
        let scratch = Scratch::new("remedy");
        let outer = scratch.path().join("outer");
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(scratch.path(), 0o755);
        let file = inner.join("key");
        let refused = || io::Error::from_raw_os_error(libc::EACCES);
        let found = || {
            let commands = || {
                (
                    to_read(&file, &refused()).unwrap(),
                    to_write(&inner, &refused()),
                )
            };
            match users::is_root() {
                true => nobody().run(commands).unwrap(),
                false => commands(),
            }
        };
        let [shown, within] = [&outer, &inner].map(|path| path.display());
        let enter = format!("chmod o+x {shown}");
        mode(&outer, 0o600);
        assert_eq!(found(), (enter.clone(), enter));
        mode(&outer, 0o755);
        mode(&inner, 0o600);
        let read = format!("chgrp mediaproxy {within} && chmod 750 {within}");
        assert_eq!(found(), (read, format!("chown mediaproxy: {within}")));
        mode(&inner, 0o700);
    }

    fn nobody() -> Identity {
        Identity {
            uid: 65534,
            gid: 65534,
            groups: Vec::new(),
        }
    }
}
