//! The paths and headers of this protocol.
//!
//! `[/PREFIX]/ac/HASH` and `[/PREFIX]/cas/HASH`, where HASH is a SHA-256 and PREFIX is what gRPC calls the instance name, percent-encoded:
//! [`Instance`] reads both. Clients join their server's URL and their own path as text, so the prefix may have slashes to
//! spare: moon with an empty instance name sends `//ac/HASH`.

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};
use larder_cache::Encoding;
use larder_model::{BlobHash, Dialect, DigestFunction};

use crate::instance::Instance;
use crate::percent;

/// The hash function of this protocol, which never says which one it is.
pub(super) const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// The media type of an action result in JSON.
pub(super) const JSON: &str = "application/json";

/// The size of a blob that is sent compressed, as bazel-remote's clients tell it.
const SIZE: HeaderName = HeaderName::from_static("x-digest-sizebytes");

/// What a path of this protocol is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(super) space: Space,
    /// `None`: nothing that could exist, a bad prefix or a bad hash.
    pub(super) address: Option<Address>,
}

/// The two maps of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// `ac`: action results by the hash of their action.
    Actions,
    /// `cas`: blobs by their own hash.
    Blobs,
}

impl Space {
    /// Whose figures a request counts among.
    pub(super) fn dialect(self) -> Dialect {
        match self {
            Self::Actions => Dialect::ActionResult,
            Self::Blobs => Dialect::Cas(FUNCTION),
        }
    }
}

/// An entry and where the path says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) instance: Instance,
    pub(super) hash: BlobHash,
}

/// Reads a path; `None` if it is none of this protocol.
pub(crate) fn target(path: &str) -> Option<Target> {
    let (place, hash) = path.rsplit_once('/')?;
    let (prefix, space) = place.rsplit_once('/')?;
    let space = match space {
        "ac" => Space::Actions,
        "cas" => Space::Blobs,
        _ => return None,
    };
    let address = || {
        let hash = BlobHash::from_hex(hash.as_bytes()).ok()?;
        let instance = Instance::parse(&percent::decode(prefix)?).ok()?;
        Some(Address { instance, hash })
    };
    let address = address();
    Some(Target { space, address })
}

/// Whether the client asks for JSON.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    listed(headers, &ACCEPT, JSON)
}

/// Whether the client sends JSON.
pub(super) fn sends_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let media_type = content_type.and_then(|value| value.split(|byte| *byte == b';').next());
    media_type.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes()))
}

/// Whether the client can read zstd. `*` is not taken for it: who writes that has most likely not thought of zstd.
pub(super) fn reads_zstd(headers: &HeaderMap) -> bool {
    listed(headers, &ACCEPT_ENCODING, "zstd")
}

/// The headers of a body are not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// A content encoding other than zstd and identity.
    Encoding,
    /// A size that is no number.
    Size,
}

/// How the body is encoded, and what the client says of the blob's size.
pub(super) fn sent_form(headers: &HeaderMap) -> Result<(Encoding, Option<u64>), BadHeader> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let encoding = match encodings.next().map(|value| value.as_bytes().trim_ascii()) {
        None | Some(b"" | b"identity") => Encoding::Identity,
        Some(b"zstd") => Encoding::Zstd,
        Some(_) => return Err(BadHeader::Encoding),
    };
    if encodings.next().is_some() {
        return Err(BadHeader::Encoding);
    }
    let Some(size) = headers.get(SIZE) else {
        return Ok((encoding, None));
    };
    let size = size.to_str().ok().and_then(|size| size.parse().ok());
    Ok((encoding, Some(size.ok_or(BadHeader::Size)?)))
}

/// Whether one of the items of a list header is `wanted`, and not with a weight of zero.
fn listed(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter();
    let mut items = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    items.any(|item| {
        let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let named = parts.next().unwrap_or_default();
        named.eq_ignore_ascii_case(wanted.as_bytes()) && !parts.any(is_zero_weight)
    })
}

