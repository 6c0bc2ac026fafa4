//! A CI system without a preset, by exact matches that the operator writes.
//!
//! There are no patterns here: what has to be read out of a text, such as a ref in `sub`, cannot be
//! matched, only whole values can. A rule without `trusted_claims` trusts nothing.

use crate::claims::Claims;

use super::decision::{Job, Standing};
use super::provenance::{Provenance, clean, field};
use super::rule::{ExactClaims, Isolation, PullRequests, text, word};
use super::trail::Trail;

/// What a rule says of a repository whose CI system has no preset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Custom {
    /// What makes a token one of this repository.
    pub claims: ExactClaims,
    /// What makes it trusted besides. Empty: nothing is.
    pub trusted_claims: ExactClaims,
    /// The claim with the ref; a token without a pull request gets a scope by it.
    pub ref_claim: Option<String>,
    /// The claim with the run's id.
    pub run_claim: Option<String>,
    /// The claim with the pull request's number. A token in which it says anything is not trusted, and neither is one without
    /// it: it has to be there and say nothing (`null`, or an empty text).
    pub pull_request_claim: Option<String>,
    /// The claim with the commit.
    pub commit_claim: Option<String>,
    /// What pull requests get.
    pub pull_requests: PullRequests,
    /// How far a pull request's scope reaches.
    pub isolation: Isolation,
}

impl Custom {
    pub(crate) fn job(&self, claims: &Claims, trail: &mut Trail) -> Job {
        let named = |claim: &Option<String>| claim.as_deref().and_then(|claim| word(claims, claim));
        let noted =
            |claim: &Option<String>| claim.as_deref().and_then(|claim| field(claims, claim));
        Job {
            standing: self.standing(claims, trail),
            run: named(&self.run_claim),
            commit: named(&self.commit_claim),
            pull_requests: self.pull_requests,
            isolation: self.isolation,
            provenance: Provenance {
                repository: self.repository(claims),
                git_ref: noted(&self.ref_claim),
                commit_sha: noted(&self.commit_claim),
                run_id: noted(&self.run_claim),
                subject: field(claims, "sub"),
                ..Provenance::default()
            },
        }
    }

    /// What the claims that make the repository say, in the order of their names.
    fn repository(&self, claims: &Claims) -> Option<String> {
        let words: Vec<String> = self
            .claims
            .iter()
            .filter_map(|(claim, _)| word(claims, claim))
            .collect();
        clean(&words.join(" "))
    }

    fn standing(&self, claims: &Claims, trail: &mut Trail) -> Standing {
        let unknown = Standing::Run {
            may_be_pull_request: true,
        };
        let mut is_no_pull_request = false;
        if let Some(claim) = &self.pull_request_claim {
            trail.found(claim, claims);
            let said = claims.get(claim);
            is_no_pull_request = said.is_some_and(|value| value.is_null() || value == "");
            if said.is_some() && !is_no_pull_request {
                return word(claims, claim).map_or(unknown, Standing::PullRequest);
            }
        }
        if self.trusted_claims.is_vacuous() {
            trail.note("the rule has no trusted_claims: nothing is trusted");
        } else if self.pull_request_claim.is_some() && !is_no_pull_request {
            trail.note(
                "a token without the claim of a pull request may be one's: it is not trusted",
            );
        } else if trail.all(claims, &self.trusted_claims) {
            return Standing::Trusted { clean_room: false };
        }
        match self
            .ref_claim
            .as_deref()
            .and_then(|claim| text(claims, claim))
        {
            Some(git_ref) => Standing::Ref {
                text: git_ref.to_owned(),
                may_be_pull_request: !is_no_pull_request,
            },
            None => unknown,
        }
    }
}
