//! What the ledger promises, each ledger in a file of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use larder_ledger::{Ledger, LedgerError, Missing, NewToken, TokenRow};
use tempfile::TempDir;

const NOW_MS: u64 = 1_800_000_000_000;

/// A new ledger with the workspace `acme`.
async fn with_acme() -> (TempDir, Ledger) {
    let directory = TempDir::new().unwrap();
    let ledger = Ledger::open(&directory.path().join("ledger.sqlite"))
        .await
        .unwrap();
    ledger.create_workspace("acme", NOW_MS).await.unwrap();
    (directory, ledger)
}

async fn open_again(directory: &TempDir) -> Ledger {
    Ledger::open(&directory.path().join("ledger.sqlite"))
        .await
        .unwrap()
}

fn new_token(number: u8, access: &str) -> NewToken {
    NewToken {
        hash: [number; 32],
        workspace: "acme".to_owned(),
        access: access.to_owned(),
        scope: None,
        name: None,
        created_at_ms: NOW_MS,
        expires_at_ms: None,
    }
}

/// Changes the file behind the ledger's back.
async fn alter(path: &Path, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    pool.close().await;
}

async fn names(ledger: &Ledger) -> Vec<String> {
    ledger
        .workspaces()
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.name)
        .collect()
}

#[tokio::test]
async fn workspaces_are_listed_by_name_and_exist_once() {
    let (_directory, ledger) = with_acme().await;
    ledger
        .create_workspace("aaa.b_c-9", NOW_MS + 1)
        .await
        .unwrap();
    let refusal = ledger
        .create_workspace("acme", NOW_MS + 2)
        .await
        .unwrap_err();
    assert!(matches!(&refusal, LedgerError::Exists { workspace } if workspace == "acme"));
    assert_eq!(names(&ledger).await, ["aaa.b_c-9", "acme"]);
    assert_eq!(ledger.workspaces().await.unwrap()[1].created_at_ms, NOW_MS);
}

#[tokio::test]
async fn a_workspace_name_outside_the_grammar_is_invalid() {
    let (_directory, ledger) = with_acme().await;
    let long = "a".repeat(64);
    for name in ["", "Acme", ".a", "-a", "a b", "a/b", "ä", "a\n", &long] {
        let refusal = ledger.create_workspace(name, NOW_MS).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{name:?}: {refusal:?}"
        );
    }
    ledger.create_workspace(&long[1..], NOW_MS).await.unwrap();
}

#[tokio::test]
async fn a_token_is_read_back_as_it_was_created() {
    let (directory, ledger) = with_acme().await;
    let new = NewToken {
        scope: Some("pr/7".to_owned()),
        name: Some("Ana's laptop; '\"$1".to_owned()),
        expires_at_ms: Some(NOW_MS + 5),
        ..new_token(1, "isolated")
    };
    let created = ledger.create_token(new.clone()).await.unwrap();
    let expected = TokenRow {
        id: 1,
        hash: new.hash,
        workspace: new.workspace,
        access: new.access,
        scope: new.scope,
        name: new.name,
        created_at_ms: new.created_at_ms,
        expires_at_ms: new.expires_at_ms,
        revoked_at_ms: None,
        last_used_at_ms: None,
    };
    assert_eq!(created, expected);
    drop(ledger);
    let ledger = open_again(&directory).await;
    assert_eq!(
        ledger.tokens().await.unwrap(),
        std::slice::from_ref(&expected)
    );
    assert_eq!(
        ledger.token_by_hash(&[1; 32]).await.unwrap(),
        Some(expected)
    );
    assert_eq!(ledger.token_by_hash(&[2; 32]).await.unwrap(), None);
}

#[tokio::test]
async fn only_an_isolated_token_has_a_scope_and_by_default_one_of_its_own() {
    let (_directory, ledger) = with_acme().await;
    for (number, access) in (1..).zip(["trusted", "reader", "admin"]) {
        assert_eq!(
            ledger
                .create_token(new_token(number, access))
                .await
                .unwrap()
                .scope,
            None
        );
        let scoped = NewToken {
            scope: Some("pr".to_owned()),
            ..new_token(100 + number, access)
        };
        let refusal = ledger.create_token(scoped).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{refusal:?}"
        );
    }
    for number in 4..6 {
        let row = ledger
            .create_token(new_token(number, "isolated"))
            .await
            .unwrap();
        assert_eq!(row.scope, Some(format!("token/{}", row.id)));
        assert_eq!(
            ledger.token_by_hash(&[number; 32]).await.unwrap(),
            Some(row)
        );
    }
}