/// `q=0`, `q=0.0` and so on.
fn is_zero_weight(parameter: &[u8]) -> bool {
    let Some([b'q' | b'Q', b'=', weight @ ..]) = Some(parameter) else {
        return false;
    };
    !weight.is_empty() && weight.iter().all(|byte| matches!(byte, b'0' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(path: &str, space: Space, instance: &[u8]) {
        let address = Address {
            instance: Instance::parse(instance).unwrap(),
            hash: BlobHash::from_hex(HEX.as_bytes()).unwrap(),
        };
        let expected = Target {
            space,
            address: Some(address),
        };
        assert_eq!(target(path), Some(expected), "{path}");
    }

    #[test]
    fn prefixes_and_spare_slashes_lead_to_the_instance_that_grpc_calls_so() {
        check(&format!("/ac/{HEX}"), Space::Actions, b"");
        check(&format!("/cas/{HEX}"), Space::Blobs, b"");
        check(&format!("//ac/{HEX}"), Space::Actions, b"");
        check(&format!("/acme//web/cas/{HEX}"), Space::Blobs, b"acme/web");
        check(
            &format!("/a%2Fb%20%25c/ac/{HEX}"),
            Space::Actions,
            b"a/b %c",
        );
        check(&format!("/cas/ac/{HEX}"), Space::Actions, b"cas");
        check(
            &format!("/w/acme/web/scope/linux/ac/{HEX}"),
            Space::Actions,
            b"w/acme/web/scope/linux",
        );
    }

    #[test]
    fn what_cannot_exist_is_nothing_and_not_another_entry() {
        for path in [
            "/ac/".to_owned(),
            "/ac/1".to_owned(),
            format!("/cas/{}", HEX.to_uppercase()),
            format!("/cas/{HEX}0"),
            format!("/scope/ac/{HEX}"),
            format!("/scope/../ac/{HEX}"),
            format!("/scope/a/b/ac/{HEX}"),
            format!("/w/ACME/cas/{HEX}"),
            format!("/%/cas/{HEX}"),
            format!("/%0a/cas/{HEX}"),
            format!("/{}/cas/{HEX}", "n".repeat(257)),
        ] {
            let found = target(&path).map(|target| target.address);
            assert_eq!(found, Some(None), "{path}");
        }
    }

    #[test]
    fn other_paths_are_no_paths_of_this_protocol() {
        for path in [
            "/",
            "",
            "*",
            "/ac",
            "/v1/cache/1",
            "/status",
            "ac/1",
            "/ac/a/b",
            "/AC/1",
        ] {
            assert_eq!(target(path), None, "{path}");
        }
    }

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn zstd_is_sent_to_those_only_who_ask_for_it() {
        for (values, wanted) in [
            (&["zstd,gzip"][..], true),
            (&["gzip", "zstd"], true),
            (&["gzip, ZSTD;q=0.5"], true),
            (&["gzip;q=0, zstd"], true),
            (&["gzip"], false),
            (&["zstd;q=0"], false),
            (&["zstd; Q=0.000, gzip"], false),
            (&["*"], false),
            (&["xzstd, zstdx"], false),
            (&[], false),
        ] {
            let found = reads_zstd(&headers(ACCEPT_ENCODING, values));
            assert_eq!(found, wanted, "{values:?}");
        }
    }

    #[test]
    fn json_is_what_its_media_type_says() {
        for (value, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jsonl", false),
            ("text/json", false),
        ] {
            assert_eq!(
                sends_json(&headers(CONTENT_TYPE, &[value])),
                json,
                "{value}"
            );
            assert_eq!(wants_json(&headers(ACCEPT, &[value])), json, "{value}");
        }
        assert!(wants_json(&headers(
            ACCEPT,
            &["*/*;q=0.1, application/json"]
        )));
        assert!(!wants_json(&headers(ACCEPT, &["*/*"])));
        assert!(!sends_json(&HeaderMap::new()));
    }

    #[test]
    fn a_bodys_form_is_understood_or_refused() {
        let of = |encodings: &[&'static str], size: &[&'static str]| {
            let mut all = headers(CONTENT_ENCODING, encodings);
            all.extend(headers(SIZE, size));
            sent_form(&all)
        };
        assert_eq!(of(&[], &[]), Ok((Encoding::Identity, None)));
        assert_eq!(of(&["identity"], &["7"]), Ok((Encoding::Identity, Some(7))));
        assert_eq!(of(&["zstd"], &["7"]), Ok((Encoding::Zstd, Some(7))));
        assert_eq!(of(&["gzip"], &[]), Err(BadHeader::Encoding));
        assert_eq!(of(&["zstd, gzip"], &[]), Err(BadHeader::Encoding));
        assert_eq!(of(&["zstd", "zstd"], &[]), Err(BadHeader::Encoding));
        assert_eq!(of(&["zstd"], &["-1"]), Err(BadHeader::Size));
        assert_eq!(of(&[], &["x"]), Err(BadHeader::Size));
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "(/|w|scope|ac|cas|%|2F|[a-f0-9]{64}|\\PC){0,20}") {
            let _ = target(&path);
        }
    }
}
