//! Every answer of the Nx protocol, as its real clients need it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::house::{Answer, End, House, Pieces, bytes};
use http::header::{AUTHORIZATION, EXPECT};
use http::{Request, StatusCode};
use larder_cache::{CacheLimits, PoolHandle, PoolPair};
use larder_model::Access;
use larder_protocols::Origin;
use larder_store::OpenError;

const ENTRY: &str = "/v1/cache/10452039173495807818";
const LARGE: usize = 3_000_000;

fn house() -> House {
    let mut house = House::new();
    house.token("trunk", "acme", Access::Trusted);
    house.token("laptop", "acme", Access::Reader);
    house.token("admin", "acme", Access::Admin);
    house.isolated("pr", "acme", "pr/7");
    house
}

fn check_bare(answer: &Answer, status: u16) {
    assert_eq!((answer.status.as_u16(), answer.text()), (status, ""));
    assert!(answer.headers.is_empty(), "{answer:?}");
}

fn check_line(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert!(answer.text().contains(text), "{answer:?}");
    assert_eq!(answer.text().lines().count(), 1);
}

#[tokio::test]
async fn an_output_is_stored_once_and_comes_back_as_it_was() {
    let house = house();
    for size in [1, 478, 100_000, LARGE] {
        let path = format!("/v1/cache/{size}");
        let body = bytes(size, 1);
        check_bare(&house.get("trunk", &path).await, 404);
        check_bare(&house.put("trunk", &path, &body).await, 200);
        check_bare(&house.put("trunk", &path, &bytes(size, 2)).await, 409);
        let hit = house.get("laptop", &path).await;
        assert_eq!(hit.brief(), (200, &body[..]));
        assert_eq!(hit.header("content-type"), Some("application/octet-stream"));
        assert_eq!(
            hit.header("content-length"),
            Some(size.to_string().as_str())
        );
        assert_eq!(hit.headers.len(), 2, "nothing about who wrote it or when");
        let auth = [house.bearer("laptop")];
        let head = house.send("HEAD", &path, &auth, Pieces::whole(b"")).await;
        assert_eq!(head.brief(), (200, &b""[..]));
        assert_eq!(head.headers, hit.headers);
    }
}

#[tokio::test]
async fn spare_slashes_and_prefixes_lead_to_the_same_entry() {
    let house = house();
    house.put("trunk", ENTRY, b"bytes").await;
    for path in [
        format!("/{ENTRY}"),
        format!("/w/acme{ENTRY}"),
        format!("/w/acme/{ENTRY}"),
    ] {
        assert_eq!(
            house.get("trunk", &path).await.brief(),
            (200, &b"bytes"[..]),
            "{path}"
        );
        check_bare(&house.put("trunk", &path, b"other").await, 409);
    }
}

/// Sends a large `PUT`, and checks that all of it was read before the answer.
async fn drained_put(house: &House, path: &str, auth: &[String]) -> Answer {
    let half = bytes(LARGE / 2, 1);
    let (body, read) = Pieces::new(&[&half, &half], Some(LARGE as u64), End::Clean);
    let answer = house.send("PUT", path, auth, body).await;
    assert_eq!(
        read.load(Ordering::Relaxed),
        LARGE,
        "drained before {answer:?}"
    );
    answer
}

#[tokio::test]
async fn every_refused_upload_is_read_to_its_end_and_then_403() {
    let house = house();
    let cases = [
        ("laptop", ENTRY.to_owned(), "only read"),
        ("admin", ENTRY.to_owned(), "administration"),
        ("trunk", "/v1/cache/".to_owned(), "no entry"),
        ("trunk", "/v1/cache/a%2Fb".to_owned(), "no entry"),
        ("trunk", "/v1/cache/a/b".to_owned(), "no entry"),
        ("trunk", format!("/unknown{ENTRY}"), "no entry"),
        ("trunk", format!("/scope/linux{ENTRY}"), "isolated"),
        ("laptop", format!("/scope/linux{ENTRY}"), "only read"),
        ("pr", format!("/scope/..{ENTRY}"), "no entry"),
        ("trunk", format!("/w/default{ENTRY}"), "another workspace"),
        ("trunk", format!("/w/nowhere{ENTRY}"), "another workspace"),
    ];
    for (token, path, text) in cases {
        check_line(
            &drained_put(&house, &path, &[house.bearer(token)]).await,
            403,
            text,
        );
        if token != "admin" {
            check_bare(&house.get(token, &path).await, 404);
        }
    }
    check_bare(&house.get("admin", ENTRY).await, 404);
    house.cache.set_limits(CacheLimits {
        entry_bytes_max: 1000,
        ..CacheLimits::default()
    });
    let answer = drained_put(&house, ENTRY, &[house.bearer("trunk")]).await;
    check_line(&answer, 403, "no more than 1000 bytes");
    check_bare(&house.get("trunk", ENTRY).await, 404);
}