#[tokio::test]
async fn an_isolated_token_never_gets_the_trusted_scope() {
    let (_directory, ledger) = with_acme().await;
    for scope in [
        "trusted",
        "Trusted",
        "trusted/7",
        "TRUSTED/a",
        "",
        "a b",
        "trusted ",
    ] {
        let new = NewToken {
            scope: Some(scope.to_owned()),
            ..new_token(1, "isolated")
        };
        let refusal = ledger.create_token(new).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{scope:?}: {refusal:?}"
        );
    }
    assert_eq!(ledger.tokens().await.unwrap(), []);
}

#[tokio::test]
async fn a_word_that_is_no_access_is_invalid() {
    let (_directory, ledger) = with_acme().await;
    for access in ["", "Trusted", "write", "isolated "] {
        let refusal = ledger.create_token(new_token(1, access)).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::Invalid { .. }),
            "{access:?}: {refusal:?}"
        );
    }
}

#[tokio::test]
async fn a_token_needs_its_workspace_and_a_text_of_its_own() {
    let (_directory, ledger) = with_acme().await;
    let stray = NewToken {
        workspace: "nobody".to_owned(),
        ..new_token(1, "reader")
    };
    let refusal = ledger.create_token(stray).await.unwrap_err();
    let expected = Missing::Workspace("nobody".to_owned());
    assert!(matches!(&refusal, LedgerError::NotFound(missing) if *missing == expected));
    ledger.create_token(new_token(1, "reader")).await.unwrap();
    let refusal = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap_err();
    assert!(matches!(refusal, LedgerError::TokenExists), "{refusal:?}");
    assert_eq!(ledger.tokens().await.unwrap().len(), 1);
}

#[tokio::test]
async fn revoking_is_for_good_and_keeps_its_first_time() {
    let (_directory, ledger) = with_acme().await;
    let id = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    let other = ledger.create_token(new_token(2, "trusted")).await.unwrap();
    for now_ms in [NOW_MS + 1, NOW_MS + 2] {
        let row = ledger.revoke_token(id, now_ms).await.unwrap();
        assert_eq!(row.revoked_at_ms, Some(NOW_MS + 1));
    }
    assert_eq!(ledger.token_by_hash(&[2; 32]).await.unwrap(), Some(other));
    for unknown in [3, 0, u64::MAX] {
        let refusal = ledger.revoke_token(unknown, NOW_MS).await.unwrap_err();
        let expected = Missing::Token(unknown);
        assert!(matches!(&refusal, LedgerError::NotFound(missing) if *missing == expected));
    }
}

#[tokio::test]
async fn a_workspace_goes_only_when_its_tokens_are_revoked() {
    let (_directory, ledger) = with_acme().await;
    ledger.create_workspace("other", NOW_MS).await.unwrap();
    let first = ledger.create_token(new_token(1, "trusted")).await.unwrap();
    let second = ledger.create_token(new_token(2, "reader")).await.unwrap();
    ledger.revoke_token(first.id, NOW_MS).await.unwrap();
    let refusal = ledger.delete_workspace("acme", NOW_MS).await.unwrap_err();
    assert!(
        matches!(refusal, LedgerError::InUse { token_count: 1, .. }),
        "{refusal:?}"
    );
    let ids: Vec<u64> = ledger
        .tokens()
        .await
        .unwrap()
        .iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(
        ids,
        [first.id, second.id],
        "a refused deletion changes nothing"
    );

    ledger.revoke_token(second.id, NOW_MS).await.unwrap();
    ledger.delete_workspace("acme", NOW_MS).await.unwrap();
    assert_eq!(names(&ledger).await, ["other"]);
    assert_eq!(
        ledger.tokens().await.unwrap().len(),
        2,
        "writers stay known after their workspace"
    );
    let refusal = ledger.delete_workspace("acme", NOW_MS).await.unwrap_err();
    assert!(
        matches!(refusal, LedgerError::NotFound(Missing::Workspace(_))),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_deleted_workspace_takes_no_tokens_until_it_is_made_again() {
    let (_directory, ledger) = with_acme().await;
    ledger.delete_workspace("acme", NOW_MS).await.unwrap();
    let refusal = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, LedgerError::NotFound(Missing::Workspace(_))),
        "{refusal:?}"
    );
    assert_eq!(ledger.tokens().await.unwrap(), []);
    ledger.create_workspace("acme", NOW_MS + 9).await.unwrap();
    assert_eq!(
        ledger.workspaces().await.unwrap()[0].created_at_ms,
        NOW_MS + 9
    );
    ledger.create_token(new_token(1, "trusted")).await.unwrap();
}

