//! What was tried, what came of it, and what that says of the cache.
//!
//! Always true: a cache is called safe only if every attempt that could be made was made and came to nothing.

use serde::Serialize;

/// All that a check found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// What was checked.
    pub(crate) url: String,
    pub(crate) protocol: &'static str,
    /// This program.
    pub(crate) checked_by: &'static str,
    pub(crate) verdict: Verdict,
    /// The verdict in one sentence.
    pub(crate) because: String,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) left_behind: LeftBehind,
}

/// What the attempts say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Safe,
    Vulnerable,
    Inconclusive,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Safe => "SAFE",
            Self::Vulnerable => "VULNERABLE",
            Self::Inconclusive => "INCONCLUSIVE",
        }
    }

    /// The program's exit code. 2 is that of a command line that cannot be carried out.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Safe => 0,
            Self::Vulnerable => 1,
            Self::Inconclusive => 3,
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Attempt {
    /// The same from version to version.
    pub(crate) id: String,
    /// What was tried.
    pub(crate) what: String,
    pub(crate) outcome: Outcome,
    /// What came of it.
    pub(crate) note: String,
    pub(crate) evidence: Vec<Step>,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "why", rename_all = "lowercase")]
pub(crate) enum Outcome {
    Pass,
    Fail(Harm),
    Untested(Why),
}

/// What a failure costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Harm {
    /// Someone untrusted keeps trunk's results out of the cache.
    TrunkBlocked,
    /// Someone who is not trunk gets what a pull request stored that is not theirs.
    OthersPoisoned,
    /// Trunk gets what someone untrusted stored.
    TrunkPoisoned,
}

/// Why an attempt says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Why {
    /// It takes a credential that was not given.
    NoCredential,
    /// A simpler attempt has succeeded already.
    NotNeeded,
    /// The pull request cannot store, so nobody can get anything of it.
    CannotStore,
    /// The server did not answer as a cache does.
    Trouble,
}

/// A request and its answer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    pub(crate) who: &'static str,
    pub(crate) asked: String,
    pub(crate) answered: String,
    /// The SHA-256 of the bytes that were sent to be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sent_sha256: Option<String>,
    /// The SHA-256 of the bytes that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) got_sha256: Option<String>,
    /// Whose bytes those are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stored_by: Option<&'static str>,
}

/// What a check cannot take back.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct LeftBehind {
    /// How many requests to store something were accepted.
    pub(crate) stores: u64,
    /// The bytes that they sent.
    pub(crate) bytes: u64,
}

/// What `attempts` say.
pub(crate) fn judge(attempts: &[Attempt]) -> (Verdict, String) {
    let harms = attempts.iter().filter_map(|attempt| match attempt.outcome {
        Outcome::Fail(harm) => Some((harm, attempt)),
        Outcome::Pass | Outcome::Untested(_) => None,
    });
    // The worst, and of these the first.
    let worst = harms.rev().max_by_key(|(harm, _)| *harm);
    if let Some((harm, attempt)) = worst {
        let meaning = match harm {
            Harm::TrunkPoisoned => "whoever is not trusted decides what trunk gets from this cache",
            Harm::OthersPoisoned => {
                "a pull request decides what others get from this cache, though not trunk"
            }
            Harm::TrunkBlocked => {
                "a pull request decides what trunk can keep in this cache, though not what it gets"
            }
        };
        return (Verdict::Vulnerable, format!("{meaning} ({})", attempt.what));
    }
    let untested = |why| {
        let is = move |attempt: &&Attempt| attempt.outcome == Outcome::Untested(why);
        attempts.iter().filter(is).collect::<Vec<_>>()
    };
    if let [first, ..] = untested(Why::Trouble)[..] {
        return (
            Verdict::Inconclusive,
            format!(
                "not everything could be tried ({}: {})",
                first.what, first.note
            ),
        );
    }
    let tried = attempts.iter();
    let tried = tried
        .filter(|attempt| attempt.outcome == Outcome::Pass)
        .count();
    if tried == 0 {
        return (Verdict::Inconclusive, "nothing was tried".to_owned());
    }
    let left = match untested(Why::NoCredential).len() {
        0 => String::new(),
        1 => "; 1 more takes a credential that was not given".to_owned(),
        more => format!("; {more} more take credentials that were not given"),
    };
    (
        Verdict::Safe,
        format!(
            "of {tried} attempts by the untrusted none reached trunk, blocked it or reached others{left}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(outcome: Outcome) -> Attempt {
        Attempt {
            id: "id".to_owned(),
            what: format!("{outcome:?}"),
            outcome,
            note: "a note".to_owned(),
            evidence: Vec::new(),
        }
    }

    #[track_caller]
    fn check(outcomes: &[Outcome], verdict: Verdict, words: &str) {
        let attempts: Vec<Attempt> = outcomes.iter().copied().map(attempt).collect();
        let (found, because) = judge(&attempts);
        assert_eq!(found, verdict, "{because}");
        assert!(because.contains(words), "{because}");
    }

    #[test]
    fn one_failure_makes_a_cache_vulnerable_and_the_worst_is_named() {
        let (blocked, others, poisoned) = (
            Outcome::Fail(Harm::TrunkBlocked),
            Outcome::Fail(Harm::OthersPoisoned),
            Outcome::Fail(Harm::TrunkPoisoned),
        );
        let trouble = Outcome::Untested(Why::Trouble);
        let vulnerable = Verdict::Vulnerable;
        check(&[Outcome::Pass, blocked, Outcome::Pass], vulnerable, "keep");
        check(
            &[blocked, poisoned, others],
            vulnerable,
            "decides what trunk gets",
        );
        check(&[blocked, others], vulnerable, "others get");
        check(&[trouble, blocked, trouble], vulnerable, "keep");
    }

    #[test]
    fn a_cache_is_safe_only_if_all_that_could_be_tried_was() {
        let (pass, trouble) = (Outcome::Pass, Outcome::Untested(Why::Trouble));
        let not_given = Outcome::Untested(Why::NoCredential);
        check(&[pass, pass], Verdict::Safe, "of 2 attempts");
        check(&[pass, not_given], Verdict::Safe, "1 more takes");
        check(&[pass, trouble, pass], Verdict::Inconclusive, "a note");
        check(&[not_given], Verdict::Inconclusive, "nothing");
        check(&[], Verdict::Inconclusive, "nothing");
    }
}
