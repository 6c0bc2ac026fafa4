//! Entries go from node to node.

use std::sync::Arc;

use bytes::Bytes;
use larder_bucket::link::{BucketOptions, BucketUrl, Link};
use larder_bucket::{Bucket, BucketSettings, Delivery, Rule, Trust};

use crate::local::MemoryLocal;
use crate::nodes::{LONG, Site, body, site, site_over, trusted, untrusted};

/// What every kind of bucket must do.
async fn check_store(site: &Site) {
    let (writer, reader) = (site.node().await, site.node().await);
    let sizes = [
        0,
        1,
        1000,
        1 << 20,
        (1 << 20) + 1,
        4 << 20,
        (4 << 20) + 1,
        (17 << 20) + 5,
    ];
    for (rule, name) in [
        (Rule::Content, "c"),
        (Rule::Replace, "r"),
        (Rule::First, "f"),
    ] {
        for size in sizes {
            let (key, body) = (format!("{name} {size}"), body(size as u64, size));
            let delivery = writer
                .put_and_wait(&trusted(), key.as_bytes(), rule, &body)
                .await;
            assert_eq!(delivery, Delivery::Stored, "{key}");
            let read = reader.get(&trusted(), key.as_bytes()).await;
            assert!(read == Ok(Some(body.clone())), "{key}");
            let head = reader
                .bucket
                .head(&trusted(), key.as_bytes())
                .await
                .unwrap();
            assert_eq!(
                (head.metadata, head.writer, head.body_bytes, head.rule),
                (Bytes::from_static(b"metadata"), 77, size as u64, rule)
            );
        }
    }
    let replaced = body(1, 99);
    site.later(1);
    writer
        .put_and_wait(&trusted(), b"r 1000", Rule::Replace, &replaced)
        .await;
    assert_eq!(reader.get(&trusted(), b"r 1000").await, Ok(Some(replaced)));
    assert_eq!(reader.get(&trusted(), b"no such").await, Ok(None));
    site.later(40 * crate::nodes::DAY_MS);
    reader.bucket.gc(&|_| ()).await.unwrap();
    assert_eq!(reader.get(&trusted(), b"c 1000").await, Ok(None));
    assert_eq!((writer.events(), reader.events()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn every_node_reads_what_another_stored() {
    check_store(&site()).await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_folder_is_a_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let url: BucketUrl = format!("file://{}/", folder.path().display())
        .parse()
        .unwrap();
    let link = Link::open(&url, &BucketOptions::default(), None).unwrap();
    link.check().await.unwrap();
    let site = site();
    let open = |name: &str| {
        let dir = folder.path().with_extension(name);
        let settings = BucketSettings::new(dir, site.mac_key.clone());
        Bucket::open(settings, link.clone(), site.catalogue.clone()).unwrap()
    };
    let (one, two) = (open("one"), open("two"));
    let local = Arc::new(MemoryLocal::default());
    for bucket in [&one, &two] {
        let (bucket, local) = (bucket.clone(), local.clone());
        tokio::spawn(async move { bucket.run(local, std::future::pending()).await });
    }
    for (rule, size) in [
        (Rule::First, 10),
        (Rule::First, 5 << 20),
        (Rule::Content, 20 << 20),
    ] {
        let (key, body) = (format!("{rule:?} {size}"), body(3, size));
        let entry = crate::local::Entry {
            metadata: Bytes::new(),
            check: 1,
            writer: 1,
            written_at_ms: 1,
            body: body.clone(),
        };
        local.put(&trusted(), key.as_bytes(), entry);
        let offer = one
            .offer_and_wait(&trusted(), key.as_bytes(), rule, size as u64, LONG)
            .await;
        assert_eq!(offer, Delivery::Stored);
        two.refresh(std::time::Duration::ZERO).await;
        let fetched = two.fetch(&trusted(), key.as_bytes(), Trust::Trusted).await;
        assert_eq!(fetched.unwrap().unwrap().head.body_bytes, size as u64);
    }
    for name in ["one", "two"] {
        std::fs::remove_dir_all(folder.path().with_extension(name)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn trust_and_workspaces_are_walls() {
    let site = site();
    let (writer, reader) = (site.node().await, site.node().await);
    let poison = body(1, 100);
    writer
        .put_and_wait(&untrusted(), b"key", Rule::First, &poison)
        .await;
    let other = larder_bucket::Realm::new("acm", Trust::Untrusted).unwrap();
    assert_eq!(reader.get(&trusted(), b"key").await, Ok(None));
    assert_eq!(reader.get(&other, b"ekey").await, Ok(None));
    assert_eq!(reader.get(&untrusted(), b"key").await, Ok(Some(poison)));
    for (name, _) in site.objects().await {
        assert!(name.starts_with("v1/acme/untrusted/"), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_of_replaceable_entries_counts_on_every_node() {
    let site = site();
    let (one, two) = (site.node().await, site.node().await);
    let (older, newer) = (body(1, 10), body(2, 10));
    one.put_local(&trusted(), b"key", &older);
    site.later(5);
    two.put_and_wait(&trusted(), b"key", Rule::Replace, &newer)
        .await;
    // Offered late, by a node that does not know of the newer one.
    let late = one
        .bucket
        .offer_and_wait(&trusted(), b"key", Rule::Replace, 10, LONG)
        .await;
    assert_eq!(late, Delivery::Stored);
    let three = site.node().await;
    for node in [&one, &two, &three] {
        assert_eq!(node.get(&trusted(), b"key").await, Ok(Some(newer.clone())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_knows_everything_without_asking_the_bucket() {
    let site = site();
    let node = site.node().await;
    for number in 0..20 {
        node.put_and_wait(
            &trusted(),
            &[number],
            Rule::Content,
            &body(number.into(), 50),
        )
        .await;
    }
    let (dir, local) = node.stop().await;
    let node = site.node_in(dir, local).await;
    assert_eq!(node.bucket.usage().entries, 20);
    assert_eq!(node.requests().all(), 0);
    let files = std::fs::read_dir(node.dir.path().join("index"))
        .unwrap()
        .count();
    assert_eq!(files as u64, node.bucket.usage().packs);
    // A damaged or missing file is not believed, and fetched again.
    for file in std::fs::read_dir(node.dir.path().join("index")).unwrap() {
        std::fs::write(file.unwrap().path(), b"nonsense").unwrap();
    }
    let (dir, local) = node.stop().await;
    let node = site.node_in(dir, local).await;
    assert_eq!((node.bucket.usage().entries, node.requests().get), (20, 20));
    assert_eq!(node.get(&trusted(), &[7]).await, Ok(Some(body(7, 50))));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_of_another_deployment_is_left_alone() {
    let ours = site();
    let theirs = Site {
        mac_key: larder_bucket::MacKey::new([1; 32]),
        ..site_over(ours.store.clone())
    };
    let (our, their) = (ours.node().await, theirs.node().await);
    our.put_and_wait(&trusted(), b"k", Rule::First, &body(1, 5 << 20))
        .await;
    theirs.later(100 * crate::nodes::DAY_MS);
    let done = their.bucket.gc(&|_| ()).await.unwrap();
    assert_eq!((done.foreign, done.unreferenced), (3, 0));
    their
        .put_and_wait(&trusted(), b"k", Rule::First, &body(2, 9))
        .await;
    assert_eq!(our.get(&trusted(), b"k").await, Ok(Some(body(1, 5 << 20))));
    assert_eq!(their.get(&trusted(), b"k").await, Ok(Some(body(2, 9))));
}
