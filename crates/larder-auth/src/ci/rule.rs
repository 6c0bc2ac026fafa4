//! The words of a rule: names, refs, workflows, claims that must be exact.
//!
//! Each is read once, when the configuration is, and what it cannot mean does not parse: no event but
//! two can be trusted, and no ref but a branch or a tag. What is compared with a claim is compared
//! whole and as it is; the one exception is the `*` of a [`RefPattern`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::claims::Claims;

/// The most bytes of a ref, a workflow or a claim's expected value: git refuses longer names of refs on most file systems.
const TEXT_BYTES_MAX: usize = 255;

/// A rule's name: the table's name in the configuration.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName(Arc<str>);

/// A text that is no name of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a rule has 1 to {limit} characters of a-z, 0-9 and '-'", limit = RuleName::BYTES_MAX)]
pub struct RuleNameError;

impl RuleName {
    /// The most bytes of a name. It is part of every scope of the rule.
    pub const BYTES_MAX: usize = 24;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RuleName {
    type Err = RuleNameError;

    fn from_str(text: &str) -> Result<Self, RuleNameError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=Self::BYTES_MAX).contains(&text.len()) && text.bytes().all(good) {
            Ok(Self(text.into()))
        } else {
            Err(RuleNameError)
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RuleName({:?})", self.as_str())
    }
}

/// A word of the configuration that is none of those that it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one of {allowed} is expected")]
pub struct NotAWord {
    /// The words, for people.
    pub allowed: &'static str,
}

/// What jobs for pull requests get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullRequests {
    /// They read `trusted`, then a scope of their own, which they write.
    #[default]
    Isolated,
    /// They read `trusted`.
    ReadOnly,
    /// Nothing.
    None,
}

impl FromStr for PullRequests {
    type Err = NotAWord;

    fn from_str(word: &str) -> Result<Self, NotAWord> {
        match word {
            "isolated" => Ok(Self::Isolated),
            "read-only" => Ok(Self::ReadOnly),
            "none" => Ok(Self::None),
            _ => Err(NotAWord {
                allowed: "\"isolated\", \"read-only\", \"none\"",
            }),
        }
    }
}

/// How long what a pull request or branch stored is good for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// As long as it lives.
    #[default]
    Pr,
    /// For runs of the same commit.
    Commit,
    /// Within one run.
    Run,
}

impl FromStr for Isolation {
    type Err = NotAWord;

    fn from_str(word: &str) -> Result<Self, NotAWord> {
        match word {
            "pr" => Ok(Self::Pr),
            "commit" => Ok(Self::Commit),
            "run" => Ok(Self::Run),
            _ => Err(NotAWord {
                allowed: "\"pr\", \"commit\", \"run\"",
            }),
        }
    }
}

/// The events that can be trusted on a trusted ref. There are no others, so none can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustedEvent {
    /// Somebody pushed commits to the ref; for Buildkite, a webhook said so.
    Push,
    /// The CI system's clock.
    Schedule,
}

impl TrustedEvent {
    /// The events that are trusted if the configuration does not say.
    pub const DEFAULT: [Self; 2] = [Self::Push, Self::Schedule];
}

impl FromStr for TrustedEvent {
    type Err = NotAWord;

    fn from_str(word: &str) -> Result<Self, NotAWord> {
        match word {
            "push" => Ok(Self::Push),
            "schedule" => Ok(Self::Schedule),
            _ => Err(NotAWord {
                allowed: "\"push\", \"schedule\"",
            }),
        }
    }
}

/// Why a text is no pattern of refs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefPatternError {
    /// It is no branch and no tag.
    #[error(
        "a trusted ref begins with \"refs/heads/\" or \"refs/tags/\" and names something there"
    )]
    NotABranchOrTag,
    /// More than one `*`.
    #[error("a pattern of refs has one \"*\"")]
    TwoStars,
    /// Too long, or characters that no ref has.
    #[error("this can be no ref")]
    Impossible,
}

/// A ref, or refs that differ in one place: `refs/heads/release/*`. The `*` stands for one or more characters that are not
/// `/`, as in the branch protection of GitHub; `refs/heads/*` is not `refs/heads/a/b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefPattern(Arc<str>);

impl RefPattern {
    /// Whether it stands for more than one ref.
    pub fn is_glob(&self) -> bool {
        self.0.contains('*')
    }

