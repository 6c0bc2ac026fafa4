//! The time of day, as the ledger keeps it and as people read it.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::parse_duration;

/// Unix milliseconds; 0 on a machine whose clock is before 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC, to the second: `2026-11-21T04:20:18Z`.
pub(crate) fn utc_text(unix_ms: u64) -> String {
    let secs = unix_ms / 1000;
    let (year, month, day) = civil_date(secs / 86_400);
    let of_day = secs % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `civil_from_days`, for days after the epoch).
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The days from 1970-01-01 to a date (`days_from_civil`, as above). `None` before 1970 and for dates there are not.
fn days_until(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted_year = year - u64::from(month <= 2);
    let era = shifted_year / 400;
    let year_of_era = shifted_year % 400;
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (civil_date(days) == (year, month, day)).then_some(days)
}

/// A point in time as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long ago.
    Ago(Duration),
    /// Then, unix milliseconds.
    At(u64),
}

impl Moment {
    /// Unix milliseconds.
    pub(crate) fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(age) => {
                now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
            }
            Self::At(unix_ms) => unix_ms,
        }
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    /// Reads a duration that counts backwards from now, a date, or a second in UTC.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(age) = parse_duration(text) {
            return Ok(Self::Ago(age));
        }
        let at = parse_utc(text);
        at.map(Self::At)
            .ok_or("say 2026-11-21T04:20:18Z, 2026-11-21, or how long ago: 3d, 12h")
    }
}

/// Unix milliseconds of a date, or of a second, in UTC as [`utc_text`] writes it.
pub(crate) fn parse_utc(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = text.get(range)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse().ok())?
    };
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    let of_day = match shape.as_str() {
        "0000-00-00" => 0,
        "0000-00-00T00:00:00Z" => {
            let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
            let real = hour < 24 && minute < 60 && second < 60;
            real.then_some(hour * 3600 + minute * 60 + second)?
        }
        _ => return None,
    };
    let days = days_until(number(0..4)?, number(5..7)?, number(8..10)?)?;
    Some((days * 86_400 + of_day) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days_and_year_ends() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_795_225_630, "2026-11-21T01:47:10Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc_text(secs * 1000), text);
            assert_eq!(parse_utc(text), Some(secs * 1000));
        }
    }

    #[test]
    fn what_is_no_date_and_no_second_in_utc_is_none() {
        assert_eq!(parse_utc("2026-11-21"), Some(1_795_219_200_000));
        let ago: Moment = "2h".parse().unwrap();
        assert_eq!(ago.unix_ms(10_000_000), 10_000_000 - 7_200_000);
        assert!("-2h".parse::<Moment>().is_err());
        for text in [
            "",
            "yesterday",
            "2h",
            "2026-02-30",
            "2026-13-01",
            "1969-12-31",
            "2026-11-21T24:00:00Z",
            "2026-11-21T04:20:18",
            "2026-11-21T04:20:18+01:00",
            "2026-11-21 04:20:18Z",
        ] {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }
}
