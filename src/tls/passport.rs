//! Passports: what a peer's certificate subject must be, beyond coming from our CA (protocol.md section 6).
//!
//! `O:Example, CN:relay*`: all must match; a leading or trailing `*` stands for anything; a comma in a
//! value is written `\,`; the word `None` disables the check.

use std::fmt;

use super::subject::{Attribute, Subject};

/// The conditions of one `passport` setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passport {
    conditions: Vec<(Attribute, Pattern)>,
}

/// A value with wildcards at its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    leading: bool,
    text: String,
    trailing: bool,
}

impl Passport {
    /// Reads a setting. `None` in any case, or nothing, is no passport.
    ///
    /// # Errors
    /// A sentence that names the item and what is allowed.
    pub fn parse(setting: &str) -> Result<Option<Passport>, String> {
        let setting = setting.trim();
        if setting.is_empty() || setting.eq_ignore_ascii_case("none") {
            return Ok(None);
        }
        let conditions = split_at_commas(setting)
            .iter()
            .map(|item| condition(item.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Some(Passport { conditions }))
    }

    /// Whether every condition fits one of the subject's values of that attribute.
    pub fn matches(&self, subject: &Subject) -> bool {
        self.conditions.iter().all(|(attribute, pattern)| {
            subject
                .values(*attribute)
                .any(|value| pattern.matches(value))
        })
    }
}

impl fmt::Display for Passport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (attribute, pattern)) in self.conditions.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            let star = |shown: bool| if shown { "*" } else { "" };
            let value = pattern.text.replace(',', "\\,");
            let (leading, trailing) = (star(pattern.leading), star(pattern.trailing));
            write!(f, "{}:{leading}{value}{trailing}", attribute.name())?;
        }
        Ok(())
    }
}

impl Pattern {
    fn parse(value: &str) -> Pattern {
        if value == "*" {
            return Pattern {
                leading: true,
                text: String::new(),
                trailing: false,
            };
        }
        let (leading, value) = match value.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        let (trailing, value) = match value.strip_suffix('*') {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        Pattern {
            leading,
            text: value.to_owned(),
            trailing,
        }
    }

    fn matches(&self, value: &str) -> bool {
        match (self.leading, self.trailing) {
            (false, false) => value == self.text,
            (true, false) => value.ends_with(&self.text),
            (false, true) => value.starts_with(&self.text),
            (true, true) => value.contains(&self.text),
        }
    }
}

fn condition(item: &str) -> Result<(Attribute, Pattern), String> {
    let allowed = "write O, OU, CN, C, L, ST or EMAIL, a colon and the value, \
                   with commas between several (a comma inside a value as \\,), or None";
    let Some((name, value)) = item.split_once(':') else {
        return Err(format!("passport item \"{item}\" has no colon; {allowed}"));
    };
    let (name, value) = (name.trim(), value.trim());
    let Some(attribute) = Attribute::from_name(name) else {
        return Err(format!(
            "passport item \"{item}\": \"{name}\" is not known; {allowed}"
        ));
    };
    if value.is_empty() {
        return Err(format!("passport item \"{item}\" has no value; {allowed}"));
    }
    Ok((attribute, Pattern::parse(value)))
}

/// The items, with `\,` turned into a comma.
fn split_at_commas(setting: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut rest = setting.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, items.last_mut()) {
            (',', _) => items.push(String::new()),
            ('\\', Some(item)) if rest.peek() == Some(&',') => {
                rest.next();
                item.push(',');
            }
            (c, Some(item)) => item.push(c),
            (_, None) => {}
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::super::der::tag::UTF8_STRING;
    use super::super::subject::tests::name;
    use super::*;

    fn subject() -> Subject {
        Subject::parse(&name(&[
            (Attribute::Organization, UTF8_STRING, b"Example, Inc."),
            (Attribute::OrganizationalUnit, UTF8_STRING, b"Media"),
            (Attribute::OrganizationalUnit, UTF8_STRING, b"Voice"),
            (Attribute::CommonName, UTF8_STRING, b"relay1.example.com"),
        ]))
        .unwrap()
    }

    fn fits(setting: &str) -> bool {
        Passport::parse(setting)
            .unwrap()
            .unwrap()
            .matches(&subject())
    }

    #[test]
    fn exact_values_and_wildcards() {
        for good in [
            "CN:relay1.example.com",
            "CN:relay1*",
            "CN:*.example.com",
            "CN:*example*",
            "CN:*",
            "cn : relay1*",
            "O:Example\\, Inc.",
            "O:Example*, OU:Media,CN:relay*",
            "OU:Voice",
            "OU:Voice, OU:Media",
        ] {
            assert!(fits(good), "{good}");
        }
        for bad in [
            "CN:relay1",
            "CN:Relay1*",
            "CN:*relay1",
            "CN:relay2*, O:Example*",
            "O:Example*, L:*",
            "CN:rel*com",
            "CN:**x",
        ] {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn none_disables() {
        for none in ["", "  ", "None", "none"] {
            assert_eq!(Passport::parse(none), Ok(None));
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (bad, part) in [
            ("relay1", "no colon"),
            ("CN:a,", "no colon"),
            ("CN:", "no value"),
            ("DC:example", "\"DC\" is not known"),
        ] {
            let message = Passport::parse(bad).unwrap_err();
            assert!(message.contains(part), "{message}");
            assert!(message.contains("EMAIL"), "{message}");
        }
    }

    #[test]
    fn shown_as_written() {
        let setting = "O:Example\\, Inc., CN:*relay*";
        let passport = Passport::parse(setting).unwrap().unwrap();
        assert_eq!(passport.to_string(), setting);
    }
}
