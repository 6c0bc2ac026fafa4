//! What was purged is not served, on this node and on any other that knows the edict.

use larder_bucket::{Delivery, Edict, Event, Rule};

use crate::nodes::{DAY_MS, body, site, trusted, untrusted};

#[tokio::test(start_paused = true)]
async fn what_an_edict_matches_is_forgotten_and_its_large_body_deleted() {
    let site = site();
    let (one, two) = (site.node().await, site.node().await);
    for (key, length) in [(b"bad 1", 10), (b"bad 2", 5 << 20), (b"good!", 10)] {
        one.put_and_wait(&trusted(), key, Rule::Content, &body(1, length))
            .await;
    }
    one.put_and_wait(&untrusted(), b"bad 1", Rule::Content, &body(1, 10))
        .await;
    let through = site.catalogue.live().len() as u32;
    let edict = || {
        Edict::new(through, |head| {
            *head.realm == trusted() && head.key.starts_with(b"bad") && head.writer == 77
        })
    };
    assert_eq!(one.bucket.forget(edict()).await, 2);
    assert_eq!(one.bucket.forget(edict()).await, 0);
    // A node that hears of the edict before it hears of the packs.
    let events = std::sync::Arc::default();
    let dir = tempfile::tempdir().unwrap();
    let fresh = site.open(dir.path(), events);
    assert_eq!(fresh.forget(edict()).await, 0);
    let running = fresh.clone();
    let local = std::sync::Arc::new(crate::local::MemoryLocal::default());
    tokio::spawn(async move { running.run(local, std::future::pending()).await });
    fresh.caught_up().await;
    for bucket in [&one.bucket, &fresh] {
        assert!(bucket.lookup(&trusted(), b"bad 1").is_none());
        assert!(bucket.lookup(&trusted(), b"bad 2").is_none());
        assert!(bucket.lookup(&trusted(), b"good!").is_some());
        assert!(bucket.lookup(&untrusted(), b"bad 1").is_some());
    }
    // A node that has not heard of it yet still has it.
    two.bucket.refresh(std::time::Duration::ZERO).await;
    assert!(two.bucket.lookup(&trusted(), b"bad 1").is_some());
    site.later(DAY_MS + 60_000);
    assert_eq!(one.bucket.gc(&|_| ()).await.unwrap().unreferenced, 1);
    assert_eq!(one.get(&trusted(), b"good!").await, Ok(Some(body(1, 10))));
    // The key can be used again.
    one.put_and_wait(&trusted(), b"bad 1", Rule::Content, &body(2, 10))
        .await;
    assert_eq!(one.get(&trusted(), b"bad 1").await, Ok(Some(body(2, 10))));
}

#[tokio::test(start_paused = true)]
async fn an_edict_for_all_time_withholds_what_is_still_queued() {
    let site = site();
    let node = site.node().await;
    node.bucket
        .forget(Edict::new(u32::MAX, |head| head.key == b"bad"))
        .await;
    let delivery = node
        .put_and_wait(&trusted(), b"bad", Rule::Content, &body(1, 10))
        .await;
    assert_eq!(delivery, Delivery::Failed);
    assert_eq!(site.objects().await, []);
    assert_eq!(node.events(), [Event::Withheld { entries: 1 }]);
}
