//! A finished session as backends get it: the statistics object of docs/protocol.md section 5 with what the
//! dispatcher added, and the few of its values that every backend needs.

use serde::de::Error;

use crate::proto::raw_object::RawObject;
use crate::proto::record::{RecordHead, Scalar};

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

impl Record {
    /// Reads what stands in a journal. Journals of before may have a key twice: the last value counts, and is stored.
    ///
    /// # Errors
    /// What is no object, or lacks one of the values.
    pub fn parse(info: &str) -> Result<Record, serde_json::Error> {
        let unique = || RawObject::parse(info)?.text();
        Record::read(info).or_else(|error| match unique() {
            Some(unique) if unique.len() < info.len() => Record::read(&unique),
            _ => Err(error),
        })
    }

    fn read(info: &str) -> Result<Record, serde_json::Error> {
        let head = RecordHead::parse(info)?;
        let text = |value: &Scalar<'_>| {
            let text = value.required_as("a string", Scalar::text);
            let owned = text.map(|text| text.map(str::to_owned));
            owned.map_err(serde_json::Error::custom)
        };
        let missing =
            |name: &str| serde_json::Error::custom(format_args!("missing field `{name}`"));
        Ok(Record {
            info: info.into(),
            session_id: text(&head.session_id)?.ok_or_else(|| missing("session_id"))?,
            from_tag: text(&head.from_tag)?.ok_or_else(|| missing("from_tag"))?,
            to_tag: text(&head.to_tag)?,
            call_id: head.call_id.into_owned(),
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
        assert!(Record::parse(r#"{ "call_id":"a" , "from_tag":"f" }"#).is_err());
    }

    /// Earlier dispatchers added a dialog_id behind a relay's `null`.
    #[test]
    fn a_key_that_comes_twice_is_no_damage() {
        let info =
            r#"{"call_id":"a","from_tag":"f","dialog_id":null,"session_id":"s","dialog_id":"1:2"}"#;
        let record = Record::parse(info).unwrap();
        let once = r#"{"call_id":"a","from_tag":"f","dialog_id":"1:2","session_id":"s"}"#;
        assert_eq!((&*record.info, record.session_id.as_str()), (once, "s"));
    }
}
