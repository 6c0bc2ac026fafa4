//! The attempts to get around: every trick, on a key that nobody has and on one that trunk has; and a last look at all keys.

use super::bench::{Bench, Judged, Seen, Trial, fail, pass, untested};
use super::exchange::Key;
use super::people::Who::{PullRequest, Trunk};
use super::report::{Attempt, Harm, Why};
use super::tricks::Trick;

/// Tries every trick, then looks again.
pub(super) async fn try_all(
    bench: &Bench,
    tricks: &[Trick],
    progress: &dyn Fn(&str),
) -> Vec<Attempt> {
    let mut attempts = Vec::with_capacity(tricks.len() + 1);
    for trick in tricks {
        progress(&trick.what);
        let attempt = bench.attempt(&*trick.id, &*trick.what, async |trial| {
            once(trial, trick).await
        });
        attempts.push(attempt.await);
    }
    attempts.push(look_again(bench, progress).await);
    attempts
}

/// What there is to say of tricks where a pull request needs none.
pub(super) async fn needless(bench: &Bench, tricks: &[Trick]) -> Attempt {
    let what = format!("as a pull request: {} tricks to get around", tricks.len());
    bench
        .attempt("tricks", what, async |_| {
            untested(Why::NotNeeded, "a pull request needs none")
        })
        .await
}

async fn once(trial: &mut Trial<'_>, trick: &Trick) -> Judged {
    let (free, taken) = (Key::random(), Key::random());
    trial.try_trick(PullRequest, free, trick).await;
    match trial.load(Trunk, free).await? {
        Seen::Of(_) | Seen::Foreign => {
            return fail(
                Harm::TrunkPoisoned,
                "trunk gets what the pull request stored",
            );
        }
        Seen::Nothing | Seen::Refused(_) => {}
    }
    trial.trunk_has(taken).await?;
    trial.try_trick(PullRequest, taken, trick).await;
    match trial.load_kept(taken).await? {
        Seen::Of(Trunk) => pass("trunk gets nothing of it"),
        Seen::Of(_) | Seen::Foreign => fail(
            Harm::TrunkPoisoned,
            "the pull request replaced what trunk had stored",
        ),
        Seen::Nothing | Seen::Refused(_) => fail(Harm::TrunkBlocked, "trunk lost its entry"),
    }
}

/// Whether anything of what was not trunk's reached trunk after all: a server may store later than it answers.
async fn look_again(bench: &Bench, progress: &dyn Fn(&str)) -> Attempt {
    progress("looking at all keys again");
    bench
        .attempt(
            "at-the-end",
            "at the end, trunk reads every key that others stored",
            async |trial| {
                bench.settle().await;
                let keys = bench.tainted();
                for key in &keys {
                    let (step, seen) = bench.load(Trunk, *key).await;
                    if !matches!(seen?, Seen::Of(Trunk) | Seen::Nothing | Seen::Refused(_)) {
                        trial.saw(step);
                        return fail(
                            Harm::TrunkPoisoned,
                            "trunk gets what others stored, some time later",
                        );
                    }
                }
                pass(format!("{} keys, and nothing but trunk's own", keys.len()))
            },
        )
        .await
}
