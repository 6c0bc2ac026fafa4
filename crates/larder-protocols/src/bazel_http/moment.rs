//! Points in time and spans of it as protobuf's JSON writes them: `2026-11-21T01:37:10.500903088Z` and `1.5s`.
//!
//! Reads what RFC 3339 allows, whatever the offset and the digits (moon writes nanoseconds and `+00:00`), and writes UTC with `Z`
//! and as many digits as are needed, by threes. Years are 1 to 9999, as in `google.protobuf.Timestamp`.

const SECONDS_MIN: i64 = -62_135_596_800;
const SECONDS_MAX: i64 = 253_402_300_799;
const DAY: i64 = 86_400;

/// The most seconds of a `google.protobuf.Duration`: ten thousand years.
const SPAN_SECONDS_MAX: i64 = 315_576_000_000;

/// Seconds since 1970 and the nanoseconds after them, never negative.
pub(super) fn read_moment(text: &str) -> Option<(i64, i32)> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (hour, rest) = digits(rest.strip_prefix(['T', 't', ' '])?, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (nanos, rest) = match rest.strip_prefix('.') {
        Some(rest) => fraction(rest)?,
        None => (0, rest),
    };
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let west = rest.starts_with('-');
            let (hours, rest) = digits(rest.strip_prefix(['+', '-'])?, 2)?;
            let (minutes, rest) = digits(rest.strip_prefix(':')?, 2)?;
            if !rest.is_empty() || hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            if west { -offset } else { offset }
        }
    };
    let real = (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !real {
        return None;
    }
    let seconds = days_before(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    (SECONDS_MIN..=SECONDS_MAX)
        .contains(&seconds)
        .then_some((seconds, nanos))
}

/// `None`: no point in time.
pub(super) fn write_moment(seconds: i64, nanos: i64) -> Option<String> {
    let in_range = (SECONDS_MIN..=SECONDS_MAX).contains(&seconds);
    if !in_range || !(0..1_000_000_000).contains(&nanos) {
        return None;
    }
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = short_fraction(nanos);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
    ))
}

/// Seconds and nanoseconds of the same sign.
pub(super) fn read_span(text: &str) -> Option<(i64, i32)> {
    let text = text.strip_suffix('s')?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, nanos) = match text.split_once('.') {
        Some((whole, rest)) => match fraction(rest)? {
            (nanos, "") => (whole, nanos),
            _ => return None,
        },
        None => (text, 0),
    };
    let all_digits = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    let seconds: i64 = whole.parse().ok().filter(|_| all_digits)?;
    if seconds > SPAN_SECONDS_MAX {
        return None;
    }
    Some(if negative {
        (-seconds, -nanos)
    } else {
        (seconds, nanos)
    })
}

/// `None`: no span of time.
pub(super) fn write_span(seconds: i64, nanos: i64) -> Option<String> {
    let in_range = (-SPAN_SECONDS_MAX..=SPAN_SECONDS_MAX).contains(&seconds)
        && (-999_999_999..=999_999_999).contains(&nanos);
    if !in_range || seconds.signum() * nanos.signum() < 0 {
        return None;
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let (seconds, fraction) = (seconds.abs(), short_fraction(nanos.abs()));
    Some(format!("{sign}{seconds}{fraction}s"))
}

fn digits(text: &str, count: usize) -> Option<(i64, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    let all_digits = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| all_digits)?, rest))
}

/// The nanoseconds of one to nine digits.
fn fraction(text: &str) -> Option<(i32, &str)> {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=9).contains(&len) {
        return None;
    }
    let (number, rest) = text.split_at(len);
    let number: i32 = number.parse().ok()?;
    Some((number * 10_i32.pow(9 - len as u32), rest))
}

fn short_fraction(nanos: i64) -> String {
    match nanos {
        0 => String::new(),
        _ if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
        _ if nanos % 1_000 == 0 => format!(".{:06}", nanos / 1_000),
        _ => format!(".{nanos:09}"),
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The days from 1970 to a date. Years are counted from March, so that a leap day comes last.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date that many days after 1970: [`days_before`] the other way.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, seconds: i64, nanos: i32, written: &str) {
        assert_eq!(read_moment(text), Some((seconds, nanos)), "{text}");
        let again = write_moment(seconds, nanos.into());
        assert_eq!(again.as_deref(), Some(written), "{text}");
    }

    #[test]
    fn moments_are_read_with_any_offset_and_written_in_utc() {
        check("1970-01-01T00:00:00Z", 0, 0, "1970-01-01T00:00:00Z");
        let moon = "2026-11-21T01:37:10.500903088+00:00";
        check(
            moon,
            1_795_225_030,
            500_903_088,
            "2026-11-21T01:37:10.500903088Z",
        );
        let india = "2026-11-21T07:07:10.5+05:30";
        check(
            india,
            1_795_225_030,
            500_000_000,
            "2026-11-21T01:37:10.500Z",
        );
        let west = "2026-11-20t17:37:10.000001-08:00";
        check(west, 1_795_225_030, 1_000, "2026-11-21T01:37:10.000001Z");
        check(
            "2000-02-29T23:59:59Z",
            951_868_799,
            0,
            "2000-02-29T23:59:59Z",
        );
        check(
            "1969-12-31T23:59:59.9Z",
            -1,
            900_000_000,
            "1969-12-31T23:59:59.900Z",
        );
        check(
            "0001-01-01T00:00:00Z",
            SECONDS_MIN,
            0,
            "0001-01-01T00:00:00Z",
        );
        check(
            "9999-12-31T23:59:59Z",
            SECONDS_MAX,
            0,
            "9999-12-31T23:59:59Z",
        );
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-11-21",
            "2026-11-21T01:37:10",
            "2026-11-21T01:37:10.Z",
            "2026-11-21T01:37:10.0123456789Z",
            "2026-11-21T01:37:10Zz",
            "2026-11-21T01:37:10+0000",
            "2026-11-21T01:37:10+24:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "+026-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "2026-01-01T00:00:0é",
        ] {
            assert_eq!(read_moment(text), None, "{text}");
        }
        assert_eq!(write_moment(SECONDS_MAX + 1, 0), None);
        assert_eq!(write_moment(0, 1_000_000_000), None);
        assert_eq!(write_moment(0, -1), None);
    }

    #[test]
    fn spans_are_read_and_written_with_their_sign() {
        for (text, span) in [
            ("0s", (0, 0)),
            ("1.500s", (1, 500_000_000)),
            ("-0.000000001s", (0, -1)),
            ("-3s", (-3, 0)),
            ("315576000000s", (SPAN_SECONDS_MAX, 0)),
        ] {
            assert_eq!(read_span(text), Some(span), "{text}");
            assert_eq!(write_span(span.0, span.1.into()).as_deref(), Some(text));
        }
        for text in [
            "",
            "s",
            "1",
            "1.s",
            ".5s",
            "1.5",
            "+1s",
            "--1s",
            "1 s",
            "315576000001s",
        ] {
            assert_eq!(read_span(text), None, "{text}");
        }
        assert_eq!(write_span(1, -1), None);
    }

    proptest! {
        #[test]
        fn every_moment_reads_back(
            seconds in SECONDS_MIN..=SECONDS_MAX,
            nanos in prop_oneof![Just(0), 0..1_000_000_000_i32],
        ) {
            let text = write_moment(seconds, nanos.into()).unwrap();
            prop_assert_eq!(read_moment(&text), Some((seconds, nanos)), "{}", text);
        }

        #[test]
        fn no_text_panics(text in "[-+0-9TZ:.és]{0,40}") {
            let _ = (read_moment(&text), read_span(&text));
        }
    }
}
