//! The cache over real pools: what is stored, who sees it, what waits for what.

use std::collections::HashMap;
use std::time::Duration;

use crate::pools::{Setup, bytes, isolated, key, reader, trusted};
use bytes::Bytes;
use larder_cache::{
    BodyLost, CacheLimits, PoolHandle, PoolPair, PoolState, PutRefusal, PutStart, Stored,
};
use larder_model::Dialect;
use larder_store::{Durability, OpenError};

const SMALL: usize = 1000;
const LARGE: usize = 1_000_000;

#[tokio::test]
async fn an_entry_comes_back_as_it_was_written_whatever_its_size() {
    let setup = Setup::new();
    let writer = trusted("acme", 7);
    for (index, size) in [1, SMALL, 64 << 10, (64 << 10) + 1, 256 << 10, LARGE]
        .into_iter()
        .enumerate()
    {
        for declared in [Some(size as u64), None] {
            let name = format!("{index}-{declared:?}");
            let body = bytes(size, index as u8);
            assert_eq!(
                setup.put_sized(&writer, &name, declared, &body).await,
                Ok(Stored::New)
            );
            let mut hit = setup.get(&writer, &name).await.expect("a hit");
            assert_eq!((hit.size, hit.writer.0), (size as u64, 7));
            let mut read = Vec::new();
            while let Some(piece) = hit.body.next().await {
                let piece = piece.expect("a verified piece");
                assert!(piece.len() <= 256 << 10);
                read.extend_from_slice(&piece);
            }
            assert!(read == body, "{name}");
        }
    }
}

#[tokio::test]
async fn anything_but_exactly_the_declared_bytes_stores_nothing() {
    let setup = Setup::new();
    let writer = trusted("acme", 1);
    for size in [SMALL, LARGE] {
        for (declared, name) in [(size as u64 + 1, "short"), (size as u64 - 1, "long")] {
            let put = setup
                .put_sized(&writer, name, Some(declared), &bytes(size, 1))
                .await;
            assert!(
                matches!(put, Err(PutRefusal::SizeMismatch { .. })),
                "{name}: {put:?}"
            );
            assert!(setup.get(&writer, name).await.is_none(), "{name}");
        }
        let mut dropped = setup.begin(&writer, "dropped", Some(size as u64)).await;
        dropped.write(bytes(size, 1).into()).await.unwrap();
        drop(dropped);
        assert!(setup.get(&writer, "dropped").await.is_none());
        assert_eq!(
            setup.put(&writer, "dropped", &bytes(size, 2)).await,
            Ok(Stored::New)
        );
        setup.cache_purged().await;
    }
}

#[tokio::test]
async fn of_two_uploads_of_one_key_the_first_to_finish_wins_and_neither_waits() {
    for size in [SMALL, LARGE] {
        let setup = Setup::new();
        let writer = trusted("acme", 1);
        let mut stalled = setup.begin(&writer, "k", Some(size as u64)).await;
        stalled
            .write(Bytes::from_static(b"begun first"))
            .await
            .unwrap();
        let winner = bytes(size, 2);
        assert_eq!(setup.put(&writer, "k", &winner).await, Ok(Stored::New));
        stalled.write(bytes(size - 11, 1).into()).await.unwrap();
        assert_eq!(stalled.finish().await, Ok(Stored::Exists));
        assert_eq!(setup.read(&writer, "k").await, Some(winner));
    }
}

#[tokio::test]
async fn a_write_conflicts_with_what_its_writer_sees_and_with_nothing_else() {
    let setup = Setup::new();
    let (trunk, seven, eight) = (
        trusted("acme", 1),
        isolated("acme", "pr/7", 2),
        isolated("acme", "pr/8", 3),
    );
    assert_eq!(setup.put(&seven, "k", b"seven").await, Ok(Stored::New));
    assert_eq!(setup.put(&seven, "k", b"again").await, Ok(Stored::Exists));
    assert_eq!(setup.put(&eight, "k", b"eight").await, Ok(Stored::New));
    assert_eq!(setup.put(&trunk, "k", b"trunk").await, Ok(Stored::New));
    assert_eq!(
        setup.put(&isolated("acme", "pr/9", 4), "k", b"nine").await,
        Ok(Stored::Exists)
    );
    assert_eq!(
        setup.put(&trusted("other", 5), "k", b"other").await,
        Ok(Stored::New)
    );
}

