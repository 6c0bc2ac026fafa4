//! CircleCI.
//!
//! Claims: "Using OpenID Connect tokens in jobs" of the CircleCI documentation. Each organisation
//! has an issuer of its own: `https://oidc.circleci.com/org/ORGANIZATION_ID`.
//!
//! A token names no event, no pull request, no commit and no run, so a scope reaches as far as its
//! branch, and there is nothing to fall back on for a pipeline without a ref. A fork's build, if the
//! project gives forks secrets at all, is told by `vcs-origin`. Whoever has a shell in a job
//! (`ssh-rerun`) can store what they like, so such a job is not trusted.

use crate::claims::Claims;

use super::decision::{Job, Standing};
use super::provenance::{Provenance, field};
use super::rule::{Isolation, PullRequests, RefPattern, text};
use super::trail::Trail;

pub(crate) const PROJECT_ID: &str = "oidc.circleci.com/project-id";
const ORIGIN: &str = "oidc.circleci.com/vcs-origin";
const REF: &str = "oidc.circleci.com/vcs-ref";
const SSH_RERUN: &str = "oidc.circleci.com/ssh-rerun";

/// What a rule says of a project on CircleCI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircleCi {
    /// `oidc.circleci.com/project-id`, a UUID.
    pub project_id: String,
    /// `oidc.circleci.com/vcs-origin`: the repository itself, not a fork of it.
    pub vcs_origin: String,
    /// The refs whose jobs are trusted: exact, because CircleCI does not tell which are protected.
    pub trusted_refs: Vec<RefPattern>,
    /// What jobs get that are not of a trusted ref: any may be a pull request's.
    pub pull_requests: PullRequests,
}

impl CircleCi {
    /// A rule that trusts nothing yet.
    pub fn new(project_id: String, vcs_origin: String) -> Self {
        Self {
            project_id,
            vcs_origin,
            trusted_refs: Vec::new(),
            pull_requests: PullRequests::default(),
        }
    }

    /// The issuer of an organisation.
    pub fn issuer(organization_id: &str) -> String {
        format!("https://oidc.circleci.com/org/{organization_id}")
    }

    pub(crate) fn job(&self, claims: &Claims, trail: &mut Trail) -> Job {
        Job {
            standing: self.standing(claims, trail),
            run: None,
            commit: None,
            pull_requests: self.pull_requests,
            isolation: Isolation::Pr,
            provenance: Provenance {
                repository_id: field(claims, PROJECT_ID),
                repository: field(claims, ORIGIN),
                git_ref: field(claims, REF),
                subject: field(claims, "sub"),
                ..Provenance::default()
            },
        }
    }

    fn standing(&self, claims: &Claims, trail: &mut Trail) -> Standing {
        let own = trail.is(claims, ORIGIN, &self.vcs_origin);
        let nobody_inside = trail.is_truth(claims, SSH_RERUN, false);
        trail.found(REF, claims);
        let (Some(origin), Some(git_ref)) = (text(claims, ORIGIN), text(claims, REF)) else {
            return Standing::Run {
                may_be_pull_request: true,
            };
        };
        let of_trusted_ref = trail.condition(
            self.trusted_refs
                .iter()
                .any(|pattern| pattern.matches(git_ref)),
            "the rule trusts this ref",
            "the rule does not trust this ref",
        );
        if own && nobody_inside && of_trusted_ref {
            return Standing::Trusted { clean_room: false };
        }
        // A fork's branches are not the repository's. A space is in no ref and in no address of a repository.
        let text = if own {
            git_ref.to_owned()
        } else {
            format!("{git_ref} {origin}")
        };
        Standing::Ref {
            text,
            may_be_pull_request: true,
        }
    }
}
