//! The keys of an issuer over time: fetched, renewed, rotated, out of reach; and documents that are none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forge;

use std::sync::LazyLock;

use forge::{AUDIENCE, ISSUER, Key, NOW_MS, RSA, encode, fixed, header, key_set};
use larder_auth::{
    Algorithm, DOCUMENT_BYTES_MAX, Document, Fetch, FetchedDocument, Issuer, Issuers, IssuersError,
    JwtProblem, KeySource, KeysProblem,
};
use serde_json::{Value, json};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DISCOVERY_URL: &str = "https://ci.example/.well-known/openid-configuration";
const KEYS_URL: &str = "https://ci.example/keys";

static ONE: LazyLock<Key> = LazyLock::new(Key::ed25519);
static TWO: LazyLock<Key> = LazyLock::new(Key::ed25519);

/// An issuer that signs with Ed25519, whose keys are made quickly.
fn issuer(keys: KeySource) -> Issuer {
    Issuer {
        algorithms: vec![Algorithm::EdDsa],
        keys,
        ..Issuer::new(ISSUER, AUDIENCE)
    }
}

fn by_url() -> Issuers {
    Issuers::new(vec![issuer(KeySource::Url(KEYS_URL.to_owned()))]).unwrap()
}

fn document(body: Vec<u8>, max_age_s: Option<u64>) -> FetchedDocument {
    FetchedDocument { body, max_age_s }
}

fn keys(keys: &[(&str, &Key)]) -> Vec<u8> {
    let keys: Vec<Value> = keys.iter().map(|(id, key)| key.jwk(id)).collect();
    key_set(&keys)
}

/// The fetch that is due, if one is.
fn due(issuers: &Issuers, now_ms: u64) -> Option<Fetch> {
    let mut due = issuers.due(now_ms);
    assert!(due.len() <= 1);
    due.pop()
}

/// Fetches `body` at once; there must be something to fetch.
fn fetch(issuers: &Issuers, body: Vec<u8>, max_age_s: Option<u64>, now_ms: u64) {
    let fetch = due(issuers, now_ms).expect("a fetch is due");
    let fetched = issuers.fetched(&fetch, Ok(document(body, max_age_s)), now_ms);
    assert_eq!(fetched, Ok(()));
}

fn fail(issuers: &Issuers, now_ms: u64) {
    let fetch = due(issuers, now_ms).expect("a fetch is due");
    let failed = issuers.fetched(&fetch, Err("refused".to_owned()), now_ms);
    assert_eq!(failed, Err(KeysProblem::NotFetched("refused".to_owned())));
}

/// What a JWT that was issued this moment and names this key is found to be.
fn verify(issuers: &Issuers, id: &str, key: &Key, now_ms: u64) -> Result<(), JwtProblem> {
    verify_issued(issuers, id, key, now_ms, now_ms)
}

fn verify_issued(
    issuers: &Issuers,
    id: &str,
    key: &Key,
    issued_ms: u64,
    now_ms: u64,
) -> Result<(), JwtProblem> {
    let (header, begin) = (json!({"alg": "EdDSA", "kid": id}), issued_ms / 1000);
    let claims =
        json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "iat": begin, "exp": begin + 300});
    let jwt = key.jwt(&header.to_string(), &claims.to_string());
    issuers.verify(jwt.as_bytes(), now_ms).map(|_| ())
}

fn wanted() -> Result<(), JwtProblem> {
    let issuer = ISSUER.to_owned();
    Err(JwtProblem::KeysWanted { issuer })
}

fn missing() -> Result<(), JwtProblem> {
    let issuer = ISSUER.to_owned();
    Err(JwtProblem::KeysMissing { issuer })
}

