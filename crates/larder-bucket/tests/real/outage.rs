//! A server that dies in the middle of an answer, is away, comes back, and later stands still.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_bucket::link::{
    BucketOptions, BucketUrl, Link, LinkError, LinkEvent, OPEN_AT_FIRST, Operation, Outcome,
    Trouble,
};
use larder_testkit::upkeep::Upkeep;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::contract::{body, count};

/// Much more than the buffers between here and there hold.
const LARGE_BYTES: usize = 32 << 20;

const PATIENCE: Duration = Duration::from_mins(1);

/// Stores what an outage needs.
pub(crate) async fn prepare(url: &BucketUrl, options: &BucketOptions) {
    let link = Link::open(url, options, None).unwrap();
    link.put("v1/large", vec![body(LARGE_BYTES, 1)])
        .await
        .unwrap();
    link.put("v1/small", vec![body(10, 2)]).await.unwrap();
}

/// Has all of that happen to a server that was prepared.
pub(crate) async fn is_survived(server: &mut Upkeep, url: &BucketUrl, options: &BucketOptions) {
    let (sender, mut events) = unbounded_channel();
    let on_event = Arc::new(move |event| {
        let _ = sender.send(event);
    });
    let link = Link::open(url, options, Some(on_event)).unwrap();
    link.put("v1/large", vec![body(LARGE_BYTES, 1)])
        .await
        .unwrap();
    link.put("v1/small", vec![body(10, 2)]).await.unwrap();
    dies_in_the_middle(server, &link).await;
    is_away(&link, &mut events).await;
    comes_back(server, &link, &mut events).await;
    stands_still(server, &link, &mut events).await;
}

async fn dies_in_the_middle(server: &mut Upkeep, link: &Link) {
    let mut stream = link
        .get_stream("v1/large", 0..LARGE_BYTES as u64)
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().is_some());
    server.kill();
    let broken = loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the whole answer came from a server that is dead"),
            Err(error) => break error,
        }
    };
    assert_eq!(broken.trouble(), Some(Trouble::Failed), "{broken}");
    let again = stream.next().await.expect_err("a broken stream has no end");
    assert_eq!(again.trouble(), Some(Trouble::Failed));
}

async fn is_away(link: &Link, events: &mut UnboundedReceiver<LinkEvent>) {
    while link.open_for().is_none() {
        let error = link.get("v1/small", 10).await.expect_err("nobody is there");
        assert!(
            matches!(
                error.trouble(),
                Some(Trouble::Failed | Trouble::CircuitOpen)
            ),
            "{error}"
        );
    }
    assert!(
        matches!(events.recv().await, Some(LinkEvent::Opened { trouble: Trouble::Failed, wait, .. })
        if wait >= OPEN_AT_FIRST)
    );
    let (asked, begin) = (count(link, |_, _| true), Instant::now());
    for _ in 0..10_000 {
        let refused = link
            .put("v1/small", vec![])
            .await
            .expect_err("the circuit is open");
        if refused.trouble() != Some(Trouble::CircuitOpen) {
            break;
        }
    }
    // The probes that a slow machine had the time for.
    assert!(count(link, |_, _| true) - asked <= 3, "requests went out");
    assert!(begin.elapsed() < PATIENCE);
}

async fn comes_back(server: &mut Upkeep, link: &Link, events: &mut UnboundedReceiver<LinkEvent>) {
    server.revive().unwrap();
    let begin = Instant::now();
    while let Err(error) = link.get("v1/small", 10).await {
        assert!(begin.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(link.open_for().unwrap_or_default()).await;
    }
    assert_eq!(events.recv().await, Some(LinkEvent::Closed));
    assert_eq!(link.open_for(), None);
}

/// A connection stays, and nothing comes: what the deadlines are for. Under the paused clock they are over as soon as there is nothing
/// else to do.
async fn stands_still(server: &mut Upkeep, link: &Link, events: &mut UnboundedReceiver<LinkEvent>) {
    server.freeze().unwrap();
    tokio::time::pause();
    while link.open_for().is_none() {
        let error = link.get("v1/small", 10).await.expect_err("it stands still");
        assert_eq!(error.trouble(), Some(Trouble::TimedOut), "{error}");
    }
    tokio::time::resume();
    assert!(matches!(
        events.recv().await,
        Some(LinkEvent::Opened {
            trouble: Trouble::TimedOut,
            ..
        })
    ));
    let timed_out = Outcome::Trouble(Trouble::TimedOut);
    assert_eq!(
        count(link, |operation, outcome| operation == Operation::Get
            && outcome == timed_out),
        5
    );
    server.thaw().unwrap();
    let begin = Instant::now();
    loop {
        match link.get("v1/small", 10).await {
            Ok(read) => break assert_eq!(read, body(10, 2)),
            Err(error) => assert!(
                begin.elapsed() < PATIENCE && error != LinkError::NotFound,
                "{error}"
            ),
        }
        tokio::time::sleep(link.open_for().unwrap_or_default()).await;
    }
}
