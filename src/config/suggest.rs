//! What the author of an unknown name may have meant.

use super::keys::{KEYS, Key};

/// The key, in that section or in another.
pub(super) fn key(section: &str, name: &str) -> Option<&'static Key> {
    let limit = if name.len() < 6 { 1 } else { 2 };
    let here = || KEYS.iter().filter(|key| key.section == section);
    let near = || {
        here()
            .filter_map(|key| Some((distance(key.name, name, limit)?, key)))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, key)| key)
    };
    let is_it = |key: &&Key| key.name == name;
    here()
        .find(is_it)
        .or_else(|| KEYS.iter().find(is_it))
        .or_else(near)
}

/// The section whose name is nearly that.
pub(super) fn section(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let limit = if name.len() < 5 { 1 } else { 2 };
    let mut last = "";
    // The keys of a section stand together.
    let mut sections = KEYS
        .iter()
        .map(|key| key.section)
        .filter(|known| std::mem::replace(&mut last, known) != *known);
    sections.find(|known| distance(&known.to_lowercase(), &name, limit).is_some())
}

/// How many letters must be changed, added or removed (Levenshtein), where these are no more than `limit`. A name that is
/// so much shorter or longer is not looked at letter by letter: a file may hold anything.
fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    if a.chars().count().abs_diff(b.chars().count()) > limit {
        return None;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cb, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(ca != *cb))
                .min(*above + 1)
                .min(left + 1);
            diagonal = *above;
            *above = cost;
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("listen", "listen", 0),
            ("listen", "lisen", 1),
            ("listen", "listen_", 1),
            ("listen", "Listne", 3),
            ("abc", "", 3),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b, 3), Some(expected), "{a} {b}");
            let less = expected.checked_sub(1);
            assert_eq!(less.and_then(|less| distance(a, b, less)), None, "{a} {b}");
        }
    }

    #[test]
    fn suggestions() {
        let near = |section, name| key(section, name).map(|key| (key.section, key.name));
        assert_eq!(near("Relay", "port_rnage"), Some(("Relay", "port_range")));
        assert_eq!(near("Relay", "listen"), Some(("Dispatcher", "listen")));
        assert_eq!(near("Relay", "colour"), None);
        assert_eq!(near("Relay", &"x".repeat(9999)), None);
        assert_eq!(super::section("relays"), Some("Relay"));
        assert_eq!(super::section("TSL"), None);
        assert_eq!(super::section("TL"), Some("TLS"));
        assert_eq!(super::section("Accounting"), None);
    }
}
