//! Commands to relays that no request of the proxy stands behind.

use crate::proto::CallId;
use crate::proto::control::{LINK_LIMITS, Remove, Requests};
use crate::proto::link::{Compatibility, EXPLAIN, Sequence, write_command};

/// Writes a `remove` that the dispatcher makes itself. False when the relay could not read it.
pub fn write_remove(
    out: &mut Vec<u8>,
    remove: &Remove,
    sequence: Sequence,
    compatibility: Compatibility,
) -> bool {
    let mut text = b"remove\r\n".to_vec();
    let mut add = |name: &str, value: &[u8]| {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
    };
    add("call_id", remove.call_id.0.as_bytes());
    add("from_tag", remove.from_tag.0.as_bytes());
    if let Some(to_tag) = &remove.to_tag {
        add("to_tag", to_tag.0.as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    let mut requests = Requests::new(LINK_LIMITS, &[]);
    requests.extend(&text);
    match requests.next_request() {
        Ok(Some(Ok(frame))) => write_command(out, frame, sequence, compatibility, None),
        _ => false,
    }
}

/// Writes the question for all that is known of a call. Only for a relay that understands it. False where no call-id
/// is like that: an administrator may write anything.
pub fn write_explain(out: &mut Vec<u8>, call_id: &CallId, sequence: Sequence) -> bool {
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
pub fn write_plain(out: &mut Vec<u8>, word: &str, sequence: Sequence) -> bool {
    out.extend_from_slice(format!("{word} {sequence}\r\n\r\n").as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CallId, Tag};

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

    #[test]
    fn a_removal_is_written_as_the_relay_can_read_it() {
        let mut remove = Remove {
            call_id: CallId(b"caf\xe9".as_slice().into()),
            from_tag: Tag("f".into()),
            to_tag: None,
        };
        let mut out = Vec::new();
        assert!(write_remove(
            &mut out,
            &remove,
            Sequence(7),
            Compatibility::Older
        ));
        assert_eq!(out, b"remove 7\r\ncall_id: caf?\r\nfrom_tag: f\r\n\r\n");
        out.clear();
        remove.to_tag = Some(Tag("t".into()));
        assert!(write_remove(
            &mut out,
            &remove,
            Sequence(8),
            Compatibility::Ours
        ));
        let expected = b"remove 8\r\ncall_id: caf\xe9\r\nfrom_tag: f\r\nto_tag: t\r\n\r\n";
        assert_eq!(out, expected);
    }
}
