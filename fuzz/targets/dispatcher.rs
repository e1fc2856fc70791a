//! What a dispatcher reads of a relay's JSON: `expired`, the answers to `remove` and `sessions`.

use mediaproxy::dispatcher::statistics::{Statistics, each, sessions};
use serde_json::Value;

/// A list of sessions, read element by element, is the list that it is as a whole.
pub fn statistics(data: &[u8]) {
    let mut elements = Vec::new();
    let read = each(data, |element| {
        elements.push(element.get().to_owned());
        Ok::<(), String>(())
    });
    let whole = serde_json::from_slice::<Vec<Value>>(data);
    if let Ok(whole) = &whole {
        assert!(read.is_ok());
        assert_eq!(elements.len(), whole.len());
    }
    for (index, element) in elements.iter().enumerate() {
        if !data.contains(&b'\n') {
            assert!(!element.contains('\n'), "one line each");
        }
        if let (Ok(whole), Ok(value)) = (&whole, serde_json::from_str::<Value>(element)) {
            assert_eq!(value, whole[index]);
        }
        one(element.as_bytes());
    }
    let _ = sessions(data);
    one(data);
}

/// One session's statistics stay byte for byte, and name the same call as the list does.
fn one(json: &[u8]) {
    let Ok(statistics) = Statistics::parse(json) else {
        return;
    };
    assert_eq!(statistics.json.get().as_bytes(), json.trim_ascii());
    let list = [b"[", json, b"]"].concat();
    let ids = sessions(&list).expect("a list of one session");
    assert!(ids.contains_key(&statistics.call_id));
}