#[tokio::test]
async fn nobody_asks_for_a_scope_that_is_another_tokens_default() {
    let (_directory, ledger) = with_acme().await;
    for scope in ["token", "token/1", "token/1/linux", "Token/1"] {
        let new = NewToken {
            scope: Some(scope.to_owned()),
            ..new_token(1, "isolated")
        };
        let refusal = ledger.create_token(new).await.unwrap_err();
        assert!(
            matches!(refusal, LedgerError::ReservedScope),
            "{scope}: {refusal:?}"
        );
    }
    let new = NewToken {
        scope: Some("tokens/1".to_owned()),
        ..new_token(1, "isolated")
    };
    ledger.create_token(new).await.unwrap();
}

#[tokio::test]
async fn the_id_of_a_token_that_is_gone_is_never_used_again() {
    let (directory, ledger) = with_acme().await;
    let last = ledger.create_token(new_token(1, "isolated")).await.unwrap();
    ledger.revoke_token(last.id, NOW_MS).await.unwrap();
    ledger.delete_workspace("acme", NOW_MS).await.unwrap();
    drop(ledger);
    let ledger = open_again(&directory).await;
    ledger.create_workspace("acme", NOW_MS).await.unwrap();
    let next = ledger.create_token(new_token(2, "isolated")).await.unwrap();
    assert!(next.id > last.id, "{} after {}", next.id, last.id);
    assert_ne!(next.scope, last.scope);
}

#[tokio::test]
async fn last_use_only_moves_forward() {
    let (_directory, ledger) = with_acme().await;
    let id = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    for (uses, expected) in [
        (vec![], None),
        (
            vec![(id, NOW_MS + 5), (99, NOW_MS), (u64::MAX, NOW_MS)],
            Some(NOW_MS + 5),
        ),
        (vec![(id, NOW_MS + 4)], Some(NOW_MS + 5)),
        (vec![(id, NOW_MS + 7), (id, NOW_MS + 6)], Some(NOW_MS + 7)),
    ] {
        ledger.record_last_used(&uses).await.unwrap();
        assert_eq!(
            ledger.tokens().await.unwrap()[0].last_used_at_ms,
            expected,
            "{uses:?}"
        );
    }
}

#[tokio::test]
async fn times_beyond_what_sql_can_hold_stay_in_the_far_future() {
    let (_directory, ledger) = with_acme().await;
    let new = NewToken {
        expires_at_ms: Some(u64::MAX),
        ..new_token(1, "trusted")
    };
    let row = ledger.create_token(new).await.unwrap();
    assert_eq!(row.expires_at_ms, Some(i64::MAX.unsigned_abs()));
}

#[tokio::test]
async fn every_change_through_another_ledger_changes_the_mark() {
    let (directory, here) = with_acme().await;
    let there = open_again(&directory).await;
    let id = there
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    let mut mark = here.change_mark().await.unwrap();
    let mut check = async |change: &str| {
        let next = here.change_mark().await.unwrap();
        assert_ne!(next, mark, "after {change}");
        assert_eq!(
            here.change_mark().await.unwrap(),
            next,
            "no change since {change}"
        );
        mark = next;
    };
    there.revoke_token(id, NOW_MS).await.unwrap();
    check("revoke").await;
    assert_eq!(here.tokens().await.unwrap()[0].revoked_at_ms, Some(NOW_MS));
    there.create_token(new_token(2, "reader")).await.unwrap();
    check("create token").await;
    there.create_workspace("other", NOW_MS).await.unwrap();
    check("create workspace").await;
    there.delete_workspace("other", NOW_MS).await.unwrap();
    check("delete workspace").await;
}

