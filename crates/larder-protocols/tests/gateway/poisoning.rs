//! What an untrusted writer tries, and that no trusted reader ever notices.
//!
//! The table is the one of CVE-2025-36852 ("CREEP"): the same hash from a pull request and from
//! trunk, in every order. `interference.rs` says the same of everything at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::house::{End, House, Pieces};
use http::StatusCode;
use larder_model::Access;
use tokio::task::JoinSet;
use tokio::time::Instant;

const K: &str = "/v1/cache/10452039173495807818";

/// A house with trusted, reading and isolated tokens in `acme`, and two of another tenant.
pub(crate) fn house() -> House {
    let mut house = House::new();
    house.token("trunk", "acme", Access::Trusted);
    house.token("release", "acme", Access::Trusted);
    house.token("laptop", "acme", Access::Reader);
    house.isolated("pr7", "acme", "pr/7");
    house.isolated("pr8", "acme", "pr/8");
    house.token("tenant", "other", Access::Trusted);
    house.isolated("tenant-pr", "other", "pr/7");
    house
}

async fn reads(house: &House, token: &str, expected: Option<&[u8]>) {
    let answer = house.get(token, K).await;
    let expected = expected.map_or((404, &b""[..]), |body| (200, body));
    assert_eq!(answer.brief(), expected, "what {token} reads");
}

async fn puts(house: &House, token: &str, body: &[u8], expected: u16) {
    assert_eq!(
        house.put(token, K, body).await.status.as_u16(),
        expected,
        "what {token} puts"
    );
}

#[tokio::test]
async fn a_pull_request_that_writes_first_does_not_feed_trunk() {
    let house = house();
    puts(&house, "pr7", b"poison", 200).await;
    reads(&house, "trunk", None).await;
    reads(&house, "laptop", None).await;
    reads(&house, "pr7", Some(b"poison")).await;
    puts(&house, "trunk", b"trunk", 200).await;
    reads(&house, "trunk", Some(b"trunk")).await;
}

#[tokio::test]
async fn trunks_entry_stands_in_front_of_the_pull_requests_own() {
    let house = house();
    puts(&house, "pr7", b"poison", 200).await;
    puts(&house, "trunk", b"trunk", 200).await;
    for token in ["trunk", "laptop", "pr7", "pr8"] {
        reads(&house, token, Some(b"trunk")).await;
    }
}

#[tokio::test]
async fn a_pull_request_cannot_write_over_trunk() {
    let house = house();
    puts(&house, "trunk", b"trunk", 200).await;
    puts(&house, "pr7", b"poison", 409).await;
    assert_eq!(
        house.pair.untrusted.pool().unwrap().usage().entries,
        0,
        "nothing is stored"
    );
    for token in ["trunk", "pr7"] {
        reads(&house, token, Some(b"trunk")).await;
    }
}

#[tokio::test]
async fn a_stalled_upload_of_a_pull_request_does_not_hold_trunk_up() {
    let house = house();
    let auth = [house.bearer("pr7")];
    let stalled = Pieces::new(&[b"poi"], Some(100_000), End::Never).0;
    tokio::select! {
        biased;
        _ = house.send("PUT", K, &auth, stalled) => panic!("it stands still"),
        () = async {
            puts(&house, "trunk", b"trunk", 200).await;
            reads(&house, "trunk", Some(b"trunk")).await;
            reads(&house, "pr7", Some(b"trunk")).await;
        } => {}
    }
}

