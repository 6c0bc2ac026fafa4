//! Trips to a blocking thread, to look at bytes and to write them.
//!
//! A trip ends after [`TRIP_BYTES_MAX`] of what comes out of it, whatever went in: 32 KiB of zstd can be a GiB.
//! Between two trips the turn is given back, so nobody keeps others waiting for longer than one takes. An upload
//! whose client is gone begins no other one: its future is dropped.

use crate::lanes::{Lane, UPLOAD_WAIT_MAX, permits};
use crate::upload::PutRefusal;
use crate::verify::Verification;

/// The most bytes that are hashed and written in one trip, uncompressed: some ten milliseconds of work. A little
/// more may come out, but no more than one step's.
pub(crate) const TRIP_BYTES_MAX: usize = 16 << 20;

/// Why work stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Everything is done.
    Done,
    /// It has been enough for one trip.
    Enough,
    /// A decoder needs memory for its window, and there is none at the moment.
    Memory,
}

/// What one trip has left to do, and a buffer for what comes out on the way.
#[derive(Default)]
pub(crate) struct Trip {
    pub(crate) produced: usize,
    pub(crate) plain: Vec<u8>,
}

/// Bytes that are to be looked at and written.
pub(crate) trait Work: Send + 'static {
    /// Goes on with them until there is a reason to pause. May block.
    fn work(&mut self, trip: &mut Trip) -> Result<Pause, PutRefusal>;

    fn verification(&mut self) -> Option<&mut Verification>;
}

/// Does all of the work: if it is heavy, in trips with a turn for each.
pub(crate) async fn complete<W: Work>(
    mut work: W,
    is_heavy: bool,
    lane: &Lane,
) -> Result<W, PutRefusal> {
    loop {
        let pause = if is_heavy {
            let turn = permits(&lane.streamed_writes, 1, UPLOAD_WAIT_MAX).await;
            let turn = turn.ok_or(PutRefusal::Busy)?;
            let trip = tokio::task::spawn_blocking(move || {
                let pause = work.work(&mut Trip::default());
                drop(turn);
                pause.map(|pause| (work, pause))
            });
            let pause;
            (work, pause) = trip.await.map_err(|_| PutRefusal::Unavailable)??;
            pause
        } else {
            work.work(&mut Trip::default())?
        };
        match pause {
            Pause::Done => return Ok(work),
            Pause::Enough => {}
            Pause::Memory => {
                // No turn is held now, and nothing else that others wait for.
                let verification = work.verification().ok_or(PutRefusal::Unavailable)?;
                if !verification.wait_for_memory(UPLOAD_WAIT_MAX).await {
                    return Err(PutRefusal::Busy);
                }
            }
        }
    }
}