#[tokio::test]
async fn a_change_through_the_same_ledger_changes_the_mark() {
    let (_directory, ledger) = with_acme().await;
    let id = ledger
        .create_token(new_token(1, "trusted"))
        .await
        .unwrap()
        .id;
    let mark = ledger.change_mark().await.unwrap();
    ledger.clone().revoke_token(id, NOW_MS).await.unwrap();
    assert_ne!(ledger.change_mark().await.unwrap(), mark);
}

#[tokio::test]
async fn a_refused_change_leaves_the_mark_alone() {
    let (directory, here) = with_acme().await;
    let there = open_again(&directory).await;
    there.create_token(new_token(1, "trusted")).await.unwrap();
    let mark = here.change_mark().await.unwrap();
    there.create_workspace("acme", NOW_MS).await.unwrap_err();
    there.delete_workspace("acme", NOW_MS).await.unwrap_err();
    there
        .create_token(new_token(2, "nonsense"))
        .await
        .unwrap_err();
    assert_eq!(here.change_mark().await.unwrap(), mark);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_files_are_their_owners_alone_even_if_they_were_not() {
    let (directory, ledger) = with_acme().await;
    let files: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(
        files.len(),
        3,
        "the ledger and SQLite's two side files: {files:?}"
    );
    for file in &files {
        assert_eq!(mode(file), 0o600, "{file:?}");
    }
    drop(ledger);
    let path = directory.path().join("ledger.sqlite");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let ledger = open_again(&directory).await;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names(&ledger).await, ["acme"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_open_a_new_ledger_and_write_to_it_at_once() {
    for _ in 0..5 {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("ledger.sqlite");
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..8_u8 {
            let path = path.clone();
            writers.spawn(async move {
                let ledger = Ledger::open(&path).await.unwrap();
                match ledger.create_workspace("acme", NOW_MS).await {
                    Ok(()) | Err(LedgerError::Exists { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
                ledger
                    .create_token(new_token(number, "isolated"))
                    .await
                    .unwrap()
                    .id
            });
        }
        let mut ids = writers.join_all().await;
        ids.sort_unstable();
        assert_eq!(ids, (1..=8).collect::<Vec<u64>>());
        assert_eq!(
            open_again(&directory).await.tokens().await.unwrap().len(),
            8
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_bring_an_older_ledger_up_to_date_at_once() {
    for _ in 0..5 {
        let (directory, ledger) = with_acme().await;
        drop(ledger);
        let path = directory.path().join("ledger.sqlite");
        alter(
            &path,
            "DROP TABLE tokens; DROP TABLE workspaces; DELETE FROM _sqlx_migrations",
        )
        .await;
        let mut openers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let path = path.clone();
            openers.spawn(async move { Ledger::open(&path).await.unwrap() });
        }
        for ledger in openers.join_all().await {
            assert_eq!(names(&ledger).await, [""; 0]);
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_said_to_be_damaged_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.sqlite");
    let content = "not a database, but somebody's text\n".repeat(200);
    fs::write(&path, &content).unwrap();
    let refusal = Ledger::open(&path).await.unwrap_err();
    assert!(
        matches!(refusal, LedgerError::Damaged { .. }),
        "{refusal:?}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
}

#[tokio::test]
async fn a_missing_directory_is_an_error_that_names_the_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("missing/ledger.sqlite");
    let refusal = Ledger::open(&path).await.unwrap_err();
    assert!(matches!(refusal, LedgerError::File { .. }), "{refusal:?}");
    assert!(
        refusal.to_string().contains("missing/ledger.sqlite"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_ledger_from_the_future_is_refused_and_says_so() {
    let (directory, ledger) = with_acme().await;
    drop(ledger);
    let path = directory.path().join("ledger.sqlite");
    alter(
        &path,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, x'00', 0)",
    )
    .await;
    let refusal = Ledger::open(&path).await.unwrap_err();
    assert!(
        matches!(refusal, LedgerError::Newer { version: 9999 }),
        "{refusal:?}"
    );
}
