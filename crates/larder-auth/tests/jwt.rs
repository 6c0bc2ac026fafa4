//! What is believed of a JWT, and what is not, however well it is signed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forge;

use aws_lc_rs::hmac;
use forge::{
    AUDIENCE, ISSUER, Key, NOW_MS, NOW_S, OTHER_RSA, RSA, claims, encode, fixed, header, issuers,
};
use larder_auth::{Algorithm, Issuer, Issuers, JWT_BYTES_MAX, JwtProblem};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What is found wrong with a JWT of the issuer's whose header and claims were changed like this before it was signed.
fn check(change: impl Fn(&mut Value, &mut Value), expected: Result<(), JwtProblem>) {
    let (mut header, mut claims) = (header(), claims());
    change(&mut header, &mut claims);
    let jwt = RSA.jwt(&header.to_string(), &claims.to_string());
    let found = issuers().verify(jwt.as_bytes(), NOW_MS).map(|_| ());
    assert_eq!(found, expected, "{header} {claims}");
}

fn claim(name: &'static str, value: Value, expected: Result<(), JwtProblem>) {
    check(|_, claims| claims[name] = value.clone(), expected);
}

fn without(name: &'static str, expected: Result<(), JwtProblem>) {
    let remove = |_: &mut Value, claims: &mut Value| {
        claims.as_object_mut().unwrap().remove(name);
    };
    check(remove, expected);
}

fn head(name: &'static str, value: Value, expected: Result<(), JwtProblem>) {
    check(|header, _| header[name] = value.clone(), expected);
}

fn verify(jwt: &str) -> Result<(), JwtProblem> {
    issuers().verify(jwt.as_bytes(), NOW_MS).map(|_| ())
}

#[test]
fn a_good_jwt_is_believed_with_its_claims_and_its_end() {
    let jwt = RSA.jwt(&header().to_string(), &claims().to_string());
    let verified = issuers().verify(jwt.as_bytes(), NOW_MS).unwrap();
    assert_eq!(verified.issuer(), ISSUER);
    assert_eq!(verified.text("sub"), Some("repo:acme/web"));
    assert_eq!(verified.valid_until_ms(), NOW_MS + 330_000);
    without("nbf", Ok(()));
    without("jti", Ok(()));
}

#[test]
fn every_configured_algorithm_works_with_its_own_kind_of_key_and_no_other() {
    let keys = [
        (Algorithm::Rs256, Key::rsa()),
        (Algorithm::Es256, Key::p256()),
        (Algorithm::Es384, Key::p384()),
        (Algorithm::EdDsa, Key::ed25519()),
    ];
    let jwks: Vec<Value> = keys.iter().map(|(it, key)| key.jwk(it.name())).collect();
    let issuer = Issuer {
        algorithms: Algorithm::ALL.to_vec(),
        ..fixed(&jwks)
    };
    let all = Issuers::new(vec![issuer]).unwrap();
    let rs256_alone = Issuers::new(vec![fixed(&jwks)]).unwrap();
    for (named, _) in &keys {
        for (signer, key) in &keys {
            let header = json!({"alg": named.name(), "kid": signer.name()});
            let jwt = key.jwt(&header.to_string(), &claims().to_string());
            let found = all.verify(jwt.as_bytes(), NOW_MS).map(|_| ());
            let expected = if named == signer {
                Ok(())
            } else {
                Err(JwtProblem::WrongKey)
            };
            assert_eq!(found, expected, "{header}");
            if *named != Algorithm::Rs256 {
                let found = rs256_alone.verify(jwt.as_bytes(), NOW_MS);
                assert_eq!(found, Err(JwtProblem::Algorithm), "{header}");
            }
        }
    }
}