    /// Whether `git_ref` is one of those that this stands for.
    pub fn matches(&self, git_ref: &str) -> bool {
        match self.0.split_once('*') {
            None => git_ref == &*self.0,
            Some((before, after)) => git_ref
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|middle| {
                    !middle.is_empty() && !middle.contains(['/', '*']) && can_be_in_a_ref(middle)
                }),
        }
    }
}

impl FromStr for RefPattern {
    type Err = RefPatternError;

    fn from_str(text: &str) -> Result<Self, RefPatternError> {
        let name = text
            .strip_prefix("refs/heads/")
            .or_else(|| text.strip_prefix("refs/tags/"))
            .filter(|name| !name.is_empty())
            .ok_or(RefPatternError::NotABranchOrTag)?;
        if name.matches('*').count() > 1 {
            return Err(RefPatternError::TwoStars);
        }
        if text.len() > TEXT_BYTES_MAX || !can_be_in_a_ref(name) {
            return Err(RefPatternError::Impossible);
        }
        Ok(Self(text.into()))
    }
}

/// Whether git allows it, but for `*`, which stands for something in a pattern: git-check-ref-format(1).
fn can_be_in_a_ref(text: &str) -> bool {
    let never = |c: char| c.is_control() || " ~^:?[\\".contains(c);
    !text.contains(never) && !text.contains("..")
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workflow of GitHub Actions: `OWNER/REPO/.github/workflows/FILE@REF`, or without `@REF`, which then has to be the ref
/// of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowPin(Arc<str>);

impl WorkflowPin {
    /// Whether a run of `git_ref` with the claim `workflow_ref` is of this workflow.
    pub fn matches(&self, workflow_ref: &str, git_ref: &str) -> bool {
        let whole = self.0.contains('@');
        let with_ref = || {
            workflow_ref
                .strip_prefix(&*self.0)
                .and_then(|rest| rest.strip_prefix('@'))
        };
        if whole {
            workflow_ref == &*self.0
        } else {
            with_ref() == Some(git_ref)
        }
    }
}

impl FromStr for WorkflowPin {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        let (file, git_ref) = match text.split_once('@') {
            Some((file, git_ref)) => (file, Some(git_ref)),
            None => (text, None),
        };
        // GitHub writes whole refs there: what stands behind another `@` would never match, and look like protection.
        let is_ref = git_ref.is_none_or(|it| {
            it.parse::<RefPattern>()
                .is_ok_and(|pattern| !pattern.is_glob())
        });
        if file.contains("/.github/workflows/") && !file.starts_with('/') && is_ref {
            Ok(Self(text.into()))
        } else {
            Err(NotAWord {
                allowed: "OWNER/REPO/.github/workflows/FILE, OWNER/REPO/.github/workflows/FILE@refs/heads/BRANCH",
            })
        }
    }
}

impl fmt::Display for WorkflowPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Claims and the values that each may have. All of them have to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExactClaims {
    values: BTreeMap<String, Vec<String>>,
    /// Whether a whole number or a truth value counts as the text that JSON writes for it.
    as_written: bool,
}

impl ExactClaims {
    /// The claims, each with the values it may have. A claim that is a whole number or a truth value is compared as JSON
    /// writes it: operators write `protected = "true"` for either.
    pub fn new(values: BTreeMap<String, Vec<String>>) -> Self {
        Self {
            values,
            as_written: true,
        }
    }

    /// A claim that is this text, and of no other type.
    pub(crate) fn text(claim: &str, value: &str) -> Self {
        Self::default().and_text(claim, value)
    }

    pub(crate) fn and_text(mut self, claim: &str, value: &str) -> Self {
        self.values.insert(claim.to_owned(), vec![value.to_owned()]);
        self
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.values
            .iter()
            .map(|(claim, values)| (claim.as_str(), values.as_slice()))
    }

    /// Whether this says nothing, or nothing that a claim could be.
    pub(crate) fn is_vacuous(&self) -> bool {
        self.values.is_empty()
            || self
                .iter()
                .any(|(_, values)| values.is_empty() || values.iter().any(String::is_empty))
    }