#[test]
fn keys_come_by_discovery_from_the_issuers_own_origin() {
    let issuers = Issuers::new(vec![issuer(KeySource::Discovery)]).unwrap();
    assert_eq!(verify(&issuers, "one", &ONE, NOW_MS), wanted());
    let first = due(&issuers, NOW_MS).unwrap();
    assert_eq!(
        (first.url.as_str(), first.what),
        (DISCOVERY_URL, Document::Discovery)
    );
    assert_eq!(due(&issuers, NOW_MS), None, "one fetch at a time");
    let body = json!({"issuer": ISSUER, "jwks_uri": "https://ci.example/some/keys"});
    let discovery = Ok(document(body.to_string().into_bytes(), None));
    assert_eq!(issuers.fetched(&first, discovery, NOW_MS), Ok(()));
    let second = due(&issuers, NOW_MS).unwrap();
    assert_eq!(
        (second.url.as_str(), second.what),
        ("https://ci.example/some/keys", Document::Keys)
    );
    let fetched = issuers.fetched(&second, Ok(document(keys(&[("one", &ONE)]), None)), NOW_MS);
    assert_eq!(fetched, Ok(()));
    assert_eq!(verify(&issuers, "one", &ONE, NOW_MS), Ok(()));
    assert_eq!(due(&issuers, NOW_MS + MINUTE_MS), None);
}

#[test]
fn a_discovery_document_of_somebody_else_or_of_another_origin_is_refused() {
    for (issuer_said, keys_url, problem) in [
        ("https://ci.example/", KEYS_URL, KeysProblem::OtherIssuer),
        ("https://evil.example", KEYS_URL, KeysProblem::OtherIssuer),
        (
            ISSUER,
            "https://evil.example/keys",
            KeysProblem::OtherOrigin,
        ),
        (ISSUER, "http://ci.example/keys", KeysProblem::OtherOrigin),
        (
            ISSUER,
            "https://ci.example:8443/keys",
            KeysProblem::OtherOrigin,
        ),
        (
            ISSUER,
            "https://ci.example@evil.example/",
            KeysProblem::OtherOrigin,
        ),
        (
            ISSUER,
            "https://ci.example.evil.example/",
            KeysProblem::OtherOrigin,
        ),
        (ISSUER, "file:///etc/passwd", KeysProblem::OtherOrigin),
        (ISSUER, "/keys", KeysProblem::OtherOrigin),
    ] {
        let issuers = Issuers::new(vec![issuer(KeySource::Discovery)]).unwrap();
        let fetch = due(&issuers, NOW_MS).unwrap();
        let body = json!({"issuer": issuer_said, "jwks_uri": keys_url}).to_string();
        let found = issuers.fetched(&fetch, Ok(document(body.into_bytes(), None)), NOW_MS);
        assert_eq!(found, Err(problem), "{issuer_said} {keys_url}");
        assert_eq!(due(&issuers, NOW_MS), None, "not again at once");
    }
}

#[test]
fn keys_are_renewed_while_they_are_fresh_and_as_long_as_their_issuer_says_within_bounds() {
    for (max_age_s, fresh_ms) in [
        (None, HOUR_MS),
        (Some(1800), HOUR_MS / 2),
        (Some(0), 5 * MINUTE_MS),
        (Some(u64::MAX), 24 * HOUR_MS),
    ] {
        let issuers = by_url();
        fetch(&issuers, keys(&[("one", &ONE)]), max_age_s, NOW_MS);
        let renewed_ms = NOW_MS + fresh_ms / 5 * 4;
        assert_eq!(due(&issuers, renewed_ms - 1), None, "{max_age_s:?}");
        let again = due(&issuers, renewed_ms);
        assert_eq!(again.map(|it| it.url).as_deref(), Some(KEYS_URL));
    }
}

#[test]
fn a_rotated_key_is_fetched_once_a_jwt_names_it_and_the_old_one_ends_with_that() {
    let issuers = by_url();
    fetch(&issuers, keys(&[("one", &ONE)]), None, NOW_MS);
    let later = NOW_MS + 10 * MINUTE_MS;
    assert_eq!(due(&issuers, later), None);
    assert_eq!(verify(&issuers, "two", &TWO, later), wanted());
    fetch(&issuers, keys(&[("two", &TWO)]), None, later);
    assert_eq!(verify(&issuers, "two", &TWO, later), Ok(()));
    assert_eq!(verify(&issuers, "one", &ONE, later), missing());
    assert_eq!(
        verify_issued(&issuers, "one", &ONE, later - 2 * MINUTE_MS, later),
        Err(JwtProblem::UnknownKey)
    );
}

