//! What a verified client certificate means, alone and beside a header.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use larder_auth::{
    Authenticator, BadCredential, CertificateGrant, CertificateNames, CertificateRule, Credential,
    CredentialKind, Presented, San, TokenGrant, TokenSecret,
};
use larder_model::{Access, Principal, WriterId};

const NOW_MS: u64 = 1_800_000_000_000;

fn rule(san: San, access: Access, writer: u64) -> CertificateGrant {
    CertificateGrant {
        rule: CertificateRule {
            name: "agents".to_owned(),
            workspace: "acme".parse().unwrap(),
            san,
            access,
        },
        writer,
    }
}

fn certificate(names: &[San]) -> CertificateNames {
    CertificateNames {
        subject_alternative_names: names.to_vec(),
        not_after_ms: NOW_MS + 1000,
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it stands beside answers that are errors"
)]
fn known(access: Access, writer: u64) -> Result<Credential, BadCredential> {
    let workspace = "acme".parse().unwrap();
    Ok(Credential::Known(Principal::new(
        workspace,
        access,
        WriterId(writer),
    )))
}

/// What the bearer of this certificate is told, under rules for two names.
fn check(names: &[San], expected: Result<Credential, BadCredential>) {
    let authenticator = Authenticator::new();
    authenticator.replace_certificates(&[
        rule(San::dns("ci.example"), Access::Trusted, 1),
        rule(
            San::Uri("spiffe://acme/reader".to_owned()),
            Access::Reader,
            2,
        ),
        rule(San::Ip("192.0.2.7".parse().unwrap()), Access::Trusted, 1),
        rule(San::dns("trunk.example"), Access::Trusted, 3),
    ]);
    let certificate = certificate(names);
    let presented = Presented {
        authorization: None,
        certificate: Some(&certificate),
    };
    let found = authenticator.authenticate(&presented, NOW_MS);
    assert_eq!(found, expected, "{names:?}");
}

#[test]
fn a_name_that_a_rule_maps_is_its_bearer_and_any_other_is_nobody() {
    let uri = |text: &str| San::Uri(text.to_owned());
    check(&[San::dns("ci.example")], known(Access::Trusted, 1));
    check(&[San::dns("CI.Example")], known(Access::Trusted, 1));
    check(&[uri("spiffe://acme/reader")], known(Access::Reader, 2));
    check(
        &[San::dns("other"), uri("spiffe://acme/reader")],
        known(Access::Reader, 2),
    );
    for other in [
        San::dns("ci.example.evil"),
        San::dns("x.ci.example"),
        San::dns("*.example"),
        San::dns(""),
        uri("ci.example"),
        uri("SPIFFE://acme/reader"),
        San::Email("ci.example".to_owned()),
        San::dns("192.0.2.7"),
        San::Ip("192.0.2.8".parse().unwrap()),
    ] {
        check(&[other], Ok(Credential::Absent));
    }
    check(&[], Ok(Credential::Absent));
}

#[test]
fn names_that_mean_different_bearers_are_loud_and_names_of_one_are_not() {
    let same = San::Ip("192.0.2.7".parse().unwrap());
    check(&[San::dns("ci.example"), same], known(Access::Trusted, 1));
    // Another rule that gives the same: entries remember the one of the first name.
    let two = [San::dns("trunk.example"), San::dns("ci.example")];
    check(&two, known(Access::Trusted, 3));
    let other = San::Uri("spiffe://acme/reader".to_owned());
    check(
        &[San::dns("ci.example"), other],
        Err(BadCredential::Certificate),
    );
}

#[test]
fn a_certificate_ends_while_its_connection_lives_on() {
    let authenticator = Authenticator::new();
    authenticator.replace_certificates(&[rule(San::dns("ci.example"), Access::Trusted, 1)]);
    let certificate = certificate(&[San::dns("ci.example")]);
    let presented = Presented {
        authorization: None,
        certificate: Some(&certificate),
    };
    let at = |now_ms| authenticator.authenticate(&presented, now_ms);
    assert_eq!(at(NOW_MS + 999), known(Access::Trusted, 1));
    assert_eq!(at(NOW_MS + 1000), Ok(Credential::Expired));
    let standing = authenticator.standing(&presented, NOW_MS).unwrap();
    assert_eq!(standing.kind, CredentialKind::Certificate);
    assert_eq!(standing.expires_at_ms, Some(NOW_MS + 1000));
    // And its rule can be taken away.
    authenticator.replace_certificates(&[]);
    assert_eq!(
        authenticator.authenticate(&presented, NOW_MS),
        Ok(Credential::Absent)
    );
}

#[test]
fn a_credential_in_the_header_counts_before_a_certificate_even_a_bad_one() {
    let authenticator = Authenticator::new();
    let token = TokenSecret::generate();
    authenticator.replace(vec![TokenGrant {
        id: 5,
        hash: token.hash(),
        workspace: "acme".parse().unwrap(),
        access: Access::Reader,
        expires_at_ms: None,
        revoked: false,
    }]);
    authenticator.replace_certificates(&[rule(San::dns("ci.example"), Access::Trusted, 1)]);
    let certificate = certificate(&[San::dns("ci.example")]);
    let with = |header: &str| {
        let presented = Presented {
            authorization: Some(header.as_bytes()),
            certificate: Some(&certificate),
        };
        authenticator.authenticate(&presented, NOW_MS)
    };
    let good = format!("Bearer {}", token.expose());
    assert_eq!(with(&good), known(Access::Reader, 5));
    let stranger = format!("Bearer {}", TokenSecret::generate().expose());
    assert_eq!(with(&stranger), Err(BadCredential::Unknown));
    assert_eq!(with("Bearer a.b.c"), Ok(Credential::Unintroduced));
    assert_eq!(with("Bearer "), known(Access::Trusted, 1));
}
