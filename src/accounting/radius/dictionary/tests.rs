//! Dictionaries from a map of names to texts.

use super::*;

/// Reads `/d/main` among files of `/d`.
fn read(files: &[(&str, &str)]) -> Result<Dictionary, String> {
    let mut dictionary = Dictionary::default();
    let mut load = |path: &Path| {
        let found = files
            .iter()
            .find(|(name, _)| path == Path::new("/d").join(name));
        found
            .map(|(_, text)| text.as_bytes().to_vec())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    match dictionary.read(Path::new("/d/main"), &mut load) {
        Ok(found) => assert!(found),
        Err(why) => return Err(why),
    }
    Ok(dictionary)
}

#[test]
fn the_numbers_that_hold_without_a_file() {
    let usual = Dictionary::default();
    assert_eq!(usual.number(Attribute::UserName), 1);
    assert_eq!(usual.number(Attribute::EventTimestamp), 55);
    assert_eq!(usual.number(Attribute::SipToTag), 104);
    assert_eq!(usual.number(Attribute::SipApplications), 236);
    assert_eq!(usual.check(), Ok(()));
}

#[test]
fn the_file_that_is_shipped_has_what_mediaproxys_has() {
    let shipped = include_str!("../../../../conf/radius/dictionary");
    let lines = shipped.lines().filter(|line| !line.starts_with('#'));
    let words: Vec<Vec<&str>> = lines
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<&str>| !words.is_empty())
        .collect();
    assert_eq!(
        words,
        [
            ["ATTRIBUTE", "Media-Codecs", "233", "string"],
            ["ATTRIBUTE", "Media-Info", "234", "string"],
            ["ATTRIBUTE", "Sip-User-Agents", "235", "string"],
            ["ATTRIBUTE", "Sip-Applications", "236", "string"],
            ["VALUE", "Acct-Status-Type", "Update", "3"],
        ]
    );
}

/// OpenSIPS has had others for the tags since 3.4; a file read later that says nothing of them changes nothing.
#[test]
fn the_numbers_of_the_site_hold() {
    let shipped = include_str!("../../../../conf/radius/dictionary");
    let tags = |from: u8, to: u8| {
        format!("ATTRIBUTE Sip-From-Tag {from} string\nATTRIBUTE Sip-To-Tag {to} string\n")
    };
    let numbers = |dictionary: &Dictionary| {
        [Attribute::SipFromTag, Attribute::SipToTag].map(|tag| dictionary.number(tag))
    };
    for (from, to) in [(206, 207), (105, 104)] {
        let main = format!("{}$INCLUDE shipped\n", tags(from, to));
        let mut dictionary = read(&[("main", &main), ("shipped", shipped)]).unwrap();
        assert_eq!(numbers(&dictionary), [from, to]);
        assert!(dictionary.is_told(Attribute::SipToTag));
        assert_eq!(dictionary.check(), Ok(()));
        assert!(dictionary.take_warnings().is_empty());
    }
    let silent = read(&[("main", shipped)]).unwrap();
    assert_eq!(numbers(&silent), [105, 104]);
    assert!(!silent.is_told(Attribute::SipToTag));
    // One that is left of an earlier version is heard, and said to be.
    let main = format!("{}{}", tags(206, 207), tags(105, 104));
    let mut dictionary = read(&[("main", &main)]).unwrap();
    assert_eq!(numbers(&dictionary), [105, 104]);
    assert_eq!(
        dictionary.take_warnings(),
        [
            "/d/main:3: Sip-From-Tag is number 105 here; 206, which was read before, does not count",
            "/d/main:4: Sip-To-Tag is number 104 here; 207, which was read before, does not count"
        ]
    );
}

#[test]
fn tags_that_opensips_declares_as_numbers_are_text() {
    let main =
        "ATTRIBUTE Sip-From-Tag 206 integer # Proprietary, acc\nATTRIBUTE Sip-To-Tag 207 integer\n";
    let mut dictionary = read(&[("main", main)]).unwrap();
    let numbers = [Attribute::SipFromTag, Attribute::SipToTag].map(|tag| dictionary.number(tag));
    assert_eq!(numbers, [206, 207]);
    let warnings = dictionary.take_warnings();
    assert_eq!(warnings.len(), 2);
    let want = "/d/main:2: Sip-To-Tag is of type integer and is sent as text";
    assert!(warnings[1].starts_with(want), "{warnings:?}");
    assert!(read(&[("main", "ATTRIBUTE User-Name 1 integer\n")]).is_err());
}

