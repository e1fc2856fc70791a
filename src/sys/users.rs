//! Users and groups of this host, and whether we are root.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// A group's entry is larger than this only by mistake.
const LARGEST: usize = 16 * 1024 * 1024;

/// A user of this host (passwd(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// The group that it logs in with.
    pub gid: u32,
}

/// The number of a group; none where there is no such group.
///
/// # Errors
/// The group database cannot be read.
pub fn group_by_name(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    look_up(
        // SAFETY: all pointers are valid for the call, the length is the buffer's.
        |entry, buffer, found| unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry,
                buffer.as_mut_ptr(),
                buffer.len(),
                found,
            )
        },
        |entry: &libc::group| entry.gr_gid,
    )
}

/// The name of a group; none where there is no such group.
///
/// # Errors
/// The group database cannot be read.
pub fn group_by_number(gid: u32) -> io::Result<Option<String>> {
    look_up(
        // SAFETY: all pointers are valid for the call, the length is the buffer's.
        |entry, buffer, found| unsafe {
            libc::getgrgid_r(gid, entry, buffer.as_mut_ptr(), buffer.len(), found)
        },
        |entry: &libc::group| {
            // SAFETY: the database gives each entry a name that ends with a zero, in the buffer that still lives.
            let name = unsafe { CStr::from_ptr(entry.gr_name) };
            name.to_string_lossy().into_owned()
        },
    )
}

/// A user by its name; none where there is no such user.
///
/// # Errors
/// The user database cannot be read.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    look_up(
        // SAFETY: all pointers are valid for the call, the length is the buffer's.
        |entry, buffer, found| unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry,
                buffer.as_mut_ptr(),
                buffer.len(),
                found,
            )
        },
        user,
    )
}

/// A user by its number; none where there is no such user.
///
/// # Errors
/// The user database cannot be read.
pub fn user_by_number(uid: u32) -> io::Result<Option<User>> {
    look_up(
        // SAFETY: all pointers are valid for the call, the length is the buffer's.
        |entry, buffer, found| unsafe {
            libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), found)
        },
        user,
    )
}

fn user(entry: &libc::passwd) -> User {
    // SAFETY: the database gives each entry a name that ends with a zero, in the buffer that still lives.
    let name = unsafe { CStr::from_ptr(entry.pw_name) };
    User {
        name: name.to_string_lossy().into_owned(),
        uid: entry.pw_uid,
        gid: entry.pw_gid,
    }
}

/// One of the databases' questions, with a buffer that grows until the answer fits.
fn look_up<E, T>(
    mut ask: impl FnMut(*mut E, &mut [libc::c_char], *mut *mut E) -> libc::c_int,
    read: impl FnOnce(&E) -> T,
) -> io::Result<Option<T>> {
    let mut buffer = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<E>::uninit();
        let mut found = ptr::null_mut();
        match ask(entry.as_mut_ptr(), &mut buffer, &mut found) {
            // SAFETY: found points to the entry, which was filled in; the buffer lives as long.
            0 if !found.is_null() => return Ok(Some(read(unsafe { &*found }))),
            // What the various databases say for "no such entry", by getgrnam(3).
            0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            libc::ERANGE if buffer.len() < LARGEST => buffer.resize(buffer.len() * 4, 0),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// All groups of a user, that of its login included.
///
/// # Errors
/// The group database cannot be read, or has more for it than the kernel takes.
pub fn groups_of(user: &User) -> io::Result<Vec<u32>> {
    /// NGROUPS_MAX (linux/limits.h).
    const MOST: usize = 65536;
    let name = CString::new(user.name.as_str())?;
    let mut groups = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the name ends with a zero, the count is that of the places.
        let result =
            unsafe { libc::getgrouplist(name.as_ptr(), user.gid, groups.as_mut_ptr(), &mut count) };
        if result >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or_default());
            return Ok(groups);
        }
        if groups.len() >= MOST {
            return Err(io::Error::other("it is in too many groups"));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

/// The number of the user with whose rights this process works.
pub fn own_number() -> u32 {
    // SAFETY: no arguments, never fails.
    unsafe { libc::geteuid() }
}

/// The group of the calling thread.
pub fn own_group() -> u32 {
    // SAFETY: no pointers; it cannot fail.
    unsafe { libc::getegid() }
}

/// Whether the process has root's rights.
pub fn is_root() -> bool {
    own_number() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        assert_eq!(group_by_name("root").unwrap(), Some(0));
        for none in ["", "no-such-group-here", "a\0b"] {
            assert_eq!(group_by_name(none).unwrap(), None);
        }
        assert_eq!(group_by_number(0).unwrap().as_deref(), Some("root"));
        assert_eq!(group_by_number(4_000_000_000).unwrap(), None);
    }

    #[test]
    fn users() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_by_number(0).unwrap(), Some(root.clone()));
        assert!(groups_of(&root).unwrap().contains(&0));
        for none in ["", "no-such-user-here", "a\0b"] {
            assert_eq!(user_by_name(none).unwrap(), None);
        }
        assert_eq!(user_by_number(4_000_000_000).unwrap(), None);
    }

    #[test]
    fn root_owns_its_proc_entry() {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata("/proc/self/status").unwrap().uid();
        assert_eq!(is_root(), owner == 0);
    }
}
