//! Sessions and admitted JWTs: exact ends, changes that overtake each other, and what each text may mean.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forge;

use forge::{ISSUER, RSA, claims, header, issuers};
use larder_auth::ci::{Custom, ExactClaims, Preset, Rule, Rules};
use larder_auth::{
    ADMITTED_MS_MAX, Admission, Authenticator, BadCredential, Credential, CredentialKind,
    Presented, SessionGrant, SessionSecret, SetAside, TokenGrant, TokenHash, TokenSecret,
};
use larder_model::{Access, Principal, WriterId};
use serde_json::json;

const NOW_MS: u64 = 1_800_000_000_000;
const JWT: &str = "aaaa.bbbb.cccc";

fn principal(writer: u64) -> Principal {
    Principal::new("acme".parse().unwrap(), Access::Trusted, WriterId(writer))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it stands beside answers that are errors"
)]
fn known(writer: u64) -> Result<Credential, BadCredential> {
    Ok(Credential::Known(principal(writer)))
}

fn grant(writer: u64, session: &SessionSecret) -> SessionGrant {
    SessionGrant {
        hash: session.hash(),
        writer,
        workspace: "acme".parse().unwrap(),
        access: Access::Trusted,
        expires_at_ms: NOW_MS + 1000,
        revoked: false,
    }
}

/// What a bearer of `text` is told.
fn ask(
    authenticator: &Authenticator,
    text: &str,
    now_ms: u64,
) -> Result<Credential, BadCredential> {
    let header = format!("Bearer {text}");
    let presented = Presented {
        authorization: Some(header.as_bytes()),
        certificate: None,
    };
    authenticator.authenticate(&presented, now_ms)
}

#[test]
fn a_session_is_known_until_its_very_millisecond_and_a_miss_from_then_on() {
    let (authenticator, session) = (Authenticator::new(), SessionSecret::generate());
    let at = |now_ms| ask(&authenticator, session.expose(), now_ms);
    assert_eq!(at(NOW_MS), Err(BadCredential::UnknownSession));
    authenticator.add_session(&grant(7, &session));
    assert_eq!(at(NOW_MS), known(7));
    assert_eq!(at(NOW_MS + 999), known(7));
    assert_eq!(at(NOW_MS + 1000), Ok(Credential::Expired));
    assert_eq!(at(u64::MAX), Ok(Credential::Expired));
}

#[test]
fn a_session_that_is_ended_is_a_miss_at_once() {
    let (authenticator, session) = (Authenticator::new(), SessionSecret::generate());
    authenticator.add_session(&grant(7, &session));
    assert_eq!(ask(&authenticator, session.expose(), NOW_MS), known(7));
    authenticator.end_session(&session.hash());
    let ended = ask(&authenticator, session.expose(), NOW_MS);
    assert_eq!(ended, Ok(Credential::Expired));
    // Nothing comes of ending what nobody knows.
    let stranger = SessionSecret::generate();
    authenticator.end_session(&stranger.hash());
    let unknown = ask(&authenticator, stranger.expose(), NOW_MS);
    assert_eq!(unknown, Err(BadCredential::UnknownSession));
}

#[test]
fn what_the_ledger_said_before_does_not_undo_what_happened_since() {
    let authenticator = Authenticator::new();
    let [old, ended, made] = [(); 3].map(|()| SessionSecret::generate());
    authenticator.replace_sessions(
        &[grant(1, &old), grant(2, &ended)],
        authenticator.session_mark(),
    );
    let (mark, read) = (
        authenticator.session_mark(),
        [grant(1, &old), grant(2, &ended)],
    );
    authenticator.add_session(&grant(3, &made));
    authenticator.end_session(&ended.hash());
    for replace in [true, false] {
        if replace {
            authenticator.replace_sessions(&read, mark);
        } else {
            authenticator.update_sessions(&read, mark);
        }
        let ask = |session: &SessionSecret| ask(&authenticator, session.expose(), NOW_MS);
        assert_eq!(ask(&old), known(1));
        assert_eq!(ask(&ended), Ok(Credential::Expired));
        assert_eq!(ask(&made), known(3));
    }
    // What was read afterwards counts: one is gone, one was ended elsewhere.
    let revoked = SessionGrant {
        revoked: true,
        ..grant(3, &made)
    };
    authenticator.replace_sessions(&[revoked], authenticator.session_mark());
    let ask = |session: &SessionSecret| ask(&authenticator, session.expose(), NOW_MS);
    assert_eq!(ask(&old), Err(BadCredential::UnknownSession));
    assert_eq!(ask(&made), Ok(Credential::Expired));
}