#[tokio::test]
async fn trusted_is_read_first_and_siblings_and_tenants_are_not_read_at_all() {
    let setup = Setup::new();
    let (trunk, seven, eight) = (
        trusted("acme", 1),
        isolated("acme", "pr/7", 2),
        isolated("acme", "pr/8", 3),
    );
    setup.put(&seven, "k", b"seven").await.unwrap();
    assert_eq!(setup.read(&trunk, "k").await, None);
    assert_eq!(setup.read(&eight, "k").await, None);
    assert_eq!(setup.read(&isolated("other", "pr/7", 4), "k").await, None);
    assert_eq!(setup.read(&isolated("acme", "pr/7/x", 5), "k").await, None);
    assert_eq!(
        setup.read(&seven, "k").await.as_deref(),
        Some(&b"seven"[..])
    );
    setup.put(&trunk, "k", b"trunk").await.unwrap();
    for caller in [&trunk, &seven, &eight, &reader("acme")] {
        assert_eq!(
            setup.read(caller, "k").await.as_deref(),
            Some(&b"trunk"[..])
        );
    }
}

#[tokio::test]
async fn an_entry_above_its_workspaces_limit_is_refused_and_limits_can_change() {
    let setup = Setup::new();
    let limits = |bytes| CacheLimits {
        entry_bytes_max: bytes,
        workspace_entry_bytes_max: HashMap::from([("small".parse().unwrap(), 10)]),
    };
    setup.cache.set_limits(limits(100_000));
    let (acme, small) = (trusted("acme", 1), trusted("small", 2));
    let too_large = |limit| Err(PutRefusal::TooLarge { limit });
    assert_eq!(
        setup.put(&acme, "k", &bytes(100_001, 1)).await,
        too_large(100_000)
    );
    assert_eq!(
        setup.put_sized(&acme, "k", None, &bytes(100_001, 1)).await,
        too_large(100_000)
    );
    assert_eq!(setup.put(&small, "k", &bytes(11, 1)).await, too_large(10));
    assert_eq!(setup.put(&small, "k", &bytes(10, 1)).await, Ok(Stored::New));
    setup.cache.set_limits(limits(100_001));
    assert_eq!(
        setup.put(&acme, "k", &bytes(100_001, 1)).await,
        Ok(Stored::New)
    );
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_loading_is_waited_for_and_then_a_miss() {
    let handles = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    let setup = Setup::over(handles.clone());
    let writer = trusted("acme", 1);
    assert!(setup.get(&writer, "k").await.is_none());
    let put = setup.put(&writer, "k", b"bytes").await;
    assert_eq!(put, Err(PutRefusal::Unavailable));

    let (waiting, ()) = tokio::join!(setup.put(&writer, "k", b"bytes"), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        setup.open(&handles.trusted, "trusted", Durability::Written);
    });
    assert_eq!(waiting, Ok(Stored::New));
    assert_eq!(
        setup.read(&writer, "k").await.as_deref(),
        Some(&b"bytes"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_failed_to_open_is_a_miss_while_the_other_serves() {
    let handles = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    let setup = Setup::over(handles.clone());
    setup.open(&handles.trusted, "trusted", Durability::Written);
    let state = handles.untrusted.load(|| {
        Err(OpenError::Budget {
            budget: 1,
            least: 2,
        })
    });
    assert_eq!(state, PoolState::Failed);
    let (trunk, seven) = (trusted("acme", 1), isolated("acme", "pr/7", 2));
    assert_eq!(
        setup.put(&seven, "k", b"seven").await,
        Err(PutRefusal::Unavailable)
    );
    assert_eq!(setup.put(&trunk, "k", b"trunk").await, Ok(Stored::New));
    assert_eq!(
        setup.read(&seven, "k").await.as_deref(),
        Some(&b"trunk"[..])
    );
    assert_eq!(setup.read(&seven, "other").await, None);

    let panicked = PoolHandle::loading();
    assert_eq!(panicked.load(|| panic!("on purpose")), PoolState::Failed);
}

#[tokio::test(start_paused = true)]
async fn uploads_that_fill_the_memory_and_stand_still_hold_up_nobody() {
    for held_by in [isolated("acme", "pr/7", 2), trusted("tenant", 3)] {
        let setup = Setup::new();
        let mut held = Vec::new();
        for index in 0..1024 {
            let name = index.to_string();
            held.push(setup.begin(&held_by, &name, Some(64 << 10)).await);
        }
        let started = tokio::time::Instant::now();
        let others = [
            trusted("acme", 1),
            isolated("acme", "pr/8", 4),
            trusted("other", 5),
            held_by,
        ];
        for who in &others {
            for size in [1, SMALL, 64 << 10, LARGE] {
                let (name, body) = (format!("k{size}-{:?}", who.write()), bytes(size, 1));
                assert_eq!(setup.put(who, &name, &body).await, Ok(Stored::New));
                assert_eq!(setup.read(who, &name).await, Some(body));
            }
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}

#[tokio::test]
async fn uploads_that_never_come_do_not_evict_what_others_stored() {
    const MIB: usize = 1 << 20;
    for declared in [Some(9 << 20), None] {
        let setup = Setup::new();
        let (acme, tenant) = (trusted("acme", 1), trusted("tenant", 2));
        for index in 0..48 {
            let stored = setup.put(&acme, &index.to_string(), &bytes(MIB, 1)).await;
            assert_eq!(stored, Ok(Stored::New));
        }
        let (grant, mut held, mut refused) = (tenant.write(), Vec::new(), 0);
        for index in 0..12 {
            let name = key(&format!("held{index}"));
            let put = setup
                .cache
                .put(&grant, Dialect::Nx, &name, declared, Bytes::new());
            let mut upload = match put.await {
                Ok(PutStart::Upload(upload)) => upload,
                Ok(PutStart::Exists) => panic!("held{index} exists"),
                Err(refusal) => {
                    assert_eq!(refusal, PutRefusal::Busy);
                    refused += 1;
                    continue;
                }
            };
            for _ in 0..8 {
                refused += u32::from(upload.write(bytes(MIB, 2).into()).await.is_err());
            }
            held.push(upload);
        }
        for index in 0..48 {
            assert!(setup.get(&acme, &index.to_string()).await.is_some());
        }
        assert!(refused > 0);
        held.clear();
        let again = setup.put(&tenant, "again", &bytes(9 * MIB, 3)).await;
        assert_eq!(again, Ok(Stored::New), "what is given up is given back");
    }
}

#[tokio::test]
async fn synced_writes_are_stored_too() {
    let handles = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    let setup = Setup::over(handles.clone());
    setup.open(&handles.trusted, "trusted", Durability::Synced);
    let writer = trusted("acme", 1);
    for (name, size) in [("small", SMALL), ("large", LARGE)] {
        let body = bytes(size, 3);
        assert_eq!(setup.put(&writer, name, &body).await, Ok(Stored::New));
        assert_eq!(setup.put(&writer, name, &body).await, Ok(Stored::Exists));
        assert_eq!(setup.read(&writer, name).await, Some(body));
    }
}

#[tokio::test]
async fn a_workspace_with_pools_of_its_own_neither_fills_nor_reads_the_shared_ones() {
    let setup = Setup::with_own("rich");
    let (poor, rich) = (trusted("poor", 1), trusted("rich", 2));
    setup.put(&poor, "k", b"poor").await.unwrap();
    setup.put(&rich, "k", b"rich").await.unwrap();
    assert_eq!(setup.pair.trusted.pool().unwrap().usage().entries, 1);
    assert_eq!(setup.own_pair().trusted.pool().unwrap().usage().entries, 1);
    assert_eq!(setup.read(&rich, "k").await.as_deref(), Some(&b"rich"[..]));
}

#[tokio::test]
async fn bytes_that_rot_on_disk_are_a_miss_or_a_body_that_breaks_off() {
    let setup = Setup::new();
    let writer = trusted("acme", 1);
    let (small, large) = (bytes(SMALL, 0xaa), bytes(LARGE, 0xbb));
    setup.put(&writer, "small", &small).await.unwrap();
    setup.put(&writer, "large", &large).await.unwrap();
    setup.rot("trusted", &small[500..600]);
    setup.rot("trusted", &large[900_000..900_100]);
    assert_eq!(setup.read(&writer, "small").await, None);
    let mut hit = setup
        .get(&writer, "large")
        .await
        .expect("its head is in order");
    let mut read = Vec::new();
    let end = loop {
        match hit.body.next().await {
            Some(Ok(piece)) => read.extend_from_slice(&piece),
            Some(Err(lost)) => break Some(lost),
            None => break None,
        }
    };
    assert_eq!(end, Some(BodyLost));
    assert!(large.starts_with(&read) && read.len() < LARGE);
    assert!(
        hit.body.next().await.is_none(),
        "a lost body has no more pieces"
    );
    assert!(
        setup.get(&writer, "large").await.is_none(),
        "what rotted is a miss"
    );
    assert_eq!(
        setup.put(&writer, "large", &large).await,
        Ok(Stored::New),
        "and can be stored"
    );
}

#[tokio::test]
async fn counters_say_who_did_what_and_their_labels_are_bounded() {
    let setup = Setup::new();
    for index in 0..100 {
        setup.read(&trusted(&format!("w{index}"), 1), "k").await;
    }
    let (trunk, seven) = (trusted("w0", 1), isolated("w0", "pr/7", 2));
    setup.put(&trunk, "k", b"bytes").await.unwrap();
    setup.read(&seven, "k").await;
    setup
        .put_sized(&seven, "x", Some(1), b"too long")
        .await
        .unwrap_err();
    let kind = larder_model::AccessKind::Isolated;
    let w0 = "w0".parse().unwrap();
    let counters = setup.cache.metrics();
    counters.unfinished(Dialect::Nx, &w0, kind, larder_cache::Unfinished::Failed);
    let text = setup.metrics();
    let workspaces = text
        .lines()
        .filter(|line| line.starts_with("larder_misses_total"));
    assert_eq!(
        workspaces.clone().count(),
        larder_cache::WORKSPACE_LABEL_COUNT_MAX + 2
    );
    for line in [
        r#"larder_misses_total{dialect="nx",workspace="_other",access="trusted"} 36"#,
        r#"larder_stored_total{dialect="nx",workspace="w0",access="trusted"} 1"#,
        r#"larder_bytes_in_total{dialect="nx",workspace="w0",access="trusted"} 5"#,
        r#"larder_hits_total{dialect="nx",workspace="w0",access="isolated"} 1"#,
        r#"larder_bytes_out_total{dialect="nx",workspace="w0",access="isolated"} 5"#,
        r#"larder_refused_writes_total{dialect="nx",workspace="w0",access="isolated",reason="size_mismatch"} 1"#,
        r#"larder_refused_writes_total{dialect="nx",workspace="w0",access="isolated",reason="failed"} 1"#,
        r#"larder_get_seconds_count{dialect="nx",workspace="w0",access="isolated"} 1"#,
        r#"larder_put_seconds_count{dialect="nx",workspace="w0",access="trusted"} 1"#,
        r#"larder_pool_ready{pool="shared/trusted"} 1"#,
        r#"larder_pool_entries{pool="shared/trusted"} 1"#,
        r#"larder_store_events_total{pool="trusted",event="loaded"} 1"#,
    ] {
        assert!(text.lines().any(|each| each == line), "{line}\n{text}");
    }
    assert!(
        text.contains(r#"le="+Inf""#),
        "quantiles need the last bucket"
    );
}

#[tokio::test]
async fn a_put_of_a_key_that_exists_says_so_before_any_byte_is_sent() {
    let setup = Setup::new();
    let writer = trusted("acme", 1);
    setup.put(&writer, "k", b"bytes").await.unwrap();
    for size in [Some(5), Some(LARGE as u64), None] {
        let grant = writer.write();
        let start = setup
            .cache
            .put(&grant, Dialect::Nx, &key("k"), size, Bytes::new())
            .await;
        assert!(matches!(start, Ok(PutStart::Exists)));
    }
}
