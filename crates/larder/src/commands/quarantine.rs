//! `larder quarantine`: entries out of everybody's sight, listed, and back again.

use larder_protocols::control::EntryState;

use super::change::{QUARANTINE, RELEASE, run as change};
use super::{entry, selection};
use crate::cli::{QuarantineArgs, QuarantineCommand};
use crate::clock;

pub(super) async fn run(args: QuarantineArgs) -> anyhow::Result<()> {
    match args.command {
        None => change(QUARANTINE, &args.change, |_| {}).await,
        // Everything in quarantine is something in particular, too: an `all` of a release is never one of all entries.
        Some(QuarantineCommand::Release(args)) => {
            change(RELEASE, &args, |request| {
                request.state = Some(EntryState::Quarantined);
                request.everything = false;
            })
            .await
        }
        Some(QuarantineCommand::List {
            place,
            selection,
            json,
        }) => {
            let mut request = selection::request(&selection, clock::now_ms());
            request.state = Some(EntryState::Quarantined);
            entry::list(&place, &request, json).await
        }
    }
}
