//! Action results that are complete: every blob they refer to is there.
//!
//! A client that is told of a result takes its blobs for granted; Bazel, building without the bytes, asks for them hours
//! later. So a result is handed out only if everything it refers to is in the cache now, and that is leased: the files, standard
//! output and error, the trees and root directories, and every file in them. All that the result names itself is asked
//! for at once; only what trees and directories add takes further rounds. Whatever cannot be told for sure is a miss.
//!
//! What a check costs is bounded whatever a result says: its trees and directories have one [`Budget`], and beyond it the result is a
//! miss; of a tree one directory at a time is held, and of the files in it one round; and so many checks that read any go on at
//! once as [`Turns`] has, with some that are trunk's alone.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::thread::available_parallelism;
use std::time::Duration;

use bytes::Bytes;
use larder_cache::{BlobBody, BlobName, Cache, Encoding, HitBody};
use larder_model::{AccessKind, Dialect, Digest, DigestFunction, EntryKey, ReadGrant};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::action_result::{ACTION_RESULT_BYTES_MAX, Listing, Names, References, TreeScan};

/// The most bytes of all trees and directories of one result together, uncompressed: about a million files.
const LISTING_BYTES_MAX: u64 = 128 << 20;

/// The most trees, and directories that are blobs of their own, of one result. Each is a look-up.
const LISTINGS_MAX: usize = 10_000;

/// The most bytes of a directory that is a blob of its own.
const DIRECTORY_BYTES_MAX: u64 = TreeScan::DIRECTORY_BYTES_MAX as u64;

/// How many files of trees are asked for at once.
const ROUND_FILES: usize = 8_192;

/// What is known about a result's blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completeness {
    /// All of them are there.
    Complete,
    /// At least one is not.
    Missing,
    /// The result, or a tree in it, cannot be read or is too large.
    Unreadable,
}

impl Completeness {
    pub(crate) fn is_complete(self) -> bool {
        self == Self::Complete
    }
}

/// The first action result that is complete on the caller's read path, from its step `from` on (0 is `trusted`), as it was stored; and
/// the step behind it. One that is larger than clients can receive is as good as none.
pub(crate) async fn find_complete(
    cache: &Cache,
    grant: &ReadGrant,
    function: DigestFunction,
    key: &EntryKey,
    mut from: usize,
) -> Option<(Bytes, usize)> {
    loop {
        let found = cache.get_from(grant, Dialect::ActionResult, key, from);
        let (hit, next) = found.await?;
        if hit.size <= ACTION_RESULT_BYTES_MAX
            && let Some(result) = whole(hit.body, hit.size).await
        {
            // It was stored in the step before the next one.
            let mut scopes = grant.path().scopes();
            let by_trusted = next.checked_sub(1).and_then(|step| scopes.nth(step));
            let names = if by_trusted.is_some_and(|scope| scope.is_trusted()) {
                Names::Posix
            } else {
                Names::Anywhere
            };
            let completeness = complete(cache, grant, function, &result, names).await;
            if completeness.is_complete() {
                return Some((result, next));
            }
            let workspace = grant.workspace();
            tracing::debug!(%workspace, step = next, ?completeness, "an action result is a miss");
        }
        from = next;
    }
}

/// The bytes of an entry; `None` if they cannot be read.
async fn whole(mut body: HitBody, size: u64) -> Option<Bytes> {
    if let Some(bytes) = body.take_whole() {
        return Some(bytes);
    }
    let mut bytes = Vec::with_capacity(size as usize);
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.ok()?);
    }
    Some(bytes.into())
}

/// Whether everything that the action result `result` refers to is there, with `names` in its trees. What is there is leased.
async fn complete(
    cache: &Cache,
    grant: &ReadGrant,
    function: DigestFunction,
    result: &Bytes,
    names: Names,
) -> Completeness {
    let checked = async {
        let References {
            blobs,
            mut trees,
            roots,
            ..
        } = References::of(function, result).map_err(|_| Stop::Unreadable)?;
        all_present(cache, grant, &blobs).await?;
        if trees.is_empty() && roots.is_empty() {
            return Ok(());
        }
        let _turn = TURNS.take(grant.kind()).await?;
        let mut budget = Budget::with(names);
        distinct(&mut trees);
        all_of_trees(cache, grant, function, &trees, &mut budget).await?;
        all_below(cache, grant, function, roots, &mut budget).await
    };
    match checked.await {
        Ok(()) => Completeness::Complete,
        Err(Stop::Missing) => Completeness::Missing,
        Err(Stop::Unreadable) => Completeness::Unreadable,
    }
}

/// Why a result is not complete.
enum Stop {
    Missing,
    Unreadable,
}

async fn all_present(cache: &Cache, grant: &ReadGrant, digests: &[Digest]) -> Result<(), Stop> {
    if digests.is_empty() {
        return Ok(());
    }
    let missing = cache.find_missing(grant, digests).await;
    if missing.contains(&true) {
        return Err(Stop::Missing);
    }
    Ok(())
}

/// What may still be read of the trees and directories of one result.
struct Budget {
    bytes: u64,
    listings: usize,
    /// And what the names in them may be.
    names: Names,
}

impl Budget {
    fn with(names: Names) -> Self {
        Self {
            bytes: LISTING_BYTES_MAX,
            listings: LISTINGS_MAX,
            names,
        }
    }

    /// A listing that nothing is in yet.
    fn listing(&self) -> Listing {
        Listing {
            names: self.names,
            ..Listing::default()
        }
    }