#[tokio::test(start_paused = true)]
async fn uploads_that_others_hold_open_change_no_answer_and_delay_none() {
    for holder in ["pr7", "tenant", "tenant-pr"] {
        let house = Arc::new(house());
        let mut held = JoinSet::new();
        for index in 0..1200 {
            // More than fit in memory, and a few that want a large part of the pool.
            let declared = if index % 100 == 0 { 8 << 20 } else { 64 << 10 };
            let (stalled, read) = Pieces::new(&[b"poison"], Some(declared), End::Never);
            let (house, path) = (house.clone(), format!("/v1/cache/held{index}"));
            held.spawn(async move {
                let auth = [house.bearer(holder)];
                house.send("PUT", &path, &auth, stalled).await
            });
            while read.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        }
        let started = Instant::now();
        for size in [1, 64 << 10, 300_000] {
            let (path, body) = (format!("/v1/cache/{size}"), vec![7; size]);
            let get = house.get("trunk", &path).await;
            assert_eq!(get.status, StatusCode::NOT_FOUND);
            let put = house.put("trunk", &path, &body).await;
            assert_eq!(put.status, StatusCode::OK, "{holder} holds uploads open");
            assert_eq!(house.get("laptop", &path).await.brief(), (200, &body[..]));
        }
        assert_eq!(started.elapsed(), Duration::ZERO, "{holder} delays trunk");
    }
}

#[tokio::test]
async fn pull_requests_do_not_see_each_other() {
    let house = house();
    puts(&house, "pr7", b"seven", 200).await;
    reads(&house, "pr8", None).await;
    puts(&house, "pr8", b"eight", 200).await;
    reads(&house, "pr7", Some(b"seven")).await;
    reads(&house, "pr8", Some(b"eight")).await;
}

#[tokio::test]
async fn when_trunk_loses_an_entry_the_pull_requests_does_not_take_its_place() {
    let house = house();
    puts(&house, "pr7", b"poison", 200).await;
    puts(&house, "trunk", b"trunk", 200).await;
    let grant = larder_model::Policy::admin(&larder_model::Caller::LocalOperator).unwrap();
    let filter = larder_cache::EntryFilter {
        scope: Some(larder_model::Scope::Trusted),
        ..larder_cache::EntryFilter::default()
    };
    let purge = larder_cache::Selection::Matching(filter);
    house
        .cache
        .change(&grant, larder_cache::Change::Purge, purge, false, |_, _| {
            true
        })
        .await
        .unwrap();
    reads(&house, "trunk", None).await;
    reads(&house, "laptop", None).await;
    reads(&house, "pr7", Some(b"poison")).await;
    puts(&house, "trunk", b"rebuilt", 200).await;
    reads(&house, "pr7", Some(b"rebuilt")).await;
}

#[tokio::test]
async fn no_spelling_of_a_path_raises_a_pull_request() {
    let house = house();
    for prefix in [
        "/scope/trusted",
        "/scope/Trusted",
        "/scope/..",
        "/scope/../trusted",
        "/scope/%2e%2e",
        "/scope/pr",
        "/w/other",
        "/w/acme/scope/trusted",
        "//scope/x",
        "/scope",
        "",
    ] {
        for hash in [
            "1",
            "..%2f..%2ftrusted%2f1",
            "%00",
            "1%00",
            "\u{7f}",
            "1?scope=trusted",
        ] {
            let path = format!("{prefix}/v1/cache/{hash}");
            if path.parse::<http::Uri>().is_ok() {
                house.put("pr7", &path, b"poison").await;
            }
        }
    }
    assert_eq!(house.pair.trusted.pool().unwrap().usage().entries, 0);
    assert_eq!(
        house.get("tenant", "/v1/cache/1").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        house.get("tenant-pr", "/v1/cache/1").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_label_picks_a_scope_below_the_tokens_own_and_no_other() {
    let house = house();
    let linux = format!("/scope/linux{K}");
    assert_eq!(
        house.put("pr7", &linux, b"linux").await.status,
        StatusCode::OK
    );
    assert_eq!(house.get("pr7", &linux).await.brief(), (200, &b"linux"[..]));
    reads(&house, "pr7", None).await;
    assert_eq!(house.get("pr8", &linux).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        house.get("trunk", &linux).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn tenants_share_no_keys() {
    let house = house();
    puts(&house, "tenant", b"other", 200).await;
    reads(&house, "trunk", None).await;
    puts(&house, "trunk", b"acme", 200).await;
    reads(&house, "tenant", Some(b"other")).await;
    reads(&house, "pr7", Some(b"acme")).await;
    reads(&house, "tenant-pr", Some(b"other")).await;
}
