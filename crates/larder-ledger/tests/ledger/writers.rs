//! Writers: who is the same, who is another, and how they are found.

use std::collections::HashMap;

use larder_ledger::{LedgerError, Missing, NewWriter, ProvenanceColumns, WriterFilter, WriterKind};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::house::{NOW_MS, new_token, new_writer, open_again, with_acme};

#[tokio::test]
async fn a_writer_is_read_back_as_it_was_described() {
    let (directory, ledger) = with_acme().await;
    let text = |text: &str| Some(text.to_owned());
    let new = NewWriter {
        provenance: ProvenanceColumns {
            issuer: text("https://issuer.example"),
            rule: text("main"),
            repository_id: text("1"),
            repository: text("acme/web"),
            git_ref: text("refs/pull/7/merge"),
            commit_sha: text("abc"),
            event: text("pull_request"),
            workflow: text("w"),
            run_id: text("2"),
            run_attempt: text("3"),
            job: text("4"),
            actor: text("ana"),
            subject: text("repo:acme/web"),
            environment: text("prod"),
        },
        ..new_writer("")
    };
    let id = ledger.writer_id(&new).await.unwrap();
    drop(ledger);
    let ledger = open_again(&directory).await;
    let row = ledger.writer(id).await.unwrap().unwrap();
    assert_eq!(
        (
            row.kind,
            row.workspace,
            row.access,
            row.scope,
            row.provenance
        ),
        (
            new.kind,
            new.workspace,
            new.access,
            new.scope,
            new.provenance
        )
    );
    assert_eq!((row.created_at_ms, row.last_seen_at_ms), (NOW_MS, NOW_MS));
    assert_eq!((row.name, row.last_address), (None, new.address));
    assert_eq!(ledger.writer(id + 1).await.unwrap(), None);
}

#[tokio::test]
async fn a_writer_who_comes_again_is_the_same_and_was_seen_then() {
    let (_directory, ledger) = with_acme().await;
    let first = ledger.writer_id(&new_writer("1")).await.unwrap();
    for (later_ms, address, seen_ms) in [
        (1, "192.0.2.8", 0),
        (60_000, "192.0.2.8", 0),
        (60_001, "192.0.2.9", 60_001),
        (600_000, "192.0.2.10", 600_000),
    ] {
        let again = NewWriter {
            now_ms: NOW_MS + later_ms,
            address: Some(address.to_owned()),
            ..new_writer("1")
        };
        assert_eq!(ledger.writer_id(&again).await.unwrap(), first);
        let row = ledger.writer(first).await.unwrap().unwrap();
        assert_eq!(row.last_seen_at_ms, NOW_MS + seen_ms, "{later_ms}");
        assert_eq!(row.created_at_ms, NOW_MS);
        let noted = if seen_ms == 0 { "192.0.2.7" } else { address };
        assert_eq!(row.last_address.as_deref(), Some(noted));
    }
}

