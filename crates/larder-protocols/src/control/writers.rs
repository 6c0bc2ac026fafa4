//! What the ledger knows of those who wrote entries.

use std::collections::BTreeSet;

use larder_ledger::{Ledger, WriterRow};
use larder_model::{AdminGrant, WriterId};

use super::status::NotDone;
use super::wire::WriterFigures;

/// The most writers that are looked up for one answer.
const LOOKED_UP_COUNT_MAX: usize = 1000;

/// The writers of these ids, by id; not those of workspaces that the grant is not for, and at most
/// [`LOOKED_UP_COUNT_MAX`].
pub(super) async fn writers(
    ledger: &Ledger,
    grant: &AdminGrant,
    ids: BTreeSet<WriterId>,
) -> Result<Vec<WriterFigures>, NotDone> {
    let mut writers = Vec::with_capacity(ids.len().min(LOOKED_UP_COUNT_MAX));
    for id in ids.into_iter().take(LOOKED_UP_COUNT_MAX) {
        let row = ledger.writer(id.0).await?;
        let visible = |row: &WriterRow| {
            let own = grant.workspace();
            own.is_none_or(|own| own.as_str() == row.workspace)
        };
        writers.extend(row.filter(visible).map(WriterFigures::from));
    }
    Ok(writers)
}

impl From<WriterRow> for WriterFigures {
    fn from(row: WriterRow) -> Self {
        Self {
            id: row.id,
            kind: row.kind.name().to_owned(),
            workspace: row.workspace,
            access: row.access,
            scope: row.scope,
            name: row.name,
            said: row.provenance.into(),
            last_address: row.last_address,
        }
    }
}
