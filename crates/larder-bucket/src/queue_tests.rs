use bytes::Bytes;

use super::*;
use crate::record::Rule;

const LINGER: Duration = Duration::from_millis(200);

fn queue() -> (tempfile::TempDir, Queue) {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::open(dir.path(), |_| 0).unwrap();
    (dir, queue)
}

fn offer(queue: &Queue, workspace: &str, trust: Trust, number: u32, body_bytes: u64) {
    let (told, _) = oneshot::channel();
    wait_for(queue, workspace, trust, number, body_bytes, told);
}

fn wait_for(
    queue: &Queue,
    workspace: &str,
    trust: Trust,
    number: u32,
    body_bytes: u64,
    waiter: oneshot::Sender<Delivery>,
) {
    queue.offer(
        u128::from(number),
        made(workspace, trust, number, body_bytes),
        Some(waiter),
    );
}

fn made(workspace: &str, trust: Trust, number: u32, body_bytes: u64) -> Offer {
    Offer {
        realm: Realm::new(workspace, trust).unwrap(),
        key: Bytes::copy_from_slice(&number.to_le_bytes()),
        rule: Rule::Content,
        is_touch: false,
        body_bytes,
        offered_at_ms: 0,
    }
}

/// The workspace and the keys of the next batch.
fn next(queue: &Queue, trust: Trust) -> Option<(String, Vec<u128>)> {
    let Next::Upload(batch) = queue.next(trust, LINGER) else {
        return None;
    };
    let keys = batch.items.iter().map(|(item, _)| item.hash).collect();
    Some((batch.realm.workspace().to_owned(), keys))
}

