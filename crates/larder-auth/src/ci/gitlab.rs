//! GitLab CI/CD, on gitlab.com or one's own instance.
//!
//! Claims: "ID token authentication" of the GitLab documentation. Truth values are the texts
//! "true" and "false".
//!
//! A pipeline for a merge request is never trusted, whatever its ref: GitLab before 18.2.2 gave
//! pipelines of forks the target project's `project_id`, and a fork's branch may be called `main`.
//! Since then such a token has the fork's `project_id`; since `job_project_id` exists, the token
//! tells where the job ran as well.

use crate::claims::Claims;

use super::decision::{Job, Refused, Standing};
use super::provenance::{Provenance, field};
use super::rule::{Isolation, PullRequests, RefPattern, TrustedEvent, text, word};
use super::trail::Trail;

pub(crate) const PROJECT_ID: &str = "project_id";

/// What a rule says of a project on GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitLab {
    /// `project_id`.
    pub project_id: String,
    /// `namespace_id`, if it has to be one.
    pub namespace_id: Option<String>,
    /// `project_path`, only to tell when it changed.
    pub project_path: Option<String>,
    /// The refs whose pipelines are trusted.
    pub trusted_refs: Vec<RefPattern>,
    /// The pipeline sources that are trusted on them.
    pub trusted_events: Vec<TrustedEvent>,
    /// Whether the ref must be protected at GitLab.
    pub require_ref_protected: bool,
    /// The operator has seen to it that nobody else creates refs that the patterns of `trusted_refs` stand for. No claim tells.
    pub creation_restricted: bool,
    /// What merge requests get.
    pub pull_requests: PullRequests,
    /// How far a merge request's scope reaches.
    pub isolation: Isolation,
    /// Environments whose trusted jobs read nothing.
    pub clean_room_environments: Vec<String>,
}

impl GitLab {
    /// The issuer on gitlab.com.
    pub const ISSUER: &str = "https://gitlab.com";

    /// A rule that trusts nothing yet.
    pub fn new(project_id: String) -> Self {
        Self {
            project_id,
            namespace_id: None,
            project_path: None,
            trusted_refs: Vec::new(),
            trusted_events: TrustedEvent::DEFAULT.to_vec(),
            require_ref_protected: true,
            creation_restricted: false,
            pull_requests: PullRequests::default(),
            isolation: Isolation::default(),
            clean_room_environments: Vec::new(),
        }
    }

    pub(crate) fn job(&self, claims: &Claims, trail: &mut Trail) -> Result<Job, Refused> {
        if let Some(namespace_id) = &self.namespace_id
            && !trail.is(claims, "namespace_id", namespace_id)
        {
            return Err(Refused::OtherOwner);
        }
        if claims.has("job_project_id") && !trail.is(claims, "job_project_id", &self.project_id) {
            return Err(Refused::OtherProject);
        }
        trail.renamed(claims, "project_path", self.project_path.as_deref());
        Ok(Job {
            standing: self.standing(claims, trail),
            run: word(claims, "pipeline_id"),
            commit: text(claims, "sha").map(str::to_owned),
            pull_requests: self.pull_requests,
            isolation: self.isolation,
            provenance: provenance(claims),
        })
    }

    fn standing(&self, claims: &Claims, trail: &mut Trail) -> Standing {
        trail.found("pipeline_source", claims);
        trail.found("ref_path", claims);
        let of_fork = claims.has("source_project_id")
            && !trail.is(claims, "source_project_id", &self.project_id);
        let event = match text(claims, "pipeline_source") {
            Some("merge_request_event") => return merge_request(of_fork, claims, trail),
            Some("push") => TrustedEvent::Push,
            Some("schedule") => TrustedEvent::Schedule,
            _ => {
                trail.note(
                    "this source tells nothing of whose code runs: only the pipeline is known",
                );
                return Standing::Run {
                    may_be_pull_request: true,
                };
            }
        };
        let Some(git_ref) = text(claims, "ref_path").filter(|_| !of_fork) else {
            return Standing::Run {
                may_be_pull_request: true,
            };
        };
        let trusted = trail.condition(
            self.trusted_events.contains(&event),
            "the rule trusts this source",
            "the rule does not trust this source",
        );
        if trusted && let Some(standing) = self.conditions(claims, git_ref, trail) {
            return standing;
        }
        Standing::Ref {
            text: git_ref.to_owned(),
            may_be_pull_request: false,
        }
    }

    /// What a trusted source needs besides, to be trusted.
    fn conditions(&self, claims: &Claims, git_ref: &str, trail: &mut Trail) -> Option<Standing> {
        let kind = if git_ref.starts_with("refs/tags/") {
            "tag"
        } else {
            "branch"
        };
        let of_kind = trail.is(claims, "ref_type", kind);
        let of_trusted_ref = trail.condition(
            self.trusted_refs
                .iter()
                .any(|pattern| pattern.matches(git_ref)),
            "the rule trusts this ref",
            "the rule does not trust this ref",
        );
        let protected = !self.require_ref_protected || trail.is(claims, "ref_protected", "true");
        if !(of_kind && of_trusted_ref && protected) {
            return None;
        }
        let clean_room = text(claims, "environment")
            .is_some_and(|name| self.clean_room_environments.iter().any(|room| room == name));
        if clean_room {
            trail.note("its environment is a clean room: it reads nothing");
        }
        Some(Standing::Trusted { clean_room })
    }
}

/// The number of the merge request is no claim: it is told from others by its source branch, which is enough only if
/// the token also says that the branch is not a fork's.
fn merge_request(of_fork: bool, claims: &Claims, trail: &mut Trail) -> Standing {
    if text(claims, "pipeline_source_event") == Some("merge_train") {
        trail.found("pipeline_source_event", claims);
        return Standing::MergeQueue;
    }
    let told_apart = !of_fork && claims.has("job_project_id");
    match text(claims, "ref_path") {
        Some(source) if told_apart => Standing::MergeRequest(source.to_owned()),
        _ => {
            trail.note("the token does not tell the merge request from a fork's: only the pipeline is known");
            Standing::Run {
                may_be_pull_request: true,
            }
        }
    }
}

fn provenance(claims: &Claims) -> Provenance {
    Provenance {
        repository_id: field(claims, PROJECT_ID),
        repository: field(claims, "project_path"),
        git_ref: field(claims, "ref_path").or_else(|| field(claims, "ref")),
        commit_sha: field(claims, "sha"),
        event: field(claims, "pipeline_source"),
        workflow: field(claims, "ci_config_ref_uri"),
        run_id: field(claims, "pipeline_id"),
        job: field(claims, "job_id"),
        actor: field(claims, "user_login"),
        subject: field(claims, "sub"),
        environment: field(claims, "environment"),
        ..Provenance::default()
    }
}
