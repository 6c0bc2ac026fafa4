//! What the headers of a call say: whether it is one, its deadline, and values that are bytes.
//!
//! What cannot be understood is as if it were not there: no deadline, no value. A server that wants to refuse it has the
//! headers.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AsHeaderName, CONTENT_TYPE, HeaderMap};

use crate::base64;

/// The most digits that `grpc-timeout` may have.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// True if the content type is that of gRPC with protobuf messages: `application/grpc` or `application/grpc+proto`, in any
/// case and with any parameters.
///
/// Not so `application/grpc+json`, whose messages are something else, and `application/grpc-web`, whose framing is.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let media_type = content_type
        .as_bytes()
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    media_type.eq_ignore_ascii_case(b"application/grpc")
        || media_type.eq_ignore_ascii_case(b"application/grpc+proto")
}

/// How long the caller is going to wait from when it sent the call: `grpc-timeout`, up to eight digits and a unit from hours
/// to nanoseconds.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get("grpc-timeout")?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX {
        return None;
    }
    let mut count = 0_u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        count = count * 10 + u64::from(digit - b'0');
    }
    Some(match unit {
        b'H' => Duration::from_hours(count),
        b'M' => Duration::from_mins(count),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The bytes of a header whose name ends with `-bin`: the first of its values, which may have been joined with commas on
/// the way.
pub fn binary_metadata(headers: &HeaderMap, name: impl AsHeaderName) -> Option<Bytes> {
    let value = headers.get(name)?.as_bytes();
    let first = value.split(|byte| *byte == b',').next()?;
    base64::decode(first.trim_ascii()).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn header(name: &'static str, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_bytes(value).unwrap(),
        )])
    }

    #[test]
    fn only_the_content_types_of_grpc_with_protobuf_are_grpc() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc+proto ; a=b", true),
            ("application/grpc+json", false),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcproto", false),
            ("application/json", false),
            ("text/plain;application/grpc", false),
            ("", false),
        ] {
            let headers = header("content-type", content_type.as_bytes());
            assert_eq!(is_grpc(&headers), expected, "{content_type:?}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_timeout_has_one_to_eight_digits_and_a_unit() {
        for (value, expected) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0S", Some(Duration::ZERO)),
            ("00000007S", Some(Duration::from_secs(7))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000n", None),
            ("000000001S", None),
            ("1h", None),
            ("1s", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("1 S", None),
            ("1.5S", None),
            ("1SS", None),
        ] {
            let headers = header("grpc-timeout", value.as_bytes());
            assert_eq!(timeout(&headers), expected, "{value:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn binary_values_come_with_and_without_padding_and_joined() {
        for (value, expected) in [
            ("Zm8", Some("fo")),
            ("Zm8=", Some("fo")),
            ("Zg,Zm8", Some("f")),
            ("Zg==, Zm8=", Some("f")),
            ("", Some("")),
            ("Z", None),
            ("Zm8!", None),
        ] {
            let headers = header("trace-bin", value.as_bytes());
            let found = binary_metadata(&headers, "trace-bin");
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{value:?}");
        }
        let mut headers = header("trace-bin", b"Zg");
        headers.append("trace-bin", HeaderValue::from_static("Zm8"));
        assert_eq!(
            binary_metadata(&headers, "trace-bin").as_deref(),
            Some(&b"f"[..])
        );
        assert_eq!(binary_metadata(&headers, "other-bin"), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_a_reader_panic(value in "[ -~]{0,40}") {
            let value = value.trim();
            let _ = timeout(&header("grpc-timeout", value.as_bytes()));
            let _ = is_grpc(&header("content-type", value.as_bytes()));
            let _ = binary_metadata(&header("trace-bin", value.as_bytes()), "trace-bin");
        }
    }
}
