//! The limit of open files: every connection and every segment is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are never left to connections: segments, the ledger, logs.
const RESERVE_COUNT_MIN: u64 = 32;

/// Raises the limit as far as an ordinary process may, and answers how many connections it then
/// has room for beside the store's own files.
pub(crate) fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
    // No limit reads as None.
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    connections_within(files)
}

/// A quarter stays for the store.
fn connections_within(files: u64) -> usize {
    let reserve = (files / 4).max(RESERVE_COUNT_MIN);
    usize::try_from(files.saturating_sub(reserve).max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_never_take_the_stores_files() {
        assert_eq!(connections_within(20_000), 15_000);
        assert_eq!(connections_within(64), 32);
        assert_eq!(connections_within(8), 1);
        assert!(connections_within(u64::MAX) > 1 << 32);
    }
}
