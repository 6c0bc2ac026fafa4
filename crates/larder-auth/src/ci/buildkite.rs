//! Buildkite.
//!
//! Claims: "buildkite-agent oidc" of the Buildkite documentation. All organisations share one
//! issuer, and slugs can change hands, so the job has to ask for the ids:
//! `--claim organization_id,pipeline_id`.
//!
//! No claim tells a pull request. A fork's build has the fork's branch, which may be called `main`,
//! unless the pipeline does not build forks or puts the fork's owner in front (`somebody:main`). The
//! server cannot see that setting, so nothing is trusted until the rule says which it is.

use std::str::FromStr;

use crate::claims::Claims;

use super::decision::{Job, Refused, Standing};
use super::github::MERGE_QUEUE_REFS;
use super::provenance::{Provenance, clean, field};
use super::rule::{Isolation, NotAWord, PullRequests, RefPattern, TrustedEvent, text, word};
use super::trail::Trail;

pub(crate) const PIPELINE_ID: &str = "pipeline_id";

/// What the pipeline's settings do with pull requests of forks, as the operator has looked it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForkBuilds {
    /// They are built, or nobody has looked. Nothing is trusted.
    #[default]
    Enabled,
    /// They are not built.
    Disabled,
    /// They are built, and their branches are prefixed with the fork's owner.
    Prefixed,
}

impl FromStr for ForkBuilds {
    type Err = NotAWord;

    fn from_str(word: &str) -> Result<Self, NotAWord> {
        match word {
            "enabled" => Ok(Self::Enabled),
            "disabled" => Ok(Self::Disabled),
            "prefixed" => Ok(Self::Prefixed),
            _ => Err(NotAWord {
                allowed: "\"disabled\", \"prefixed\", \"enabled\"",
            }),
        }
    }
}

/// What a rule says of a pipeline on Buildkite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buildkite {
    /// `organization_id`, a UUID.
    pub organization_id: String,
    /// `pipeline_id`, a UUID.
    pub pipeline_id: String,
    /// The refs whose builds are trusted: exact, because Buildkite does not tell which are protected.
    pub trusted_refs: Vec<RefPattern>,
    /// What may have started them: `push` is a webhook.
    pub trusted_events: Vec<TrustedEvent>,
    /// What happens to forks.
    pub fork_builds: ForkBuilds,
    /// What builds get that are not of a trusted ref: any may be a pull request's.
    pub pull_requests: PullRequests,
    /// How far a branch's scope reaches.
    pub isolation: Isolation,
}

impl Buildkite {
    /// The issuer of all organisations.
    pub const ISSUER: &str = "https://agent.buildkite.com";

    /// A rule that trusts nothing yet.
    pub fn new(organization_id: String, pipeline_id: String) -> Self {
        Self {
            organization_id,
            pipeline_id,
            trusted_refs: Vec::new(),
            trusted_events: TrustedEvent::DEFAULT.to_vec(),
            fork_builds: ForkBuilds::default(),
            pull_requests: PullRequests::default(),
            isolation: Isolation::default(),
        }
    }

    pub(crate) fn job(&self, claims: &Claims, trail: &mut Trail) -> Result<Job, Refused> {
        if !trail.is(claims, "organization_id", &self.organization_id) {
            return Err(Refused::OtherOwner);
        }
        let git_ref = git_ref(claims);
        Ok(Job {
            standing: self.standing(claims, git_ref.as_deref(), trail),
            run: word(claims, "build_number"),
            commit: text(claims, "build_commit").map(str::to_owned),
            pull_requests: self.pull_requests,
            isolation: self.isolation,
            provenance: provenance(claims, git_ref),
        })
    }

    fn standing(&self, claims: &Claims, git_ref: Option<&str>, trail: &mut Trail) -> Standing {
        for claim in ["build_source", "build_branch", "build_tag"] {
            trail.found(claim, claims);
        }
        let source = text(claims, "build_source");
        let known = matches!(
            source,
            Some("webhook" | "schedule" | "ui" | "api" | "trigger_job")
        );
        let Some(git_ref) = git_ref.filter(|_| known) else {
            return Standing::Run {
                may_be_pull_request: true,
            };
        };
        let event = match source {
            Some("webhook") => Some(TrustedEvent::Push),
            Some("schedule") => Some(TrustedEvent::Schedule),
            _ => None,
        };
        let from_trusted = trail.condition(
            event.is_some_and(|event| self.trusted_events.contains(&event)),
            "the rule trusts this source",
            "a build from this source can be of any commit, under any branch's name",
        );
        let settled = trail.condition(
            self.fork_builds != ForkBuilds::Enabled,
            "the rule says that a fork's build cannot have this branch's name",
            "the rule does not say that a fork's build cannot have this branch's name (fork_builds)",
        );
        if from_trusted && settled && git_ref.starts_with(MERGE_QUEUE_REFS) {
            return Standing::MergeQueue;
        }
        let of_trusted_ref = trail.condition(
            self.trusted_refs
                .iter()
                .any(|pattern| pattern.matches(git_ref)),
            "the rule trusts this ref",
            "the rule does not trust this ref",
        );
        if from_trusted && settled && of_trusted_ref {
            return Standing::Trusted { clean_room: false };
        }
        // No ref of git has a colon: this is Buildkite's prefix. A pattern cannot have one either.
        if git_ref.contains(':') {
            trail.note("the branch has the prefix of a fork");
        }
        Standing::Ref {
            text: git_ref.to_owned(),
            may_be_pull_request: true,
        }
    }
}

/// The ref as git spells it. A tag wins, since its build has a branch as well; a tag that cannot be read is none.
fn git_ref(claims: &Claims) -> Option<String> {
    if claims.has("build_tag") {
        return text(claims, "build_tag").map(|tag| format!("refs/tags/{tag}"));
    }
    text(claims, "build_branch").map(|branch| format!("refs/heads/{branch}"))
}

fn provenance(claims: &Claims, git_ref: Option<String>) -> Provenance {
    let repository = text(claims, "organization_slug")
        .zip(text(claims, "pipeline_slug"))
        .and_then(|(organization, pipeline)| clean(&format!("{organization}/{pipeline}")));
    Provenance {
        repository_id: field(claims, PIPELINE_ID),
        repository,
        git_ref: git_ref.as_deref().and_then(clean),
        commit_sha: field(claims, "build_commit"),
        event: field(claims, "build_source"),
        workflow: field(claims, "step_key"),
        run_id: field(claims, "build_number"),
        job: field(claims, "job_id"),
        subject: field(claims, "sub"),
        ..Provenance::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_forks_is_one_of_three_words() {
        assert_eq!("enabled".parse(), Ok(ForkBuilds::Enabled));
        assert_eq!("disabled".parse(), Ok(ForkBuilds::Disabled));
        assert_eq!("prefixed".parse(), Ok(ForkBuilds::Prefixed));
        for word in ["", "Disabled", "true", "no"] {
            assert!(word.parse::<ForkBuilds>().is_err(), "{word}");
        }
    }
}