#[test]
fn files_of_both_families() {
    let main = "# of radiusclient\nATTRIBUTE\tNAS-IP-Address\t4\tipv4addr\nATTRIBUTE sip-from-tag 205 string # theirs\n\
        VALUE\tAcct-Status-Type\tUpdate\t3\nVENDOR Acme 9\n$INCLUDE more/theirs\n$INCLUDE- not-there\n";
    let theirs = "BEGIN-VENDOR Acme format=1,1\nATTRIBUTE Sip-To-Tag 1 integer\nBEGIN-TLV Sip-To-Tag\nEND-TLV Sip-To-Tag\n\
        ATTRIBUTE Sip-To-Tag 2 string\nEND-VENDOR Acme\nATTRIBUTE NAS-IP-Address 4 ipaddr has_tag\n\
        ATTRIBUTE Media-Codecs 7 string Acme\nATTRIBUTE Media-Info 7 string vendor=9\nATTRIBUTE X 241.1 tlv\n\
        $INCLUDE last\n";
    let last = "ATTRIBUTE Sip-To-Tag 204 string";
    let dictionary = read(&[("main", main), ("more/theirs", theirs), ("more/last", last)]).unwrap();
    let mut expected = Dictionary::default();
    expected.told[Attribute::NasIpAddress as usize] = Some(4);
    expected.told[Attribute::SipFromTag as usize] = Some(205);
    expected.told[Attribute::SipToTag as usize] = Some(204);
    assert_eq!(dictionary, expected);
    assert_eq!(dictionary.check(), Ok(()));
}

#[test]
fn errors_name_file_and_line() {
    for (text, message) in [
        (
            "\nATTRIBUTE Media-Info",
            "/d/main:2: allowed: ATTRIBUTE name number type",
        ),
        (
            "ATTRIBUTE Media-Info 256 string",
            "/d/main:1: Media-Info has number \"256\"; allowed: 1 to 255, without 26 and 80",
        ),
        (
            "ATTRIBUTE Media-Info 26 string",
            "/d/main:1: Media-Info has number \"26\"; allowed: 1 to 255, without 26 and 80",
        ),
        (
            "ATTRIBUTE Media-Info 7 ipaddr",
            "/d/main:1: Media-Info is of type \"ipaddr\"; allowed: string, text, octets",
        ),
        (
            "$INCLUDE gone",
            "/d/main:1: $INCLUDE \"gone\": entity not found",
        ),
        (
            "$INCLUDE main",
            "/d/main:1: $INCLUDE \"main\": this file is included by itself",
        ),
        (
            "$INCLUDE b",
            "/d/b:1: $INCLUDE \"main\": this file is included by itself",
        ),
    ] {
        assert_eq!(
            read(&[("main", text), ("b", "$INCLUDE main")]),
            Err(message.to_owned())
        );
    }
    let error = read(&[("main", "$INCLUDE a\x1b[2J")]).unwrap_err();
    assert_eq!(error, "/d/main:1: $INCLUDE \"a\\x1b[2J\": allowed: a path");
    let error = read(&[("main", "root:x:0:0\x1b\n")]).unwrap_err();
    assert!(
        error.starts_with("/d/main:1: \"root:x:0:0\\x1b\" begins no line of a dictionary; "),
        "{error}"
    );
}

#[test]
fn depth_and_number_of_files_are_bounded() {
    let mut dictionary = Dictionary::default();
    let mut loads = 0;
    // Each file includes two others: without a limit of depth this would never end, without one of files not soon.
    let mut load = |path: &Path| {
        loads += 1;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(if name.len() < 16 {
            format!("$INCLUDE {name}a\n$INCLUDE {name}b\n").into_bytes()
        } else {
            b"# a leaf\n".to_vec()
        })
    };
    let error = dictionary.read(Path::new("/d/x"), &mut load).unwrap_err();
    assert!(error.ends_with("more than 2000 files"), "{error}");
    assert_eq!(loads, MAX_FILES);
    let mut load = |path: &Path| Ok(format!("$INCLUDE {}a\n", path.display()).into_bytes());
    let error = dictionary.read(Path::new("/d/x"), &mut load).unwrap_err();
    assert!(error.ends_with("more than 16 files deep"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_no_error_but_one_that_cannot_be_read_is() {
    let mut dictionary = Dictionary::default();
    let mut gone = |_: &Path| Err(io::ErrorKind::NotFound.into());
    assert_eq!(dictionary.read(Path::new("/d/main"), &mut gone), Ok(false));
    let mut locked = |_: &Path| Err(io::ErrorKind::PermissionDenied.into());
    let error = dictionary
        .read(Path::new("/d/main"), &mut locked)
        .unwrap_err();
    assert_eq!(error, "/d/main: permission denied");
}

#[test]
fn two_attributes_under_one_number() {
    let dictionary = read(&[("main", "ATTRIBUTE Sip-User-Agents 233 string")]).unwrap();
    let error = dictionary.check().unwrap_err();
    assert!(
        error.contains("Sip-User-Agents has number 233, which another attribute has"),
        "{error}"
    );
}
