//! The name of a session: a Call-ID, which several may share (a back-to-back agent keeps it), and the tags of its two
//! parties. This is the one place that compares them (rules S1.. of docs/protocol.md).

use super::{CallId, Tag, Text};

/// What names a session, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub call_id: CallId,
    /// The tag that opened it; none where its relay has not told it.
    pub caller: Option<Tag>,
    /// The tag of the one who has finally answered; none before that.
    pub callee: Option<Tag>,
}

/// How a message names its session: the caller's tag is in from_tag or, where the callee has sent it, in to_tag.
#[derive(Clone, Copy, Debug)]
pub struct Mention<'a> {
    pub call_id: &'a CallId,
    pub from_tag: &'a Tag,
    pub to_tag: Option<&'a Tag>,
}

/// How well a message or a report fits a session. What is greater fits better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It is another session's.
    Not,
    /// The Call-ID is the same, and one of the two tells no tags.
    Untold,
    /// The caller's tag is there, with that of another callee than the one who has answered.
    Branch,
    /// The caller's tag is there, and nothing speaks against the callee's.
    Caller,
    /// Both tags are there.
    Both,
}

impl Fit {
    /// Returns true if it is that session's, and of no other callee than its own.
    pub fn is_own(self) -> bool {
        self >= Fit::Caller
    }
}

impl Name {
    /// A session of this Call-ID of which no tag is known.
    #[cfg(test)]
    pub fn untold(call_id: CallId) -> Name {
        Name {
            call_id,
            caller: None,
            callee: None,
        }
    }

    /// Bytes of its tags.
    pub fn tags(&self) -> usize {
        let tags = [&self.caller, &self.callee].into_iter().flatten();
        tags.map(|tag| tag.0.as_bytes().len()).sum()
    }

    /// The name of a session that a message opens: nobody has answered.
    pub fn opened_by(mention: Mention<'_>) -> Name {
        Name {
            call_id: mention.call_id.clone(),
            caller: Some(mention.from_tag.clone()),
            callee: None,
        }
    }

    /// How well a message fits this session.
    pub fn fit(&self, mention: Mention<'_>) -> Fit {
        if self.call_id != *mention.call_id {
            return Fit::Not;
        }
        let Some(caller) = &self.caller else {
            return Fit::Untold;
        };
        let other = match mention.to_tag {
            to_tag if mention.from_tag == caller => to_tag,
            Some(to_tag) if to_tag == caller => Some(mention.from_tag),
            _ => return Fit::Not,
        };
        match self.callee.as_ref().zip(other) {
            None => Fit::Caller,
            Some((callee, other)) if callee == other => Fit::Both,
            Some(_) => Fit::Branch,
        }
    }

    /// How well what a relay tells of a session of this Call-ID fits: its tag of the caller, as JSON has it. This
    /// name may be that of a session that was met by a request of the callee's.
    pub fn fit_told(&self, from_tag: Option<&str>) -> Fit {
        let is = |tag: &Tag| from_tag.is_some_and(|told| is_spelled(&tag.0, told));
        match (&self.caller, from_tag) {
            (None, _) | (_, None) => Fit::Untold,
            (Some(caller), _) if is(caller) => Fit::Both,
            _ if self.callee.as_ref().is_some_and(is) => Fit::Caller,
            _ => Fit::Not,
        }
    }

    /// Returns true if both are names of one session.
    pub fn is_of(&self, other: &Name) -> bool {
        let is_same = |(one, two)| one == two;
        let tags = self.caller.as_ref().zip(other.caller.as_ref());
        self.call_id == other.call_id && tags.is_none_or(is_same)
    }
}

/// Returns true if this is how a relay writes a text into JSON.
pub fn is_spelled(text: &Text, told: &str) -> bool {
    let is_it = |spelling: &String| spelling == told;
    text.as_bytes() == told.as_bytes() || !text.is_utf8() && spelled(text).iter().any(is_it)
}

/// How relays write into JSON what is not UTF-8: ours, and older ones that were given `?` instead.
pub fn spelled(text: &Text) -> [String; 2] {
    let bytes = text.as_bytes();
    let mut asked = String::new();
    for chunk in bytes.utf8_chunks() {
        asked.push_str(chunk.valid());
        asked.extend(chunk.invalid().iter().map(|_| '?'));
    }
    [String::from_utf8_lossy(bytes).into_owned(), asked]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> Tag {
        Tag(text.into())
    }

    fn name(caller: &str, callee: &str) -> Name {
        let known = |text: &str| (!text.is_empty()).then(|| tag(text));
        Name {
            call_id: CallId("a".into()),
            caller: known(caller),
            callee: known(callee),
        }
    }

    fn fit(name: &Name, from_tag: &str, to_tag: &str) -> Fit {
        let (call_id, from_tag, to_tag) = (CallId("a".into()), tag(from_tag), tag(to_tag));
        name.fit(Mention {
            call_id: &call_id,
            from_tag: &from_tag,
            to_tag: Some(&to_tag).filter(|tag| !tag.0.as_bytes().is_empty()),
        })
    }

    #[test]
    fn s1_the_callers_tag_is_in_either_place() {
        let rings = name("f", "");
        for (from_tag, to_tag) in [("f", ""), ("f", "t"), ("t", "f"), ("u", "f")] {
            assert_eq!(
                fit(&rings, from_tag, to_tag),
                Fit::Caller,
                "{from_tag} {to_tag}"
            );
        }
        for (from_tag, to_tag) in [("x", ""), ("x", "y"), ("t", "")] {
            assert_eq!(
                fit(&rings, from_tag, to_tag),
                Fit::Not,
                "{from_tag} {to_tag}"
            );
        }
        let call_id = CallId("b".into());
        let other = Mention {
            call_id: &call_id,
            from_tag: &tag("f"),
            to_tag: None,
        };
        assert_eq!(rings.fit(other), Fit::Not);
    }

    #[test]
    fn s2_an_unknown_callee_fits_any_and_a_known_one_itself_alone() {
        let answered = name("f", "t");
        assert_eq!(fit(&answered, "f", ""), Fit::Caller);
        assert_eq!(
            (fit(&answered, "f", "t"), fit(&answered, "t", "f")),
            (Fit::Both, Fit::Both)
        );
        for (from_tag, to_tag) in [("f", "u"), ("u", "f")] {
            let found = fit(&answered, from_tag, to_tag);
            assert!(
                found == Fit::Branch && !found.is_own(),
                "{from_tag} {to_tag}"
            );
        }
        assert_eq!(
            fit(&answered, "t", ""),
            Fit::Not,
            "no message of it is like that"
        );
        assert_eq!(fit(&name("", ""), "f", "t"), Fit::Untold);
    }

    #[test]
    fn what_relays_tell() {
        let odd = Name {
            caller: Some(Tag(b"t\xe9"[..].into())),
            ..name("", "c")
        };
        assert_eq!(odd.fit_told(Some("t\u{fffd}")), Fit::Both);
        assert_eq!(odd.fit_told(Some("t?")), Fit::Both);
        assert_eq!(odd.fit_told(Some("c")), Fit::Caller);
        assert_eq!(
            (odd.fit_told(Some("x")), odd.fit_told(None)),
            (Fit::Not, Fit::Untold)
        );
        assert!(name("f", "t").is_of(&name("f", "")) && name("f", "").is_of(&name("", "")));
        assert!(!name("f", "").is_of(&name("g", "")));
    }
}
