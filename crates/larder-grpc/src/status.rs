//! How a call ended, and how that is written into trailers.
//!
//! Always true:
//! - What is written fits the headers that clients accept by default (8 KiB): a message is cut, details that are too long are
//!   left out.
//! - The trailers of any status are legal HTTP, whatever its message and details contain.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

use crate::{Code, base64};

/// Of `grpc-message`, as written. With the details below it stays under the 8 KiB of headers that grpc-java and others
/// accept, beside a proxy's own headers.
pub const MESSAGE_CHARACTERS_MAX: usize = 2048;
/// Of `grpc-status-details-bin`, as written.
pub const DETAILS_CHARACTERS_MAX: usize = 4096;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The outcome.
    pub code: Code,
    /// For a person. May be empty.
    pub message: Cow<'static, str>,
    /// A serialized `google.rpc.Status` that says the same and more, or empty.
    pub details: Bytes,
}

impl Status {
    /// Success.
    pub const OK: Self = Self {
        code: Code::Ok,
        message: Cow::Borrowed(""),
        details: Bytes::new(),
    };

    /// A status with a message.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Bytes::new(),
        }
    }

    /// The same with details: a serialized `google.rpc.Status`, whose `code` and `message` should be those of this one.
    #[must_use]
    pub fn with_details(self, details: Bytes) -> Self {
        Self { details, ..self }
    }

    /// What follows the last message of an answer: `grpc-status`, and message and details if there are any.
    ///
    /// `UNIMPLEMENTED` also says that messages are accepted only as they are, because to compress them is one way to get it.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(4);
        self.write(&mut trailers);
        trailers
    }

    /// An answer without any message, all in its head. `body` must be empty and know it (`is_end_stream`).
    pub fn response<B>(&self, body: B) -> Response<B> {
        let mut response = response(body);
        self.write(response.headers_mut());
        response
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.insert(
            GRPC_STATUS,
            HeaderValue::from(u16::from(self.code.number())),
        );
        if !self.message.is_empty() {
            let message = percent_encode(&self.message, MESSAGE_CHARACTERS_MAX);
            if let Ok(message) = HeaderValue::try_from(message) {
                headers.insert(GRPC_MESSAGE, message);
            }
        }
        if !self.details.is_empty()
            && base64::encoded_length(self.details.len()) <= DETAILS_CHARACTERS_MAX
            && let Ok(details) = HeaderValue::try_from(base64::encode(&self.details))
        {
            headers.insert(GRPC_STATUS_DETAILS, details);
        }
        if self.code == Code::Unimplemented {
            headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.message {
            "" => out.write_str(self.code.name()),
            message => write!(out, "{}: {message}", self.code),
        }
    }
}

impl std::error::Error for Status {}

/// The head of an answer that has messages. Its body ends with [`Status::trailers`] and should not know its length
/// beforehand (`size_hint`), or hyper writes a `content-length`, which no gRPC server sends.
pub fn response<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, APPLICATION_GRPC);
    response
}