#[tokio::test(start_paused = true)]
async fn workspaces_take_turns() {
    let (_dir, queue) = queue();
    let half = PACK_BYTES_TARGET / 2;
    for number in 0..6 {
        offer(&queue, "busy", Trust::Trusted, number, half);
    }
    offer(&queue, "calm", Trust::Trusted, 100, 1);
    let batches = std::iter::from_fn(|| next(&queue, Trust::Trusted));
    let batches: Vec<(String, Vec<u128>)> = batches.collect();
    let busy = |keys: [u128; 2]| ("busy".to_owned(), keys.to_vec());
    let calm = ("calm".to_owned(), vec![100]);
    assert_eq!(batches, [busy([0, 1]), calm, busy([2, 3]), busy([4, 5])]);
    assert!(next(&queue, Trust::Untrusted).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_entry_waits_for_company_only_as_long_as_it_may() {
    let (_dir, queue) = queue();
    queue.offer(1, made("acme", Trust::Trusted, 1, 10), None);
    let Next::Later(at) = queue.next(Trust::Trusted, LINGER) else {
        panic!("it is due at once");
    };
    assert_eq!(at - Instant::now(), LINGER);
    queue.offer(2, made("acme", Trust::Trusted, 2, 10), None);
    tokio::time::advance(LINGER).await;
    assert_eq!(next(&queue, Trust::Trusted).unwrap().1, [1, 2]);
    // Somebody waits, or a pack is full: at once, with all the others.
    queue.offer(3, made("acme", Trust::Trusted, 3, 10), None);
    offer(&queue, "acme", Trust::Trusted, 3, 10);
    assert_eq!(next(&queue, Trust::Trusted).unwrap().1, [3]);
    queue.offer(4, made("acme", Trust::Trusted, 4, 3 << 20), None);
    queue.offer(5, made("acme", Trust::Trusted, 5, 3 << 20), None);
    assert!(next(&queue, Trust::Trusted).is_none());
    queue.offer(6, made("acme", Trust::Trusted, 6, 3 << 20), None);
    assert_eq!(next(&queue, Trust::Trusted).unwrap().1, [4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_keeps_no_small_one_waiting_in_its_batch() {
    let (_dir, queue) = queue();
    for (number, bytes) in [(1, 10), (2, PACKED_BODY_BYTES_MAX + 1), (3, 10)] {
        offer(&queue, "acme", Trust::Trusted, number, bytes);
    }
    let batches = std::iter::from_fn(|| next(&queue, Trust::Trusted));
    let batches: Vec<Vec<u128>> = batches.map(|(_, keys)| keys).collect();
    assert_eq!(batches, [vec![1], vec![2], vec![3]]);
}

#[tokio::test(start_paused = true)]
async fn a_queued_key_is_queued_once_and_again_while_it_is_under_way() {
    let (_dir, queue) = queue();
    let (first, mut told_first) = oneshot::channel();
    let (second, mut told_second) = oneshot::channel();
    wait_for(&queue, "acme", Trust::Trusted, 1, 10, first);
    wait_for(&queue, "acme", Trust::Trusted, 1, 10, second);
    let Next::Upload(batch) = queue.next(Trust::Trusted, LINGER) else {
        panic!("nothing to upload");
    };
    let (item, waiters) = batch.items.into_iter().next().unwrap();
    // A newer entry of the key is another upload, with waiters of its own.
    offer(&queue, "acme", Trust::Trusted, 1, 20);
    assert_eq!((waiters.len(), queue.usage().entries), (2, 2));
    for waiter in waiters {
        waiter.send(Delivery::Stored).unwrap();
    }
    assert_eq!(told_first.try_recv(), Ok(Delivery::Stored));
    assert_eq!(told_second.try_recv(), Ok(Delivery::Stored));
    // What is queued again need not be tried again.
    queue.retry(&item);
    assert_eq!(queue.usage().entries, 1);
    assert_eq!(next(&queue, Trust::Trusted).unwrap().1, [1]);
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_again_behind_the_others() {
    let (_dir, queue) = queue();
    offer(&queue, "acme", Trust::Trusted, 1, 10);
    let Next::Upload(batch) = queue.next(Trust::Trusted, LINGER) else {
        panic!("nothing to upload");
    };
    offer(&queue, "acme", Trust::Trusted, 2, 10);
    queue.retry(&batch.items[0].0);
    assert_eq!(next(&queue, Trust::Trusted).unwrap().1, [2, 1]);
}

#[test]
fn a_full_queue_drops_offers_and_counts_them() {
    let (_dir, queue) = queue();
    let over = 5;
    for number in 0..QUEUE_ENTRY_COUNT_MAX as u32 + over {
        queue.offer(
            u128::from(number),
            made("acme", Trust::Trusted, number, 1),
            None,
        );
        if number % 10_000 == 0 {
            queue.flush().unwrap();
        }
    }
    assert_eq!(queue.usage().entries, QUEUE_ENTRY_COUNT_MAX as u64);
    assert_eq!(
        (queue.take_dropped(), queue.take_dropped()),
        (u64::from(over), 0)
    );
    let (told, mut telling) = oneshot::channel();
    wait_for(&queue, "acme", Trust::Trusted, u32::MAX, 1, told);
    assert!(telling.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn the_file_shrinks_as_the_queue_empties_and_is_what_is_left() {
    let (dir, queue) = queue();
    let size = || std::fs::metadata(dir.path().join("queue")).unwrap().len();
    let mut largest = 0;
    for round in 0..40_u32 {
        for number in 0..4096 {
            offer(&queue, "acme", Trust::Trusted, round * 4096 + number, 1);
        }
        let Next::Upload(batch) = queue.next(Trust::Trusted, LINGER) else {
            panic!("nothing to upload");
        };
        for (item, _) in &batch.items {
            queue.complete(item);
        }
        queue.flush().unwrap();
        largest = largest.max(size());
    }
    offer(&queue, "acme", Trust::Untrusted, 7, 9);
    queue.flush().unwrap();
    println!("at most {largest} bytes of file for {} offers", 40 * 4096);
    assert!(largest < 2 * STALE_BYTES_MAX, "{largest}");
    drop(queue);
    let queue = Queue::open(dir.path(), |_| 3).unwrap();
    assert_eq!(size(), 16 + 43);
    assert_eq!((queue.usage().entries, queue.usage().bytes), (1, 9));
}

#[tokio::test(start_paused = true)]
async fn an_entry_takes_the_place_of_a_touch_and_a_touch_that_of_nothing() {
    let (dir, queue) = queue();
    let touch = |number| Offer {
        is_touch: true,
        ..made("acme", Trust::Trusted, number, 0)
    };
    queue.offer(1, touch(1), None);
    let (told, mut telling) = oneshot::channel();
    wait_for(&queue, "acme", Trust::Trusted, 1, 10, told);
    queue.offer(1, touch(1), None);
    queue.flush().unwrap();
    // So it is also after a restart, with a queue that was written before the touch was passed over.
    let left = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("queue"), left.path().join("queue")).unwrap();
    let restarted = Queue::open(left.path(), |_| 1).unwrap();
    tokio::time::advance(LINGER).await;
    for queue in [queue, restarted] {
        assert_eq!((queue.usage().entries, queue.usage().bytes), (1, 10));
        let Next::Upload(batch) = queue.next(Trust::Trusted, LINGER) else {
            panic!("nothing to upload");
        };
        let [(item, waiters)] = batch.items.try_into().unwrap();
        assert!(!item.offer.is_touch);
        for waiter in waiters {
            waiter.send(Delivery::Stored).unwrap();
        }
        queue.complete(&item);
        queue.flush().unwrap();
        assert_eq!(queue.usage(), QueueUsage::default());
        assert!(next(&queue, Trust::Trusted).is_none());
        let state = queue.state.lock();
        assert_eq!(
            state.lanes[0].taken.entries + state.lanes[0].taken.name_bytes,
            0
        );
    }
    assert_eq!(telling.try_recv(), Ok(Delivery::Stored));
    for dir in [dir, left] {
        let queue = Queue::open(dir.path(), |_| 1).unwrap();
        assert_eq!(queue.usage().entries, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn untrusted_entries_leave_trusted_ones_their_place() {
    let (_dir, queue) = queue();
    let share = (QUEUE_ENTRY_COUNT_MAX / UNTRUSTED_SHARE) as u32;
    let offer = |trust, number: u32| {
        let key = u128::from(number) << 64;
        queue.offer(key, made("acme", trust, number, 1), None)
    };
    for number in 0..share {
        assert!(offer(Trust::Untrusted, number));
        if number % 10_000 == 0 {
            queue.flush().unwrap();
        }
    }
    assert!(!offer(Trust::Untrusted, share));
    assert!(offer(Trust::Trusted, share + 1));
    assert_eq!(queue.take_dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_full_disk_did_not_take_is_written_later() {
    let (dir, queue) = queue();
    let entries = || {
        let left = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("queue"), left.path().join("queue")).unwrap();
        let hash = |offer: &Offer| u128::from(offer.key[0]);
        Queue::open(left.path(), hash).unwrap().usage().entries
    };
    offer(&queue, "acme", Trust::Trusted, 1, 1);
    queue.flush().unwrap();
    queue.file.lock().fill_disk();
    offer(&queue, "acme", Trust::Trusted, 2, 1);
    assert!(queue.flush().is_err());
    offer(&queue, "acme", Trust::Trusted, 3, 1);
    queue.flush().unwrap();
    assert_eq!(entries(), 1, "the disk has its rest");
    tokio::time::advance(Duration::from_secs(10)).await;
    queue.flush().unwrap();
    assert_eq!(entries(), 3);
}
