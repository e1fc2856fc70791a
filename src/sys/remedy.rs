//! The commands that let the daemons' user do what the system refused.

use std::fs;
use std::io;
use std::path::Path;

/// For a file that cannot be read; none where rights are not the reason.
pub fn to_read(path: &Path, error: &io::Error) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    // What is in a directory that cannot be entered cannot even be looked at.
    let (path, mode) = match (fs::metadata(path), path.parent()) {
        (Err(_), Some(directory)) => (directory, 750),
        _ => (path, 640),
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
        _ => format!("chown mediaproxy: {shown}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            to_read(Path::new("/nonexistent/a"), &error(libc::EACCES)).unwrap(),
            "chgrp mediaproxy /nonexistent && chmod 750 /nonexistent"
        );
        let command = |number| to_write(Path::new("/d"), &error(number));
        assert_eq!(command(libc::EACCES), "chown mediaproxy: /d");
        assert_eq!(
            command(libc::ENOENT),
            "install -d -m 750 -o mediaproxy -g mediaproxy /d"
        );
        assert!(command(libc::EROFS).starts_with("findmnt -T /d"));
    }
}