/// `text` in printable ASCII, cut in front of the character that would make it longer than `characters_max`.
fn percent_encode(text: &str, characters_max: usize) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len().min(characters_max));
    let mut character_bytes = [0; 4];
    for character in text.chars() {
        let start = encoded.len();
        for byte in character.encode_utf8(&mut character_bytes).bytes() {
            if matches!(byte, b' '..=b'~') && byte != b'%' {
                encoded.push(char::from(byte));
            } else {
                encoded.push('%');
                encoded.push(char::from(HEX[usize::from(byte >> 4)]));
                encoded.push(char::from(HEX[usize::from(byte & 0xF)]));
            }
        }
        if encoded.len() > characters_max {
            encoded.truncate(start);
            break;
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a client makes of a `grpc-message`.
    fn percent_decode(encoded: &[u8]) -> Vec<u8> {
        let mut bytes = encoded.iter().copied();
        let mut decoded = Vec::new();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap();
                decoded.push(u8::from_str_radix(digits, 16).unwrap());
            } else {
                decoded.push(byte);
            }
        }
        decoded
    }

    fn check(status: &Status, expected: &[(&str, &str)]) {
        let trailers = status.trailers();
        let mut found: Vec<(&str, &str)> = trailers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn trailers_say_the_code_and_what_else_there_is() {
        check(&Status::OK, &[("grpc-status", "0")]);
        check(
            &Status::new(Code::NotFound, "no such entry"),
            &[("grpc-message", "no such entry"), ("grpc-status", "5")],
        );
        check(
            &Status::new(Code::Unauthenticated, "").with_details(Bytes::from_static(b"\x08\x10")),
            &[("grpc-status", "16"), ("grpc-status-details-bin", "CBA")],
        );
        check(
            &Status::new(Code::Unimplemented, ""),
            &[("grpc-accept-encoding", "identity"), ("grpc-status", "12")],
        );
    }

    #[test]
    fn messages_are_percent_encoded() {
        for (message, encoded) in [
            ("50% of \"it\"~", "50%25 of \"it\"~"),
            ("two\nlines", "two%0Alines"),
            ("\u{7f}", "%7F"),
            ("käse", "k%C3%A4se"),
            ("\u{1f9c0}", "%F0%9F%A7%80"),
        ] {
            assert_eq!(percent_encode(message, 100), encoded);
        }
    }

    #[test]
    fn a_message_is_cut_at_the_limit_and_never_inside_a_character() {
        for (characters_max, encoded) in
            [(7, "k%C3%A4"), (6, "k"), (1, "k"), (0, ""), (8, "k%C3%A4s")]
        {
            assert_eq!(
                percent_encode("käse", characters_max),
                encoded,
                "{characters_max}"
            );
        }
        let status = Status::new(Code::Internal, "x".repeat(MESSAGE_CHARACTERS_MAX + 1));
        assert_eq!(
            status.trailers()["grpc-message"].len(),
            MESSAGE_CHARACTERS_MAX
        );
    }

    #[test]
    fn details_that_are_too_long_are_left_out_whole() {
        let fitting = DETAILS_CHARACTERS_MAX / 4 * 3;
        for (bytes, expected) in [(fitting, Some(DETAILS_CHARACTERS_MAX)), (fitting + 1, None)] {
            let status = Status::new(Code::Internal, "").with_details(vec![7; bytes].into());
            let trailers = status.trailers();
            let found = trailers.get("grpc-status-details-bin");
            assert_eq!(found.map(HeaderValue::len), expected);
        }
    }

    #[test]
    fn an_answer_that_is_only_a_status_has_it_in_its_head() {
        let response = Status::new(Code::PermissionDenied, "read only").response(());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "read only");
        assert_eq!(
            Status::new(Code::Aborted, "again").to_string(),
            "ABORTED: again"
        );
        assert_eq!(Status::OK.to_string(), "OK");
    }

    proptest! {
        #[test]
        fn any_message_is_legal_in_a_header_and_comes_back(message in "\\PC{1,40}|[\0-\u{ff}]{1,200}") {
            let trailers = Status::new(Code::Unknown, message.clone()).trailers();
            let encoded = trailers["grpc-message"].as_bytes();
            prop_assert!(encoded.iter().all(|byte| (b' '..=b'~').contains(byte)));
            prop_assert_eq!(percent_decode(encoded), message.as_bytes());
        }

        #[test]
        fn a_message_of_any_length_stays_within_the_limit(message in "[a%ä\u{1f9c0}]{0,1500}", characters_max in 0_usize..3000) {
            let encoded = percent_encode(&message, characters_max);
            prop_assert!(encoded.len() <= characters_max);
            let decoded = percent_decode(encoded.as_bytes());
            prop_assert!(message.as_bytes().starts_with(&decoded));
            prop_assert!(std::str::from_utf8(&decoded).is_ok());
            // Nothing is cut that would have fitted: the longest character takes twelve.
            prop_assert!(decoded.len() == message.len() || encoded.len() + 12 > characters_max);
        }
    }
}
