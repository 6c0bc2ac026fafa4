//! Whatever the bucket does, a read is the right bytes or none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_bucket::link::faulty::{Faults, FaultyStore};
use larder_bucket::{Delivery, Event, Rule, Unavailable};
use object_store::memory::InMemory;

use crate::nodes::{LONG, Node, Site, body, site_over, trusted};

/// Chance, from a seed.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    }
}

const KEYS: u64 = 24;

fn rule_of(key: u64) -> Rule {
    [Rule::Content, Rule::Replace, Rule::First][key as usize % 3]
}

/// Lengths from none to more than what one pack holds.
fn length_of(key: u64) -> usize {
    match key {
        0 => 0,
        1..4 => (4 << 20) + 1 + key as usize,
        4..6 => (17 << 20) + key as usize,
        _ => 100 << (key % 12),
    }
}

fn version(key: u64, version: u64) -> Bytes {
    // The key says what the bytes of a content-addressed entry are.
    let version = if rule_of(key) == Rule::Content {
        0
    } else {
        version
    };
    body(1000 * key + version, length_of(key))
}

/// What has been stored and seen.
#[derive(Default)]
struct History {
    versions: HashMap<u64, u64>,
    /// What somebody has read of a key whose first write wins.
    firsts: HashMap<u64, Bytes>,
    reads: u64,
}

impl History {
    fn store(&mut self, site: &Site, node: &Node, key: u64) {
        site.later(1);
        let next = self.versions.entry(key).or_default();
        *next += 1;
        // A local store never replaces what is first.
        let is_kept = rule_of(key) == Rule::First;
        if !is_kept || node.local.get(&trusted(), &key.to_le_bytes()).is_none() {
            node.put(
                &trusted(),
                &key.to_le_bytes(),
                rule_of(key),
                &version(key, *next),
            );
        }
    }

    async fn read(&mut self, node: &Node, key: u64) -> Result<(), Unavailable> {
        node.bucket.refresh(Duration::ZERO).await;
        let Some(read) = node.get_known(&trusted(), &key.to_le_bytes()).await? else {
            return Ok(());
        };
        self.reads += 1;
        let versions = 1..=self.versions.get(&key).copied().unwrap_or(0);
        assert!(
            versions.clone().any(|number| version(key, number) == read),
            "{key}"
        );
        if rule_of(key) == Rule::First {
            let first = self.firsts.entry(key).or_insert_with(|| read.clone());
            assert!(*first == read, "two firsts of {key}");
        }
        Ok(())
    }
}

async fn live_through(seed: u64, faults: Faults) -> u64 {
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), seed, faults));
    let site = site_over(store.clone());
    let (mut dice, mut history) = (Dice::new(seed), History::default());
    let mut nodes = vec![site.node().await, site.node().await];
    for _ in 0..120 {
        let (at, key) = (dice.below(2) as usize, dice.below(KEYS));
        match dice.below(20) {
            0 => {
                let (dir, local) = nodes.remove(at).kill().await;
                nodes.insert(at, site.node_in(dir, local).await);
            }
            1..9 => {
                history.store(&site, &nodes[at], key);
                // Until the queue is on disk: what is killed before that has not been promised to anybody.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            9..12 => tokio::time::sleep(Duration::from_millis(dice.below(3000))).await,
            _ => {
                let _ = history.read(&nodes[at], key).await;
            }
        }
    }
    let during = history.reads;
    // Once the bucket is well again everything gets there, by itself.
    store.set(Faults::default());
    for node in &nodes {
        tokio::time::timeout(Duration::from_mins(10), node.settle())
            .await
            .unwrap();
    }
    // A circuit that is still open keeps its node from learning of packs: longer than that, on the paused clock.
    tokio::time::sleep(Duration::from_mins(1)).await;
    for node in &nodes {
        node.bucket.refresh(Duration::ZERO).await;
        for key in history.versions.clone().into_keys() {
            let before = history.reads;
            history.read(node, key).await.unwrap();
            assert_eq!(history.reads, before + 1, "key {key}, seed {seed}");
        }
        let alarms = node.events();
        let is_alarm =
            |event: &Event| matches!(event, Event::NotAuthentic { .. } | Event::Gone { .. });
        assert!(!alarms.iter().any(is_alarm), "{alarms:?}");
    }
    during
}

/// Returns how many reads succeeded during the faults.
fn run(seeds: std::ops::Range<u64>, faults: Faults) -> u64 {
    let mut reads = 0;
    for seed in seeds {
        println!("seed {seed}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        reads += runtime.unwrap().block_on(live_through(seed, faults));
    }
    println!("{reads} reads succeeded meanwhile");
    reads
}

#[test]
fn errors_lost_answers_and_torn_bodies_never_make_a_wrong_read() {
    let faults = Faults {
        refused: 60,
        unacknowledged: 80,
        torn: 60,
        cut: 0,
        delayed: 200,
        delay_ms_max: 400,
    };
    assert!(run(0..12, faults) > 100);
}

#[test]
fn a_bucket_that_mostly_fails_stores_everything_in_the_end() {
    let faults = Faults {
        refused: 400,
        unacknowledged: 300,
        torn: 50,
        delayed: 500,
        delay_ms_max: 30_000,
        ..Faults::default()
    };
    run(100..104, faults);
}

#[tokio::test(start_paused = true)]
async fn a_dead_bucket_answers_at_once_and_gets_everything_when_it_is_back() {
    let store = Arc::new(FaultyStore::new(
        Arc::new(InMemory::new()),
        1,
        Faults::default(),
    ));
    let site = site_over(store.clone());
    let node = site.node().await;
    node.put_and_wait(&trusted(), b"old", Rule::Content, &body(1, 10))
        .await;
    let dead = Faults {
        refused: 1000,
        ..Faults::default()
    };
    store.set(dead);
    for number in 0..50_u8 {
        node.put(
            &trusted(),
            &[number],
            Rule::Content,
            &body(number.into(), 10),
        );
    }
    while node.bucket.is_reachable() {
        assert_eq!(node.get_known(&trusted(), b"old").await, Err(Unavailable));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let began = tokio::time::Instant::now();
    assert_eq!(node.get_known(&trusted(), b"old").await, Err(Unavailable));
    let offered = node
        .bucket
        .offer_and_wait(&trusted(), &[1], Rule::Content, 10, LONG)
        .await;
    assert_eq!(offered, Delivery::Failed);
    assert_eq!(began.elapsed(), Duration::ZERO);
    // It is asked rarely now.
    let before = node.requests().all();
    tokio::time::sleep(Duration::from_mins(10)).await;
    let asked = node.requests().all() - before;
    println!("{asked} requests in ten minutes of outage");
    assert!(asked <= 120, "{asked}");
    assert_eq!(node.bucket.usage().queue.entries, 50);
    store.set(Faults::default());
    tokio::time::timeout(Duration::from_mins(2), node.settle())
        .await
        .unwrap();
    let reader = site.node().await;
    for number in 0..50_u8 {
        let read = reader.get(&trusted(), &[number]).await;
        assert_eq!(read, Ok(Some(body(number.into(), 10))));
    }
    assert_eq!(
        node.get_known(&trusted(), b"old").await,
        Ok(Some(body(1, 10)))
    );
}
