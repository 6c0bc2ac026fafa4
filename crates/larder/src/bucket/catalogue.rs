//! The bucket's catalogue in the ledger.

use larder_bucket::{Catalogue, CatalogueError, Change, NewPack, Pending, Realm, Trust};
use larder_ledger::{Ledger, PackRow};

use crate::clock;

/// See the module.
pub(super) struct LedgerCatalogue(pub(super) Ledger);

impl Catalogue for LedgerCatalogue {
    fn append(&self, pack: NewPack) -> Pending<'_, u32> {
        Box::pin(async move {
            let row = larder_ledger::NewPack {
                name: pack.name,
                workspace: pack.realm.workspace().to_owned(),
                trust: pack.realm.trust().as_str().to_owned(),
                object_bytes: pack.object_bytes,
                index_offset: pack.index_offset,
                index_bytes: pack.index_bytes,
                entry_count: pack.entry_count.into(),
                created_at_ms: pack.created_at_ms,
            };
            let number = self.0.append_pack(&row).await.map_err(failed)?;
            u32::try_from(number).map_err(|_| too_many())
        })
    }

    fn changes(&self, after_revision: u64, limit: u32) -> Pending<'_, Vec<Change>> {
        Box::pin(async move {
            let rows = self.0.packs_since(after_revision, limit).await;
            rows.map_err(failed)?.into_iter().map(change).collect()
        })
    }

    fn remove(&self, numbers: Vec<u32>) -> Pending<'_, ()> {
        Box::pin(async move {
            let numbers: Vec<u64> = numbers.into_iter().map(u64::from).collect();
            let removed = self.0.remove_packs(&numbers, clock::now_ms()).await;
            removed.map_err(failed)
        })
    }
}

fn change(row: PackRow) -> Result<Change, CatalogueError> {
    let unreadable = || CatalogueError(format!("the row of pack {} says nothing", row.number));
    let trust = Trust::ALL
        .into_iter()
        .find(|trust| trust.as_str() == row.pack.trust)
        .ok_or_else(unreadable)?;
    let realm = Realm::new(&row.pack.workspace, trust).map_err(|_| unreadable())?;
    let entry_count = u32::try_from(row.pack.entry_count).map_err(|_| unreadable())?;
    Ok(Change {
        revision: row.revision,
        number: u32::try_from(row.number).map_err(|_| too_many())?,
        removed: row.removed_at_ms.is_some(),
        pack: NewPack {
            realm,
            name: row.pack.name,
            object_bytes: row.pack.object_bytes,
            index_offset: row.pack.index_offset,
            index_bytes: row.pack.index_bytes,
            entry_count,
            created_at_ms: row.pack.created_at_ms,
        },
    })
}

fn failed(error: larder_ledger::LedgerError) -> CatalogueError {
    CatalogueError(crate::logging::chain(&error))
}

fn too_many() -> CatalogueError {
    CatalogueError("there are no numbers left for packs".to_owned())
}
