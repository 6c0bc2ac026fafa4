//! The file: private, shared by processes, of this version or an older one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use larder_ledger::{Ledger, LedgerError};
use tempfile::TempDir;

use crate::house::{NOW_MS, alter, names, new_token, open_again, version_2, with_acme};

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
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("ledger.sqlite");
        version_2(
            &path,
            "INSERT INTO workspaces (name, created_at_ms) VALUES ('acme', 1)",
        )
        .await;
        let mut openers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let path = path.clone();
            openers.spawn(async move { Ledger::open(&path).await.unwrap() });
        }
        for ledger in openers.join_all().await {
            assert_eq!(names(&ledger).await, ["acme"]);
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
