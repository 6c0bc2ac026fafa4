//! The link over stores that behave and stores that do not, on a paused clock.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use parking_lot::Mutex;

use super::faulty::{Faults, FaultyStore};
use super::*;

const REFUSES: Faults = Faults {
    refused: 1000,
    unacknowledged: 0,
    torn: 0,
    cut: 0,
    delayed: 0,
    delay_ms_max: 0,
};

const NONE: Faults = Faults {
    refused: 0,
    ..REFUSES
};

/// Every request waits as good as for ever.
const HANGS: Faults = Faults {
    delayed: 1000,
    delay_ms_max: u64::MAX / 2,
    ..NONE
};

type Events = Arc<Mutex<Vec<LinkEvent>>>;

fn faulty(faults: Faults) -> (Link, Arc<FaultyStore>, Events) {
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), 7, faults));
    let events = Events::default();
    let heard = Arc::clone(&events);
    let options = LinkOptions {
        prefix: String::new(),
        on_event: Some(Arc::new(move |event| heard.lock().push(event))),
    };
    (Link::with(Arc::clone(&store) as _, options), store, events)
}

fn requests(link: &Link) -> u64 {
    link.requests().iter().map(|(_, _, count)| count).sum()
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_lets_nothing_out_until_a_probe_and_closes_when_that_succeeds() {
    let (link, store, events) = faulty(REFUSES);
    while link.open_for().is_none() {
        let error = link.get("v1/a", 10).await.expect_err("it refuses");
        assert_eq!(error.trouble(), Some(Trouble::Failed));
    }
    assert_eq!(requests(&link), u64::from(FAILURES_TO_OPEN));
    let error = link.get("v1/a", 10).await.expect_err("it is open");
    assert_eq!(error.trouble(), Some(Trouble::CircuitOpen));
    assert_eq!(requests(&link), u64::from(FAILURES_TO_OPEN));

    tokio::time::sleep(link.open_for().unwrap()).await;
    let _ = link.get("v1/a", 10).await.expect_err("the probe fails");
    assert_eq!(
        requests(&link),
        u64::from(FAILURES_TO_OPEN) + 1,
        "a probe is not tried twice"
    );
    assert!(link.open_for().unwrap() >= OPEN_AT_FIRST * 2);

    store.set(NONE);
    tokio::time::sleep(link.open_for().unwrap()).await;
    link.put("v1/a", vec![]).await.expect("the probe succeeds");
    assert_eq!(link.open_for(), None);
    let events = events.lock();
    assert!(
        matches!(events[..], [LinkEvent::Opened { .. }, LinkEvent::Closed]),
        "{events:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_goes_away_does_not_keep_the_circuit_open() {
    let (link, store, _) = faulty(REFUSES);
    while link.open_for().is_none() {
        let _ = link.get("v1/a", 10).await;
    }
    tokio::time::sleep(link.open_for().unwrap()).await;
    store.set(HANGS);
    let probe = tokio::time::timeout(Duration::from_secs(1), link.get("v1/a", 10)).await;
    assert!(probe.is_err(), "the caller had no patience");
    store.set(NONE);
    assert_eq!(link.get("v1/a", 10).await, Err(LinkError::NotFound));
    assert_eq!(link.open_for(), None);
}

#[tokio::test(start_paused = true)]
async fn every_call_ends_in_time_and_is_counted() {
    let (link, _, _) = faulty(HANGS);
    let begin = tokio::time::Instant::now();
    let error = link.get("v1/a", 4 << 20).await.expect_err("it hangs");
    assert_eq!(error.trouble(), Some(Trouble::TimedOut));
    assert_eq!(
        begin.elapsed(),
        limit_of(4 << 20),
        "10 s, and 16 s for 4 MiB"
    );
    let timed_out = (Operation::Get, Outcome::Trouble(Trouble::TimedOut), 1);
    assert!(link.requests().contains(&timed_out));
    assert_eq!(requests(&link), 1, "a timeout is not tried again");
}

#[tokio::test(start_paused = true)]
async fn untrusted_requests_that_hang_keep_no_trusted_one_waiting() {
    let (link, store, _) = faulty(HANGS);
    let untrusted: Vec<_> = (0..200)
        .map(|_| {
            let link = link.lane(Lane::Untrusted);
            tokio::spawn(async move { link.get("v1/a", 10).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    store.set(NONE);
    let begin = tokio::time::Instant::now();
    assert_eq!(link.get("v1/a", 10).await, Err(LinkError::NotFound));
    assert!(
        begin.elapsed() < Duration::from_millis(1),
        "it waited for {:?}",
        begin.elapsed()
    );
    for one in untrusted {
        let trouble = one.await.unwrap().expect_err("it hangs").trouble();
        assert!(
            matches!(trouble, Some(Trouble::TimedOut | Trouble::CircuitOpen)),
            "{trouble:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_acknowledgement_was_lost_is_not_tried_again_and_then_exists() {
    let lost = Faults {
        unacknowledged: 1000,
        ..NONE
    };
    let (link, store, _) = faulty(lost);
    let error = link
        .put_create("v1/a", vec![Bytes::from_static(b"x")])
        .await;
    assert_eq!(
        error.expect_err("nobody said so").trouble(),
        Some(Trouble::Failed)
    );
    assert_eq!(requests(&link), 1);
    store.set(NONE);
    let second = link
        .put_create("v1/a", vec![Bytes::from_static(b"y")])
        .await;
    assert_eq!(second, Err(LinkError::AlreadyExists));
    assert_eq!(link.get("v1/a", 1).await.unwrap(), "x");
}

/// Whatever a store does: what is read is what was written, and what was said to be written is there.
#[tokio::test(start_paused = true)]
async fn faults_cost_answers_and_never_bytes() {
    for seed in 0..60 {
        let faults = Faults {
            refused: 100,
            unacknowledged: 100,
            torn: 150,
            cut: 150,
            delayed: 300,
            delay_ms_max: 20_000,
        };
        let memory = Arc::new(InMemory::new());
        let store = FaultyStore::new(Arc::clone(&memory) as _, seed, faults);
        let (link, calm) = (Link::new(Arc::new(store)), Link::new(memory));
        let body = |number: u64| Bytes::from(vec![number as u8; 1000 + number as usize]);
        let mut reads = 0;
        for number in 0..40 {
            let name = format!("v1/{number}");
            let written = link.put_create(&name, vec![body(number)]).await;
            if written.is_ok() {
                assert_eq!(
                    calm.get(&name, 10_000).await.unwrap(),
                    body(number),
                    "seed {seed}"
                );
            }
            match link.get(&name, 10_000).await {
                Ok(read) => {
                    reads += 1;
                    assert_eq!(read, body(number), "seed {seed}");
                }
                Err(LinkError::NotFound) => assert!(written.is_err(), "seed {seed}"),
                Err(error) => assert!(error.trouble().is_some(), "seed {seed}: {error}"),
            }
            if let Ok(mut stream) = link.get_stream(&name, 10..900).await {
                let mut read = Vec::new();
                while let Ok(Some(piece)) = stream.next().await {
                    read.extend_from_slice(&piece);
                }
                assert!(
                    body(number).slice(10..900).starts_with(&read),
                    "seed {seed}"
                );
            }
            if let Some(wait) = link.open_for() {
                tokio::time::sleep(wait).await;
            }
        }
        assert!(reads > 5, "seed {seed}: {reads} of 40 were read");
    }
}

/// A server that answers every request with this.
fn canned(status: &'static str, headers: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
            );
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    endpoint
}

fn s3_at(endpoint: String) -> Link {
    let environment = [
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "the-secret"),
    ];
    let options = BucketOptions {
        endpoint: Some(endpoint),
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..BucketOptions::default()
    };
    assert!(!format!("{options:?}").contains("the-secret"));
    Link::open(&"s3://builds".parse().unwrap(), &options, None).unwrap()
}

#[tokio::test]
async fn refusals_are_read_by_their_code_and_else_by_their_status() {
    let denied = Some(Trouble::AccessDenied);
    let throttled = Some(Trouble::Throttled);
    let full = Some(Trouble::Full);
    let failed = Some(Trouble::Failed);
    for (status, body, trouble) in [
        (
            "503 Slow Down",
            "<Error><Code>SlowDown</Code></Error>",
            throttled,
        ),
        (
            "503 Service Unavailable",
            "<html>nobody home</html>",
            failed,
        ),
        ("429 Too Many Requests", "", throttled),
        (
            "409 Conflict",
            "<Error><Code>ConditionalRequestConflict</Code></Error>",
            throttled,
        ),
        (
            "500 Internal Server Error",
            "<Error><Code>InternalError</Code></Error>",
            failed,
        ),
        ("507 Insufficient Storage", "", full),
        (
            "403 Forbidden",
            "<Error><Code>QuotaExceeded</Code></Error>",
            full,
        ),
        (
            "403 Forbidden",
            "<Error><Code>AccessDenied</Code></Error>",
            denied,
        ),
        ("403 Forbidden", "", denied),
        ("401 Unauthorized", "", denied),
        (
            "400 Bad Request",
            "<Error><Code>ExpiredToken</Code></Error>",
            denied,
        ),
        ("400 Bad Request", "", failed),
        (
            "301 Moved Permanently",
            "<Error><Code>PermanentRedirect</Code></Error>",
            failed,
        ),
        (
            "501 Not Implemented",
            "<Error><Code>NotImplemented</Code></Error>",
            Some(Trouble::Unsupported),
        ),
        (
            "404 Not Found",
            "<Error><Code>NoSuchBucket</Code></Error>",
            failed,
        ),
    ] {
        let link = s3_at(canned(status, "", body));
        let error = link.put_create("v1/a", vec![]).await.expect_err(status);
        assert_eq!(error.trouble(), trouble, "{status} {body}: {error}");
        assert!(!error.to_string().contains("the-secret"), "{error}");
    }
    let missing = s3_at(canned(
        "404 Not Found",
        "",
        "<Error><Code>NoSuchKey</Code></Error>",
    ));
    assert_eq!(missing.get("v1/a", 1).await, Err(LinkError::NotFound));
    let exists = s3_at(canned(
        "412 Precondition Failed",
        "",
        "<Error><Code>PreconditionFailed</Code></Error>",
    ));
    assert_eq!(
        exists.put_create("v1/a", vec![]).await,
        Err(LinkError::AlreadyExists)
    );
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    let link = s3_at(canned("200 OK", "etag: \"1\"\r\n", ""));
    let error = link.check().await.expect_err("every create succeeds");
    assert_eq!(error.trouble(), Some(Trouble::Unsupported), "{error}");
}

#[test]
fn options_that_are_not_for_this_kind_of_bucket_are_refused() {
    let open = |url: &str, options: &BucketOptions| {
        let url: BucketUrl = url.parse().unwrap();
        Link::open(&url, options, None)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let region = BucketOptions {
        region: Some("eu-central-1".to_owned()),
        ..BucketOptions::default()
    };
    assert_eq!(open("s3://builds", &region), Ok(()));
    assert_eq!(
        open("gs://builds", &region),
        Err("region is not for gs:// buckets".to_owned())
    );
    assert_eq!(
        open("file:///tmp", &region),
        Err("region is not for file:// buckets".to_owned())
    );
    for endpoint in [
        "minio:9000",
        "ftp://minio",
        "https://key:secret@minio",
        "https://minio?a=b",
    ] {
        let options = BucketOptions {
            endpoint: Some(endpoint.to_owned()),
            ..BucketOptions::default()
        };
        let said = open("s3://builds", &options).expect_err(endpoint);
        assert!(
            said.contains("the endpoint must be") && !said.contains("secret"),
            "{said}"
        );
    }
    let half = BucketOptions {
        environment: vec![("AWS_ACCESS_KEY_ID".to_owned(), "a".to_owned())],
        ..BucketOptions::default()
    };
    assert!(
        open("s3://builds", &half)
            .expect_err("half a key")
            .contains("Missing SecretAccessKey")
    );
}
