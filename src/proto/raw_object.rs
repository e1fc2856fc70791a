//! A JSON object whose values stay as they stand in the text: what is rewritten of it changes nothing else.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// See the module. Each key is there once: the last value counts, at the place of the first.
#[derive(Debug)]
pub struct RawObject<'a>(Vec<(String, Cow<'a, str>)>);

impl<'a> RawObject<'a> {
    /// None where the text is no object.
    pub fn parse(text: &'a str) -> Option<RawObject<'a>> {
        serde_json::from_str(text).ok()
    }

    /// The text of a value.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut entries = self.0.iter();
        let (_, value) = entries.find(|(name, _)| name == key)?;
        Some(value)
    }

    /// Gives a key that is there another value, which is JSON.
    pub fn set(&mut self, key: &str, value: String) {
        if let Some((_, old)) = self.0.iter_mut().find(|(name, _)| name == key) {
            *old = value.into();
        }
    }

    /// The object as text.
    pub fn text(&self) -> Option<String> {
        let mut text = "{".to_owned();
        for (key, value) in &self.0 {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&serde_json::to_string(key).ok()?);
            text.push(':');
            text.push_str(value);
        }
        text.push('}');
        Some(text)
    }
}

impl<'de> Deserialize<'de> for RawObject<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = RawObject<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject<'de>, A::Error> {
        let mut entries: Vec<(String, Cow<'de, str>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            match places.get(&key).and_then(|place| entries.get_mut(*place)) {
                Some(entry) => entry.1 = value.get().into(),
                None => {
                    places.insert(key.clone(), entries.len());
                    entries.push((key, value.get().into()));
                }
            }
        }
        Ok(RawObject(entries))
    }
}
