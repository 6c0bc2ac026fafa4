//! GitHub Actions.
//!
//! Claims: "OpenID Connect reference" of the GitHub documentation. Its table lacks `ref_protected`,
//! which tokens have; one without it is not trusted where the rule requires it.
//!
//! The event is looked at before the ref, because `pull_request_target`, `issue_comment` and
//! `workflow_run` carry the default branch's ref and run for whoever opened the pull request, and a
//! `pull_request` that a merge has closed carries the ref it was merged into.

use crate::claims::Claims;

use super::decision::{Job, Refused, Standing};
use super::provenance::{Provenance, field};
use super::rule::{
    Isolation, PullRequests, RefPattern, TrustedEvent, WorkflowPin, pull_request_number, text, word,
};
use super::trail::Trail;

pub(crate) const REPOSITORY_ID: &str = "repository_id";

/// Where GitHub builds what its merge queue is about to merge.
pub(crate) const MERGE_QUEUE_REFS: &str = "refs/heads/gh-readonly-queue/";

/// What a rule says of a repository on GitHub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitHub {
    /// `repository_id`: survives a change of name.
    pub repository_id: String,
    /// `repository_owner_id`.
    pub repository_owner_id: String,
    /// `OWNER/REPO`, only to tell when it changed.
    pub repository: Option<String>,
    /// The refs whose runs are trusted.
    pub trusted_refs: Vec<RefPattern>,
    /// The events that are trusted on them.
    pub trusted_events: Vec<TrustedEvent>,
    /// The workflows that are trusted; all, if there are none.
    pub trusted_workflows: Vec<WorkflowPin>,
    /// Whether the ref must be protected at GitHub.
    pub require_ref_protected: bool,
    /// The operator has seen to it that nobody else creates refs that the patterns of `trusted_refs` stand for. No claim tells.
    pub creation_restricted: bool,
    /// Whether `workflow_dispatch` is trusted as a push is.
    pub dispatch_trusted: bool,
    /// What pull requests get.
    pub pull_requests: PullRequests,
    /// How far a pull request's scope reaches.
    pub isolation: Isolation,
    /// Environments whose trusted jobs read nothing.
    pub clean_room_environments: Vec<String>,
    /// Workflows whose trusted jobs read nothing.
    pub clean_room_workflows: Vec<WorkflowPin>,
}

impl GitHub {
    /// The issuer on github.com.
    pub const ISSUER: &str = "https://token.actions.githubusercontent.com";

    /// A rule that trusts nothing yet.
    pub fn new(repository_id: String, repository_owner_id: String) -> Self {
        Self {
            repository_id,
            repository_owner_id,
            repository: None,
            trusted_refs: Vec::new(),
            trusted_events: TrustedEvent::DEFAULT.to_vec(),
            trusted_workflows: Vec::new(),
            require_ref_protected: true,
            creation_restricted: false,
            dispatch_trusted: false,
            pull_requests: PullRequests::default(),
            isolation: Isolation::default(),
            clean_room_environments: Vec::new(),
            clean_room_workflows: Vec::new(),
        }
    }

    pub(crate) fn job(&self, claims: &Claims, trail: &mut Trail) -> Result<Job, Refused> {
        if !trail.is(claims, "repository_owner_id", &self.repository_owner_id) {
            return Err(Refused::OtherOwner);
        }
        trail.renamed(claims, "repository", self.repository.as_deref());
        Ok(Job {
            standing: self.standing(claims, trail),
            run: word(claims, "run_id"),
            commit: text(claims, "sha").map(str::to_owned),
            pull_requests: self.pull_requests,
            isolation: self.isolation,
            provenance: provenance(claims),
        })
    }

