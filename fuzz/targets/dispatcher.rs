//! What a dispatcher reads of a relay's JSON: `expired`, the answers to `remove` and `sessions`.

use mediaproxy::dispatcher::statistics::{ListedCall, Statistics, each};
use mediaproxy::proto::elements::{Bad, Elements};
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
    in_pieces(data, &elements, whole.is_ok());
    one(data);
}

/// A list that comes in pieces has the same elements, where they are objects.
fn in_pieces(data: &[u8], elements: &[String], is_list: bool) {
    let mut found = Vec::new();
    let mut reader = Elements::new(data.len());
    let read = data.chunks(7).try_for_each(|piece| {
        reader.feed(piece, |element| {
            found.push(element.to_vec());
            Ok::<(), Bad>(())
        })
    });
    let are_objects = elements.iter().all(|element| element.starts_with('{'));
    if is_list && are_objects {
        assert!(read.is_ok() && reader.is_whole());
        assert!(
            found
                .iter()
                .map(Vec::as_slice)
                .eq(elements.iter().map(String::as_bytes))
        );
    }
}

/// One session's statistics stay byte for byte, and name the same call as the list does.
fn one(json: &[u8]) {
    let Ok(statistics) = Statistics::parse(json) else {
        return;
    };
    assert_eq!(statistics.json.as_bytes(), json.trim_ascii());
    let listed = ListedCall::parse(json).expect("a session of a list");
    assert_eq!(listed.call_id, statistics.call_id);
}
