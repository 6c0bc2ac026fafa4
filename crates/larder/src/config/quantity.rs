//! Sizes and durations as people write them, with their units.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const DURATION_UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

/// The longest duration anyone may ask for: ten years, so that adding it to a clock never
/// overflows.
const DURATION_MS_MAX: u64 = 3_650 * 86_400_000;

/// Bytes of a text such as `50GiB`, `1.5 TB` or `4096B`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let fault = || {
        format!(
            "\"{}\" is not a size; write one like \"50GiB\"",
            text.escape_debug()
        )
    };
    let bytes = scaled(text, &SIZE_UNITS).ok_or_else(fault)?;
    u64::try_from(bytes).map_err(|_| format!("\"{text}\" is larger than any disk"))
}

/// The time of a text such as `90s`, `1.5h` or `90d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault = || {
        format!(
            "\"{}\" is not a duration; write one like \"30s\", \"1h\" or \"90d\"",
            text.escape_debug()
        )
    };
    let ms = scaled(text, &DURATION_UNITS).ok_or_else(fault)?;
    match u64::try_from(ms) {
        Ok(ms) if ms <= DURATION_MS_MAX => Ok(Duration::from_millis(ms)),
        _ => Err(format!("\"{text}\" is longer than ten years")),
    }
}

/// `1536` as `1.5 KiB`.
pub(crate) fn size_text(bytes: u64) -> String {
    let (name, unit) = SIZE_UNITS[..5]
        .iter()
        .rev()
        .find(|(_, unit)| bytes >= *unit)
        .copied()
        .unwrap_or(SIZE_UNITS[0]);
    if unit == 1 {
        format!("{bytes} B")
    } else {
        format!("{:.1} {name}", bytes as f64 / unit as f64)
    }
}

/// A duration in its largest whole unit, `5400 s` as `90m`.
pub(crate) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    let (name, unit) = DURATION_UNITS
        .iter()
        .rev()
        .find(|(_, unit)| ms >= u128::from(*unit) && ms.is_multiple_of(u128::from(*unit)))
        .copied()
        .unwrap_or(DURATION_UNITS[0]);
    format!("{}{name}", ms / u128::from(unit))
}

/// A decimal number times its unit, exactly: no floating point, so that `0.1GB` is 100,000,000.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u128> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start();
    let (_, unit) = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || whole.len() > 18 {
        return None;
    }
    let unit = u128::from(*unit);
    let tenths = 10_u128.pow(fraction.len() as u32);
    let fraction: u128 = fraction.parse().ok()?;
    Some(whole.parse::<u128>().ok()? * unit + fraction * unit / tenths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_and_need_a_unit() {
        for (text, bytes) in [
            ("50GiB", 50 << 30),
            ("16 MiB", 16 << 20),
            ("1.5kb", 1_500),
            ("0.1GB", 100_000_000),
            ("4096B", 4096),
            ("2tib", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "50", "GiB", "-1GiB", "1.GiB", ".5GiB", "1e3MB", "50 giga", "1.2.3MB",
        ] {
            assert!(parse_size(text).is_err(), "{text} must be refused");
        }
        assert!(
            parse_size("99999999999TiB")
                .unwrap_err()
                .contains("larger than any disk")
        );
    }

    #[test]
    fn durations_have_units_and_an_end() {
        for (text, ms) in [
            ("30s", 30_000),
            ("90d", 7_776_000_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in ["", "30", "s", "1 year", "-5s", "99999w"] {
            assert!(parse_duration(text).is_err(), "{text} must be refused");
        }
    }

    #[test]
    fn quantities_print_as_people_write_them() {
        assert_eq!(size_text(0), "0 B");
        assert_eq!(size_text(1536), "1.5 KiB");
        assert_eq!(size_text(50 << 30), "50.0 GiB");
        assert_eq!(duration_text(Duration::from_hours(1)), "1h");
        assert_eq!(duration_text(Duration::from_mins(90)), "90m");
    }
}