    fn standing(&self, claims: &Claims, trail: &mut Trail) -> Standing {
        let unknown = Standing::Run {
            may_be_pull_request: true,
        };
        trail.found("event_name", claims);
        trail.found("ref", claims);
        let Some(git_ref) = text(claims, "ref") else {
            return unknown;
        };
        let branch = || Standing::Ref {
            text: git_ref.to_owned(),
            may_be_pull_request: false,
        };
        match text(claims, "event_name") {
            Some("merge_group") => Standing::MergeQueue,
            Some("push") if git_ref.starts_with(MERGE_QUEUE_REFS) => Standing::MergeQueue,
            Some("push") => self
                .trusted(TrustedEvent::Push, claims, git_ref, trail)
                .unwrap_or_else(branch),
            Some("schedule") => self
                .trusted(TrustedEvent::Schedule, claims, git_ref, trail)
                .unwrap_or_else(branch),
            Some("workflow_dispatch") => self.dispatched(claims, git_ref, trail),
            Some("pull_request" | "pull_request_review" | "pull_request_review_comment") => {
                match pull_request_number(git_ref) {
                    Some(number) => Standing::PullRequest(number.to_owned()),
                    None => unknown,
                }
            }
            _ => {
                trail.note("this event tells nothing of whose code runs: only the run is known");
                unknown
            }
        }
    }

    /// A run that somebody started by hand, with inputs of their choice: nothing else is to find what it stored.
    fn dispatched(&self, claims: &Claims, git_ref: &str, trail: &mut Trail) -> Standing {
        let opted_in = trail.condition(
            self.dispatch_trusted,
            "the rule trusts runs that are started by hand",
            "the rule does not trust runs that are started by hand",
        );
        opted_in
            .then(|| self.conditions(claims, git_ref, trail))
            .flatten()
            .unwrap_or(Standing::Run {
                may_be_pull_request: false,
            })
    }

    fn trusted(
        &self,
        event: TrustedEvent,
        claims: &Claims,
        git_ref: &str,
        trail: &mut Trail,
    ) -> Option<Standing> {
        let trusted = trail.condition(
            self.trusted_events.contains(&event),
            "the rule trusts this event",
            "the rule does not trust this event",
        );
        trusted
            .then(|| self.conditions(claims, git_ref, trail))
            .flatten()
    }

    /// What a trusted event needs besides, to be trusted.
    fn conditions(&self, claims: &Claims, git_ref: &str, trail: &mut Trail) -> Option<Standing> {
        let of_trusted_ref = trail.condition(
            self.trusted_refs
                .iter()
                .any(|pattern| pattern.matches(git_ref)),
            "the rule trusts this ref",
            "the rule does not trust this ref",
        );
        let protected = !self.require_ref_protected || trail.is(claims, "ref_protected", "true");
        let of_workflow = |pins: &[WorkflowPin]| {
            text(claims, "workflow_ref")
                .is_some_and(|workflow| pins.iter().any(|pin| pin.matches(workflow, git_ref)))
        };
        let pinned = self.trusted_workflows.is_empty() || {
            trail.found("workflow_ref", claims);
            trail.condition(
                of_workflow(&self.trusted_workflows),
                "the rule trusts this workflow",
                "the rule does not trust this workflow",
            )
        };
        if !(of_trusted_ref && protected && pinned) {
            return None;
        }
        let clean_room = of_workflow(&self.clean_room_workflows)
            || text(claims, "environment")
                .is_some_and(|name| self.clean_room_environments.iter().any(|room| room == name));
        if clean_room {
            trail.note("its environment or workflow is a clean room: it reads nothing");
        }
        Some(Standing::Trusted { clean_room })
    }
}

fn provenance(claims: &Claims) -> Provenance {
    Provenance {
        repository_id: field(claims, REPOSITORY_ID),
        repository: field(claims, "repository"),
        git_ref: field(claims, "ref"),
        commit_sha: field(claims, "sha"),
        event: field(claims, "event_name"),
        workflow: field(claims, "workflow_ref"),
        run_id: field(claims, "run_id"),
        run_attempt: field(claims, "run_attempt"),
        job: field(claims, "check_run_id"),
        actor: field(claims, "actor"),
        subject: field(claims, "sub"),
        environment: field(claims, "environment"),
        ..Provenance::default()
    }
}
