//! How numbers, times and hashes cross into SQL and back.
//!
//! SQL has no unsigned numbers. What is too large for `BIGINT` is stored as the largest one:
//! a time that never comes, an id that no writer has. What is negative in the file, which only a
//! foreign hand can have written, is read as 0: a time long past.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(crate) fn number(row: &SqliteRow, column: &str) -> sqlx::Result<u64> {
    Ok(from_sql(row.try_get(column)?))
}

pub(crate) fn number_if_any(row: &SqliteRow, column: &str) -> sqlx::Result<Option<u64>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(from_sql))
}

pub(crate) fn hash(row: &SqliteRow, column: &str) -> sqlx::Result<[u8; 32]> {
    let hash: &[u8] = row.try_get(column)?;
    hash.try_into().map_err(|error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    })
}