    /// Whether one of them holds. The claim is one of these.
    pub(crate) fn holds(&self, claim: &str, claims: &Claims) -> bool {
        let found = if self.as_written {
            word(claims, claim)
        } else {
            text(claims, claim).map(str::to_owned)
        };
        let allowed = self.values.get(claim);
        found
            .zip(allowed)
            .is_some_and(|(found, allowed)| allowed.contains(&found))
    }

    /// Whether all hold. Nothing always holds, so a vacuous one never does.
    pub(crate) fn hold(&self, claims: &Claims) -> bool {
        !self.is_vacuous() && self.iter().all(|(claim, _)| self.holds(claim, claims))
    }
}

/// Whether no token can fit both.
pub(crate) fn exclude_each_other(one: &ExactClaims, other: &ExactClaims) -> bool {
    one.iter().any(|(claim, values)| {
        other
            .values
            .get(claim)
            .is_some_and(|others| values.iter().all(|value| !others.contains(value)))
    })
}

/// A claim that says something: a text that is not empty.
pub(crate) fn text<'c>(claims: &'c Claims, claim: &str) -> Option<&'c str> {
    claims.text(claim).filter(|text| !text.is_empty())
}

/// A claim that says something, as a text: also a whole number or a truth value.
pub(crate) fn word(claims: &Claims, claim: &str) -> Option<String> {
    text(claims, claim)
        .map(str::to_owned)
        .or_else(|| Some(claims.whole_number(claim)?.to_string()))
        .or_else(|| Some(claims.truth(claim)?.to_string()))
}

