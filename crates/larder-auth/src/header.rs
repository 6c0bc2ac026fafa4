//! The `Authorization` header, as far as it can be read without knowing any token.
//!
//! Understands `Bearer TOKEN` and `Basic` (a server URL `https://TOKEN@host` or
//! `https://user:TOKEN@host`). A token may be a session, and as a bearer also a JWT, which is what has two dots and does not
//! begin as the others do. An empty credential is an absent one: a fork's CI, from which the
//! secret is withheld, sends exactly that. Everything unclear is an error, never `Absent`.
//!
//! Works on the stack: the bytes are whatever a client sent, and their length is bounded before
//! they are decoded.

use crate::authenticator::BadCredential;
use crate::jwt::JWT_BYTES_MAX;
use crate::token::{SessionSecret, TOKEN_PREFIX, TokenHash, TokenSecret};

/// The most bytes of `user:password`: a token and a long user name.
const BASIC_BYTES_MAX: usize = 320;

/// The credential in a header: its kind, and the hash of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// A well-formed token, known or not.
    Token(TokenHash),
    /// A well-formed session, known or not.
    Session(TokenHash),
    /// What may be a JWT, genuine or not.
    Jwt(TokenHash),
}

/// Reads the value of an `Authorization` header; `None` if there is no credential in it, or an empty one.
pub(crate) fn read(value: &[u8]) -> Result<Option<Named>, BadCredential> {
    let (scheme, credential) = split(value);
    if scheme.eq_ignore_ascii_case(b"bearer") {
        match jwt_in(credential)? {
            Some(jwt) => Ok(Some(Named::Jwt(TokenHash::of(jwt)))),
            None => token(credential),
        }
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        basic(credential)
    } else if scheme.is_empty() {
        Ok(None)
    } else {
        Err(BadCredential::Unreadable)
    }
}

/// The text that [`read`] takes for a JWT.
pub(crate) fn jwt(value: &[u8]) -> Option<&[u8]> {
    let (scheme, credential) = split(value);
    let bearer = scheme.eq_ignore_ascii_case(b"bearer");
    bearer.then(|| jwt_in(credential).ok().flatten())?
}

fn split(value: &[u8]) -> (&[u8], &[u8]) {
    let value = value.trim_ascii();
    let scheme_end = value
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(value.len());
    let (scheme, credential) = value.split_at(scheme_end);
    (scheme, credential.trim_ascii_start())
}

fn jwt_in(credential: &[u8]) -> Result<Option<&[u8]>, BadCredential> {
    // Nearly every request has one of ours, and nobody needs to look through it for dots.
    if credential.starts_with(TOKEN_PREFIX) {
        return Ok(None);
    }
    // Three parts, and no look beyond the fourth.
    if credential.splitn(4, |byte| *byte == b'.').count() != 3 {
        return Ok(None);
    }
    if credential.len() > JWT_BYTES_MAX {
        return Err(BadCredential::Jwt);
    }
    Ok(Some(credential))
}

fn basic(credential: &[u8]) -> Result<Option<Named>, BadCredential> {
    if credential.is_empty() {
        return Ok(None);
    }
    let mut buffer = [0; BASIC_BYTES_MAX];
    let pair = decode_base64(credential, &mut buffer).ok_or(BadCredential::Unreadable)?;
    let colon = pair
        .iter()
        .position(|&b| b == b':')
        .ok_or(BadCredential::Unreadable)?;
    let (user, password) = (&pair[..colon], &pair[colon + 1..]);
    token(if password.is_empty() { user } else { password })
}

fn token(text: &[u8]) -> Result<Option<Named>, BadCredential> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(session) = SessionSecret::from_bytes(text) {
        return Ok(Some(Named::Session(session.hash())));
    }
    TokenSecret::from_bytes(text)
        .map(|token| Some(Named::Token(token.hash())))
        .map_err(|_| BadCredential::Malformed)
}

/// Decodes base64 in the standard or the URL alphabet, with or without padding. `None` for
/// anything else, and for more than `buffer` holds.
fn decode_base64<'b>(text: &[u8], buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let padding = text.iter().rev().take_while(|&&b| b == b'=').count();
    let digits = &text[..text.len() - padding];
    let pads_to_whole_group = padding == 0 || (padding <= 2 && text.len().is_multiple_of(4));
    if !pads_to_whole_group || digits.len() % 4 == 1 {
        return None;
    }
    let len = digits.len() * 3 / 4;
    let decoded = buffer.get_mut(..len)?;
    for (group, bytes) in digits.chunks(4).zip(decoded.chunks_mut(3)) {
        let mut bits = 0;
        for (index, &digit) in group.iter().enumerate() {
            bits |= base64_digit(digit)? << (18 - 6 * index);
        }
        let [_, whole @ ..] = bits.to_be_bytes();
        let (kept, unused) = whole.split_at(bytes.len());
        // Bits beyond the last byte would give one credential several spellings.
        if unused.iter().any(|&b| b != 0) {
            return None;
        }
        bytes.copy_from_slice(kept);
    }
    Some(decoded)
}

fn base64_digit(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&[u8]>) {
        let mut buffer = [0; 16];
        assert_eq!(
            decode_base64(text.as_bytes(), &mut buffer),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn base64_of_both_alphabets_is_decoded_with_and_without_padding() {
        // The vectors of RFC 4648, section 10.
        check("", Some(b""));
        check("Zg==", Some(b"f"));
        check("Zg", Some(b"f"));
        check("Zm8=", Some(b"fo"));
        check("Zm8", Some(b"fo"));
        check("Zm9v", Some(b"foo"));
        check("Zm9vYmFy", Some(b"foobar"));
        check("+/+/", Some(&[0xfb, 0xff, 0xbf]));
        check("-_-_", Some(&[0xfb, 0xff, 0xbf]));
    }

    #[test]
    fn base64_that_has_a_second_spelling_or_none_is_refused() {
        for text in [
            "Z", "Zg=", "Zg===", "Zm9v=", "Zm9v====", "====", "=", "Zh", "Zm9", "Z g=", "Zm\n8",
            "Zg==Zg==", "Zm9é",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn base64_longer_than_the_buffer_is_refused() {
        check(&"A".repeat(20), Some(&[0; 15]));
        check(&"A".repeat(24), None);
    }
}
