//! How values are written into a state that another process of the relay reads: short, and so that what was written comes
//! back as it was. Keys that have their usual value are left out.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CallId, DialogId, PerParty, Tag, Text};

/// Returns true if a value is the usual one, and need not be written.
pub fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Texts with each of their bytes, which need not be UTF-8: a character from U+0000 to U+00FF stands for one byte. To be used
/// by `#[serde(with = "exact")]`.
pub mod exact {
    use super::{Deserializer, Exact, Serializer};

    pub fn serialize<T: Exact, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        value.write(serializer)
    }

    pub fn deserialize<'de, T: Exact, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        T::read(deserializer)
    }
}

/// What [`exact`] can write.
pub trait Exact: Sized {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

impl Exact for Text {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.as_bytes();
        match std::str::from_utf8(bytes) {
            Ok(text) if text.is_ascii() => serializer.serialize_str(text),
            _ => {
                let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
                serializer.serialize_str(&text)
            }
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_ascii() {
            return Ok(text.as_str().into());
        }
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
        let bytes = bytes.ok_or_else(|| serde::de::Error::custom("no byte is that large"))?;
        Ok(bytes.as_slice().into())
    }
}

macro_rules! exact_by_its_text {
    ($($name:ident)*) => {$(
        impl Exact for $name {
            fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.write(serializer)
            }

            fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                Text::read(deserializer).map($name)
            }
        }
    )*};
}
exact_by_its_text!(CallId Tag DialogId);

/// One value as [`exact`] writes it.
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "T: Exact")]
struct Whole<T: Exact>(#[serde(with = "exact")] T);

struct Borrowed<'a, T>(&'a T);

impl<T: Exact> Serialize for Borrowed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

impl<T: Exact> Exact for Option<T> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_ref().map(Borrowed).serialize(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<Whole<T>>::deserialize(deserializer)?.map(|whole| whole.0))
    }
}

impl<T: Exact> Exact for PerParty<T> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PerParty { caller, callee } = self;
        let [caller, callee] = [caller, callee].map(Borrowed);
        PerParty { caller, callee }.serialize(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PerParty<T>, D::Error> {
        let both = PerParty::<Whole<T>>::deserialize(deserializer)?;
        Ok(both.map(|whole| whole.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through_json<T: Exact>(value: T) -> (String, T) {
        let json = serde_json::to_string(&Borrowed(&value)).unwrap();
        let Whole(back) = serde_json::from_str(&json).unwrap();
        (json, back)
    }

    #[test]
    fn each_byte_of_a_text_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&b"plain"[..], "J\u{fc}rgen \u{1f600}".as_bytes(), &all, b""] {
            let text = Text::from(bytes);
            let (json, back) = through_json(text.clone());
            assert_eq!(back, text, "{json}");
            assert!(!json.contains('\n'), "{json}");
        }
        let tags = PerParty {
            caller: Some(Tag(b"\xe9"[..].into())),
            callee: None,
        };
        let (json, back) = through_json(tags.clone());
        assert_eq!(json, "{\"caller\":\"\u{e9}\",\"callee\":null}");
        assert_eq!(back, tags);
        assert!(serde_json::from_str::<Whole<Text>>("\"\u{1f600}\"").is_err());
    }
}
