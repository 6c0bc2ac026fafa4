//! From version 2 of the tables to this one.

use larder_ledger::{Ledger, WriterKind};
use tempfile::TempDir;

use crate::house::{NOW_MS, actions, new_token, new_writer, version_2};

/// Two workspaces, one deleted; tokens of every kind, with a gap; the last id ever given is 40.
const DATA: &str = "
    INSERT INTO workspaces (name, created_at_ms, deleted_at_ms)
        VALUES ('acme', 1, NULL), ('gone', 2, 3);
    INSERT INTO tokens (id, hash, workspace, access, scope, name, created_at_ms, expires_at_ms,
                        revoked_at_ms, last_used_at_ms)
    VALUES
        (1, zeroblob(32), 'acme', 'trusted', NULL, 'trunk', 10, NULL, NULL, 90),
        (2, CAST('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' AS BLOB), 'acme', 'isolated', 'token/2', NULL, 11, 500, NULL, NULL),
        (7, CAST('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb' AS BLOB), 'gone', 'reader', NULL, 'x', 12, NULL, 13, NULL),
        (9, CAST('cccccccccccccccccccccccccccccccc' AS BLOB), 'acme', 'admin', NULL, NULL, 14, NULL, NULL, NULL),
        (40, CAST('dddddddddddddddddddddddddddddddd' AS BLOB), 'acme', 'reader', NULL, NULL, 15, NULL, NULL, NULL);
    DELETE FROM tokens WHERE id = 40;
";

#[tokio::test]
async fn a_ledger_of_version_2_keeps_its_tokens_and_every_id_that_was_ever_given() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.sqlite");
    version_2(&path, DATA).await;
    let ledger = Ledger::open(&path).await.unwrap();
    let tokens = ledger.tokens().await.unwrap();
    let seen: Vec<_> = tokens
        .iter()
        .map(|row| {
            let row = row.clone();
            (row.id, row.hash[0], row.workspace, row.access, row.scope)
        })
        .collect();
    let text = str::to_owned;
    assert_eq!(
        seen,
        [
            (1, 0, text("acme"), text("trusted"), None),
            (
                2,
                b'a',
                text("acme"),
                text("isolated"),
                Some(text("token/2"))
            ),
            (7, b'b', text("gone"), text("reader"), None),
            (9, b'c', text("acme"), text("admin"), None),
        ]
    );
    assert_eq!(tokens[0].name.as_deref(), Some("trunk"));
    assert_eq!(tokens[0].last_used_at_ms, Some(90));
    assert_eq!(tokens[1].expires_at_ms, Some(500));
    assert_eq!(tokens[2].revoked_at_ms, Some(13));
    for token in &tokens {
        let writer = ledger.writer(token.id).await.unwrap().unwrap();
        assert_eq!(writer.kind, WriterKind::Token);
        assert_eq!(
            (
                &writer.workspace,
                &writer.access,
                &writer.scope,
                &writer.name
            ),
            (&token.workspace, &token.access, &token.scope, &token.name)
        );
    }
    assert_eq!(ledger.writer(40).await.unwrap(), None);

    let writer = ledger.writer_id(&new_writer("1")).await.unwrap();
    assert_eq!(writer, 41, "above every id that was ever given");
    let token = ledger.create_token(new_token(9, "gate")).await.unwrap();
    assert_eq!((token.id, token.scope.as_deref()), (42, Some("token/42")));
    ledger.revoke_token(1, NOW_MS).await.unwrap();
    assert_eq!(actions(&ledger).await, ["token-created", "token-revoked"]);
}

#[tokio::test]
async fn a_ledger_of_version_2_without_tokens_begins_with_writer_1() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger.sqlite");
    version_2(
        &path,
        "INSERT INTO workspaces (name, created_at_ms) VALUES ('acme', 1)",
    )
    .await;
    let ledger = Ledger::open(&path).await.unwrap();
    assert_eq!(ledger.writer_id(&new_writer("1")).await.unwrap(), 1);
}