#[tokio::test]
async fn an_upload_of_what_exists_is_read_to_its_end_and_then_409() {
    let house = house();
    house.put("trunk", ENTRY, b"bytes").await;
    check_bare(
        &drained_put(&house, ENTRY, &[house.bearer("trunk")]).await,
        409,
    );
    check_bare(
        &drained_put(&house, ENTRY, &[house.bearer("pr")]).await,
        409,
    );
}

#[tokio::test]
async fn a_bad_credential_is_loud_and_its_upload_is_drained() {
    let mut house = house();
    let unknown = larder_auth::TokenSecret::generate();
    house.token("gone", "acme", Access::Trusted);
    house.revoke("gone");
    let gone = house.bearer("gone");
    let twice = [house.bearer("trunk"), house.bearer("trunk")];
    for auth in [
        &["Bearer nonsense".to_owned()][..],
        &[format!("Bearer {}", unknown.expose())],
        &[gone],
        &["Digest whatever".to_owned()],
        &twice,
    ] {
        let put = drained_put(&house, ENTRY, auth).await;
        let get = house.send("GET", ENTRY, auth, Pieces::whole(b"")).await;
        for answer in [&put, &get] {
            check_line(answer, 401, "");
            assert!(!answer.text().is_empty());
            assert!(
                auth.iter().all(|sent| !answer.text().contains(&sent[8..])),
                "{answer:?}"
            );
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        let head = house.send("HEAD", ENTRY, auth, Pieces::whole(b"")).await;
        assert_eq!(head.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_fork_without_a_secret_is_anonymous_and_breaks_nothing() {
    let mut house = house();
    house.token("open", "open", Access::Trusted);
    house.put("open", ENTRY, b"public").await;
    house.put("trunk", ENTRY, b"private").await;
    for auth in [
        vec![],
        vec!["Bearer ".to_owned()],
        vec!["Bearer".to_owned()],
    ] {
        for path in [
            ENTRY.to_owned(),
            format!("/w/acme{ENTRY}"),
            format!("/w/nowhere{ENTRY}"),
        ] {
            check_bare(
                &house.send("GET", &path, &auth, Pieces::whole(b"")).await,
                404,
            );
            check_line(
                &drained_put(&house, &path, &auth).await,
                403,
                "no credential",
            );
        }
        let path = format!("/w/open{ENTRY}");
        let public = house.send("GET", &path, &auth, Pieces::whole(b"")).await;
        assert_eq!(public.brief(), (200, &b"public"[..]));
        check_line(
            &drained_put(&house, &path, &auth).await,
            403,
            "no credential",
        );
        let labelled = format!("/w/open/scope/x{ENTRY}");
        check_bare(
            &house
                .send("GET", &labelled, &auth, Pieces::whole(b""))
                .await,
            404,
        );
    }
}

#[tokio::test]
async fn an_upload_that_does_not_arrive_whole_stores_nothing_and_can_be_sent_again() {
    let house = house();
    let auth = [house.bearer("trunk")];
    for size in [1000, LARGE] {
        let path = format!("/v1/cache/{size}");
        let (half, declared) = (bytes(size / 2, 1), size as u64);
        for (pieces, declared, end) in [
            (vec![&half[..]], Some(declared), End::Broken),
            (vec![&half[..]], Some(declared), End::Clean),
            (
                vec![&half[..], &half[..], &half[..]],
                Some(declared),
                End::Clean,
            ),
            (vec![&half[..]], None, End::Broken),
        ] {
            let body = Pieces::new(&pieces, declared, end).0;
            let answer = house.send("PUT", &path, &auth, body).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            check_bare(&house.get("trunk", &path).await, 404);
        }
        check_bare(&house.put("trunk", &path, &bytes(size, 2)).await, 200);
    }
}

#[tokio::test]
async fn an_upload_of_unknown_length_is_stored_when_it_ends() {
    let house = house();
    let auth = [house.bearer("trunk")];
    let body = Pieces::new(&[b"one ", b"two ", b"three"], None, End::Clean).0;
    check_bare(&house.send("PUT", ENTRY, &auth, body).await, 200);
    assert_eq!(
        house.get("trunk", ENTRY).await.brief(),
        (200, &b"one two three"[..])
    );
}

#[tokio::test]
async fn an_empty_upload_is_refused_because_it_would_break_whoever_gets_it() {
    let house = house();
    let auth = [house.bearer("trunk")];
    check_line(&house.put("trunk", ENTRY, b"").await, 403, "empty");
    let body = Pieces::new(&[b""], None, End::Clean).0;
    check_line(&house.send("PUT", ENTRY, &auth, body).await, 403, "empty");
    check_bare(&house.get("trunk", ENTRY).await, 404);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stands_still_is_given_up_and_holds_up_nobody() {
    let house = house();
    let auth = [house.bearer("trunk")];
    let stalled = Pieces::new(&[b"begun"], Some(1000), End::Never).0;
    let started = tokio::time::Instant::now();
    let (answer, ()) = tokio::join!(house.send("PUT", ENTRY, &auth, stalled), async {
        check_bare(&house.put("trunk", ENTRY, b"meanwhile").await, 200);
    });
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(started.elapsed(), Duration::from_mins(1));
    assert_eq!(
        house.get("trunk", ENTRY).await.brief(),
        (200, &b"meanwhile"[..])
    );
}

#[tokio::test]
async fn a_refused_client_that_waits_for_a_go_ahead_is_not_made_to_send() {
    let house = house();
    let (body, read) = Pieces::new(&[b"bytes"], Some(5), End::Clean);
    let request = Request::put(ENTRY)
        .header(AUTHORIZATION, house.bearer("laptop"))
        .header(EXPECT, "100-continue")
        .body(body)
        .unwrap();
    check_line(
        &house.exchange(crate::house::tcp(), request).await,
        403,
        "only read",
    );
    assert_eq!(read.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn other_methods_are_405_and_other_paths_404() {
    let house = house();
    let auth = [house.bearer("trunk")];
    for method in ["POST", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        let answer = house
            .send(method, ENTRY, &auth, Pieces::whole(b"body"))
            .await;
        assert_eq!(answer.brief(), (405, &b""[..]), "{method}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD, PUT"));
    }
    for path in ["/", "/v1/cache", "/v2/cache/1", "/v1/controls"] {
        for method in ["GET", "PUT"] {
            check_bare(
                &house
                    .send(method, path, &auth, Pieces::whole(b"body"))
                    .await,
                404,
            );
        }
    }
}

#[tokio::test]
async fn a_store_in_trouble_is_a_miss_and_a_refusal_and_never_an_error() {
    let pair = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    for handle in [&pair.trusted, &pair.untrusted] {
        handle.load(|| {
            Err(OpenError::Budget {
                budget: 1,
                least: 2,
            })
        });
    }
    let mut house = House::over(pair);
    house.token("trunk", "acme", Access::Trusted);
    check_bare(&house.get("trunk", ENTRY).await, 404);
    check_line(
        &drained_put(&house, ENTRY, &[house.bearer("trunk")]).await,
        403,
        "not available",
    );
}

#[tokio::test]
async fn bytes_that_rot_break_the_answer_off_and_are_a_miss_from_then_on() {
    let house = house();
    let body = bytes(LARGE, 0x55);
    house.put("trunk", ENTRY, &body).await;
    house.rot("trusted", &body[2_000_000..2_000_100]);
    let broken = house.get("trunk", ENTRY).await;
    assert_eq!((broken.status.as_u16(), broken.body), (200, None));
    check_bare(&house.get("trunk", ENTRY).await, 404);
    check_bare(&house.put("trunk", ENTRY, &body).await, 200);
    assert_eq!(house.get("trunk", ENTRY).await.brief(), (200, &body[..]));
}

#[tokio::test]
async fn the_control_socket_reads_and_writes_no_entries() {
    let house = house();
    house.put("trunk", ENTRY, b"bytes").await;
    let auth = [house.bearer("trunk")];
    let socket = Origin::ControlSocket;
    let get = house
        .send_from(socket.clone(), "GET", ENTRY, &auth, Pieces::whole(b""))
        .await;
    check_bare(&get, 404);
    let put = house
        .send_from(socket, "PUT", ENTRY, &auth, Pieces::whole(b"x"))
        .await;
    check_line(&put, 403, "administration");
}
