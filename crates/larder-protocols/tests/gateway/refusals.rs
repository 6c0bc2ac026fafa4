//! Uploads that are refused: what is counted, what is logged, and credentials that end on the way.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use crate::house::{Answer, End, House, Pieces, bytes};
use http::StatusCode;
use larder_auth::TokenGrant;
use larder_model::Access;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

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

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("larder_protocols")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let line = (*event.metadata().level(), fields.0);
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn anonymous_refusals_are_logged_quietly_and_others_name_the_writer_and_no_long_text() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let house = house();
    let verbose = format!("/v1/cache/{}", "x".repeat(5000));
    let control = format!("/v1/control/{}", "x".repeat(5000));
    for (method, path) in [("PUT", ENTRY), ("PUT", &verbose), ("POST", &control)] {
        for auth in [&[][..], &["Bearer nonsense".to_owned()]] {
            house.send(method, path, auth, Pieces::whole(b"x")).await;
        }
    }
    house.put("laptop", ENTRY, b"x").await;
    house.put("trunk", &verbose, b"x").await;
    let lines = log.0.lock().unwrap();
    let (named, quiet): (Vec<_>, Vec<_>) = lines
        .iter()
        .partition(|(_, line)| line.contains("workspace=acme writer="));
    assert_eq!((named.len(), quiet.len()), (2, 6), "{lines:#?}");
    assert!(named.iter().all(|(level, _)| *level == Level::INFO));
    assert!(quiet.iter().all(|(level, _)| *level == Level::DEBUG));
    assert!(lines.iter().all(|(_, line)| line.len() < 400), "{lines:#?}");
}
