//! Numbers and times for people. Pure.

/// A count with a decimal prefix: 999, 1.2k, 35M.
pub(super) fn scaled(count: f64) -> String {
    let mut value = count;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 {
            return match unit {
                "" => format!("{value:.0}"),
                _ if value < 9.95 => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.0}P")
}

/// A time: 0:07, 12:34, 1:00:00, 3d 04:05.
pub(super) fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{:02}", seconds % 60),
        (0, hours) => format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60),
        (days, hours) => format!("{days}d {:02}:{:02}", hours % 24, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times() {
        for (count, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1.0k"),
            (9_949.0, "9.9k"),
            (9_950.0, "10k"),
            (999_600.0, "1.0M"),
            (35e6, "35M"),
            (1e15, "1P"),
        ] {
            assert_eq!(scaled(count), text, "{count}");
        }
        for (seconds, text) in [
            (7, "0:07"),
            (754, "12:34"),
            (3600, "1:00:00"),
            (86_399, "23:59:59"),
            (3 * 86_400 + 4 * 3600 + 300, "3d 04:05"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }
}
