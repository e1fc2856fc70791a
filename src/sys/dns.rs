//! DNS questions that the standard library cannot ask: one record type of a name, by the C library's
//! resolver, which honours resolv.conf. Blocks for seconds where a server does not answer. Parses nothing.

use std::ffi::{CString, c_char, c_int, c_uchar};
use std::fmt;

/// The Internet class (RFC 1035 section 3.2.4).
const CLASS_IN: c_int = 1;

/// Longest answer, bytes: what DNS over TCP can carry.
const MAX_MESSAGE: usize = 65_535;

/// Where the C library notes why a question failed (netdb.h).
const HOST_NOT_FOUND: c_int = 1;
const TRY_AGAIN: c_int = 2;
const NO_DATA: c_int = 4;

#[cfg_attr(target_env = "gnu", link(name = "resolv"))]
unsafe extern "C" {
    fn res_query(
        name: *const c_char,
        class: c_int,
        kind: c_int,
        answer: *mut c_uchar,
        length: c_int,
    ) -> c_int;
    fn __h_errno_location() -> *mut c_int;
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The name, or a record of this type, does not exist.
    NoSuchRecord,
    /// No server answered, or it could not find out at the moment.
    TryAgain,
    /// Not a name, or the servers refuse.
    Refused,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::NoSuchRecord => "no such record",
            Failure::TryAgain => "no name server answers",
            Failure::Refused => "the name servers refuse to answer",
        })
    }
}

/// Asks for the records of a type (RFC 1035 section 3.2.2; SRV is 33) and returns the whole answer.
///
/// # Errors
/// See [`Failure`].
pub fn query(name: &str, kind: u16) -> Result<Vec<u8>, Failure> {
    let name = CString::new(name).map_err(|_| Failure::Refused)?;
    let mut answer = vec![0u8; MAX_MESSAGE];
    // SAFETY: the name ends in NUL, and the resolver writes at most MAX_MESSAGE bytes of answer.
    let got = unsafe {
        res_query(
            name.as_ptr(),
            CLASS_IN,
            c_int::from(kind),
            answer.as_mut_ptr(),
            MAX_MESSAGE as c_int,
        )
    };
    match usize::try_from(got) {
        Ok(length) => {
            answer.truncate(length);
            Ok(answer)
        }
        Err(_) => Err(failure()),
    }
}

fn failure() -> Failure {
    // SAFETY: the C library returns the address of this thread's own variable.
    match unsafe { *__h_errno_location() } {
        HOST_NOT_FOUND | NO_DATA => Failure::NoSuchRecord,
        TRY_AGAIN => Failure::TryAgain,
        _ => Failure::Refused,
    }
}
