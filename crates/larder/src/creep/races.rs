//! Trunk and a pull request store the same key at the same time, again and again.
//!
//! Which of two requests a server takes first is decided in microseconds, so every round shifts them against each other, by
//! up to the time that a store takes.

use std::time::Duration;

use super::bench::{Bench, Judged, Seen, Trial, fail, pass};
use super::exchange::{Key, Stored};
use super::people::Who::{PullRequest, Trunk};
use super::report::{Attempt, Harm, Outcome};

/// By how many parts of a store's time the pull request is later than trunk, of [`PARTS`].
const SHIFTS: [i32; 9] = [0, -1, 1, -2, 2, -3, 3, -4, 4];
const PARTS: u32 = 4;

/// The longest shift: of a cache far away, a store's time is mostly the way there.
const SHIFT_MAX: Duration = Duration::from_millis(20);

pub(super) async fn try_all(bench: &Bench, rounds: u32, progress: &dyn Fn(&str)) -> Attempt {
    let what = format!("trunk and a pull request store the same key at once, {rounds} times");
    bench
        .attempt("at-once", what, async |trial| {
            for round in 0..rounds {
                progress(&format!("both at once, {} of {rounds}", round + 1));
                let (outcome, note) = once(trial, round).await?;
                if outcome != Outcome::Pass {
                    return Ok((outcome, format!("{note} (round {})", round + 1)));
                }
            }
            pass("trunk always gets its own")
        })
        .await
}

async fn once(trial: &mut Trial<'_>, round: u32) -> Judged {
    let key = Key::random();
    let bench = trial.bench;
    let shift = SHIFTS[round as usize % SHIFTS.len()];
    let pause = (bench.pace.get() / PARTS * shift.unsigned_abs()).min(SHIFT_MAX);
    let (for_trunk, for_pull_request) = match shift {
        ..0 => (pause, Duration::ZERO),
        0.. => (Duration::ZERO, pause),
    };
    let after = async |pause| {
        if pause > Duration::ZERO {
            tokio::time::sleep(pause).await;
        }
    };
    let ((step, stored), theirs, (early_step, early)) = tokio::join!(
        async {
            after(for_trunk).await;
            bench.store(Trunk, key, None).await
        },
        async {
            after(for_pull_request).await;
            bench.store(PullRequest, key, None).await
        },
        async {
            after(pause).await;
            bench.load(Trunk, key).await
        },
    );
    let before = [step, theirs.0, early_step];
    let (stored, early) = (stored?, early?);
    theirs.1?;
    let (step, seen) = bench.load(Trunk, key).await;
    let mut seen = seen?;
    if stored == Stored::Accepted && matches!(seen, Seen::Nothing | Seen::Refused(_)) {
        // Not there yet, perhaps.
        seen = trial.load_own(Trunk, key).await?;
    }
    let judged = match (early, stored, seen) {
        (Seen::Of(PullRequest) | Seen::Foreign, _, _)
        | (_, _, Seen::Of(PullRequest) | Seen::Foreign) => fail(
            Harm::TrunkPoisoned,
            "trunk gets what the pull request stored",
        ),
        (_, _, Seen::Of(_)) => return pass(""),
        (_, Stored::Exists | Stored::Refused(_), _) => {
            trial.still_refused(key).await?;
            fail(
                Harm::TrunkBlocked,
                "trunk's own result is refused while the pull request stores",
            )
        }
        (_, Stored::Accepted, Seen::Nothing | Seen::Refused(_)) => fail(
            Harm::TrunkBlocked,
            "trunk's own result is accepted, but trunk does not get it back",
        ),
    };
    before
        .into_iter()
        .chain([step])
        .for_each(|step| trial.saw(step));
    judged
}
