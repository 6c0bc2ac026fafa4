//! The catalogue of the bucket: a row per pack, the key that makes packs believable, and the orders what in them is not to be.
//!
//! Always true:
//! - Every change of a row takes the next revision in the transaction that makes it, and these take turns at the one row of
//!   `revisions`: whoever has seen a revision has seen all that are smaller and will ever exist.
//! - A number is never given to a second pack.
//! - The key is made once. Nothing changes it as long as there are packs.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row, SqliteConnection};

use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::rows::{from_sql, hash, number, number_if_any, to_sql};
use crate::workspaces::must_exist;

/// How long a removed row stays, for servers that were away: a month. Who starts reads all rows anyway.
const REMOVED_ROWS_MS: u64 = 30 * 24 * 3_600_000;

/// The names of the two counters in `revisions`.
const PACKS: &str = "packs";
const ORDERS: &str = "bucket_orders";

/// A pack that has just been written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPack {
    /// The object's name, unique.
    pub name: String,
    /// Whose entries are in it.
    pub workspace: String,
    /// `trusted` or `untrusted`.
    pub trust: String,
    /// The object's length.
    pub object_bytes: u64,
    /// Where in it the index starts.
    pub index_offset: u64,
    /// The index's length.
    pub index_bytes: u64,
    /// Records in the index.
    pub entry_count: u64,
    /// When it was written, in unix milliseconds.
    pub created_at_ms: u64,
}

/// A pack in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    /// Grows with every pack, from 1.
    pub number: u64,
    /// Grows with every change of any pack's row.
    pub revision: u64,
    /// When the row was removed, in unix milliseconds, if it was.
    pub removed_at_ms: Option<u64>,
    /// The pack.
    pub pack: NewPack,
}

/// An order about entries of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRow {
    /// Grows with every order, from 1.
    pub number: u64,
    /// When it was given, in unix milliseconds.
    pub given_at_ms: u64,
    /// What it says.
    pub text: String,
}

/// What the packs of a ledger are together, without the removed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackSums {
    /// How many.
    pub packs: u64,
    /// Bytes of their objects.
    pub object_bytes: u64,
    /// Records in their indexes.
    pub records: u64,
    /// How many changes of rows there ever were.
    pub revision: u64,
}

impl Ledger {
    /// Adds a pack and returns its number. For a name that has a row, removed or not, that is the row's: whoever got no
    /// answer asks again. Refused for a workspace that is not there, or not any more.
    pub async fn append_pack(&self, new: &NewPack) -> Result<u64, LedgerError> {
        let mut writing = self.write().await?;
        let revision = next_revision(&mut writing.transaction, PACKS).await?;
        let inserted = sqlx::query(
            "INSERT INTO packs (
                 number, name, workspace, trust, object_bytes, index_offset, index_bytes, entry_count,
                 created_at_ms, revision
             ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $1)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(revision)
        .bind(&new.name)
        .bind(&new.workspace)
        .bind(&new.trust)
        .bind(to_sql(new.object_bytes))
        .bind(to_sql(new.index_offset))
        .bind(to_sql(new.index_bytes))
        .bind(to_sql(new.entry_count))
        .bind(to_sql(new.created_at_ms))
        .execute(&mut *writing.transaction)
        .await?;
        if inserted.rows_affected() == 0 {
            let number: i64 = sqlx::query_scalar("SELECT number FROM packs WHERE name = $1")
                .bind(&new.name)
                .fetch_one(&mut *writing.transaction)
                .await?;
            // Nothing has changed; the revision goes back with the transaction.
            return Ok(from_sql(number));
        }
        must_exist(&mut writing.transaction, &new.workspace).await?;
        writing.commit().await?;
        Ok(from_sql(revision))
    }

    /// The rows that changed after this revision, in the order of their changes, at most `limit`; each as it is now.
    pub async fn packs_since(
        &self,
        revision: u64,
        limit: u32,
    ) -> Result<Vec<PackRow>, LedgerError> {
        let rows =
            sqlx::query_as("SELECT * FROM packs WHERE revision > $1 ORDER BY revision LIMIT $2")
                .bind(to_sql(revision))
                .bind(i64::from(limit));
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Marks packs as removed, all or none. Those that are not there or are removed already do not matter.
    pub async fn remove_packs(&self, numbers: &[u64], now_ms: u64) -> Result<(), LedgerError> {
        let mut writing = self.write().await?;
        let forgotten = to_sql(now_ms.saturating_sub(REMOVED_ROWS_MS));
        sqlx::query("DELETE FROM packs WHERE removed_at_ms < $1")
            .bind(forgotten)
            .execute(&mut *writing.transaction)
            .await?;
        for number in numbers {
            remove(&mut writing.transaction, to_sql(*number), now_ms).await?;
        }
        writing.commit().await
    }

    /// What the packs are together.
    pub async fn pack_sums(&self) -> Result<PackSums, LedgerError> {
        let sums: (i64, i64, i64, i64) = sqlx::query_as(
            "SELECT count(*), CAST(coalesce(sum(object_bytes), 0) AS BIGINT),
                    CAST(coalesce(sum(entry_count), 0) AS BIGINT),
                    (SELECT number FROM revisions WHERE name = 'packs')
             FROM packs WHERE removed_at_ms IS NULL",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(PackSums {
            packs: from_sql(sums.0),
            object_bytes: from_sql(sums.1),
            records: from_sql(sums.2),
            revision: from_sql(sums.3),
        })
    }

