//! Uploads that are refused: what is counted, what is logged, and credentials that end on the way.

use crate::house::{Answer, End, House, Pieces, bytes};
use crate::{log, reapi};
use http::StatusCode;
use larder_auth::TokenGrant;
use larder_model::Access;
use tracing::Level;

const ENTRY: &str = "/v1/cache/10452039173495807818";

fn house() -> House {
    let mut house = House::new();
    house.token("trunk", "acme", Access::Trusted);
    house.token("laptop", "acme", Access::Reader);
    house
}

/// Uploads with a token that is changed before the last piece, and says what the client gets.
async fn check_changed(change: fn(&mut TokenGrant), status: StatusCode, text: &str) {
    for (size, declared) in [(1000, true), (600_000, true), (600_000, false)] {
        let house = house();
        let half = bytes(size / 2, 1);
        let declared = declared.then_some(size as u64);
        let body = Pieces::new(&[&half, &half], declared, End::Clean).0;
        let body = body.before_last(house.change("trunk", change));
        let answer: Answer = house
            .send("PUT", ENTRY, &[house.bearer("trunk")], body)
            .await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        assert!(answer.text().contains(text), "{answer:?}");
        for pool in [&house.pair.trusted, &house.pair.untrusted] {
            assert_eq!(pool.pool().unwrap().usage().entries, 0);
        }
    }
}

#[tokio::test]
async fn a_credential_that_ends_before_its_upload_does_stores_nothing() {
    let unauthorized = StatusCode::UNAUTHORIZED;
    check_changed(|grant| grant.revoked = true, unauthorized, "revoked").await;
    check_changed(
        |grant| grant.expires_at_ms = Some(1),
        unauthorized,
        "expired",
    )
    .await;
    check_changed(
        |grant| grant.access = Access::Reader,
        StatusCode::FORBIDDEN,
        "changed",
    )
    .await;
}

#[tokio::test]
async fn a_credential_that_ends_before_its_upload_does_is_logged_with_its_writer() {
    let blob = bytes(1000, 1);
    let (hash, message) = (reapi::hash(&blob), reapi::names(&blob, false).0);
    let message = reapi::part(&message, 0, &blob, true);
    let message = larder_grpc::frame(&larder_proto::Message::encode_to_vec(&message));
    for (method, path, body) in [
        ("PUT", ENTRY, &blob[..]),
        ("PUT", &format!("/cas/{hash}"), &blob),
        ("PUT", &format!("/ac/{hash}"), &blob),
        ("POST", reapi::WRITE, &message),
    ] {
        let house = house();
        log::keep();
        let body = Pieces::new(&[&body[..500], &body[500..]], None, End::Clean).0;
        let body = body.before_last(house.change("trunk", |grant| grant.revoked = true));
        let kind = if method == "POST" {
            "application/grpc"
        } else {
            "x/y"
        };
        let mut request = http::Request::builder().method(method).uri(path);
        request = request.header("content-type", kind);
        request = request.header("authorization", house.bearer("trunk"));
        house
            .exchange(crate::house::tcp(), request.body(body).unwrap())
            .await;
        let (lines, text) = (log::kept(), "a credential ended before its upload did");
        let line = lines.iter().find(|(_, line)| line.contains(text));
        let (level, line) = line.unwrap_or_else(|| panic!("{path}: {lines:#?}"));
        assert_eq!(*level, Level::INFO);
        assert!(line.contains("workspace=acme writer="), "{path}: {line}");
    }
}

#[tokio::test]
async fn every_write_that_is_not_stored_is_counted_with_its_reason() {
    let house = house();
    let trunk = [house.bearer("trunk")];
    let bad = ["Bearer nonsense".to_owned()];
    house.put("trunk", ENTRY, b"").await;
    let broken = Pieces::new(&[b"begun"], Some(1000), End::Broken).0;
    house.send("PUT", ENTRY, &trunk, broken).await;
    house.put("laptop", ENTRY, b"x").await;
    for auth in [&bad[..], &[]] {
        let body = Pieces::whole(b"bytes");
        house.send("PUT", ENTRY, auth, body).await;
    }
    let text = house.metrics();
    for line in [
        r#"larder_refused_writes_total{dialect="nx",workspace="acme",access="trusted",reason="empty"} 1"#,
        r#"larder_refused_writes_total{dialect="nx",workspace="acme",access="trusted",reason="interrupted"} 1"#,
        r#"larder_denied_total{dialect="nx",action="write",reason="read_only"} 1"#,
        r#"larder_denied_total{dialect="nx",action="write",reason="bad_credential"} 1"#,
        r#"larder_denied_total{dialect="nx",action="write",reason="anonymous"} 1"#,
    ] {
        assert!(text.lines().any(|each| each == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn anonymous_refusals_are_logged_quietly_and_others_name_the_writer_and_no_long_text() {
    let house = house();
    log::keep();
    let verbose = format!("/v1/cache/{}", "x".repeat(5000));
    let control = format!("/v1/control/{}", "x".repeat(5000));
    for (method, path) in [("PUT", ENTRY), ("PUT", &verbose), ("POST", &control)] {
        for auth in [&[][..], &["Bearer nonsense".to_owned()]] {
            house.send(method, path, auth, Pieces::whole(b"x")).await;
        }
    }
    house.put("laptop", ENTRY, b"x").await;
    house.put("trunk", &verbose, b"x").await;
    let lines = log::kept();
    let (named, quiet): (Vec<_>, Vec<_>) = lines
        .iter()
        .partition(|(_, line)| line.contains("workspace=acme writer="));
    assert_eq!((named.len(), quiet.len()), (2, 6), "{lines:#?}");
    assert!(named.iter().all(|(level, _)| *level == Level::INFO));
    assert!(quiet.iter().all(|(level, _)| *level == Level::DEBUG));
    assert!(lines.iter().all(|(_, line)| line.len() < 400), "{lines:#?}");
}