#[test]
fn a_session_that_has_ended_elsewhere_is_never_in_force_again() {
    for replace in [true, false] {
        let authenticator = Authenticator::new();
        let [late, early] = [(); 2].map(|()| SessionSecret::generate());
        let read = |session: &SessionSecret, mark| {
            let revoked = SessionGrant {
                revoked: true,
                ..grant(1, session)
            };
            if replace {
                authenticator.replace_sessions(&[revoked], mark);
            } else {
                authenticator.update_sessions(&[revoked], mark);
            }
        };
        // It ended before it was known here that there was one.
        read(&late, authenticator.session_mark());
        authenticator.add_session(&grant(1, &late));
        let found = ask(&authenticator, late.expose(), NOW_MS);
        assert_eq!(found, Ok(Credential::Expired), "{replace}");
        // And while the ledger was being read.
        let mark = authenticator.session_mark();
        authenticator.add_session(&grant(1, &early));
        read(&early, mark);
        let found = ask(&authenticator, early.expose(), NOW_MS);
        assert_eq!(found, Ok(Credential::Expired), "{replace}");
    }
}

#[test]
fn an_update_leaves_the_other_sessions_as_they_are() {
    let authenticator = Authenticator::new();
    let [kept, changed] = [(); 2].map(|()| SessionSecret::generate());
    let mark = authenticator.session_mark();
    authenticator.update_sessions(&[grant(1, &kept), grant(2, &changed)], mark);
    let revoked = SessionGrant {
        revoked: true,
        ..grant(2, &changed)
    };
    authenticator.update_sessions(&[revoked], authenticator.session_mark());
    assert_eq!(ask(&authenticator, kept.expose(), NOW_MS), known(1));
    let ended = ask(&authenticator, changed.expose(), NOW_MS);
    assert_eq!(ended, Ok(Credential::Expired));
}

#[test]
fn a_table_of_sessions_is_not_a_table_of_tokens() {
    let authenticator = Authenticator::new();
    let (token, session) = (TokenSecret::generate(), SessionSecret::generate());
    // Each hash in the other's table, by a mistake of whoever keeps them.
    authenticator.add_session(&SessionGrant {
        hash: token.hash(),
        ..grant(1, &session)
    });
    authenticator.replace(vec![TokenGrant {
        id: 2,
        hash: session.hash(),
        workspace: "acme".parse().unwrap(),
        access: Access::Trusted,
        expires_at_ms: None,
        revoked: false,
    }]);
    let token = ask(&authenticator, token.expose(), NOW_MS);
    assert_eq!(token, Err(BadCredential::Unknown));
    let session = ask(&authenticator, session.expose(), NOW_MS);
    assert_eq!(session, Err(BadCredential::UnknownSession));
}

#[test]
fn a_session_works_as_a_password_and_every_typo_of_it_is_malformed() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let (authenticator, session) = (Authenticator::new(), SessionSecret::generate());
    authenticator.add_session(&grant(7, &session));
    let basic = format!(
        "Basic {}",
        STANDARD.encode(format!("ci:{}", session.expose()))
    );
    let presented = Presented {
        authorization: Some(basic.as_bytes()),
        certificate: None,
    };
    assert_eq!(authenticator.authenticate(&presented, NOW_MS), known(7));
    for at in 0..session.expose().len() {
        let mut typo = session.expose().to_owned().into_bytes();
        typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
        let typo = String::from_utf8(typo).unwrap();
        let found = ask(&authenticator, &typo, NOW_MS);
        assert_eq!(found, Err(BadCredential::Malformed), "{typo}");
    }
}

fn admit(authenticator: &Authenticator, jwt: &str, expires_at_ms: u64) {
    let one = |claim: &str, value: &str| {
        ExactClaims::new([(claim.to_owned(), vec![value.to_owned()])].into())
    };
    let rules = Rules::new(vec![Rule {
        name: "web".parse().unwrap(),
        workspace: "acme".parse().unwrap(),
        issuer: ISSUER.to_owned(),
        preset: Preset::Custom(Custom {
            claims: one("project", "1"),
            trusted_claims: one("branch", "main"),
            ..Custom::default()
        }),
    }]);
    let mut said = claims();
    // A JWT is good for half a minute longer than it says.
    for (claim, value) in [
        ("iat", json!(NOW_MS / 1000 - 60)),
        ("exp", json!(expires_at_ms / 1000 - 30)),
        ("project", json!("1")),
        ("branch", json!("main")),
    ] {
        said[claim] = value;
    }
    let genuine = RSA.jwt(&header().to_string(), &said.to_string());
    let verified = issuers().verify(genuine.as_bytes(), NOW_MS).unwrap();
    let decision = rules.unwrap().decide(&verified).unwrap();
    let epoch = authenticator.policy_epoch();
    let admission = Admission::of(&verified, &decision, WriterId(9), epoch);
    authenticator.admit(&TokenHash::of(jwt.as_bytes()), admission, NOW_MS);
}

#[test]
fn a_jwt_is_unintroduced_until_it_is_admitted_and_again_after_ten_minutes() {
    let authenticator = Authenticator::new();
    let at = |now_ms| ask(&authenticator, JWT, now_ms);
    assert_eq!(at(NOW_MS), Ok(Credential::Unintroduced));
    admit(&authenticator, JWT, NOW_MS + 2 * ADMITTED_MS_MAX);
    assert_eq!(at(NOW_MS), known(9));
    assert_eq!(at(NOW_MS + ADMITTED_MS_MAX - 1), known(9));
    assert_eq!(at(NOW_MS + ADMITTED_MS_MAX), Ok(Credential::Unintroduced));
    assert_eq!(at(NOW_MS + 2 * ADMITTED_MS_MAX), Ok(Credential::Expired));
}

