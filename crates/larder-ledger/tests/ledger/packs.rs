//! The catalogue of the bucket and its key.

use larder_ledger::{Ledger, LedgerError, NewPack, PackRow};

use crate::house::{NOW_MS, open_again, with_acme};

const DAY_MS: u64 = 24 * 3_600_000;

fn new_pack(name: &str) -> NewPack {
    NewPack {
        name: name.to_owned(),
        workspace: "acme".to_owned(),
        trust: "trusted".to_owned(),
        object_bytes: 100,
        index_offset: 60,
        index_bytes: 24,
        entry_count: 3,
        created_at_ms: NOW_MS,
    }
}

async fn all(ledger: &Ledger) -> Vec<PackRow> {
    ledger.packs_since(0, u32::MAX).await.unwrap()
}

async fn append(ledger: &Ledger, name: &str) -> u64 {
    ledger.append_pack(&new_pack(name)).await.unwrap()
}

#[tokio::test]
async fn whoever_follows_sees_every_pack_once_and_every_removal() {
    let (_directory, ledger) = with_acme().await;
    let mut numbers = Vec::new();
    for name in ["a", "b", "c"] {
        numbers.push(append(&ledger, name).await);
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    let first = ledger.packs_since(0, 2).await.unwrap();
    let names: Vec<&str> = first.iter().map(|row| row.pack.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(first[0].pack, new_pack("a"));
    let rest = ledger.packs_since(first[1].revision, 2).await.unwrap();
    assert_eq!(rest.len(), 1);
    let seen = rest[0].revision;

    ledger
        .remove_packs(&[numbers[0], numbers[2], 99], NOW_MS)
        .await
        .unwrap();
    ledger
        .remove_packs(&[numbers[0]], NOW_MS + 1)
        .await
        .unwrap();
    let removed = ledger.packs_since(seen, 9).await.unwrap();
    let removed: Vec<_> = removed
        .iter()
        .map(|row| (row.number, row.removed_at_ms))
        .collect();
    assert_eq!(
        removed,
        [(numbers[0], Some(NOW_MS)), (numbers[2], Some(NOW_MS))]
    );
    assert_eq!(all(&ledger).await.len(), 3, "each row once, as it is now");
    let sums = ledger.pack_sums().await.unwrap();
    assert_eq!((sums.packs, sums.object_bytes, sums.records), (1, 100, 3));
}

#[tokio::test]
async fn a_pack_that_is_appended_again_keeps_its_number_and_changes_nothing() {
    let (_directory, ledger) = with_acme().await;
    let number = append(&ledger, "a").await;
    let rows = all(&ledger).await;
    assert_eq!(append(&ledger, "a").await, number);
    assert_eq!(all(&ledger).await, rows);
    ledger.remove_packs(&[number], NOW_MS).await.unwrap();
    assert_eq!(append(&ledger, "a").await, number);
    assert!(all(&ledger).await[0].removed_at_ms.is_some());
    assert!(append(&ledger, "b").await > number);
}

#[tokio::test]
async fn a_removed_row_goes_after_a_month_and_its_number_never_comes_back() {
    let (_directory, ledger) = with_acme().await;
    let number = append(&ledger, "a").await;
    ledger.remove_packs(&[number], NOW_MS).await.unwrap();
    let later = NOW_MS + 30 * DAY_MS;
    ledger.remove_packs(&[], later).await.unwrap();
    assert_eq!(all(&ledger).await.len(), 1);
    ledger.remove_packs(&[], later + 1).await.unwrap();
    assert_eq!(all(&ledger).await, []);
    assert!(append(&ledger, "a").await > number);
}

#[tokio::test]
async fn the_packs_of_a_deleted_workspace_go_with_it_and_it_gets_no_more() {
    let (_directory, ledger) = with_acme().await;
    ledger.create_workspace("other", NOW_MS).await.unwrap();
    append(&ledger, "a").await;
    let other = NewPack {
        workspace: "other".to_owned(),
        ..new_pack("b")
    };
    ledger.append_pack(&other).await.unwrap();
    ledger.delete_workspace("acme", NOW_MS).await.unwrap();
    let left = all(&ledger).await;
    let left = left.iter().filter(|row| row.removed_at_ms.is_none());
    let left: Vec<&str> = left.map(|row| row.pack.name.as_str()).collect();
    assert_eq!(left, ["b"]);
    let refused = ledger.append_pack(&new_pack("c")).await.unwrap_err();
    assert!(matches!(refused, LedgerError::NotFound(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_append_at_once_and_no_reader_misses_one() {
    let (directory, ledger) = with_acme().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let ledger = open_again(&directory).await;
        writers.spawn(async move {
            for pack in 0..25 {
                append(&ledger, &format!("{writer}/{pack}")).await;
            }
        });
    }
    let (mut seen, mut followed) = (0, Vec::new());
    while followed.len() < 100 {
        let rows = ledger.packs_since(seen, 7).await.unwrap();
        if let Some(last) = rows.last() {
            seen = last.revision;
        }
        followed.extend(rows);
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    assert_eq!(followed, all(&ledger).await);
}

#[tokio::test]
async fn the_key_is_made_once_and_gives_way_to_another_only_before_the_first_pack() {
    let (directory, ledger) = with_acme().await;
    assert_eq!(ledger.bucket_key_if_any().await.unwrap(), None);
    assert_eq!(ledger.bucket_key([1; 32]).await.unwrap(), [1; 32]);
    let again = open_again(&directory).await;
    assert_eq!(again.bucket_key([2; 32]).await.unwrap(), [1; 32]);
    assert!(ledger.replace_bucket_key([3; 32]).await.unwrap());
    assert_eq!(again.bucket_key([2; 32]).await.unwrap(), [3; 32]);
    append(&ledger, "a").await;
    assert!(!ledger.replace_bucket_key([4; 32]).await.unwrap());
    assert_eq!(ledger.bucket_key_if_any().await.unwrap(), Some([3; 32]));
}

#[tokio::test]
async fn orders_are_followed_in_turn_and_go_when_they_say_nothing_any_more() {
    let (directory, ledger) = with_acme().await;
    let first = ledger.keep_order("one", NOW_MS, 0).await.unwrap();
    let second = ledger.keep_order("two", NOW_MS + 1, 0).await.unwrap();
    let other = open_again(&directory).await;
    let texts = async |since| -> Vec<String> {
        let rows = other.orders_since(since).await.unwrap();
        rows.into_iter().map(|row| row.text).collect()
    };
    assert_eq!(texts(0).await, ["one", "two"]);
    assert_eq!(texts(first).await, ["two"]);
    let third = ledger.keep_order("three", NOW_MS + 9, NOW_MS + 1).await;
    assert!(third.unwrap() > second);
    assert_eq!(texts(0).await, ["two", "three"]);
}