#[tokio::test]
async fn tokens_and_writers_never_share_an_id() {
    let (_directory, ledger) = with_acme().await;
    let mut ids = Vec::new();
    for number in 1..=4_u8 {
        let token = ledger
            .create_token(new_token(number, "isolated"))
            .await
            .unwrap();
        assert_eq!(token.scope, Some(format!("token/{}", token.id)));
        ids.push(token.id);
        let writer = new_writer(&number.to_string());
        ids.push(ledger.writer_id(&writer).await.unwrap());
    }
    assert_eq!(ids, (1..=8).collect::<Vec<u64>>());
    let row = ledger.writer(1).await.unwrap().unwrap();
    assert_eq!(row.kind, WriterKind::Token);
    let described = NewWriter {
        kind: WriterKind::Token,
        ..new_writer("1")
    };
    let refusal = ledger.writer_id(&described).await.unwrap_err();
    assert!(
        matches!(refusal, LedgerError::Invalid { .. }),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_writer_needs_a_workspace_that_is_there() {
    let (_directory, ledger) = with_acme().await;
    ledger.writer_id(&new_writer("1")).await.unwrap();
    ledger.delete_workspace("acme", NOW_MS).await.unwrap();
    for (workspace, run) in [("acme", "1"), ("acme", "2"), ("nobody", "1")] {
        let new = NewWriter {
            workspace: workspace.to_owned(),
            ..new_writer(run)
        };
        let refusal = ledger.writer_id(&new).await.unwrap_err();
        let expected = Missing::Workspace(workspace.to_owned());
        assert!(matches!(&refusal, LedgerError::NotFound(missing) if *missing == expected));
    }
    let all = ledger.writers(&WriterFilter::default(), 10).await.unwrap();
    assert_eq!(all.len(), 1, "nobody was added");
}

#[tokio::test]
async fn a_filter_finds_exactly_those_who_agree_with_all_of_it() {
    let (_directory, ledger) = with_acme().await;
    let token = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    let mut ids = Vec::new();
    for (run, commit) in [("1", "a"), ("2", "a"), ("2", "b")] {
        let mut new = new_writer(run);
        new.provenance.commit_sha = Some(commit.to_owned());
        ids.push(ledger.writer_id(&new).await.unwrap());
    }
    let text = |text: &str| Some(text.to_owned());
    let check = async |filter: WriterFilter, expected: &[u64]| {
        let found = ledger.writers(&filter, 100).await.unwrap();
        let found: Vec<u64> = found.into_iter().map(|row| row.id).collect();
        assert_eq!(found, expected, "{filter:?}");
    };
    let none = WriterFilter::default;
    check(none(), &[token, ids[0], ids[1], ids[2]]).await;
    let workspace = text("acme");
    check(
        WriterFilter {
            workspace,
            ..none()
        },
        &[token, ids[0], ids[1], ids[2]],
    )
    .await;
    let run_id = text("2");
    check(WriterFilter { run_id, ..none() }, &[ids[1], ids[2]]).await;
    let commit_sha = text("a");
    check(
        WriterFilter {
            commit_sha,
            ..none()
        },
        &[ids[0], ids[1]],
    )
    .await;
    let (run_id, commit_sha) = (text("2"), text("a"));
    check(
        WriterFilter {
            run_id,
            commit_sha,
            ..none()
        },
        &[ids[1]],
    )
    .await;
    let issuer = text("https://issuer.example/");
    check(WriterFilter { issuer, ..none() }, &[]).await;
    check(
        WriterFilter {
            token: Some(token),
            ..none()
        },
        &[token],
    )
    .await;
    check(
        WriterFilter {
            token: Some(ids[0]),
            ..none()
        },
        &[],
    )
    .await;
    let first = ledger.writers(&none(), 2).await.unwrap();
    assert_eq!(first.len(), 2, "a limit is a limit");
}

/// Descriptions that are easily taken for one another: few texts, which also stand beside each other.
fn description() -> impl Strategy<Value = NewWriter> {
    let text = || prop_oneof![Just(None), "[ab]{0,2}".prop_map(Some)];
    let kind = prop_oneof![Just(WriterKind::Ci), Just(WriterKind::Certificate)];
    let access = prop_oneof![Just("trusted"), Just("isolated")];
    let columns = (text(), text(), text(), text(), text(), text(), text());
    let more = (text(), text(), text(), text(), text(), text(), text());
    (kind, access, text(), columns, more).prop_map(|(kind, access, scope, a, b)| NewWriter {
        kind,
        workspace: "acme".to_owned(),
        access: access.to_owned(),
        scope,
        provenance: ProvenanceColumns {
            issuer: a.0,
            rule: a.1,
            repository_id: a.2,
            repository: a.3,
            git_ref: a.4,
            commit_sha: a.5,
            event: a.6,
            workflow: b.0,
            run_id: b.1,
            run_attempt: b.2,
            job: b.3,
            actor: b.4,
            subject: b.5,
            environment: b.6,
        },
        address: None,
        now_ms: NOW_MS,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn two_writers_share_an_id_exactly_if_their_descriptions_are_equal(
        descriptions in proptest::collection::vec(description(), 1..24),
        later in proptest::collection::vec((0..24_usize, 0..300_000_u64), 0..24),
    ) {
        let again = later.iter().map(|&(index, later_ms)| NewWriter {
            now_ms: NOW_MS + later_ms,
            address: Some(format!("192.0.2.{index}")),
            ..descriptions[index % descriptions.len()].clone()
        });
        let all: Vec<NewWriter> = descriptions.iter().cloned().chain(again).collect();
        Runtime::new().unwrap().block_on(async {
            let (_directory, ledger) = with_acme().await;
            let mut known = HashMap::new();
            for new in &all {
                let id = ledger.writer_id(new).await.unwrap();
                let name = (new.kind.name(), &new.access, &new.scope, &new.provenance);
                let count = known.len();
                let first = *known.entry(name).or_insert(id);
                assert_eq!(first, id, "{new:?}");
                if known.len() > count {
                    let same = known.values().filter(|other| **other == id).count();
                    assert_eq!(same, 1, "another writer has this id: {new:?}");
                }
            }
        });
    }
}
