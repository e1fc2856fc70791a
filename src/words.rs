//! Numbers of things in sentences. Pure.

use std::fmt;

/// So many of something that takes an s where it is not one.
pub fn counted(count: impl TryInto<u64> + Copy + fmt::Display, what: &str) -> String {
    match count.try_into() {
        Ok(1) => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        let all = [0_usize, 1, 2].map(|count| counted(count, "ended call"));
        assert_eq!(all, ["0 ended calls", "1 ended call", "2 ended calls"]);
        assert_eq!(counted(-1, "record"), "-1 records");
    }
}