#[test]
fn unknown_keys_cause_one_fetch_in_thirty_seconds_however_many_jwts_name_them() {
    let issuers = by_url();
    fetch(&issuers, keys(&[("one", &ONE)]), None, NOW_MS);
    let mut fetches = 0;
    for second in 1..=300 {
        let now_ms = NOW_MS + second * 1000;
        for id in ["two", "three", "four"] {
            assert!(verify(&issuers, id, &TWO, now_ms).is_err());
            if let Some(fetch) = due(&issuers, now_ms) {
                fetches += 1;
                let body = Ok(document(keys(&[("one", &ONE)]), None));
                issuers.fetched(&fetch, body, now_ms).unwrap();
            }
        }
    }
    assert_eq!(fetches, 10);
    assert_eq!(verify(&issuers, "one", &ONE, NOW_MS + HOUR_MS / 2), Ok(()));
}

#[test]
fn a_key_that_is_not_there_a_while_after_the_jwt_was_issued_is_unknown_and_before_it_is_fetched() {
    let issuers = by_url();
    fetch(&issuers, keys(&[("one", &ONE)]), None, NOW_MS);
    let issued = |ms| verify_issued(&issuers, "two", &TWO, ms, NOW_MS);
    assert_eq!(issued(NOW_MS - 90_000), Err(JwtProblem::UnknownKey));
    assert_eq!(due(&issuers, NOW_MS + 30_000), None);
    // Behind a cache, or by another clock, the issuer's new key comes late.
    assert_eq!(issued(NOW_MS - 89_000), missing());
    assert_eq!(verify(&issuers, "two", &TWO, NOW_MS + 1000), missing());
    assert_eq!(due(&issuers, NOW_MS + 29_999), None);
    assert_eq!(verify(&issuers, "two", &TWO, NOW_MS + 30_000), wanted());
    assert!(due(&issuers, NOW_MS + 30_000).is_some());
    assert_eq!(verify(&issuers, "two", &TWO, NOW_MS + 31_000), wanted());
}

#[test]
fn a_clock_that_is_set_back_keeps_no_issuer_without_keys() {
    let issuers = by_url();
    assert!(due(&issuers, NOW_MS + 100 * HOUR_MS).is_some());
    assert!(
        due(&issuers, NOW_MS).is_none(),
        "the lost fetch counts as failed"
    );
    assert!(due(&issuers, NOW_MS + 5_000).is_some());
    let issuers = by_url();
    fetch(
        &issuers,
        keys(&[("one", &ONE)]),
        None,
        NOW_MS + 100 * HOUR_MS,
    );
    assert!(due(&issuers, NOW_MS).is_some());
}

#[test]
fn keys_that_cannot_be_renewed_serve_a_day_longer_and_then_no_more() {
    let issuers = by_url();
    fetch(&issuers, keys(&[("one", &ONE)]), None, NOW_MS);
    let end_ms = NOW_MS + 25 * HOUR_MS;
    let mut fetches = 0;
    for minute in 0..(25 * 60) {
        let now_ms = NOW_MS + minute * MINUTE_MS;
        assert_eq!(verify(&issuers, "one", &ONE, now_ms), Ok(()), "{minute}");
        if let Some(fetch) = due(&issuers, now_ms) {
            fetches += 1;
            let failed = issuers.fetched(&fetch, Err("down".to_owned()), now_ms);
            assert!(failed.is_err());
        }
    }
    assert!(fetches > 100, "it goes on trying: {fetches}");
    assert_eq!(verify(&issuers, "one", &ONE, end_ms - 1000), Ok(()));
    assert!(issuers.has_keys(ISSUER, end_ms - 1));
    assert_eq!(verify(&issuers, "one", &ONE, end_ms), wanted());
    assert!(!issuers.has_keys(ISSUER, end_ms));
    // And when the issuer is back everything is as before.
    let back_ms = end_ms + 5 * MINUTE_MS;
    fetch(&issuers, keys(&[("one", &ONE)]), None, back_ms);
    assert_eq!(verify(&issuers, "one", &ONE, back_ms), Ok(()));
}

