//! A catalogue in memory, which can be made to fail.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_bucket::{Catalogue, CatalogueError, Change, NewPack, Pending};
use parking_lot::Mutex;

#[derive(Default)]
pub(crate) struct MemoryCatalogue {
    rows: Mutex<Vec<Change>>,
    /// Every call fails, and nothing is done.
    pub(crate) is_down: AtomicBool,
    /// Appending is done, and then said to have failed, once.
    pub(crate) loses_answer: AtomicBool,
    /// Appending never ends.
    pub(crate) hangs: AtomicBool,
    pub(crate) queries: AtomicU64,
}

impl MemoryCatalogue {
    fn check(&self) -> Result<(), CatalogueError> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(CatalogueError("it is down".into()));
        }
        Ok(())
    }

    pub(crate) fn live(&self) -> Vec<Change> {
        let rows = self.rows.lock();
        rows.iter().filter(|row| !row.removed).cloned().collect()
    }

    fn next_revision(rows: &[Change]) -> u64 {
        rows.iter().map(|row| row.revision).max().unwrap_or(0) + 1
    }
}

impl Catalogue for MemoryCatalogue {
    fn append(&self, pack: NewPack) -> Pending<'_, u32> {
        Box::pin(async move {
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            self.check()?;
            let mut rows = self.rows.lock();
            let known = rows.iter().find(|row| row.pack.name == pack.name);
            let known = known.map(|row| row.number);
            let number = known.unwrap_or(rows.len() as u32 + 1);
            if known.is_none() {
                let revision = Self::next_revision(&rows);
                rows.push(Change {
                    revision,
                    number,
                    removed: false,
                    pack,
                });
            }
            if self.loses_answer.swap(false, Ordering::Relaxed) {
                return Err(CatalogueError("the answer is lost".into()));
            }
            Ok(number)
        })
    }

    fn changes(&self, after_revision: u64, limit: u32) -> Pending<'_, Vec<Change>> {
        Box::pin(async move {
            self.queries.fetch_add(1, Ordering::Relaxed);
            self.check()?;
            let mut rows = self.rows.lock().clone();
            rows.retain(|row| row.revision > after_revision);
            rows.sort_by_key(|row| row.revision);
            rows.truncate(limit as usize);
            Ok(rows)
        })
    }

    fn remove(&self, numbers: Vec<u32>) -> Pending<'_, ()> {
        Box::pin(async move {
            self.check()?;
            let mut rows = self.rows.lock();
            for number in numbers {
                let revision = Self::next_revision(&rows);
                let row = rows.iter_mut().find(|row| row.number == number);
                if let Some(row) = row.filter(|row| !row.removed) {
                    row.removed = true;
                    row.revision = revision;
                }
            }
            Ok(())
        })
    }
}
