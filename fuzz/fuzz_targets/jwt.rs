//! Any bytes as a JWT, as a header and claims that nobody signed, and as an issuer's documents.

#![no_main]

use arbitrary::Arbitrary;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use larder_auth::ci::{GitHub, Preset, Rule, Rules};
use larder_auth::{Algorithm, Claims, FetchedDocument, Issuer, Issuers, KeySource};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const NOW_MS: u64 = 1_800_000_000_000;
/// The public key of RFC 8037, appendix A.2. Nothing here has its other half's signature.
const KEYS: &[u8] = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    whole: &'a [u8],
    header: &'a [u8],
    claims: &'a [u8],
    signature: &'a [u8],
    document: &'a [u8],
}

fn issuer(keys: KeySource) -> Issuer {
    Issuer {
        algorithms: Algorithm::ALL.to_vec(),
        keys,
        ..Issuer::new("https://ci.example", "a")
    }
}

fuzz_target!(|input: Input<'_>| {
    let fixed = KeySource::Fixed(KEYS.to_vec());
    let issuers = Issuers::new(vec![issuer(fixed)]).expect("a good key");
    assert!(issuers.verify(input.whole, NOW_MS).is_err());
    let [header, claims, signature] =
        [input.header, input.claims, input.signature].map(|it| URL_SAFE_NO_PAD.encode(it));
    let forged = format!("{header}.{claims}.{signature}");
    assert!(issuers.verify(forged.as_bytes(), NOW_MS).is_err());

    if let Ok(read) = Claims::parse(input.claims) {
        // What is read strictly is what a generous reader reads as well.
        let generous: Value = serde_json::from_slice(input.claims).expect("JSON");
        let members = generous.as_object().expect("an object");
        assert!(read.iter().eq(members.iter().map(|(name, value)| (name.as_str(), value))));
        explain(&read);
    }
    documents(input.document);
});

/// Decides about claims at their word: without a panic, and never above what they say.
fn explain(claims: &Claims) {
    let rule = Rule {
        name: "web".parse().expect("a name"),
        workspace: "acme".parse().expect("a name"),
        issuer: "https://ci.example".to_owned(),
        preset: Preset::GitHub(GitHub {
            trusted_refs: vec!["refs/heads/main".parse().expect("a ref")],
            ..GitHub::new("1".to_owned(), "2".to_owned())
        }),
    };
    let rules = Rules::new(vec![rule]).expect("one good rule");
    let explanation = rules.explain(claims);
    if explanation.access().is_some_and(|it| it.kind().writes_trusted()) {
        assert_eq!(claims.text("ref"), Some("refs/heads/main"));
        assert_eq!(claims.text("repository_id"), Some("1"));
    }
    let _ = explanation.to_string();
}

/// Any bytes as a discovery document and as a key set.
fn documents(body: &[u8]) {
    let document = || {
        Ok(FetchedDocument {
            body: body.to_vec(),
            max_age_s: None,
        })
    };
    let _ = Issuers::new(vec![issuer(KeySource::Fixed(body.to_vec()))]);
    let issuers = Issuers::new(vec![issuer(KeySource::Discovery)]).expect("https");
    for fetch in issuers.due(NOW_MS) {
        let _ = issuers.fetched(&fetch, document(), NOW_MS);
        // Wherever the document leads, it is the issuer's own host.
        for next in issuers.due(NOW_MS) {
            assert!(next.url.starts_with("https://ci.example"));
        }
    }
}
