//! Percent-encoding of paths.

use std::borrow::Cow;

/// Decodes once; `None` if a `%` is not followed by two hexadecimal digits.
pub(crate) fn decode(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            plain => plain,
        });
    }
    Some(Cow::Owned(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_decoded_exactly_once() {
        assert_eq!(decode("a%20b%2541").as_deref(), Some(&b"a b%41"[..]));
        assert_eq!(decode("%ff%C3").as_deref(), Some(&b"\xff\xc3"[..]));
        for text in ["%", "a%4", "%+4", "%g0"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn only_whole_escapes_decode(text in "[a-f0-9%g]{0,20}") {
            let escapes = text.split('%').skip(1);
            let whole = |escape: &str| {
                escape.len() >= 2 && escape[..2].bytes().all(|byte| byte.is_ascii_hexdigit())
            };
            let (count, all_whole) = (escapes.clone().count(), escapes.clone().all(whole));
            let decoded = decode(&text).map(|decoded| decoded.len());
            prop_assert_eq!(decoded, all_whole.then(|| text.len() - 2 * count));
        }
    }
}
