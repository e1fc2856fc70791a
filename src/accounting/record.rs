//! A finished session as backends get it: the statistics object of docs/protocol.md section 5 with what the
//! dispatcher added, and the few of its values that every backend needs.

use serde::Deserialize;

use crate::objects::objects_only;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The JSON object, on one line, as it is stored.
    pub info: Box<str>,
    /// A UUID; no two sessions have the same.
    pub session_id: String,
    pub call_id: String,
    pub from_tag: String,
    /// None where the call was never finally answered.
    pub to_tag: Option<String>,
}

#[derive(Deserialize)]
#[serde(remote = "Self")]
struct Seen {
    session_id: String,
    call_id: String,
    from_tag: String,
    to_tag: Option<String>,
}
objects_only!(Seen);

impl Record {
    /// Reads what stands in a journal.
    ///
    /// # Errors
    /// What is no object, or lacks one of the values.
    pub fn parse(info: &str) -> Result<Record, serde_json::Error> {
        let seen: Seen = serde_json::from_str(info)?;
        Ok(Record {
            info: info.into(),
            session_id: seen.session_id,
            call_id: seen.call_id,
            from_tag: seen.from_tag,
            to_tag: seen.to_tag,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_text_and_knows_its_names() {
        let info =
            r#"{"call_id":"a\u00e9","from_tag":"f","to_tag":null,"session_id":"s", "x": 1.50}"#;
        let record = Record::parse(info).unwrap();
        assert_eq!((&*record.info, record.call_id.as_str()), (info, "a\u{e9}"));
        assert_eq!(record.to_tag, None);
        assert!(Record::parse(r#"{"call_id":"a","from_tag":"f"}"#).is_err());
        assert!(Record::parse("[]").is_err());
    }
}