    /// Keeps an order for all servers and returns its number. Orders given before `until_ms` say nothing any more and go.
    pub async fn keep_order(
        &self,
        text: &str,
        given_at_ms: u64,
        until_ms: u64,
    ) -> Result<u64, LedgerError> {
        let mut writing = self.write().await?;
        let number = next_revision(&mut writing.transaction, ORDERS).await?;
        sqlx::query("INSERT INTO bucket_orders (number, given_at_ms, text) VALUES ($1, $2, $3)")
            .bind(number)
            .bind(to_sql(given_at_ms))
            .bind(text)
            .execute(&mut *writing.transaction)
            .await?;
        sqlx::query("DELETE FROM bucket_orders WHERE given_at_ms < $1")
            .bind(to_sql(until_ms))
            .execute(&mut *writing.transaction)
            .await?;
        writing.commit().await?;
        Ok(from_sql(number))
    }

    /// The orders with a greater number, in order.
    pub async fn orders_since(&self, number: u64) -> Result<Vec<OrderRow>, LedgerError> {
        let rows = sqlx::query_as("SELECT * FROM bucket_orders WHERE number > $1 ORDER BY number")
            .bind(to_sql(number));
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// The key of the bucket: `new`, which should be random, if there was none.
    pub async fn bucket_key(&self, new: [u8; 32]) -> Result<[u8; 32], LedgerError> {
        if let Some(key) = self.bucket_key_if_any().await? {
            return Ok(key);
        }
        let mut writing = self.write().await?;
        sqlx::query(
            "INSERT INTO bucket_key (one, mac_key) VALUES (1, $1) ON CONFLICT (one) DO NOTHING",
        )
        .bind(new.as_slice())
        .execute(&mut *writing.transaction)
        .await?;
        let row = sqlx::query("SELECT mac_key FROM bucket_key")
            .fetch_one(&mut *writing.transaction)
            .await?;
        let key = hash(&row, "mac_key")?;
        writing.commit().await?;
        Ok(key)
    }

    /// The key of the bucket, if one was made.
    pub async fn bucket_key_if_any(&self) -> Result<Option<[u8; 32]>, LedgerError> {
        let row = sqlx::query("SELECT mac_key FROM bucket_key")
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| hash(&row, "mac_key")).transpose()?)
    }

    /// Gives a ledger that never had a pack this key in place of its own. `false`: it has had packs, and keeps its key.
    pub async fn replace_bucket_key(&self, key: [u8; 32]) -> Result<bool, LedgerError> {
        let mut writing = self.write().await?;
        let replaced = sqlx::query(
            "INSERT INTO bucket_key (one, mac_key)
             SELECT 1, $1 FROM revisions WHERE name = 'packs' AND number = 0
             ON CONFLICT (one) DO UPDATE SET mac_key = excluded.mac_key",
        )
        .bind(key.as_slice())
        .execute(&mut *writing.transaction)
        .await?;
        writing.commit().await?;
        Ok(replaced.rows_affected() > 0)
    }
}

/// Marks the packs of a workspace as removed, whose entries nobody is to find any more.
pub(crate) async fn remove_all_of(
    connection: &mut SqliteConnection,
    workspace: &str,
    now_ms: u64,
) -> Result<(), LedgerError> {
    let numbers: Vec<i64> = sqlx::query_scalar(
        "SELECT number FROM packs WHERE workspace = $1 AND removed_at_ms IS NULL",
    )
    .bind(workspace)
    .fetch_all(&mut *connection)
    .await?;
    for number in numbers {
        remove(connection, number, now_ms).await?;
    }
    Ok(())
}

async fn remove(
    connection: &mut SqliteConnection,
    number: i64,
    now_ms: u64,
) -> Result<(), LedgerError> {
    let revision = next_revision(connection, PACKS).await?;
    sqlx::query(
        "UPDATE packs SET removed_at_ms = $2, revision = $3 WHERE number = $1 AND removed_at_ms IS NULL",
    )
    .bind(number)
    .bind(to_sql(now_ms))
    .bind(revision)
    .execute(connection)
    .await?;
    Ok(())
}

async fn next_revision(connection: &mut SqliteConnection, name: &str) -> Result<i64, LedgerError> {
    let revision = sqlx::query_scalar(
        "UPDATE revisions SET number = number + 1 WHERE name = $1 RETURNING number",
    )
    .bind(name);
    Ok(revision.fetch_one(connection).await?)
}

impl FromRow<'_, SqliteRow> for OrderRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            number: number(row, "number")?,
            given_at_ms: number(row, "given_at_ms")?,
            text: row.try_get("text")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for PackRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            number: number(row, "number")?,
            revision: number(row, "revision")?,
            removed_at_ms: number_if_any(row, "removed_at_ms")?,
            pack: NewPack {
                name: row.try_get("name")?,
                workspace: row.try_get("workspace")?,
                trust: row.try_get("trust")?,
                object_bytes: number(row, "object_bytes")?,
                index_offset: number(row, "index_offset")?,
                index_bytes: number(row, "index_bytes")?,
                entry_count: number(row, "entry_count")?,
                created_at_ms: number(row, "created_at_ms")?,
            },
        })
    }
}
