//! Percent-encoding of what goes into forms and queries.

use std::fmt::Write as _;

/// `text` with every byte that is not unreserved (RFC 3986, section 2.3) escaped.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes every write");
        }
    }
    encoded
}

/// The body of a form (`application/x-www-form-urlencoded`).
pub(super) fn form(parameters: &[(&str, &str)]) -> String {
    let pairs = parameters
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_value_is_it_stays_one_value() {
        assert_eq!(
            form(&[("a", "x&b=y+ %"), ("u", "https://c.example/é")]),
            "a=x%26b%3Dy%2B%20%25&u=https%3A%2F%2Fc.example%2F%C3%A9"
        );
    }
}
