//! Base64 as gRPC writes binary header values: the standard alphabet, written without padding, read with or without it.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, general_purpose::NO_PAD};

const BINARY_VALUE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    NO_PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How many characters [`encode`] makes of `bytes` bytes.
pub(crate) const fn encoded_length(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    BINARY_VALUE.encode(bytes)
}

/// None if it is not base64.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    BINARY_VALUE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_4648_hold_without_padding() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(encoded_length(bytes.len()), text.len());
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes.as_bytes()));
        }
    }

    #[test]
    fn what_is_not_base64_is_nothing() {
        for text in [
            "A",
            "AAAAA",
            "=",
            "====",
            "A===",
            "AAA==",
            "A=AA",
            "AA==AAAA",
            "AA AA",
            "AA-_",
            "AAA\u{e9}",
            "A,A",
        ] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_with_padding_and_without(bytes: Vec<u8>) {
            let mut text = encode(&bytes);
            prop_assert_eq!(text.len(), encoded_length(bytes.len()));
            prop_assert_eq!(decode(text.as_bytes()), Some(bytes.clone()));
            while !text.len().is_multiple_of(4) {
                text.push('=');
            }
            prop_assert_eq!(decode(text.as_bytes()), Some(bytes));
        }
    }
}
