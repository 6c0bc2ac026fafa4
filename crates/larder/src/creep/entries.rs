//! The attempts that need no trick: plain requests, in every order that matters.

use std::time::Instant;

use super::bench::{Bench, Cache, Judged, Seen, Trial, fail, pass, untested};
use super::exchange::{Key, Refusal, Stored, Unclear};
use super::people::Who::{self, Nobody, OtherPullRequest, PullRequest, Reader, Stranger, Trunk};
use super::report::{Attempt, Harm, Step, Why};

/// How often a pull request tries to write over what trunk has.
const OVERWRITES: usize = 3;

/// How many keys are tried before it is believed that who stores does not get back what was accepted.
const KEYS_TRIED: usize = 2;

/// Whether the cache and the credentials are what the attempts take for granted. It passes, or is untested and says what is
/// not as it should be.
pub(super) async fn prepare(bench: &Bench) -> Attempt {
    bench
        .attempt(
            "setup",
            "the cache is there and takes the credentials",
            async |trial| {
                look_around(trial).await?;
                pass("it does")
            },
        )
        .await
}

async fn look_around(trial: &mut Trial<'_>) -> Result<(), Unclear> {
    let not = |what: &str| Err(Unclear(what.to_owned()));
    match trial.load(Trunk, Key::random()).await? {
        Seen::Nothing | Seen::Refused(Refusal::Forbidden) => {}
        Seen::Refused(Refusal::Unauthenticated) => {
            return not("the server does not accept trunk's credential");
        }
        Seen::Of(_) | Seen::Foreign => {
            return not(
                "the server has an answer to keys that nobody stored: is this the cache's URL?",
            );
        }
    }
    let key = Key::random();
    let began = Instant::now();
    match trial.store(Trunk, key).await? {
        Stored::Accepted => {}
        Stored::Exists => return not("the server has every key already"),
        Stored::Refused(Refusal::Unauthenticated) => {
            return not("the server does not accept trunk's credential");
        }
        Stored::Refused(Refusal::Forbidden) => return not("trunk's credential cannot store"),
    }
    trial.bench.pace.set(began.elapsed());
    if trial.load_own(Trunk, key).await? != Seen::Of(Trunk) {
        return not("trunk does not get back what it stores");
    }
    pull_request_is_known(trial, key).await?;
    for who in [OtherPullRequest, Reader] {
        if trial.bench.people.has(who) {
            is_known(trial, who, key).await?;
        }
    }
    Ok(())
}

/// Whether the pull request can do anything that somebody with an invented credential cannot: a mistyped one is refused
/// everywhere, and that says nothing of the cache. `key` is one that trunk has.
async fn pull_request_is_known(trial: &mut Trial<'_>, key: Key) -> Result<(), Unclear> {
    let stored = trial.store(PullRequest, Key::random()).await?;
    if stored == Stored::Accepted {
        return Ok(());
    }
    let seen = trial.load_trunks(PullRequest, key).await?;
    let refused = stored == Stored::Refused(Refusal::Unauthenticated)
        && seen == Seen::Refused(Refusal::Unauthenticated);
    if refused {
        return Err(Unclear(
            "the server does not accept the pull request's credential".to_owned(),
        ));
    }
    if seen == Seen::Of(Trunk) && trial.load(Stranger, key).await? != Seen::Of(Trunk) {
        return Ok(());
    }
    Err(Unclear(
        "nothing shows that the server knows the pull request's credential: it can neither store nor read more than one \
         that is made up"
            .to_owned(),
    ))
}

/// Whether who reads a pull request's entries can read anything at all. `key` is one that trunk has.
async fn is_known(trial: &mut Trial<'_>, who: Who, key: Key) -> Result<(), Unclear> {
    let seen = trial.load_trunks(who, key).await?;
    if seen == Seen::Of(Trunk) {
        return Ok(());
    }
    let own = Key::random();
    if seen != Seen::Refused(Refusal::Unauthenticated)
        && trial.store(who, own).await? == Stored::Accepted
        && trial.load_own(who, own).await? == Seen::Of(who)
    {
        return Ok(());
    }
    Err(Unclear(format!(
        "the server does not accept the credential of the {}: it reads nothing",
        who.name()
    )))
}