#[test]
fn an_admission_ends_with_its_jwt_and_then_it_is_a_miss() {
    let authenticator = Authenticator::new();
    admit(&authenticator, JWT, NOW_MS + 5000);
    let at = |now_ms| ask(&authenticator, JWT, now_ms);
    assert_eq!(at(NOW_MS + 4999), known(9));
    assert_eq!(at(NOW_MS + 5000), Ok(Credential::Expired));
}

#[test]
fn a_jwt_that_is_set_aside_is_what_it_was_set_aside_for_and_only_so_long() {
    let authenticator = Authenticator::new();
    let (epoch, hash) = (authenticator.policy_epoch(), TokenHash::of(JWT.as_bytes()));
    for (why, expected) in [
        (SetAside::Refused, Err(BadCredential::Jwt)),
        (SetAside::Soft, Ok(Credential::Expired)),
        (SetAside::Nobody, Ok(Credential::Absent)),
    ] {
        authenticator.set_aside(&hash, why, NOW_MS, NOW_MS + 100, epoch);
        assert_eq!(ask(&authenticator, JWT, NOW_MS + 99), expected);
        let over = ask(&authenticator, JWT, NOW_MS + 100);
        assert_eq!(over, Ok(Credential::Unintroduced));
    }
    // What it was admitted as before does not come back.
    admit(&authenticator, JWT, NOW_MS + 1_000_000);
    authenticator.set_aside(&hash, SetAside::Refused, NOW_MS, NOW_MS + 100, epoch);
    assert_eq!(ask(&authenticator, JWT, NOW_MS), Err(BadCredential::Jwt));
    let over = ask(&authenticator, JWT, NOW_MS + 100);
    assert_eq!(over, Ok(Credential::Unintroduced));
}

#[test]
fn new_rules_make_every_jwt_unintroduced() {
    let authenticator = Authenticator::new();
    admit(&authenticator, JWT, NOW_MS + 5000);
    assert_eq!(ask(&authenticator, JWT, NOW_MS), known(9));
    authenticator.forget_admissions();
    let forgotten = ask(&authenticator, JWT, NOW_MS);
    assert_eq!(forgotten, Ok(Credential::Unintroduced));
}

#[test]
fn only_the_exact_text_of_an_admitted_jwt_is_known() {
    let authenticator = Authenticator::new();
    admit(&authenticator, JWT, NOW_MS + 5000);
    // Seen once, so that the memo knows it.
    assert_eq!(ask(&authenticator, JWT, NOW_MS), known(9));
    for at in 0..JWT.len() {
        let mut other = JWT.to_owned().into_bytes();
        other[at] ^= 1;
        let other = String::from_utf8(other).unwrap();
        assert_ne!(ask(&authenticator, &other, NOW_MS), known(9), "{other}");
    }
    let longer = ask(&authenticator, &format!("{JWT}x"), NOW_MS);
    assert_eq!(longer, Ok(Credential::Unintroduced));
    assert_eq!(ask(&authenticator, JWT, NOW_MS), known(9));
}

#[test]
fn what_has_two_dots_is_a_jwt_and_what_is_too_long_for_one_is_refused() {
    let authenticator = Authenticator::new();
    for text in ["..", "a.b.c", "lrd.x.y"] {
        let found = ask(&authenticator, text, NOW_MS);
        assert_eq!(found, Ok(Credential::Unintroduced), "{text}");
    }
    // What begins as one of ours does is none, whatever follows.
    for text in ["a.b", "a.b.c.d", ".", "lrd_.x.y", "lrd_s_.x.y"] {
        let found = ask(&authenticator, text, NOW_MS);
        assert_eq!(found, Err(BadCredential::Malformed), "{text}");
    }
    let long = format!("a.b.{}", "c".repeat(16 << 10));
    let found = ask(&authenticator, &long, NOW_MS);
    assert_eq!(found, Err(BadCredential::Jwt));
}

#[test]
fn a_standing_tells_the_kind_and_the_end() {
    let (authenticator, session) = (Authenticator::new(), SessionSecret::generate());
    authenticator.add_session(&grant(7, &session));
    admit(&authenticator, JWT, NOW_MS + 5000);
    let standing = |text: &str| {
        let header = format!("Bearer {text}");
        let presented = Presented {
            authorization: Some(header.as_bytes()),
            certificate: None,
        };
        let standing = authenticator.standing(&presented, NOW_MS).unwrap();
        (standing.kind, standing.expires_at_ms)
    };
    let session = standing(session.expose());
    assert_eq!(session, (CredentialKind::Session, Some(NOW_MS + 1000)));
    assert_eq!(standing(JWT), (CredentialKind::Jwt, Some(NOW_MS + 5000)));
    assert_eq!(standing(""), (CredentialKind::Absent, None));
}
