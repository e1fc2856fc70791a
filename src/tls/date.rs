//! Dates of certificates: DER times to seconds since 1970 and back to text for people.
//!
//! UTCTime and GeneralizedTime in the one form that RFC 5280 section 4.1.2.5 allows: seconds given, zone `Z`.

use super::der::{Der, Malformed, tag};
use crate::sys::clock;

/// Days before 1970-01-01 in the proleptic Gregorian calendar, from year 0 March 1.
const DAYS_TO_1970: i64 = 719_468;
const DAYS_IN_400_YEARS: i64 = 146_097;

/// Now, in seconds since 1970, as certificates count.
pub(super) fn now() -> i64 {
    i64::try_from(clock::now().unix.as_secs()).unwrap_or(i64::MAX)
}

/// Reads the next element, a UTCTime or GeneralizedTime, as seconds since 1970; `what` names it in the error.
pub(super) fn read(der: &mut Der<'_>, what: &'static str) -> Result<i64, Malformed> {
    let tlv = der.any(what)?;
    parse(tlv.tag, tlv.content).ok_or(Malformed(what))
}

/// The content of a time element, seconds since 1970; `None` if it is not a date.
pub(super) fn parse(kind: u8, content: &[u8]) -> Option<i64> {
    let (year, rest) = match kind {
        tag::UTC_TIME => {
            let (head, rest) = content.split_at_checked(2)?;
            let short = number(head)?;
            (if short < 50 { 2000 } else { 1900 } + short, rest)
        }
        tag::GENERALIZED_TIME => {
            let (head, rest) = content.split_at_checked(4)?;
            (number(head)?, rest)
        }
        _ => return None,
    };
    let (digits, zone) = rest.split_at_checked(10)?;
    if zone != b"Z" {
        return None;
    }
    let mut fields = [0i64; 5];
    for (field, pair) in fields.iter_mut().zip(digits.chunks(2)) {
        *field = number(pair)?;
    }
    let [month, day, hour, minute, second] = fields;
    let valid = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    valid.then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// `2026-11-23 21:00:00 UTC`.
pub(super) fn show(unix: i64) -> String {
    let (year, month, day) = civil(unix.div_euclid(86_400));
    let second = unix.rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + i64::from(byte - b'0'))
    })
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. Counts years from March, so that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_IN_400_YEARS + day_of_era - DAYS_TO_1970
}

/// Year, month and day; the reverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let era = days.div_euclid(DAYS_IN_400_YEARS);
    let day_of_era = days.rem_euclid(DAYS_IN_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        assert_eq!(parse(tag::UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(parse(tag::UTC_TIME, b"491231235959Z"), Some(2_524_607_999));
        assert_eq!(parse(tag::UTC_TIME, b"500101000000Z"), Some(-631_152_000));
        assert_eq!(
            parse(tag::GENERALIZED_TIME, b"20500101000000Z"),
            Some(2_524_608_000)
        );
        assert_eq!(
            parse(tag::GENERALIZED_TIME, b"20240229120000Z"),
            Some(1_709_208_000)
        );
    }

    #[test]
    fn refuses_other_forms_and_impossible_dates() {
        for bad in [
            &b""[..],
            b"7001010000Z",
            b"700101000000",
            b"700101000000+0100",
            b"701301000000Z",
            b"700230000000Z",
            b"700101240000Z",
            b"7001010000 0Z",
            b"230229000000Z",
        ] {
            assert_eq!(parse(tag::UTC_TIME, bad), None, "{bad:?}");
        }
        assert_eq!(parse(tag::GENERALIZED_TIME, b"20240101000000.5Z"), None);
        assert_eq!(parse(tag::OCTET_STRING, b"700101000000Z"), None);
    }

    #[test]
    fn shown_as_read() {
        for day in (-200_000..200_000).step_by(37) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
        assert_eq!(show(1_709_208_000), "2024-02-29 12:00:00 UTC");
        assert_eq!(show(-1), "1969-12-31 23:59:59 UTC");
    }
}
