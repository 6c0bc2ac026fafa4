//! The paths of Nx's requests.
//!
//! The client appends `/v1/cache/{hash}` to the server URL it was configured with, as text. So the
//! URL may end in a slash, and it can carry what the client cannot say otherwise:
//! `[/w/WORKSPACE][/scope/LABEL]`.

use larder_model::{EntryKey, ScopeLabel, WorkspaceName};

use crate::percent;

/// What the client appends to its server URL, before the hash.
const CACHE_PATH: &str = "/v1/cache/";

/// The most bytes of a hash. Nx's own have 20 digits; a custom hasher may return any text.
const HASH_BYTES_MAX: usize = 256;

/// What a path of this protocol is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An entry.
    Entry(Address),
    /// Nothing that could exist: an unknown prefix, a bad name or a bad hash.
    Nothing,
}

/// An entry and where the path says it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub workspace: Option<WorkspaceName>,
    pub label: Option<ScopeLabel>,
    pub key: EntryKey,
}

/// Reads a path; `None` if it is none of this protocol.
pub(crate) fn target(path: &str) -> Option<Target> {
    let (prefix, hash) = match path.strip_prefix(CACHE_PATH) {
        // Nearly always, and cheaper than the search.
        Some(hash) => ("", hash),
        None => path.split_once(CACHE_PATH)?,
    };
    Some(address(prefix, hash).map_or(Target::Nothing, Target::Entry))
}

fn address(prefix: &str, hash: &str) -> Option<Address> {
    // A server URL that ends in a slash, or has one too many, leaves empty segments.
    let mut segments = prefix.split('/').filter(|segment| !segment.is_empty());
    let mut segment = segments.next();
    let mut workspace = None;
    if segment == Some("w") {
        workspace = Some(segments.next()?.parse().ok()?);
        segment = segments.next();
    }
    let mut label = None;
    if segment == Some("scope") {
        label = Some(segments.next()?.parse().ok()?);
        segment = segments.next();
    }
    if segment.is_some() {
        return None;
    }
    Some(Address {
        workspace,
        label,
        key: key(hash)?,
    })
}

fn key(hash: &str) -> Option<EntryKey> {
    let decoded = percent::decode(hash)?;
    let forbidden = |byte: &u8| byte.is_ascii_control() || *byte == b'/';
    if decoded.len() > HASH_BYTES_MAX || decoded.iter().any(forbidden) {
        return None;
    }
    EntryKey::new(&decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(path: &str, workspace: Option<&str>, label: Option<&str>, key: &[u8]) {
        let expected = Address {
            workspace: workspace.map(|name| name.parse().unwrap()),
            label: label.map(|label| label.parse().unwrap()),
            key: EntryKey::new(key).unwrap(),
        };
        assert_eq!(target(path), Some(Target::Entry(expected)), "{path}");
    }

    #[test]
    fn prefixes_and_spare_slashes_lead_to_the_same_entry() {
        check("/v1/cache/123", None, None, b"123");
        check("//v1/cache/123", None, None, b"123");
        check("///v1/cache/123", None, None, b"123");
        check("/w/acme/v1/cache/123", Some("acme"), None, b"123");
        check("/w/acme//v1/cache/123", Some("acme"), None, b"123");
        check("/scope/Linux/v1/cache/123", None, Some("Linux"), b"123");
        check(
            "/w/acme/scope/linux/v1/cache/123",
            Some("acme"),
            Some("linux"),
            b"123",
        );
        check(
            "/w/w/scope/scope/v1/cache/123",
            Some("w"),
            Some("scope"),
            b"123",
        );
    }

    #[test]
    fn a_hash_is_percent_decoded_exactly_once() {
        check("/v1/cache/a%20b", None, None, b"a b");
        check("/v1/cache/%2541", None, None, b"%41");
        check("/v1/cache/%ff%C3", None, None, b"\xff\xc3");
    }

    #[test]
    fn what_cannot_exist_is_nothing_and_not_another_entry() {
        for path in [
            "/v1/cache/",
            "/v1/cache/a/b",
            "/v1/cache/a%2Fb",
            "/v1/cache/a%2fb",
            "/v1/cache/a%",
            "/v1/cache/a%4",
            "/v1/cache/a%+4",
            "/v1/cache/a%00",
            "/v1/cache/%0A",
            "/v1/cache/%7f",
            "/v1/cache/v1/cache/a",
            "/unknown/v1/cache/a",
            "/w/v1/cache/a",
            "/w/acme/extra/v1/cache/a",
            "/w/ACME/v1/cache/a",
            "/w/../v1/cache/a",
            "/w/a%63me/v1/cache/a",
            "/scope/v1/cache/a",
            "/scope/../v1/cache/a",
            "/scope/a/b/v1/cache/a",
            "/scope/x/w/acme/v1/cache/a",
            "/scope/x/scope/y/v1/cache/a",
        ] {
            assert_eq!(target(path), Some(Target::Nothing), "{path}");
        }
        let too_long = format!("/v1/cache/{}", "a".repeat(HASH_BYTES_MAX + 1));
        assert_eq!(target(&too_long), Some(Target::Nothing));
    }

    #[test]
    fn other_paths_are_no_paths_of_this_protocol() {
        for path in [
            "/",
            "",
            "*",
            "/v1/cache",
            "/v2/cache/a",
            "/v1/control/stats",
            "v1/cache/a",
        ] {
            assert_eq!(target(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "(/|w|scope|v1|cache|%|2F|[a-z]|\\PC){0,40}") {
            let _ = target(&path);
        }

        #[test]
        fn every_allowed_hash_survives_its_encoding(
            hash in proptest::collection::vec(
                any::<u8>().prop_filter("allowed", |b| !b.is_ascii_control() && *b != b'/'),
                1..=HASH_BYTES_MAX,
            ),
        ) {
            let escapes: Vec<String> = hash.iter().map(|byte| format!("%{byte:02x}")).collect();
            let encoded = escapes.concat();
            check(&format!("/v1/cache/{encoded}"), None, None, &hash);
        }
    }
}
