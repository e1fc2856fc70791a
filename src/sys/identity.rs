//! Doing something with another user's rights: a thread of its own takes that user's numbers and ends with them. To the
//! kernel they belong to each thread (credentials(7)); the C library's functions would change all threads.

use std::fs;
use std::io;
use std::thread;

use super::users::{self, User};

// On these the first calls of that name know only the numbers of the 1990s.
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::{SYS_setgroups as SETGROUPS, SYS_setresgid as SETRESGID, SYS_setresuid as SETRESUID};
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::{
    SYS_setgroups32 as SETGROUPS, SYS_setresgid32 as SETRESGID, SYS_setresuid32 as SETRESUID,
};

/// What rights are judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

impl Identity {
    /// A user as a login would make it.
    ///
    /// # Errors
    /// The group database cannot be read.
    pub fn of_user(user: &User) -> io::Result<Identity> {
        let groups = users::groups_of(user)?;
        let User { uid, gid, .. } = *user;
        Ok(Identity { uid, gid, groups })
    }

    /// A process as it is; none where it is not there any more.
    pub fn of_process(pid: i32) -> Option<Identity> {
        parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    /// Does something with this one's rights and no others. Only root can.
    ///
    /// # Errors
    /// The kernel does not allow it, or the thread ended without a result.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let whole = || self.take_on().map(|()| what());
            let thread = thread::Builder::new().spawn_scoped(scope, whole)?;
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err(io::Error::other("it has panicked")))
        })
    }

    /// The calling thread's, for good: real, effective and saved.
    fn take_on(&self) -> io::Result<()> {
        let Identity { uid, gid, groups } = self;
        // SAFETY: the numbers live through the call, their count goes with them.
        done(unsafe { libc::syscall(SETGROUPS, groups.len(), groups.as_ptr()) })?;
        // SAFETY: plain numbers.
        done(unsafe { libc::syscall(SETRESGID, *gid, *gid, *gid) })?;
        // SAFETY: plain numbers. The last: without root's number the others are not allowed.
        done(unsafe { libc::syscall(SETRESUID, *uid, *uid, *uid) })
    }
}

fn done(result: libc::c_long) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The numbers in /proc/PID/status (proc_pid_status(5)): real, effective, saved, of the file system.
fn parse(status: &str) -> Option<Identity> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective = |name| field(name)?.split_whitespace().nth(1)?.parse().ok();
    let groups = field("Groups:")?.split_whitespace();
    Some(Identity {
        uid: effective("Uid:")?,
        gid: effective("Gid:")?,
        groups: groups.map_while(|group| group.parse().ok()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::skip::skip;
    use crate::sys::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_process_tells_who_it_is() {
        let status =
            "Name:\tx\nUid:\t0\t998\t998\t998\nGid:\t0\t997\t997\t997\nGroups:\t100 101 \n";
        let want = Identity {
            uid: 998,
            gid: 997,
            groups: vec![100, 101],
        };
        assert_eq!(parse(status), Some(want));
        assert_eq!(parse("Uid:\t0\t0\nGid:\t0\t0\n"), None);
        assert_eq!(parse("Uid:\tx\nGid:\t0\nGroups:\n"), None);
        let own = Identity::of_process(std::process::id() as i32).unwrap();
        assert_eq!(own.uid == 0, users::is_root());
        assert_eq!(Identity::of_process(i32::MAX), None);
    }

    #[test]
    fn rights_are_those_of_the_other_and_only_in_its_thread() {
        let nobody = |groups: &[u32]| Identity {
            uid: 65534,
            gid: 65534,
            groups: groups.to_vec(),
        };
        if !users::is_root() {
            let refused = nobody(&[]).run(|| ()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            skip("needs root");
            return;
        }
        let scratch = Scratch::new("identity");
        let file = scratch.path().join("a");
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::chown(&file, Some(0), Some(4321)).unwrap();
        for (path, mode) in [(scratch.path(), 0o755), (&file, 0o640)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let read = || fs::read_to_string(&file);
        let refused = nobody(&[]).run(read).unwrap().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(nobody(&[1, 4321]).run(read).unwrap().unwrap(), "x");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o0)).unwrap();
        assert_eq!(read().unwrap(), "x", "this thread is root still");
    }
}
