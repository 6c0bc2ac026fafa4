//! The attempts to get around: every trick, on a key that nobody has and on one that trunk has; and a last look at all keys, by
//! every door.

use super::bench::{Bench, Cache, Judged, Seen, Trial, fail, pass, untested};
use super::exchange::{Key, Unclear};
use super::people::Who::{PullRequest, Trunk};
use super::reapi::ReapiCache;
use super::report::{Attempt, Harm, Why};
use super::tricks::{How, ReapiTrick, Trick};

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
    if let Cache::Reapi(reapi) = &bench.cache {
        attempts.push(look_over_http(bench, reapi, progress).await);
    }
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

/// Whether anything of it is behind the second door to results of actions, which may have keys of its own. A server that gives
/// trunk nothing there, whichever way trunk stored it, has no such door.
async fn look_over_http(bench: &Bench, reapi: &ReapiCache, progress: &dyn Fn(&str)) -> Attempt {
    let what = "at the end, trunk reads every key that others stored over HTTP, too (GET /ac/HASH)";
    progress(what);
    bench
        .attempt("at-the-end-over-http", what, async |trial| {
            let (keys, mut doors) = (bench.tainted(), 0);
            for prefix in reapi.prefixes() {
                if !is_door(trial, reapi, &prefix).await {
                    continue;
                }
                doors += 1;
                for key in &keys {
                    let read = bench.load_over_http(reapi, Trunk, *key, &prefix);
                    let (step, seen) = read.await;
                    if !matches!(seen?, Seen::Of(Trunk) | Seen::Nothing | Seen::Refused(_)) {
                        trial.saw(step);
                        return fail(
                            Harm::TrunkPoisoned,
                            "trunk gets what others stored, over HTTP",
                        );
                    }
                }
            }
            if doors == 0 {
                return untested(Why::NotNeeded, "results of actions are not read over HTTP");
            }
            pass(format!("{} keys, and nothing but trunk's own", keys.len()))
        })
        .await
}

/// Whether trunk gets back over HTTP what it stores by either door. No answer at all is the answer of servers that speak gRPC alone.
async fn is_door(trial: &mut Trial<'_>, reapi: &ReapiCache, prefix: &str) -> bool {
    let bench = trial.bench;
    let put = Trick {
        id: String::new(),
        what: String::new(),
        how: How::Reapi(ReapiTrick::Http(prefix.to_owned())),
    };
    for trick in [None, Some(&put)] {
        let key = Key::random();
        let (stored, _) = bench.store(Trunk, key, trick).await;
        let (read, seen): (_, Result<_, Unclear>) =
            bench.load_over_http(reapi, Trunk, key, prefix).await;
        trial.saw(stored);
        trial.saw(read);
        if seen == Ok(Seen::Of(Trunk)) {
            return true;
        }
    }
    false
}
