//! Who may read and write files: the commands that let the daemons' user do what the system refused, and those that
//! keep others from secrets.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{host, users};

/// For a file that cannot be read; none where rights are not the reason.
pub fn remedy_to_read(path: &Path, error: &io::Error) -> Option<String> {
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
pub fn remedy_to_write(directory: &Path, error: &io::Error) -> String {
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

/// With this begins what is wrong with a file of secrets.
const EXPOSED: &str = "every user of this host may ";

/// What is wrong with a file of secrets that others may read or change, and the command after which root, its group and
/// the daemon that reads it may read it and nobody else.
pub fn exposure(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    let mode = found.mode();
    let what = match (mode & 0o004 != 0, mode & 0o002 != 0) {
        (false, false) => return None,
        (true, false) => "read",
        (false, true) => "change",
        (true, true) => "read and change",
    };
    if is_out_of_reach(path) {
        return None;
    }
    let (group, shown) = (daemons_group(), path.display());
    // The owner may undo what root does, and whose group it is may be all that lets the daemon read it.
    let give = match group {
        _ if ![0, users::own_number()].contains(&found.uid()) => {
            format!("chown root:{} {shown} && ", group_name(group))
        }
        group if found.gid() != group => format!("chgrp {} {shown} && ", group_name(group)),
        _ => String::new(),
    };
    let mode = mode & 0o7777;
    Some(format!(
        "{EXPOSED}{what} it (mode {mode:04o}): {give}chmod 640 {shown}"
    ))
}

/// Says that a text has come of [`exposure`].
pub fn tells_of_exposure(text: &str) -> bool {
    text.contains(EXPOSED)
}

/// Others may not pass a directory on its way.
fn is_out_of_reach(path: &Path) -> bool {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_closed = |dir: &Path| fs::metadata(dir).is_ok_and(|found| found.mode() & 0o001 == 0);
    path.ancestors().skip(1).any(is_closed)
}

/// The group of the daemons: ours where this is one or looks at files as one, which have the numbers below 1000. Root's
/// where there is none of their own.
fn daemons_group() -> u32 {
    match users::own_number() {
        1..1000 => users::own_group(),
        _ => users::group_by_name("mediaproxy")
            .ok()
            .flatten()
            .unwrap_or(0),
    }
}

fn group_name(group: u32) -> String {
    let name = users::group_by_number(group).ok().flatten();
    name.unwrap_or_else(|| group.to_string())
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
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(scratch.path(), 0o755);
        for (mode, what) in [
            (0o640, None),
            (0o644, Some("read it (mode 0644)")),
            (0o642, Some("change it")),
            (0o666, Some("read and change it")),
        ] {
            set(&file, mode);
            let told = exposure(&file);
            assert_eq!(told.is_some(), what.is_some(), "{mode:o}");
            let told = told.unwrap_or_default();
            assert_eq!(tells_of_exposure(&told), what.is_some());
            assert!(told.contains(what.unwrap_or_default()), "{told}");
            assert!(what.is_none() || told.ends_with(&format!("chmod 640 {}", file.display())));
        }
        set(scratch.path(), 0o750);
        assert_eq!(exposure(&file), None, "nobody gets there");
    }

    /// The command has to leave the daemon able to read it, and the owner unable to open it again.
    #[test]
    fn the_command_is_right_for_owner_and_group() {
        if !users::is_root() {
            return;
        }
        let scratch = Scratch::new("secrets");
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = scratch.path().join("config.ini");
        let shown = file.display();
        let daemon = Identity {
            uid: 1,
            gid: 1,
            groups: vec![1],
        };
        let group = group_name(1);
        for (uid, gid, give) in [
            (0, 1, String::new()),
            (1, 1, String::new()),
            (0, 0, format!("chgrp {group} {shown} && ")),
            (2, 1, format!("chown root:{group} {shown} && ")),
        ] {
            fs::write(&file, "").unwrap();
            std::os::unix::fs::chown(&file, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            let told = daemon.run(|| exposure(&file)).unwrap().unwrap();
            let command = format!(": {give}chmod 640 {shown}");
            assert!(told.ends_with(&command), "{told}");
            let (_, command) = told.split_once("): ").unwrap();
            let done = std::process::Command::new("sh")
                .args(["-c", command])
                .status();
            assert!(done.unwrap().success(), "{command}");
            assert!(daemon.run(|| fs::read(&file)).unwrap().is_ok());
            let stranger = Identity {
                uid: 3,
                gid: 3,
                groups: vec![3],
            };
            assert!(stranger.run(|| fs::read(&file)).unwrap().is_err());
            assert_eq!(daemon.run(|| exposure(&file)).unwrap(), None);
        }
    }

    #[test]
    fn each_refusal_has_its_command() {
        let error = io::Error::from_raw_os_error;
        let here = std::env::temp_dir();
        let shown = here.display();
        assert_eq!(remedy_to_read(&here, &error(libc::ENOENT)), None);
        assert_eq!(
            remedy_to_read(&here, &error(libc::EACCES)).unwrap(),
            format!("chgrp mediaproxy {shown} && chmod 640 {shown}")
        );
        let command = |number| remedy_to_write(Path::new("/d"), &error(number));
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
                    remedy_to_read(&file, &refused()).unwrap(),
                    remedy_to_write(&inner, &refused()),
                )
            };
            if users::is_root() {
                nobody().run(commands).unwrap()
            } else {
                commands()
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
