//! A ledger to test, and what goes into it.

use std::path::Path;

use larder_ledger::{
    AuditFilter, AuditRow, Ledger, NewSession, NewToken, NewWriter, ProvenanceColumns, WriterKind,
};
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use tempfile::TempDir;

pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

/// A new ledger with the workspace `acme`.
pub(crate) async fn with_acme() -> (TempDir, Ledger) {
    let directory = TempDir::new().unwrap();
    let ledger = Ledger::open(&directory.path().join("ledger.sqlite"))
        .await
        .unwrap();
    ledger.create_workspace("acme", NOW_MS).await.unwrap();
    (directory, ledger)
}

pub(crate) async fn open_again(directory: &TempDir) -> Ledger {
    Ledger::open(&directory.path().join("ledger.sqlite"))
        .await
        .unwrap()
}

pub(crate) fn new_token(number: u8, access: &str) -> NewToken {
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
pub(crate) async fn alter(path: &Path, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    pool.close().await;
}

pub(crate) async fn names(ledger: &Ledger) -> Vec<String> {
    ledger
        .workspaces()
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.name)
        .collect()
}

/// A run of a CI.
pub(crate) fn new_writer(run_id: &str) -> NewWriter {
    NewWriter {
        kind: WriterKind::Ci,
        workspace: "acme".to_owned(),
        access: "isolated".to_owned(),
        scope: Some("ci.main/pr-7".to_owned()),
        provenance: ProvenanceColumns {
            issuer: Some("https://issuer.example".to_owned()),
            run_id: Some(run_id.to_owned()),
            ..ProvenanceColumns::default()
        },
        address: Some("192.0.2.7".to_owned()),
        now_ms: NOW_MS,
    }
}

/// A session of an hour.
pub(crate) fn new_session(number: u8, writer: u64) -> NewSession {
    NewSession {
        hash: [number; 32],
        writer,
        workspace: "acme".to_owned(),
        access: "isolated".to_owned(),
        scope: Some("ci.main/pr-7".to_owned()),
        rule_mark: Some([7; 32]),
        created_at_ms: NOW_MS,
        expires_at_ms: NOW_MS + 3_600_000,
        once: None,
        address: Some("192.0.2.8".to_owned()),
    }
}

/// Every row of the audit.
pub(crate) async fn audit(ledger: &Ledger) -> Vec<AuditRow> {
    ledger
        .audit(&AuditFilter::default(), 0, u32::MAX)
        .await
        .unwrap()
}

/// The actions in the audit, in order.
pub(crate) async fn actions(ledger: &Ledger) -> Vec<String> {
    let rows = audit(ledger).await;
    rows.into_iter().map(|it| it.row.action).collect()
}

/// Makes a ledger as version 2 of its tables was, with what `sql` puts into it.
pub(crate) async fn version_2(path: &Path, sql: &'static str) {
    let simple = |version, name: &'static str, sql: &'static str| {
        let kind = MigrationType::Simple;
        Migration::new(version, name.into(), kind, sql.into_sql_str(), false)
    };
    let migrator = Migrator::with_migrations(vec![
        simple(
            1,
            "workspaces and tokens",
            include_str!("../../migrations/sqlite/0001_workspaces_and_tokens.sql"),
        ),
        simple(
            2,
            "deleted workspaces",
            include_str!("../../migrations/sqlite/0002_deleted_workspaces.sql"),
        ),
    ]);
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    migrator.run(&pool).await.unwrap();
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    pool.close().await;
}

/// What the file refuses to a hand with a database shell.
pub(crate) async fn alter_refused(path: &Path, sql: &'static str) -> String {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let refused = sqlx::raw_sql(sql).execute(&pool).await.unwrap_err();
    pool.close().await;
    refused.to_string()
}