#[test]
fn a_document_that_cannot_be_used_leaves_the_keys_in_force() {
    let issuers = by_url();
    fetch(&issuers, keys(&[("one", &ONE)]), None, NOW_MS);
    let mut now_ms = NOW_MS + HOUR_MS;
    for (body, problem) in [
        (b"<html>".to_vec(), KeysProblem::Unreadable),
        (
            b"{\"keys\":[],\"keys\":[]}".to_vec(),
            KeysProblem::Unreadable,
        ),
        (b"{}".to_vec(), KeysProblem::NoList),
        (b"{\"keys\":{}}".to_vec(), KeysProblem::NoList),
        (key_set(&[]), KeysProblem::NoneUsable),
        (vec![b' '; DOCUMENT_BYTES_MAX + 1], KeysProblem::TooLarge),
        (key_set(&vec![ONE.jwk("one"); 65]), KeysProblem::TooMany),
    ] {
        let fetch = due(&issuers, now_ms).expect("tried again");
        let found = issuers.fetched(&fetch, Ok(document(body, None)), now_ms);
        assert_eq!(found, Err(problem));
        assert_eq!(verify(&issuers, "one", &ONE, now_ms), Ok(()));
        now_ms += HOUR_MS;
    }
    fetch(&issuers, key_set(&vec![TWO.jwk("two"); 64]), None, now_ms);
    assert_eq!(verify(&issuers, "two", &TWO, now_ms), Ok(()));
}

#[test]
fn fetches_that_fail_are_tried_less_and_less_often_but_at_once_half_a_minute_after_a_jwt_needs_them()
 {
    let issuers = by_url();
    let mut now_ms = NOW_MS;
    for wait_ms in [
        5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000,
    ] {
        fail(&issuers, now_ms);
        assert_eq!(due(&issuers, now_ms + wait_ms - 1), None, "{wait_ms}");
        now_ms += wait_ms;
    }
    fail(&issuers, now_ms);
    assert_eq!(verify(&issuers, "one", &ONE, now_ms + 1000), missing());
    assert_eq!(due(&issuers, now_ms + 29_999), None);
    assert_eq!(verify(&issuers, "one", &ONE, now_ms + 30_000), wanted());
    fetch(&issuers, keys(&[("one", &ONE)]), None, now_ms + 30_000);
    assert_eq!(verify(&issuers, "one", &ONE, now_ms + 30_000), Ok(()));
}

#[test]
fn a_fetch_that_nobody_reports_on_counts_as_failed_and_its_late_answer_for_nothing() {
    let issuers = by_url();
    let lost = due(&issuers, NOW_MS).unwrap();
    assert_eq!(due(&issuers, NOW_MS + MINUTE_MS - 1), None);
    assert_eq!(due(&issuers, NOW_MS + MINUTE_MS), None);
    let late = issuers.fetched(
        &lost,
        Ok(document(keys(&[("one", &ONE)]), None)),
        NOW_MS + MINUTE_MS,
    );
    assert_eq!(late, Ok(()));
    assert!(!issuers.has_keys(ISSUER, NOW_MS + MINUTE_MS));
    assert!(due(&issuers, NOW_MS + MINUTE_MS + 5_000).is_some());
}

