//! Azure Pipelines.
//!
//! The claims are not documented; they are as read in tokens that others published. The audience is
//! the same for every service that takes such tokens, so a service that receives one could use it
//! here: a rule has to say that this is accepted.
//!
//! No claim tells what started a run. Whoever may start a pipeline by hand can choose its branch.

use crate::claims::Claims;

use super::decision::{Job, Refused, Standing};
use super::provenance::{Provenance, field};
use super::rule::{Isolation, PullRequests, RefPattern, pull_request_number, text, word};
use super::trail::Trail;

pub(crate) const REPOSITORY_ID: &str = "rpo_id";
pub(crate) const DEFINITION_ID: &str = "def_id";

/// What a rule says of a pipeline on Azure DevOps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureDevOps {
    /// `org_id`, a GUID.
    pub organization_id: String,
    /// `prj_id`, a GUID.
    pub project_id: String,
    /// `rpo_id`, a GUID.
    pub repository_id: String,
    /// `def_id`, the number of the pipeline.
    pub definition_id: String,
    /// The refs whose runs are trusted: exact, because the token does not tell which are protected.
    pub trusted_refs: Vec<RefPattern>,
    /// What pull requests get.
    pub pull_requests: PullRequests,
    /// How far a pull request's scope reaches.
    pub isolation: Isolation,
    /// The operator knows that other services receive tokens that are good here.
    pub accept_shared_audience: bool,
}

impl AzureDevOps {
    /// The only audience there is.
    pub const AUDIENCE: &str = "api://AzureADTokenExchange";

    /// The issuer of an organisation.
    pub fn issuer(organization_id: &str) -> String {
        format!("https://vstoken.dev.azure.com/{organization_id}")
    }

    pub(crate) fn job(&self, claims: &Claims, trail: &mut Trail) -> Result<Job, Refused> {
        let organization = trail.is(claims, "org_id", &self.organization_id);
        let project = trail.is(claims, "prj_id", &self.project_id);
        if !(organization && project) {
            return Err(Refused::OtherOwner);
        }
        Ok(Job {
            standing: self.standing(claims, trail),
            run: word(claims, "run_id"),
            commit: text(claims, "rpo_ver").map(str::to_owned),
            pull_requests: self.pull_requests,
            isolation: self.isolation,
            provenance: provenance(claims),
        })
    }

    fn standing(&self, claims: &Claims, trail: &mut Trail) -> Standing {
        trail.found("rpo_ref", claims);
        let git_ref = text(claims, "rpo_ref").unwrap_or_default();
        if let Some(number) = pull_request_number(git_ref) {
            return Standing::PullRequest(number.to_owned());
        }
        let of_trusted_ref = trail.condition(
            self.trusted_refs
                .iter()
                .any(|pattern| pattern.matches(git_ref)),
            "the rule trusts this ref",
            "the rule does not trust this ref",
        );
        if of_trusted_ref {
            Standing::Trusted { clean_room: false }
        } else if git_ref.starts_with("refs/heads/") || git_ref.starts_with("refs/tags/") {
            Standing::Ref {
                text: git_ref.to_owned(),
                may_be_pull_request: false,
            }
        } else {
            Standing::Run {
                may_be_pull_request: true,
            }
        }
    }
}

fn provenance(claims: &Claims) -> Provenance {
    Provenance {
        repository_id: field(claims, REPOSITORY_ID),
        repository: field(claims, "rpo_uri"),
        git_ref: field(claims, "rpo_ref"),
        commit_sha: field(claims, "rpo_ver"),
        workflow: field(claims, DEFINITION_ID),
        run_id: field(claims, "run_id"),
        subject: field(claims, "sub"),
        ..Provenance::default()
    }
}
