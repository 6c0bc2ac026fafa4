//! When and where an upload is looked into, and what becomes of it.
//!
//! What comes first is unpacked on the spot, everything else on blocking threads, in turns that only work holds and never a
//! client: trunk's, and those of all others. So many bytes as a connection buffers anyway are taken for granted; whatever more an archive makes
//! the inspector remember is room that others have asked for, too. Whoever gets no turn or no room is [`Examined::Not`]: then an
//! untrusted upload is not stored, and a trusted one is stored as it is.

use std::sync::LazyLock;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use larder_model::Caller;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Budget, Inspector, Limits, Progress, Verdict};
use crate::intake::{Room, WholeBodies};

/// So many bytes of an upload are unpacked on the spot: most uploads have no more.
const ON_THE_SPOT_BYTES_MAX: usize = 64 << 10;

/// The most that is done there of one upload, all its pieces together. What is slower than usual goes to the others.
pub(super) const ON_THE_SPOT: Budget = Budget {
    bytes: 512 << 10,
    time: Duration::from_millis(1),
};

/// The most that is done in one trip to a blocking thread, after which it is the turn of others.
const TRIP: Budget = Budget {
    bytes: 16 << 20,
    time: Duration::from_millis(20),
};

/// How long an upload may wait for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(30);

/// Who may unpack at the moment. Of the process, as its threads are.
static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let threads = available_parallelism().map_or(1, usize::from);
    Turns {
        trusted: Semaphore::new(threads),
        other: Semaphore::new((threads / 2).max(1)),
    }
});

struct Turns {
    trusted: Semaphore,
    other: Semaphore,
}

/// What is known of an upload at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Examined {
    As(Verdict),
    /// There was no room or no turn for it, or nobody wants to know.
    Not,
}

impl Examined {
    /// The name in metrics: what it is, and what is wrong with it.
    pub(crate) fn labels(&self) -> (&'static str, &'static str) {
        match self {
            Self::As(Verdict::Clean) => ("clean", ""),
            Self::As(Verdict::Foreign) => ("unknown_format", ""),
            Self::As(Verdict::Hostile(finding)) => ("hostile", finding.fault.name()),
            Self::Not => ("not_examined", ""),
        }
    }
}

/// Whose archives are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InspectedWriters {
    /// Everybody's.
    #[default]
    All,
    /// Those of writers that are not trusted: no other archive is ever refused.
    Untrusted,
}

/// One upload that is looked into while it comes.
pub(crate) struct Examination {
    state: State,
    /// How many bytes may still be taken on the spot, and what may be done there.
    on_the_spot: usize,
    budget: Budget,
    turns: &'static Semaphore,
    room: Room,
}

enum State {
    Open(Box<Inspector>),
    Over(Examined),
}

impl Examination {
    /// Of an upload by `caller`, if it is one of `whose`; what must be remembered of it takes room of `rooms`.
    pub(crate) fn begin(caller: &Caller, whose: InspectedWriters, rooms: &WholeBodies) -> Self {
        let is_trusted = caller.kind().writes_trusted();
        let turns = if is_trusted {
            &TURNS.trusted
        } else {
            &TURNS.other
        };
        let state = match whose {
            InspectedWriters::Untrusted if is_trusted => State::Over(Examined::Not),
            InspectedWriters::All | InspectedWriters::Untrusted => {
                State::Open(Box::new(Inspector::new(Limits::default())))
            }
        };
        Self {
            state,
            on_the_spot: ON_THE_SPOT_BYTES_MAX,
            budget: ON_THE_SPOT,
            turns,
            room: rooms.no_room(caller),
        }
    }

    /// Looks at the next bytes of the upload.
    pub(crate) async fn add(&mut self, mut piece: Bytes) {
        let State::Open(inspector) = &mut self.state else {
            return;
        };
        let left = self.on_the_spot.checked_sub(piece.len());
        self.on_the_spot = left.unwrap_or(0);
        if left.is_some() && !self.budget.time.is_zero() {
            let (mut rest, start) = (&piece[..], Instant::now());
            let progress = inspector.push(&mut rest, self.budget);
            self.budget.time = self.budget.time.saturating_sub(start.elapsed());
            piece.advance(piece.len() - rest.len());
            if progress == Progress::Done {
                return self.settle();
            }
        }
        while let State::Open(_) = &self.state {
            let progress = self.trip(&mut piece).await;
            self.settle();
            if progress == Some(Progress::Done) {
                return;
            }
        }
    }

    /// What is known before the end, if that is all there is to know.
    pub(crate) fn known(&self) -> Option<&Examined> {
        match &self.state {
            State::Open(_) => None,
            State::Over(examined) => Some(examined),
        }
    }

    /// What is known now that all bytes have come.
    pub(crate) fn finish(self) -> Examined {
        match self.state {
            State::Open(inspector) => Examined::As(inspector.finish()),
            State::Over(examined) => examined,
        }
    }

    /// Looks at a part of `piece` on a blocking thread, when it is its turn.
    async fn trip(&mut self, piece: &mut Bytes) -> Option<Progress> {
        let over = State::Over(Examined::Not);
        let State::Open(mut inspector) = std::mem::replace(&mut self.state, over) else {
            return None;
        };
        let turn = timeout(TURN_WAIT_MAX, self.turns.acquire());
        let turn = turn.await.ok()?.ok()?;
        let mut taken = std::mem::take(piece);
        let trip = tokio::task::spawn_blocking(move || {
            let mut rest = &taken[..];
            let progress = inspector.push(&mut rest, TRIP);
            taken.advance(taken.len() - rest.len());
            drop(turn);
            (inspector, taken, progress)
        });
        let (inspector, rest, progress) = trip.await.ok()?;
        (*piece, self.state) = (rest, State::Open(inspector));
        Some(progress)
    }

    /// Ends it if there is a verdict, or no room for what must be remembered.
    fn settle(&mut self) {
        let State::Open(inspector) = &self.state else {
            return;
        };
        if let Some(verdict) = inspector.verdict() {
            self.state = State::Over(Examined::As(verdict.clone()));
        } else if !self.room.grow_to(inspector.bytes()) {
            self.state = State::Over(Examined::Not);
        }
    }
}