#[test]
fn only_keys_that_sign_and_that_are_strong_enough_are_used() {
    let with = |name: &str, value: Value| {
        let mut jwk = RSA.jwk("one");
        jwk[name] = value;
        jwk
    };
    let weak = |bytes: usize| with("n", json!(encode([vec![0xff; bytes]].concat())));
    for (what, jwk) in [
        ("for encryption", with("use", json!("enc"))),
        ("for nothing in particular", with("use", json!(null))),
        ("to sign, not to verify", with("key_ops", json!(["sign"]))),
        ("for another algorithm", with("alg", json!("RS512"))),
        ("for a shared secret", with("kty", json!("oct"))),
        ("without an id", with("kid", json!(""))),
        ("1024 bits", weak(128)),
        (
            "2047 bits",
            with("n", json!(encode([&[0x7f][..], &[0xff; 255]].concat()))),
        ),
        (
            "1024 bits behind zeros",
            with("n", json!(encode([&[0; 128][..], &[0xff; 128]].concat()))),
        ),
        ("16384 bits", weak(2048)),
        ("no base64", with("n", json!("!"))),
        (
            "a curve without a point",
            json!({"kty": "EC", "crv": "P-256", "kid": "one", "x": "AA", "y": "AA"}),
        ),
        (
            "a curve that is not here",
            json!({"kty": "EC", "crv": "secp256k1", "kid": "one", "x": "AA", "y": "AA"}),
        ),
        ("no key", json!("one")),
    ] {
        let refused = Issuers::new(vec![fixed(&[jwk])]).unwrap_err();
        let expected = IssuersError::Keys {
            issuer: ISSUER.to_owned(),
            problem: KeysProblem::NoneUsable,
        };
        assert_eq!(refused, expected, "{what}");
    }
    // Beside such keys the good one works; padding and a verb among others are no harm.
    let good = with("key_ops", json!(["sign", "verify"]));
    let issuers = Issuers::new(vec![fixed(&[with("use", json!("enc")), good])]).unwrap();
    let jwt = RSA.jwt(&header().to_string(), &forge::claims().to_string());
    assert!(issuers.verify(jwt.as_bytes(), NOW_MS).is_ok());
}

#[test]
fn a_list_of_issuers_makes_sense_or_is_none() {
    let refused = |issuer: Issuer| Issuers::new(vec![issuer]).unwrap_err();
    for url in [
        "http://ci.example",
        "ci.example",
        "",
        "https://ci.example?x",
        "https://a@ci.example",
    ] {
        let found = refused(Issuer::new(url, AUDIENCE));
        assert_eq!(found, IssuersError::NotHttps(url.to_owned()));
    }
    let keys = KeySource::Url("http://ci.example/keys".to_owned());
    let found = refused(issuer(keys));
    assert_eq!(
        found,
        IssuersError::NotHttps("http://ci.example/keys".to_owned())
    );
    let nobodys = Issuer {
        audiences: vec![],
        ..Issuer::new(ISSUER, AUDIENCE)
    };
    assert_eq!(
        refused(nobodys),
        IssuersError::NoAudience(ISSUER.to_owned())
    );
    let unsigned = Issuer {
        algorithms: vec![],
        ..Issuer::new(ISSUER, AUDIENCE)
    };
    assert_eq!(
        refused(unsigned),
        IssuersError::NoAlgorithm(ISSUER.to_owned())
    );
    let twice = Issuers::new(vec![
        Issuer::new(ISSUER, AUDIENCE),
        Issuer::new(ISSUER, "x"),
    ]);
    assert_eq!(twice.unwrap_err(), IssuersError::Twice(ISSUER.to_owned()));
}

#[test]
fn issuers_that_stay_keep_their_keys_when_the_configuration_is_read_again() {
    let old = by_url();
    fetch(&old, keys(&[("one", &ONE)]), None, NOW_MS);
    let url = || issuer(KeySource::Url(KEYS_URL.to_owned()));
    let same = old.successor(vec![url()]).unwrap();
    assert_eq!(verify(&same, "one", &ONE, NOW_MS), Ok(()));
    let elsewhere = Issuer {
        keys: KeySource::Url("https://ci.example/other".to_owned()),
        ..url()
    };
    let moved = old.successor(vec![elsewhere]).unwrap();
    assert_eq!(verify(&moved, "one", &ONE, NOW_MS), wanted());
    let gone = old.successor(vec![]).unwrap();
    assert_eq!(
        verify(&gone, "one", &ONE, NOW_MS),
        Err(JwtProblem::UnknownIssuer)
    );
}

#[test]
fn fixed_keys_are_never_fetched() {
    let issuers = Issuers::new(vec![fixed(&[RSA.jwk("one")])]).unwrap();
    assert_eq!(issuers.due(NOW_MS), []);
    let jwt = RSA.jwt(
        &json!({"alg": "RS256", "kid": "two"}).to_string(),
        &forge::claims().to_string(),
    );
    assert_eq!(
        issuers.verify(jwt.as_bytes(), NOW_MS),
        Err(JwtProblem::UnknownKey)
    );
    assert_eq!(issuers.due(NOW_MS + 100 * HOUR_MS), []);
}
