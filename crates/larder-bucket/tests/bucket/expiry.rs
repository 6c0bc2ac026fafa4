//! What is used stays, what is not goes.

use larder_bucket::{Rule, Trust};

use crate::nodes::{DAY_MS, Node, Site, body, site, trusted};

const SIZES: [usize; 3] = [0, 1000, 5 << 20];

/// Entries of each rule and size, stored by a node that is then gone.
async fn fill(site: &Site) -> Vec<(Vec<u8>, usize)> {
    let writer = site.node().await;
    let mut keys = Vec::new();
    for rule in [Rule::Content, Rule::Replace, Rule::First] {
        for size in SIZES {
            let key = format!("{rule:?} {size}").into_bytes();
            writer
                .put_and_wait(&trusted(), &key, rule, &body(size as u64, size))
                .await;
            keys.push((key, size));
        }
    }
    writer.stop().await;
    keys
}

async fn check_all(node: &Node, keys: &[(Vec<u8>, usize)], are_there: bool) {
    for (key, size) in keys {
        let read = node.get(&trusted(), key).await;
        let expected = are_there.then(|| body(*size as u64, *size));
        assert!(read == Ok(expected), "{}", String::from_utf8_lossy(key));
    }
}

#[tokio::test(start_paused = true)]
async fn entries_in_use_outlive_their_packs_and_others_do_not() {
    let site = site();
    let keys = fill(&site).await;
    let (used, unused) = keys.split_at(keys.len() - 1);
    let node = site.node().await;
    for _ in 0..8 {
        site.later(16 * DAY_MS);
        for (key, _) in used {
            assert!(node.bucket.lookup(&trusted(), key).is_some());
        }
        node.settle().await;
        node.bucket.gc(&|_| ()).await.unwrap();
        check_all(&node, used, true).await;
    }
    check_all(&node, unused, false).await;
    let fresh = site.node().await;
    check_all(&fresh, used, true).await;
    check_all(&fresh, unused, false).await;
    // Only what is in use is left: the packs of the last round, and a body for each large entry.
    let objects = site.objects().await;
    let bodies = objects
        .iter()
        .filter(|(name, _)| name.contains("/bodies/"))
        .count();
    assert_eq!((bodies, node.events()), (2, vec![]), "{objects:#?}");
    assert!(
        !objects.iter().any(|(name, _)| name.contains("/first/")),
        "{objects:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_touch_costs_a_share_of_one_request_per_half_period() {
    let site = site();
    let writer = site.node().await;
    for number in 0..100 {
        writer.put(
            &trusted(),
            &[number],
            Rule::Content,
            &body(number.into(), 100),
        );
    }
    writer.settle().await;
    site.later(14 * DAY_MS);
    let before = writer.requests();
    let use_all = || {
        for number in 0..100 {
            assert!(writer.bucket.lookup(&trusted(), &[number]).is_some());
        }
    };
    use_all();
    writer.settle().await;
    assert_eq!(writer.requests(), before, "not yet half of its time");
    site.later(2 * DAY_MS);
    for _ in 0..3 {
        use_all();
        writer.settle().await;
    }
    let after = writer.requests();
    assert_eq!((after.put - before.put, after.all() - before.all()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_touched_entry_keeps_its_writer_and_its_time() {
    let site = site();
    let keys = fill(&site).await;
    let node = site.node().await;
    let heads = async || {
        let mut heads = Vec::new();
        for (key, _) in &keys {
            heads.push(node.bucket.head(&trusted(), key).await.unwrap());
        }
        heads
    };
    let before = heads().await;
    site.later(20 * DAY_MS);
    // A node whose local store says something else of them, and has other bytes.
    for (key, size) in &keys {
        node.put_local(&trusted(), key, &body(99, *size));
        node.bucket.lookup(&trusted(), key);
    }
    node.settle().await;
    site.later(20 * DAY_MS);
    assert_eq!(heads().await, before);
    check_all(&node, &keys, true).await;
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_a_miss_before_anybody_cleans_up() {
    let site = site();
    let keys = fill(&site).await;
    let node = site.node().await;
    site.later(30 * DAY_MS + 1);
    check_all(&node, &keys, false).await;
    assert_eq!(
        node.bucket.gc(&|_| ()).await.unwrap().expired,
        0,
        "the grace"
    );
    site.later(DAY_MS);
    let done = node.bucket.gc(&|_| ()).await.unwrap();
    println!("{done:?}");
    assert_eq!(site.objects().await, []);
    assert_eq!(done.expired, 9);
    let usage = node.bucket.usage();
    assert_eq!((usage.packs, usage.entries), (0, 0));
    let files = std::fs::read_dir(node.dir.path().join("index"))
        .unwrap()
        .count();
    assert_eq!(files, 0);
    // An expired key can be stored again.
    node.put_and_wait(&trusted(), &keys[8].0, Rule::First, &body(5, 50))
        .await;
    assert_eq!(
        node.get(&trusted(), &keys[8].0).await,
        Ok(Some(body(5, 50)))
    );
}

#[tokio::test(start_paused = true)]
async fn other_nodes_forget_what_one_has_cleaned_up() {
    let site = site();
    let keys = fill(&site).await;
    let (one, two) = (site.node().await, site.node().await);
    site.later(32 * DAY_MS);
    one.bucket.gc(&|_| ()).await.unwrap();
    two.bucket.refresh(std::time::Duration::ZERO).await;
    assert_eq!(
        (two.bucket.usage().packs, two.bucket.usage().entries),
        (0, 0)
    );
    for (key, _) in &keys {
        let fetched = two.bucket.fetch(&trusted(), key, Trust::Trusted).await;
        assert!(fetched.unwrap().is_none());
    }
    assert_eq!(two.events(), []);
}

#[tokio::test(start_paused = true)]
async fn two_nodes_may_clean_up_at_once() {
    let site = site();
    fill(&site).await;
    let (one, two) = (site.node().await, site.node().await);
    site.later(32 * DAY_MS);
    let (first, second) = tokio::join!(one.bucket.gc(&|_| ()), two.bucket.gc(&|_| ()));
    first.unwrap();
    second.unwrap();
    assert_eq!(site.objects().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_written_while_its_touch_waits_is_uploaded() {
    let site = site();
    let node = site.node().await;
    node.put_and_wait(&trusted(), b"key", Rule::Replace, &body(1, 10))
        .await;
    site.later(16 * DAY_MS);
    assert!(node.bucket.lookup(&trusted(), b"key").is_some());
    let told = node
        .put_and_wait(&trusted(), b"key", Rule::Replace, &body(2, 10))
        .await;
    assert_eq!(told, larder_bucket::Delivery::Stored);
    let fresh = site.node().await;
    assert_eq!(fresh.get(&trusted(), b"key").await, Ok(Some(body(2, 10))));
}

#[tokio::test(start_paused = true)]
async fn touched_entries_are_read_as_their_packs_are_written() {
    const COUNT: u8 = 64;
    let site = site();
    let node = site.node().await;
    for number in 0..COUNT {
        let body = body(number.into(), 1 << 20);
        node.put(&trusted(), &[number], Rule::Content, &body);
    }
    node.settle().await;
    site.later(16 * DAY_MS);
    let packs = site.objects().await.len();
    site.catalogue
        .hangs
        .store(true, std::sync::atomic::Ordering::Relaxed);
    node.local
        .reads
        .store(0, std::sync::atomic::Ordering::Relaxed);
    for number in 0..COUNT {
        assert!(node.bucket.lookup(&trusted(), &[number]).is_some());
    }
    while site.objects().await.len() == packs {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let read = node.local.reads.load(std::sync::atomic::Ordering::Relaxed);
    println!("{read} of {COUNT} MiB are read before the first pack of 8 MiB is known");
    assert!(read <= 20, "{read}");
}

#[tokio::test(start_paused = true)]
async fn entries_that_have_grown_since_they_were_offered_are_read_as_their_packs_are_written() {
    const COUNT: u8 = 64;
    let site = site();
    let node = site.node().await;
    site.catalogue
        .hangs
        .store(true, std::sync::atomic::Ordering::Relaxed);
    for number in 0..COUNT {
        node.put(&trusted(), &[number], Rule::Replace, &body(1, 1));
        node.put_local(&trusted(), &[number], &body(number.into(), 1 << 20));
    }
    while site.objects().await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let read = node.local.reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!((8..=20).contains(&read), "{read}");
}