/// The number in `refs/pull/NUMBER/merge`, and in nothing else.
pub(crate) fn pull_request_number(git_ref: &str) -> Option<&str> {
    /// GitHub's numbers begin at 1 and have no leading zero.
    const DIGITS_MAX: usize = 10;
    let number = git_ref.strip_prefix("refs/pull/")?.strip_suffix("/merge")?;
    let plain = (1..=DIGITS_MAX).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
        && !number.starts_with('0');
    plain.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, git_ref: &str, expected: bool) {
        let pattern: RefPattern = pattern.parse().unwrap();
        assert_eq!(pattern.matches(git_ref), expected, "{pattern} {git_ref}");
    }

    #[test]
    fn a_ref_is_exact_and_a_star_is_part_of_one_segment() {
        check("refs/heads/main", "refs/heads/main", true);
        check("refs/heads/main", "refs/heads/main2", false);
        check("refs/heads/main", "refs/heads/Main", false);
        check("refs/heads/main", "refs/tags/main", false);
        check("refs/heads/release/*", "refs/heads/release/1.2", true);
        check("refs/heads/release/*", "refs/heads/release/", false);
        check("refs/heads/release/*", "refs/heads/release/1/2", false);
        check("refs/heads/release/*", "refs/heads/release", false);
        check("refs/tags/v*-final", "refs/tags/v1-final", true);
        check("refs/tags/v*-final", "refs/tags/v-final", false);
        check("refs/tags/v*-v", "refs/tags/v-v", false);
        check("refs/heads/release/*", "refs/heads/release/*", false);
        check("refs/heads/release/*", "refs/heads/release/a b", false);
        check("refs/heads/release/*", "refs/heads/release/..", false);
    }

    #[test]
    fn what_is_no_branch_or_tag_cannot_be_trusted() {
        let check = |text: &str, error| assert_eq!(text.parse::<RefPattern>(), Err(error));
        for text in [
            "main",
            "refs/heads/",
            "refs/tags/",
            "refs/pull/1/merge",
            "refs/merge-requests/1/head",
            "*",
            "refs/*",
            "",
        ] {
            check(text, RefPatternError::NotABranchOrTag);
        }
        check("refs/heads/*/*", RefPatternError::TwoStars);
        check("refs/heads/**", RefPatternError::TwoStars);
        let long = format!("refs/heads/{}", "a".repeat(245));
        for text in [
            "refs/heads/a b",
            "refs/heads/a..b",
            "refs/heads/a:b",
            "refs/heads/a\n",
            &long,
        ] {
            check(text, RefPatternError::Impossible);
        }
        assert!(long[..255].parse::<RefPattern>().is_ok());
    }

    #[test]
    fn a_pin_is_exact_before_the_at_sign_and_after() {
        let file = "acme/web/.github/workflows/ci.yml";
        let check = |pin: &str, workflow_ref: &str, git_ref: &str, expected| {
            let pin: WorkflowPin = pin.parse().unwrap();
            assert_eq!(
                pin.matches(workflow_ref, git_ref),
                expected,
                "{pin} {workflow_ref} {git_ref}"
            );
        };
        let main = "refs/heads/main";
        let at_main = format!("{file}@{main}");
        check(file, &at_main, main, true);
        check(file, &at_main, "refs/heads/dev", false);
        check(file, file, main, false);
        check(file, &format!("{file}x@{main}"), main, false);
        check(file, &format!("x{file}@{main}"), main, false);
        check(&at_main, &at_main, "refs/heads/release", true);
        check(&at_main, &format!("{file}@refs/heads/main2"), main, false);
        check(&at_main, file, main, false);
        let and = |git_ref: &str| format!("{file}@{git_ref}");
        for no_pin in [
            "",
            "ci.yml",
            "/.github/workflows/ci.yml",
            &and("main"),
            &and(""),
            &and("9f3182061f1e2cca4702c368cbc039b7dc9d4485"),
            &and("refs/heads/"),
            &and("refs/heads/*"),
            &and("refs/pull/1/merge"),
            "main@refs/heads/main/.github/workflows/ci.yml",
        ] {
            assert!(no_pin.parse::<WorkflowPin>().is_err(), "{no_pin}");
        }
        assert!(and("refs/tags/v1").parse::<WorkflowPin>().is_ok());
    }

    #[test]
    fn a_pull_request_is_named_by_its_ref_and_by_no_other_text() {
        assert_eq!(pull_request_number("refs/pull/1/merge"), Some("1"));
        assert_eq!(
            pull_request_number("refs/pull/1234567890/merge"),
            Some("1234567890")
        );
        for text in [
            "refs/pull/0/merge",
            "refs/pull/01/merge",
            "refs/pull/12345678901/merge",
            "refs/pull//merge",
            "refs/pull/1/head",
            "refs/pull/1/merge/x",
            "refs/pull/1a/merge",
            "refs/pull/+1/merge",
            "refs/heads/refs/pull/1/merge",
            "1",
            "",
        ] {
            assert_eq!(pull_request_number(text), None, "{text}");
        }
    }

    #[test]
    fn claims_exclude_each_other_if_one_claim_cannot_be_both() {
        let two = |values: &[&str]| {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            ExactClaims::new([("project".to_owned(), values)].into())
        };
        assert!(exclude_each_other(&two(&["a"]), &two(&["b", "c"])));
        assert!(!exclude_each_other(&two(&["a", "b"]), &two(&["b", "c"])));
        assert!(!exclude_each_other(
            &two(&["a"]),
            &ExactClaims::text("other", "b")
        ));
        assert!(exclude_each_other(
            &two(&["a"]),
            &two(&["b"]).and_text("other", "b")
        ));
    }

    #[test]
    fn words_of_the_configuration_are_exact() {
        assert_eq!("isolated".parse(), Ok(PullRequests::Isolated));
        assert_eq!("read-only".parse(), Ok(PullRequests::ReadOnly));
        assert_eq!("none".parse(), Ok(PullRequests::None));
        assert!("Isolated".parse::<PullRequests>().is_err());
        assert_eq!("pr".parse(), Ok(Isolation::Pr));
        assert_eq!("commit".parse(), Ok(Isolation::Commit));
        assert_eq!("run".parse(), Ok(Isolation::Run));
        assert!("".parse::<Isolation>().is_err());
        assert_eq!("push".parse(), Ok(TrustedEvent::Push));
        assert_eq!("schedule".parse(), Ok(TrustedEvent::Schedule));
        for event in [
            "pull_request",
            "pull_request_target",
            "workflow_run",
            "*",
            "",
        ] {
            assert!(event.parse::<TrustedEvent>().is_err(), "{event}");
        }
        assert_eq!("web-2".parse::<RuleName>().unwrap().as_str(), "web-2");
        assert_eq!(
            format!("{:?}", "web".parse::<RuleName>().unwrap()),
            "RuleName(\"web\")"
        );
        for name in ["", "Web", "a.b", "a/b", "a_b", &"a".repeat(25)] {
            assert_eq!(name.parse::<RuleName>(), Err(RuleNameError), "{name}");
        }
        assert!("a".repeat(24).parse::<RuleName>().is_ok());
    }
}