/// All plain attempts. `progress` hears of each.
pub(super) async fn try_all(bench: &Bench, progress: &dyn Fn(&str)) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    macro_rules! attempt {
        ($id:literal, $what:literal, $run:expr) => {
            progress($what);
            attempts.push(bench.attempt($id, $what, $run).await);
        };
    }
    attempt!(
        "pull-request-then-trunk-reads",
        "a pull request stores, then trunk reads",
        async |trial| trunk_reads(trial, PullRequest).await
    );
    attempt!(
        "pull-request-then-trunk-stores",
        "a pull request stores, then trunk stores the same key",
        pull_request_is_first
    );
    attempt!(
        "trunk-then-pull-request-stores",
        "trunk stores, then a pull request stores the same key",
        async |trial| overwrites(trial, PullRequest, 1).await
    );
    attempt!(
        "pull-request-stores-again",
        "trunk stores, then a pull request stores the same key again and again",
        async |trial| overwrites(trial, PullRequest, OVERWRITES).await
    );
    attempt!(
        "pull-request-deletes",
        "trunk stores, then a pull request deletes",
        deletes
    );
    attempt!(
        "other-pull-request-reads",
        "a pull request stores, then another one reads",
        async |trial| other_reads(trial, OtherPullRequest).await
    );
    attempt!(
        "reader-reads",
        "a pull request stores, then a reader reads",
        async |trial| other_reads(trial, Reader).await
    );
    attempt!(
        "nobody-reads",
        "a pull request stores, then someone without a credential reads",
        async |trial| other_reads(trial, Nobody).await
    );
    attempt!(
        "nobody-then-trunk-reads",
        "someone without a credential stores, then trunk reads",
        async |trial| trunk_reads(trial, Nobody).await
    );
    attempt!(
        "trunk-then-nobody-stores",
        "trunk stores, then someone without a credential stores the same key",
        async |trial| overwrites(trial, Nobody, 1).await
    );
    attempt!(
        "nobody-reads-trunk",
        "trunk stores, then someone without a credential reads",
        nobody_reads_trunk
    );
    attempts
}

/// `writer` stores, and trunk must not get it.
async fn trunk_reads(trial: &mut Trial<'_>, writer: Who) -> Judged {
    reads(trial, writer, Trunk, Harm::TrunkPoisoned).await
}

/// `writer` stores, and `reader` must not get it. That says something only if the writer itself gets it: what is accepted and
/// not to be seen yet may reach anybody later.
async fn reads(trial: &mut Trial<'_>, writer: Who, reader: Who, harm: Harm) -> Judged {
    for _ in 0..KEYS_TRIED {
        let key = Key::random();
        let stored = trial.store(writer, key).await?;
        let own = match stored {
            Stored::Accepted => trial.load_own(writer, key).await? == Seen::Of(writer),
            Stored::Exists | Stored::Refused(_) => false,
        };
        if let Seen::Of(_) | Seen::Foreign = trial.load(reader, key).await? {
            let note = format!("{} gets what {} stored", the(reader), the(writer));
            return fail(harm, note);
        }
        match stored {
            Stored::Accepted if own => {
                return pass(format!(
                    "{} gets its own back, {} does not",
                    the(writer),
                    the(reader)
                ));
            }
            Stored::Accepted => {}
            Stored::Exists | Stored::Refused(_) => return cannot_store(writer),
        }
    }
    untested(
        Why::Trouble,
        format!(
            "accepted, but not even {} gets it back: it may be stored later than the check takes",
            the(writer)
        ),
    )
}

/// Of someone without a credential that is the right answer; of a pull request it says nothing about what it could do.
fn cannot_store(writer: Who) -> Judged {
    let note = format!("{} cannot store", the(writer));
    match writer {
        Nobody => pass(note),
        _ => untested(Why::CannotStore, note),
    }
}