#[test]
fn no_other_algorithm_is_ever_taken() {
    for name in [
        "none", "None", "", "HS256", "HS384", "HS512", "RS384", "RS512", "PS256", "ES512", "rs256",
    ] {
        head("alg", json!(name), Err(JwtProblem::Algorithm));
    }
    head("alg", json!(null), Err(JwtProblem::Algorithm));
    head("alg", json!(["RS256"]), Err(JwtProblem::Algorithm));
    // The classics: no signature at all, and the public key as a shared secret.
    let none = format!(
        "{}.{}.",
        encode(r#"{"alg":"none","kid":"one"}"#),
        encode(claims().to_string())
    );
    assert_eq!(verify(&none), Err(JwtProblem::Algorithm));
    let message = format!(
        "{}.{}",
        encode(r#"{"alg":"HS256","kid":"one"}"#),
        encode(claims().to_string())
    );
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &RSA.public_der());
    let signature = hmac::sign(&secret, message.as_bytes());
    let forged = format!("{message}.{}", encode(signature.as_ref()));
    assert_eq!(verify(&forged), Err(JwtProblem::Algorithm));
}

#[test]
fn a_header_says_what_is_expected_and_asks_for_nothing() {
    for name in ["crit", "jku", "x5u", "jwk", "b64"] {
        for value in [
            json!(null),
            json!("https://evil.example/keys"),
            json!([]),
            RSA.jwk("one"),
        ] {
            head(name, value, Err(JwtProblem::Forbidden(name)));
        }
    }
    for kind in [
        json!("jwt"),
        json!("at+jwt"),
        json!(""),
        json!(null),
        json!(1),
    ] {
        head("typ", kind, Err(JwtProblem::Type));
    }
    for id in [json!(""), json!(null), json!(1), json!(["one"])] {
        head("kid", id, Err(JwtProblem::NoKeyId));
    }
    for id in ["two", "One", "one ", "../one", "one' or ''='"] {
        head("kid", json!(id), Err(JwtProblem::UnknownKey));
    }
    let no_type = json!({"alg": "RS256", "kid": "one"}).to_string();
    assert_eq!(verify(&RSA.jwt(&no_type, &claims().to_string())), Ok(()));
}

#[test]
fn the_issuer_is_compared_whole() {
    for issuer in [
        "https://ci.example/",
        "https://ci.example.evil.example",
        "https://ci.exampl",
        "https://CI.example",
        "http://ci.example",
        " https://ci.example",
        "https://ci.example\0",
        "",
    ] {
        claim("iss", json!(issuer), Err(JwtProblem::UnknownIssuer));
    }
    for issuer in [json!(null), json!([ISSUER]), json!(1)] {
        claim("iss", issuer, Err(JwtProblem::Claim("iss")));
    }
    without("iss", Err(JwtProblem::Claim("iss")));
}

#[test]
fn the_audience_is_this_server_alone() {
    claim("aud", json!([AUDIENCE]), Ok(()));
    claim("aud", json!([AUDIENCE, AUDIENCE]), Ok(()));
    for audience in [
        json!("https://cache.example/"),
        json!("https://other.example"),
        json!(""),
        json!([]),
        json!([AUDIENCE, "https://other.example"]),
        json!([AUDIENCE, 1]),
        json!([[AUDIENCE]]),
    ] {
        claim("aud", audience, Err(JwtProblem::Audience));
    }
    for audience in [json!(null), json!({ "a": AUDIENCE }), json!(1)] {
        claim("aud", audience, Err(JwtProblem::Claim("aud")));
    }
    without("aud", Err(JwtProblem::Claim("aud")));
}

#[test]
fn times_are_whole_numbers_and_exact_to_the_leeway() {
    for name in ["exp", "iat", "nbf"] {
        for value in [
            json!(NOW_S.to_string()),
            json!(NOW_S as f64 + 0.5),
            json!(-1),
            json!(null),
            json!([NOW_S]),
            json!(1e300),
            json!(u64::MAX),
        ] {
            claim(name, value, Err(JwtProblem::Claim(name)));
        }
    }
    without("exp", Err(JwtProblem::Claim("exp")));
    without("iat", Err(JwtProblem::Claim("iat")));
    claim("iat", json!(NOW_S + 30), Ok(()));
    claim("iat", json!(NOW_S + 31), Err(JwtProblem::IssuedInFuture));
    claim("nbf", json!(NOW_S + 30), Ok(()));
    claim("nbf", json!(NOW_S + 31), Err(JwtProblem::NotYet));
    claim("nbf", json!(NOW_S * 2), Err(JwtProblem::NotYet));
    claim("exp", json!(NOW_S - 29), Ok(()));
    claim("exp", json!(NOW_S - 30), Err(JwtProblem::Expired));
    claim("exp", json!(NOW_S - 61), Err(JwtProblem::Lifetime));
    claim("exp", json!(NOW_S - 60 + 86_400), Ok(()));
    claim("exp", json!(NOW_S - 60 + 86_401), Err(JwtProblem::Lifetime));
}

#[test]
fn a_jwt_ends_at_its_millisecond() {
    let jwt = RSA.jwt(&header().to_string(), &claims().to_string());
    let end_ms = (NOW_S + 330) * 1000;
    let at = |now_ms| issuers().verify(jwt.as_bytes(), now_ms).map(|_| ());
    assert_eq!(at(end_ms - 1), Ok(()));
    assert_eq!(at(end_ms), Err(JwtProblem::Expired));
    assert_eq!(at(u64::MAX), Err(JwtProblem::Expired));
    assert_eq!(at(0), Err(JwtProblem::IssuedInFuture));
}

#[test]
fn that_its_time_is_over_is_said_of_a_genuine_jwt_alone() {
    let mut old = claims();
    old["exp"] = json!(NOW_S - 40);
    let forged = OTHER_RSA.jwt(&header().to_string(), &old.to_string());
    assert_eq!(verify(&forged), Err(JwtProblem::Signature));
    let genuine = RSA.jwt(&header().to_string(), &old.to_string());
    assert_eq!(verify(&genuine), Err(JwtProblem::Expired));
}

#[test]
fn a_subject_is_there() {
    without("sub", Err(JwtProblem::Claim("sub")));
    for subject in [json!(""), json!(null), json!(1), json!(["repo:acme/web"])] {
        claim("sub", subject, Err(JwtProblem::Claim("sub")));
    }
}

#[test]
fn names_that_occur_twice_are_refused_at_any_depth() {
    let plain = claims().to_string();
    let (head, body) = (header().to_string(), plain.trim_end_matches('}'));
    for doubled in [
        format!(r#"{body},"iss":"{ISSUER}"}}"#),
        format!(r#"{body},"x":{{"a":1,"a":1}}}}"#),
        format!(r#"{body},"x":[[{{"a":{{"b":1,"c":2,"b":3}}}}]]}}"#),
        // An escape spells the same name.
        format!(r#"{body},"\u0069ss":"{ISSUER}"}}"#),
    ] {
        let found = verify(&RSA.jwt(&head, &doubled));
        assert_eq!(found, Err(JwtProblem::Claims), "{doubled}");
    }
    let doubled = head.replace('{', r#"{"alg":"RS256","#);
    assert_eq!(verify(&RSA.jwt(&doubled, &plain)), Err(JwtProblem::Header));
    let nested = format!(r#"{body},"x":{{"a":1,"b":{{"a":1}}}}}}"#);
    assert_eq!(verify(&RSA.jwt(&head, &nested)), Ok(()));
}

#[test]
fn what_is_not_three_parts_of_canonical_base64_and_json_is_unreadable() {
    let good = RSA.jwt(&header().to_string(), &claims().to_string());
    for text in [
        String::new(),
        "..".to_owned(),
        good.replace('.', ""),
        format!("{good}.x"),
        format!("{good}="),
        format!("{good} "),
        good.replacen('.', "=.", 1),
        good.replace('e', "+"),
    ] {
        let found = verify(&text);
        let expected = [JwtProblem::Unreadable, JwtProblem::Header];
        assert!(expected.iter().any(|it| found == Err(it.clone())), "{text}");
    }
    for claims in ["", "[]", "null", "{", "{}x", "{\"a\":NaN}", "\u{feff}{}"] {
        let jwt = RSA.jwt(&header().to_string(), claims);
        assert_eq!(verify(&jwt), Err(JwtProblem::Claims), "{claims}");
    }
    let deep = format!(
        "{}{}",
        "{\"a\":".repeat(1000),
        "1".to_owned() + &"}".repeat(1000)
    );
    let jwt = RSA.jwt(&header().to_string(), &deep);
    assert_eq!(verify(&jwt), Err(JwtProblem::Claims));
}

#[test]
fn a_jwt_has_a_largest_size() {
    let padded = |len: usize| {
        let mut claims = claims();
        claims["x"] = json!("x".repeat(len));
        RSA.jwt(&header().to_string(), &claims.to_string())
    };
    let largest = (0..JWT_BYTES_MAX).rev().step_by(3).find(|len| {
        // Base64 makes four bytes of three; the signature is constant.
        (len + 200) * 4 / 3 + 400 < JWT_BYTES_MAX
    });
    assert_eq!(verify(&padded(largest.unwrap())), Ok(()));
    assert_eq!(verify(&padded(JWT_BYTES_MAX)), Err(JwtProblem::TooLong));
}

#[test]
fn somebody_elses_signature_and_one_over_another_text_are_wrong() {
    let (head, body) = (header().to_string(), claims().to_string());
    let forged = OTHER_RSA.jwt(&head, &body);
    assert_eq!(verify(&forged), Err(JwtProblem::Signature));
    let good = RSA.jwt(&head, &body);
    let signature = good.rsplit('.').next().unwrap();
    let mut other = claims();
    other["sub"] = json!("repo:acme/other");
    let moved = format!(
        "{}.{}.{signature}",
        encode(&head),
        encode(other.to_string())
    );
    assert_eq!(verify(&moved), Err(JwtProblem::Signature));
    let unsigned = format!("{}.{}.", encode(&head), encode(&body));
    assert_eq!(verify(&unsigned), Err(JwtProblem::Signature));
}

#[test]
fn no_problem_repeats_what_was_sent() {
    let mut secret = claims();
    secret["sub"] = json!("CANARY");
    secret["aud"] = json!("CANARY");
    let jwt = RSA.jwt(&header().to_string(), &secret.to_string());
    let problem = issuers().verify(jwt.as_bytes(), NOW_MS).unwrap_err();
    assert!(!format!("{problem} {problem:?}").contains("CANARY"));
    secret["aud"] = json!(AUDIENCE);
    let jwt = RSA.jwt(&header().to_string(), &secret.to_string());
    let verified = issuers().verify(jwt.as_bytes(), NOW_MS).unwrap();
    assert!(!format!("{verified:?}").contains("CANARY"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_byte_of_a_good_jwt_can_be_changed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut jwt = RSA.jwt(&header().to_string(), &claims().to_string()).into_bytes();
        let at = at.index(jwt.len());
        jwt[at] ^= flip;
        prop_assert!(issuers().verify(&jwt, NOW_MS).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(issuers().verify(&bytes, NOW_MS).is_err());
    }
}
