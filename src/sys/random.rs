//! Bits that nobody can guess, from the kernel.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::clock;

/// 128 bits of getrandom(2).
pub fn bits() -> u128 {
    let mut bytes = [0u8; 16];
    // SAFETY: the kernel writes at most these 16 bytes. Up to 256 bytes are never cut short (getrandom(2)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) == Ok(bytes.len()) {
        return u128::from_ne_bytes(bytes);
    }
    // Interrupted before the kernel's pool was ready, or forbidden by a sandbox: a keyed hash of the time,
    // whose key the standard library got from the system by other ways.
    let keyed = || u128::from(RandomState::new().hash_one(clock::moment()));
    keyed() << 64 | keyed()
}

#[cfg(test)]
mod tests {
    #[test]
    fn never_twice_the_same() {
        let all: std::collections::HashSet<u128> = (0..1000).map(|_| super::bits()).collect();
        assert_eq!(all.len(), 1000);
    }
}
