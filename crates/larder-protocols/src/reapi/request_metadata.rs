//! What a client says of a call: `build.bazel.remote.execution.v2.RequestMetadata`, in a header.
//!
//! Bazel and its relatives send it with every call, moon never. It is recorded and never required: a header that cannot be
//! read is an absent one.

use std::fmt;

use bytes::Bytes;
use http::HeaderMap;

use super::fields::{Fields, Value};
use crate::excerpt::Excerpt;

/// The header's name.
const HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// The most bytes that are read.
const BYTES_MAX: usize = 8 << 10;

/// The message's fields; what was not sent is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RequestMetadata<'m> {
    pub tool_name: &'m str,
    pub tool_version: &'m str,
    pub action: &'m str,
    pub invocation: &'m str,
    pub mnemonic: &'m str,
    pub target: &'m str,
}

/// The message, if it was sent.
pub(super) fn sent(headers: &HeaderMap) -> Option<Bytes> {
    let sent = larder_grpc::binary_metadata(headers, HEADER)?;
    (sent.len() <= BYTES_MAX).then_some(sent)
}

impl<'m> RequestMetadata<'m> {
    /// Reads the message as far as it is one.
    pub(super) fn read(message: &'m [u8]) -> Self {
        let mut read = Self::default();
        for (field, value) in Fields::of(message).map_while(Result::ok) {
            let Value::Bytes(bytes) = value else {
                continue;
            };
            match field {
                1 => read.read_tool(bytes),
                2 => read.action = text(bytes),
                3 => read.invocation = text(bytes),
                5 => read.mnemonic = text(bytes),
                6 => read.target = text(bytes),
                _ => {}
            }
        }
        read
    }

    fn read_tool(&mut self, details: &'m [u8]) {
        for field in Fields::of(details).map_while(Result::ok) {
            match field {
                (1, Value::Bytes(name)) => self.tool_name = text(name),
                (2, Value::Bytes(version)) => self.tool_version = text(version),
                _ => {}
            }
        }
    }
}

/// For a log line: what was sent, cut and escaped.
impl fmt::Display for RequestMetadata<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            ("version", self.tool_version),
            ("invocation", self.invocation),
            ("action", self.action),
            ("mnemonic", self.mnemonic),
            ("target", self.target),
        ];
        let mut gap = "";
        for (name, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
            write!(f, "{gap}{name}={}", Excerpt(text))?;
            gap = " ";
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::reapi::fields::put_block;
    use http::{HeaderName, HeaderValue};

    /// The header with these tool details and these other fields.
    pub(in crate::reapi) fn header(
        tool: &[&str],
        fields: &[(u32, &str)],
    ) -> (HeaderName, HeaderValue) {
        let (mut details, mut message) = (Vec::new(), Vec::new());
        for (field, text) in (1..).zip(tool) {
            put_block(field, text.as_bytes(), &mut details);
        }
        put_block(1, &details, &mut message);
        for (field, text) in fields {
            put_block(*field, text.as_bytes(), &mut message);
        }
        (HEADER.parse().unwrap(), base64(&message).parse().unwrap())
    }

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = bytes.chunks(3).flat_map(|group| {
            let bits = group.iter().enumerate();
            let bits = bits.fold(0, |bits, (at, byte)| {
                bits | u32::from(*byte) << (16 - 8 * at)
            });
            (0..=group.len())
                .map(move |at| char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]))
        });
        digits.collect()
    }

    #[test]
    fn what_a_client_says_is_read_and_shown_in_a_line() {
        let mut headers = HeaderMap::new();
        assert_eq!(sent(&headers), None);
        let said = [
            (2, "ab12"),
            (3, "uuid"),
            (4, "x"),
            (5, "Genrule"),
            (6, "//:g\n"),
        ];
        let (name, value) = header(&["bazel", "4.2.3"], &said);
        headers.insert(name, value);
        let message = sent(&headers).unwrap();
        let read = RequestMetadata::read(&message);
        assert_eq!((read.tool_name, read.tool_version), ("bazel", "4.2.3"));
        let line = r"version=4.2.3 invocation=uuid action=ab12 mnemonic=Genrule target=//:g\n";
        assert_eq!(read.to_string(), line);
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let mut headers = HeaderMap::new();
        for text in ["!", "A", &"A".repeat(20_000)] {
            headers.insert(HEADER, text.parse().unwrap());
            assert_eq!(sent(&headers), None, "{text}");
        }
        assert_eq!(
            RequestMetadata::read(b"\xff\xff"),
            RequestMetadata::default()
        );
        assert_eq!(
            RequestMetadata::read(b"\x12\x02\xff\xfe"),
            RequestMetadata::default()
        );
    }
}
