//! What is read as JSON is an object where it is one: serde takes an array of a struct's fields in their order for the
//! struct, so that `["x", "y"]` of a peer or in a file would pass for a session of that call.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

/// A struct that serde reads field by field.
pub trait Fields<'de>: Sized {
    fn from_fields<D: Deserializer<'de>>(fields: D) -> Result<Self, D::Error>;
}

/// Reads an object and nothing else.
pub fn read<'de, T: Fields<'de>, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
    json.deserialize_map(Object(PhantomData))
}

struct Object<T>(PhantomData<T>);

impl<'de, T: Fields<'de>> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::from_fields(MapAccessDeserializer::new(fields))
    }
}

/// Makes structs with `derive(Deserialize)` and `#[serde(remote = "Self")]`, which gives them a function of that name and
/// not the trait, readable from objects alone. `tests/lint/layers.sh` sees to it that none is without.
macro_rules! objects_only {
    ($name:ident $(<$life:lifetime>)?) => {
        impl<'de $(: $life, $life)?> $crate::objects::Fields<'de> for $name $(<$life>)? {
            fn from_fields<D: serde::Deserializer<'de>>(fields: D) -> Result<Self, D::Error> {
                Self::deserialize(fields)
            }
        }

        impl<'de $(: $life, $life)?> serde::Deserialize<'de> for $name $(<$life>)? {
            fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
                $crate::objects::read(json)
            }
        }
    };
    // Written as derived.
    ($name:ident $(<$life:lifetime>)?, both ways) => {
        $crate::objects::objects_only!($name $(<$life>)?);

        impl $(<$life>)? serde::Serialize for $name $(<$life>)? {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, out)
            }
        }
    };
}

pub(crate) use objects_only;

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(remote = "Self", default)]
    struct Inner {
        word: String,
    }
    objects_only!(Inner);

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(remote = "Self")]
    struct Written {
        number: u8,
    }
    objects_only!(Written, both ways);

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(remote = "Self")]
    struct Outer<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(default)]
        many: Vec<Inner>,
        #[serde(default)]
        one: Option<Inner>,
    }
    objects_only!(Outer<'a>);

    #[test]
    fn an_object_is_read_as_before() {
        let text = r#"{"more": [1], "one": {}, "name": "x", "many": [{"word": "y"}]}"#;
        let outer: Outer<'_> = serde_json::from_str(text).unwrap();
        assert!(matches!(outer.name, Cow::Borrowed("x")), "no copy");
        assert_eq!(outer.one, Some(Inner::default()));
        let many = outer.many.first().map(|inner| inner.word.as_str());
        assert_eq!(many, Some("y"));
        let written = serde_json::to_string(&Written { number: 7 }).unwrap();
        assert_eq!(written, r#"{"number":7}"#);
        assert_eq!(serde_json::from_str::<Written>(&written).unwrap().number, 7);
    }

    #[test]
    fn an_array_is_no_object_however_deep() {
        for text in [
            r#"["x"]"#,
            r#"["x", [], null]"#,
            r#"{"name": "x", "many": [["y"]]}"#,
            r#"{"name": "x", "one": ["y"]}"#,
            r#"{"name": "x", "one": []}"#,
            r#""x""#,
            "7",
            "null",
        ] {
            let read = serde_json::from_str::<Outer<'_>>(text);
            assert!(read.is_err(), "{text}: {read:?}");
        }
        let error = serde_json::from_str::<Written>("[7]").unwrap_err();
        assert!(error.to_string().contains("expected an object"), "{error}");
        let value = serde_json::json!([7]);
        assert!(serde_json::from_value::<Written>(value).is_err());
    }
}
