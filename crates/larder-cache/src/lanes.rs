//! Lanes: limits that trusted and other callers do not share.
//!
//! Work that can block a thread runs on the runtime's blocking threads, and bodies are gathered in
//! memory. Both are bounded, and a bound that everybody shared would let an untrusted caller hold
//! up trunk. So each limit exists once per lane, and each wait for one ends. Nobody waits for the
//! memory of uploads, which a stalled client can hold for long: whoever gets none does without. A
//! decoder cannot do without its window, so it does wait for that, and holds none meanwhile.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use larder_model::{AccessKind, WorkspaceName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::room::Rooms;
use crate::windows::{WindowAccount, WindowMemory};

/// How many reads may block on the disk at once, in both lanes together: enough to keep an SSD
/// busy, and far fewer than the runtime has blocking threads.
pub(crate) const COLD_READ_COUNT_MAX: usize = 64;

/// How long a read may wait for its turn at the disk before it is a miss.
pub(crate) const COLD_READ_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long the next piece of a body that is already being sent may wait for its turn at the disk.
/// Much longer than for a first read: a miss is harmless, an answer broken off is not.
pub(crate) const COLD_PIECE_WAIT_MAX: Duration = Duration::from_mins(2);

/// How many writes may wait for the disk to be synced at once, in both lanes together. They share
/// one sync, so more of them cost little and make each sync worth more.
pub(crate) const SYNCED_WRITE_COUNT_MAX: usize = 256;

/// How many writes of parts of uploads may block on the disk at once, in both lanes together: more
/// would not make a disk faster, and a system with too many dirty pages holds each of them up.
pub(crate) const STREAMED_WRITE_COUNT_MAX: usize = 64;

/// The most bytes of unfinished uploads held in memory, in each lane.
pub(crate) const UPLOAD_MEMORY_BYTES_MAX: usize = 64 << 20;

/// How many pieces of answers are decoded or encoded at once, in both lanes together: as many as large machines have
/// processors, and far fewer than the runtime has blocking threads.
pub(crate) const RECODING_COUNT_MAX: usize = 64;

/// The most bytes that the windows of zstd decoders may fill, in each lane. The three quarters that one workspace may
/// have are the windows of more than three hundred streams as usual compressors make them, or five of the largest kind.
pub(crate) const WINDOW_BYTES_MAX: u64 = 1 << 30;

/// How long an upload may wait for its turn at the disk before it is refused. Turns are held by
/// work and never by clients.
pub(crate) const UPLOAD_WAIT_MAX: Duration = Duration::from_secs(30);

/// The limits of one lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub cold_reads: Arc<Semaphore>,
    pub synced_writes: Arc<Semaphore>,
    pub streamed_writes: Arc<Semaphore>,
    /// Turns at decoding and encoding what is read.
    pub recoding: Arc<Semaphore>,
    upload_memory: Arc<Semaphore>,
    windows: Arc<WindowAccount>,
    /// What unfinished uploads hold of the lane's pools.
    pub rooms: Arc<Rooms>,
}

impl Lane {
    fn new() -> Self {
        Self {
            cold_reads: Arc::new(Semaphore::new(COLD_READ_COUNT_MAX / 2)),
            synced_writes: Arc::new(Semaphore::new(SYNCED_WRITE_COUNT_MAX / 2)),
            streamed_writes: Arc::new(Semaphore::new(STREAMED_WRITE_COUNT_MAX / 2)),
            recoding: Arc::new(Semaphore::new(RECODING_COUNT_MAX / 2)),
            upload_memory: Arc::new(Semaphore::new(UPLOAD_MEMORY_BYTES_MAX)),
            windows: Arc::default(),
            rooms: Arc::default(),
        }
    }

    /// Where the decoders of a workspace get the memory for their windows.
    pub(crate) fn windows(&self, workspace: &WorkspaceName) -> WindowMemory {
        WindowMemory {
            account: Arc::clone(&self.windows),
            workspace: workspace.clone(),
        }
    }

    /// Memory for an upload, if there is any at once.
    pub(crate) fn memory(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.upload_memory)
            .try_acquire_many_owned(bytes)
            .ok()
    }
}

/// The two lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    trusted: Arc<Lane>,
    other: Arc<Lane>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self {
            trusted: Arc::new(Lane::new()),
            other: Arc::new(Lane::new()),
        }
    }

    /// The lane of this kind of caller: trunk's CI has one for itself.
    pub(crate) fn of(&self, kind: AccessKind) -> &Arc<Lane> {
        if kind.writes_trusted() {
            &self.trusted
        } else {
            &self.other
        }
    }
}

/// Waits at most `wait_max` for `count` permits. `None`: it took too long.
pub(crate) async fn permits(
    semaphore: &Arc<Semaphore>,
    count: u32,
    wait_max: Duration,
) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(semaphore).try_acquire_many_owned(count) {
        return Some(permit);
    }
    within(wait_max, Arc::clone(semaphore).acquire_many_owned(count))
        .await?
        .ok()
}

/// The future's answer, or `None` after `wait_max`.
pub(crate) async fn within<F: Future>(wait_max: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(wait_max, future).await.ok()
}