    /// Takes what reading all of these costs. It is asked before any of them is opened.
    fn take(&mut self, listings: &[Digest]) -> Result<(), Stop> {
        let bytes = listings
            .iter()
            .fold(0, |sum: u64, it| sum.saturating_add(it.size()));
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or(Stop::Unreadable)?;
        let left = self.listings.checked_sub(listings.len());
        self.listings = left.ok_or(Stop::Unreadable)?;
        Ok(())
    }
}

/// Who may read trees and directories at the moment. Of the process, as its threads are.
static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let threads = available_parallelism().map_or(1, usize::from);
    Turns {
        trusted: Semaphore::new(threads),
        other: Semaphore::new((threads / 2).max(1)),
    }
});

/// How long a check waits for its turn. A client that misses its result builds; one that waits does nothing.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);

/// So many checks read trees and directories at once: trunk's, and those of all others, which leave some threads alone.
struct Turns {
    trusted: Semaphore,
    other: Semaphore,
}

impl Turns {
    async fn take(&self, kind: AccessKind) -> Result<SemaphorePermit<'_>, Stop> {
        let lane = if kind.writes_trusted() {
            &self.trusted
        } else {
            &self.other
        };
        if let Ok(turn) = lane.try_acquire() {
            return Ok(turn);
        }
        let turn = tokio::time::timeout(TURN_WAIT_MAX, lane.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or(Stop::Unreadable)
    }
}

async fn all_of_trees(
    cache: &Cache,
    grant: &ReadGrant,
    function: DigestFunction,
    trees: &[Digest],
    budget: &mut Budget,
) -> Result<(), Stop> {
    budget.take(trees)?;
    let mut listing = budget.listing();
    for tree in trees {
        let mut scan = TreeScan::new(function);
        let mut body = open(cache, grant, tree).await?;
        while let Some(piece) = next(&mut body).await? {
            scan.push(&piece, &mut listing)
                .map_err(|_| Stop::Unreadable)?;
            listing.directories.clear();
            if listing.files.len() >= ROUND_FILES {
                ask_for_files(cache, grant, &mut listing).await?;
            }
        }
        scan.finish().map_err(|_| Stop::Unreadable)?;
    }
    ask_for_files(cache, grant, &mut listing).await
}

/// Goes through the directories below `roots`, each of which is a blob of its own, level by level.
async fn all_below(
    cache: &Cache,
    grant: &ReadGrant,
    function: DigestFunction,
    roots: Vec<Digest>,
    budget: &mut Budget,
) -> Result<(), Stop> {
    let mut seen = HashSet::new();
    let mut level = roots;
    loop {
        level.retain(|directory| seen.insert(*directory));
        if level.is_empty() {
            return Ok(());
        }
        budget.take(&level)?;
        if level.iter().any(|it| it.size() > DIRECTORY_BYTES_MAX) {
            return Err(Stop::Unreadable);
        }
        all_present(cache, grant, &level).await?;
        let mut listing = budget.listing();
        for directory in &level {
            let mut message = Vec::new();
            let mut body = open(cache, grant, directory).await?;
            while let Some(piece) = next(&mut body).await? {
                message.extend_from_slice(&piece);
            }
            listing
                .add(function, &message)
                .map_err(|_| Stop::Unreadable)?;
            if listing.files.len() >= ROUND_FILES {
                ask_for_files(cache, grant, &mut listing).await?;
            }
            if listing.directories.len() > 2 * LISTINGS_MAX {
                distinct(&mut listing.directories);
                if listing.directories.len() > LISTINGS_MAX {
                    return Err(Stop::Unreadable);
                }
            }
        }
        level = std::mem::take(&mut listing.directories);
        ask_for_files(cache, grant, &mut listing).await?;
    }
}

async fn ask_for_files(
    cache: &Cache,
    grant: &ReadGrant,
    listing: &mut Listing,
) -> Result<(), Stop> {
    distinct(&mut listing.files);
    for round in listing.files.chunks(ROUND_FILES) {
        all_present(cache, grant, round).await?;
        tokio::task::yield_now().await;
    }
    listing.files.clear();
    Ok(())
}

async fn open(cache: &Cache, grant: &ReadGrant, digest: &Digest) -> Result<BlobBody, Stop> {
    let hit = cache.get_blob(grant, &BlobName::from(digest)).await;
    Ok(hit.ok_or(Stop::Missing)?.read(Encoding::Identity, 0))
}

/// The next piece of a blob.
async fn next(body: &mut BlobBody) -> Result<Option<Bytes>, Stop> {
    // A large tree must not keep a thread from its other requests.
    tokio::task::yield_now().await;
    body.next().await.transpose().map_err(|_| Stop::Missing)
}

fn distinct(digests: &mut Vec<Digest>) {
    digests.sort_unstable();
    digests.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn turns_that_others_have_are_waited_for_and_are_never_trunks() {
        let turns = Turns {
            trusted: Semaphore::new(1),
            other: Semaphore::new(1),
        };
        let held = turns.take(AccessKind::Isolated).await;
        assert!(held.is_ok());
        let started = Instant::now();
        assert!(turns.take(AccessKind::Trusted).await.is_ok());
        assert_eq!(started.elapsed(), Duration::ZERO);
        let late = turns.take(AccessKind::Reader).await;
        assert!(matches!(late, Err(Stop::Unreadable)));
        assert_eq!(started.elapsed(), TURN_WAIT_MAX);
        drop(held);
        assert!(turns.take(AccessKind::Anonymous).await.is_ok());
        assert_eq!(started.elapsed(), TURN_WAIT_MAX);
    }
}
