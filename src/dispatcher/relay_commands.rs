//! Commands to relays that no request of the proxy stands behind.

use crate::proto::CallId;
use crate::proto::control::LINK_LIMITS;
use crate::proto::link::{EXPLAIN, Sequence};

/// Writes the question for all that is known of a call. Only for a relay that understands it. False where no call-id
/// is like that: an administrator may write anything.
pub(super) fn write_explain(out: &mut Vec<u8>, call_id: &CallId, sequence: Sequence) -> bool {
    let bytes = call_id.0.as_bytes();
    let is_odd = |byte: &u8| matches!(byte, 0 | b'\r' | b'\n');
    if bytes.len() > LINK_LIMITS.line / 2 || bytes.iter().any(is_odd) {
        return false;
    }
    out.extend_from_slice(format!("{EXPLAIN} {sequence}\r\ncall_id: ").as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n\r\n");
    true
}

/// Writes a command without headers: `sessions` or `summary`.
pub(super) fn write_plain(out: &mut Vec<u8>, word: &str, sequence: Sequence) -> bool {
    out.extend_from_slice(format!("{word} {sequence}\r\n\r\n").as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::CallId;

    #[test]
    fn nobody_slips_a_command_into_a_call_id() {
        let mut out = Vec::new();
        assert!(write_explain(&mut out, &CallId("a b".into()), Sequence(7)));
        assert_eq!(out, b"explain 7\r\ncall_id: a b\r\n\r\n");
        let long = "x".repeat(LINK_LIMITS.line);
        for odd in ["a\r\n\r\nsummary 8", "a\n", "a\0", &long] {
            assert!(!write_explain(&mut out, &CallId(odd.into()), Sequence(8)));
        }
        assert_eq!(out.len(), 27, "nothing was written");
    }
}