/// What trunk builds itself must go in, and come out again, whoever was first.
async fn pull_request_is_first(trial: &mut Trial<'_>) -> Judged {
    let key = Key::random();
    match trial.store(PullRequest, key).await? {
        Stored::Exists | Stored::Refused(_) => return cannot_store(PullRequest),
        Stored::Accepted => trial.load_own(PullRequest, key).await?,
    };
    let stored = trial.trunk_stores(key).await?;
    let seen = match stored {
        Stored::Accepted => trial.load_own(Trunk, key).await?,
        Stored::Exists | Stored::Refused(_) => trial.load_kept(key).await?,
    };
    match (stored, seen) {
        (_, Seen::Of(Trunk)) => {}
        (_, Seen::Of(_) | Seen::Foreign) => {
            return fail(
                Harm::TrunkPoisoned,
                "trunk's own result does not replace the pull request's, which it gets",
            );
        }
        (Stored::Exists | Stored::Refused(_), _) => {
            return fail(
                Harm::TrunkBlocked,
                "trunk's own result is refused because the pull request was first",
            );
        }
        (Stored::Accepted, Seen::Nothing | Seen::Refused(_)) => {
            return fail(
                Harm::TrunkBlocked,
                "trunk's own result is accepted, but trunk does not get it back",
            );
        }
    }
    pass(match trial.load(PullRequest, key).await? {
        Seen::Of(Trunk) => "both get trunk's",
        Seen::Of(_) => "trunk gets its own; the pull request still sees what it stored",
        Seen::Foreign | Seen::Nothing | Seen::Refused(_) => "trunk gets its own",
    })
}

/// What trunk has stored must stay what it is.
async fn overwrites(trial: &mut Trial<'_>, writer: Who, times: usize) -> Judged {
    let key = Key::random();
    trial.trunk_has(key).await?;
    let mut answers = Vec::new();
    for _ in 0..times {
        answers.push(trial.store(writer, key).await?);
        match trial.load_kept(key).await? {
            Seen::Of(Trunk) => {}
            Seen::Of(_) | Seen::Foreign => {
                return fail(
                    Harm::TrunkPoisoned,
                    format!("{} replaced what trunk had stored", the(writer)),
                );
            }
            Seen::Nothing | Seen::Refused(_) => {
                return fail(
                    Harm::TrunkBlocked,
                    format!("trunk lost its entry because {} stored", the(writer)),
                );
            }
        }
    }
    let answer = match answers[..] {
        [.., Stored::Exists] => "told that the key exists",
        [.., Stored::Refused(_)] => "refused",
        [.., Stored::Accepted] | [] => "accepted, but not in trunk's place",
    };
    pass(match trial.load(writer, key).await? {
        // That is no way to trunk, so it is no failure.
        Seen::Of(author) if author == writer => {
            format!("{answer}; {} itself sees what it stored", the(writer))
        }
        _ => answer.to_owned(),
    })
}

/// What trunk has stored must stay there.
async fn deletes(trial: &mut Trial<'_>) -> Judged {
    let Cache::Nx(nx) = &trial.bench.cache else {
        return untested(Why::NotNeeded, "this API has no way to delete");
    };
    let key = Key::random();
    trial.trunk_has(key).await?;
    let bench = trial.bench;
    let deleted = nx.delete(&bench.people, PullRequest, key).await;
    trial.saw(Step {
        who: PullRequest.name(),
        asked: deleted.asked,
        answered: deleted.answered,
        sent_sha256: None,
        got_sha256: None,
        stored_by: None,
    });
    match trial.load_kept(key).await? {
        Seen::Of(Trunk) => pass("trunk's entry stays"),
        Seen::Of(_) | Seen::Foreign => fail(
            Harm::TrunkPoisoned,
            "a pull request's DELETE has trunk get what it did not store",
        ),
        Seen::Nothing | Seen::Refused(_) => fail(
            Harm::TrunkBlocked,
            "a pull request can remove what trunk stored",
        ),
    }
}

/// What a pull request has stored must stay its own.
async fn other_reads(trial: &mut Trial<'_>, reader: Who) -> Judged {
    if !trial.bench.people.has(reader) {
        let note = format!("no credential for the {} was given", reader.name());
        return untested(Why::NoCredential, note);
    }
    reads(trial, PullRequest, reader, Harm::OthersPoisoned).await
}

/// A matter of confidentiality, which is told and is no failure.
async fn nobody_reads_trunk(trial: &mut Trial<'_>) -> Judged {
    let key = Key::random();
    trial.trunk_has(key).await?;
    pass(match trial.load(Nobody, key).await? {
        Seen::Of(_) | Seen::Foreign => {
            "anybody can read what trunk stores; nobody is poisoned by that"
        }
        Seen::Nothing | Seen::Refused(_) => "not readable without a credential",
    })
}

fn the(who: Who) -> &'static str {
    match who {
        Trunk => "trunk",
        PullRequest => "the pull request",
        OtherPullRequest => "the other pull request",
        Reader => "the reader",
        Stranger => "whoever made up a credential",
        Nobody => "whoever has no credential",
    }
}
