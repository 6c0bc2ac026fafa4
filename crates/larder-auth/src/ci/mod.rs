//! From the verified claims of a CI job to who it is, what it may write and what it may read.
//!
//! A [`Rule`] binds one repository, as one issuer names it, to a workspace. Its [`Preset`] knows
//! the claims of one CI system; what decides is written here and not in patterns that an operator
//! has to get right. Every preset follows the same order: which repository, then which event, then
//! which ref. Whatever a preset does not know gets the least: a scope of its own run, or nothing.
//!
//! Always true:
//! - A claim counts only if it is exactly what the rule says, as text. An absent claim, or one of
//!   another type, is never what the rule says.
//! - `sub` is noted and never read: its form depends on settings of the repository.
//! - A token of a repository that no rule names gets nothing.
//! - An untrusted scope begins with `ci.RULE/`, and no two refs, pull requests or runs share one.
//! - No claim raises trust by itself. `trusted` takes all claims that the preset lists together.
//!
//! Pure: no clock, no network. That a token is genuine and in force has been checked before
//! ([`VerifiedClaims`]); that a caller's access is obeyed is `larder_model::Policy`.

mod azure_devops;
mod buildkite;
mod circleci;
mod custom;
mod decision;
mod github;
mod gitlab;
mod provenance;
mod rule;
mod scope_name;
mod trail;

use std::fmt;

use larder_model::WorkspaceName;

use crate::claims::{Claims, VerifiedClaims};
use crate::token::TokenHash;
use decision::{Job, decide};
use rule::exclude_each_other;
use trail::Trail;

pub use azure_devops::AzureDevOps;
pub use buildkite::{Buildkite, ForkBuilds};
pub use circleci::CircleCi;
pub use custom::Custom;
pub use decision::{Decision, Explanation, Refused};
pub use github::GitHub;
pub use gitlab::GitLab;
pub use provenance::Provenance;
pub use rule::{
    ExactClaims, Isolation, NotAWord, PullRequests, RefPattern, RefPatternError, RuleName,
    RuleNameError, TrustedEvent, WorkflowPin,
};

/// One repository of one issuer, and what its jobs get in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The rule's name within its workspace: the table's name in the configuration, and the first label of its scopes.
    pub name: RuleName,
    /// The workspace whose entries the jobs read and write.
    pub workspace: WorkspaceName,
    /// The issuer, exactly as `iss` has it.
    pub issuer: String,
    /// The CI system, and what the rule says in its terms.
    pub preset: Preset,
}

impl Rule {
    /// What stands for the rule and everything that it says: another rule, or this one with anything in it changed, has
    /// another mark. It is compared and never read, so its form may change from one version to the next.
    pub fn mark(&self) -> [u8; 32] {
        TokenHash::of(format!("{self:?}").as_bytes()).0
    }
}

/// The CI systems whose claims are known here, and a way to describe others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preset {
    /// GitHub Actions.
    GitHub(GitHub),
    /// GitLab CI/CD.
    GitLab(GitLab),
    /// Buildkite.
    Buildkite(Buildkite),
    /// CircleCI.
    CircleCi(CircleCi),
    /// Azure Pipelines.
    AzureDevOps(AzureDevOps),
    /// Exact matches that the operator writes.
    Custom(Custom),
}

impl Preset {
    /// The claims that make a token one of this rule's repository.
    fn identity(&self) -> ExactClaims {
        let one = |claim: &str, id: &str| ExactClaims::text(claim, id);
        match self {
            Self::GitHub(rule) => one(github::REPOSITORY_ID, &rule.repository_id),
            Self::GitLab(rule) => one(gitlab::PROJECT_ID, &rule.project_id),
            Self::Buildkite(rule) => one(buildkite::PIPELINE_ID, &rule.pipeline_id),
            Self::CircleCi(rule) => one(circleci::PROJECT_ID, &rule.project_id),
            Self::AzureDevOps(rule) => one(azure_devops::REPOSITORY_ID, &rule.repository_id)
                .and_text(azure_devops::DEFINITION_ID, &rule.definition_id),
            Self::Custom(rule) => rule.claims.clone(),
        }
    }

    /// Whether these are two CI systems. What an operator writes by hand can be any.
    fn is_mixed_with(&self, other: &Self) -> bool {
        let by_hand = |preset: &Self| matches!(preset, Self::Custom(_));
        let same = std::mem::discriminant(self) == std::mem::discriminant(other);
        !same && !by_hand(self) && !by_hand(other)
    }

    fn job(&self, claims: &Claims, trail: &mut Trail) -> Result<Job, Refused> {
        match self {
            Self::GitHub(rule) => rule.job(claims, trail),
            Self::GitLab(rule) => rule.job(claims, trail),
            Self::Buildkite(rule) => rule.job(claims, trail),
            Self::CircleCi(rule) => Ok(rule.job(claims, trail)),
            Self::AzureDevOps(rule) => rule.job(claims, trail),
            Self::Custom(rule) => Ok(rule.job(claims, trail)),
        }
    }

    fn trusted_refs(&self) -> &[RefPattern] {
        match self {
            Self::GitHub(rule) => &rule.trusted_refs,
            Self::GitLab(rule) => &rule.trusted_refs,
            Self::Buildkite(rule) => &rule.trusted_refs,
            Self::CircleCi(rule) => &rule.trusted_refs,
            Self::AzureDevOps(rule) => &rule.trusted_refs,
            Self::Custom(_) => &[],
        }
    }

    /// What is wrong with a pattern of refs in the rule. A token tells of some systems that its ref is protected, and of none
    /// who may create one that a protection covers.
    fn problem_of_glob(&self, pattern: String) -> Option<Problem> {
        let (protected, restricted) = match self {
            Self::GitHub(rule) => (rule.require_ref_protected, rule.creation_restricted),
            Self::GitLab(rule) => (rule.require_ref_protected, rule.creation_restricted),
            Self::Buildkite(_) | Self::CircleCi(_) | Self::AzureDevOps(_) | Self::Custom(_) => {
                (false, false)
            }
        };
        match (protected, restricted) {
            (false, _) => Some(Problem::UnprotectedGlob { pattern }),
            (true, false) => Some(Problem::OpenGlob { pattern }),
            (true, true) => None,
        }
    }

    /// What has to be known besides [`Preset::identity`] for nobody else to fit.
    fn owners(&self) -> Vec<&str> {
        match self {
            Self::GitHub(rule) => vec![&rule.repository_owner_id],
            Self::Buildkite(rule) => vec![&rule.organization_id],
            Self::CircleCi(rule) => vec![&rule.vcs_origin],
            Self::AzureDevOps(rule) => vec![&rule.organization_id, &rule.project_id],
            Self::GitLab(_) | Self::Custom(_) => Vec::new(),
        }
    }

    /// What is wrong with the rule by itself.
    fn problem(&self) -> Option<Problem> {
        let glob = self.trusted_refs().iter().find(|it| it.is_glob());
        if let Some(problem) = glob.and_then(|it| self.problem_of_glob(it.to_string())) {
            return Some(problem);
        }
        if let Self::AzureDevOps(rule) = self
            && !rule.accept_shared_audience
        {
            return Some(Problem::SharedAudience);
        }
        let nobodys = self.identity().is_vacuous() || self.owners().contains(&"");
        nobodys.then_some(Problem::NoIdentity)
    }
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing says which repository it is for.
    #[error(
        "an id, or a list of values, is empty: the rule does not say which repository it is for"
    )]
    NoIdentity,
    /// A pattern of refs, without the claim that the ref is protected.
    #[error(
        "\"{pattern}\" is a pattern: whoever may push a branch that fits would be trusted; name refs exactly, or require \
         protected refs if the CI system tells which are"
    )]
    UnprotectedGlob {
        /// The pattern.
        pattern: String,
    },
    /// A pattern of refs, without the operator's word that not everybody creates some that fit.
    #[error(
        "\"{pattern}\" is a pattern: whoever may create a branch or tag that fits would be trusted, although it is protected from \
         then on; restrict at the CI system who may create such refs, and say so here: creation_restricted = true. Or name refs \
         exactly"
    )]
    OpenGlob {
        /// The pattern.
        pattern: String,
    },
    /// Azure DevOps, without the consent that it takes.
    #[error(
        "tokens of Azure Pipelines name an audience that all services share, so whoever receives one can use it here; set \
         accept_shared_audience = true if that is acceptable, or give this CI static tokens"
    )]
    SharedAudience,
    /// Another rule of the workspace has the name.
    #[error("the workspace has two rules of this name")]
    NameTaken,
    /// A token could be both this rule's and another's.
    #[error(
        "one token could fit this rule and [workspace.{workspace}.ci.{name}]: both are for one repository of one issuer"
    )]
    Overlaps {
        /// The other rule's workspace.
        workspace: WorkspaceName,
        /// The other rule's name.
        name: RuleName,
    },
    /// Two CI systems behind one issuer, so that one of the rules reads claims that its tokens do not have.
    #[error(
        "[workspace.{workspace}.ci.{name}] has the same issuer and another provider: the tokens of an issuer are those of \
         one CI system, so all its rules have the same provider"
    )]
    MixedPresets {
        /// The other rule's workspace.
        workspace: WorkspaceName,
        /// The other rule's name.
        name: RuleName,
    },
}

/// Rules that cannot be used together, with every problem there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesError(pub Vec<(WorkspaceName, RuleName, Problem)>);

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (workspace, rule, problem)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}[workspace.{workspace}.ci.{rule}]: {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RulesError {}

/// All rules of a server. At most one of them fits a token.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// The rules, if each makes sense and no token could fit two of them.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RulesError> {
        let mut problems = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let mut report =
                |problem| problems.push((rule.workspace.clone(), rule.name.clone(), problem));
            if let Some(problem) = rule.preset.problem() {
                report(problem);
            }
            for earlier in &rules[..index] {
                if (&earlier.workspace, &earlier.name) == (&rule.workspace, &rule.name) {
                    report(Problem::NameTaken);
                }
                if earlier.issuer != rule.issuer {
                    continue;
                }
                let (workspace, name) = (earlier.workspace.clone(), earlier.name.clone());
                if earlier.preset.is_mixed_with(&rule.preset) {
                    report(Problem::MixedPresets { workspace, name });
                } else if !exclude_each_other(&earlier.preset.identity(), &rule.preset.identity()) {
                    report(Problem::Overlaps { workspace, name });
                }
            }
        }
        if problems.is_empty() {
            Ok(Self(rules))
        } else {
            Err(RulesError(problems))
        }
    }

    /// The mark of each rule: see [`Rule::mark`].
    pub fn marks(&self) -> Vec<[u8; 32]> {
        self.0.iter().map(Rule::mark).collect()
    }

    /// What the job with these claims gets.
    pub fn decide(&self, claims: &VerifiedClaims) -> Result<Decision, Refused> {
        let mut trail = Trail::default();
        let decided = self.judge(claims, &mut trail);
        decided.map(|decision| decision.with_trail(trail))
    }

    /// What a job with these claims would get, and why. The claims are taken at their word, so nothing here is a
    /// [`Decision`].
    pub fn explain(&self, claims: &Claims) -> Explanation {
        let mut trail = Trail::default();
        let decided = self.judge(claims, &mut trail);
        Explanation::new(decided, trail)
    }

    fn judge(&self, claims: &Claims, trail: &mut Trail) -> Result<Decision, Refused> {
        let issuer = claims.text("iss");
        let of_issuer: Vec<&Rule> = self
            .0
            .iter()
            .filter(|rule| issuer == Some(rule.issuer.as_str()))
            .collect();
        trail.found("iss", claims);
        if of_issuer.is_empty() {
            trail.note("no rule is for this issuer");
            return Err(Refused::UnknownIssuer);
        }
        let Some(rule) = of_issuer
            .iter()
            .find(|rule| rule.preset.identity().hold(claims))
        else {
            for rule in of_issuer {
                trail.note(format!("rule {} of {}:", rule.name, rule.workspace));
                trail.all(claims, &rule.preset.identity());
            }
            return Err(Refused::UnknownRepository);
        };
        trail.note(format!("this is rule {} of {}:", rule.name, rule.workspace));
        trail.all(claims, &rule.preset.identity());
        let job = rule.preset.job(claims, trail)?;
        decide(rule, job, trail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_model::Access;

    fn github(issuer: &str, name: &str, repository_id: &str) -> Rule {
        Rule {
            name: name.parse().unwrap(),
            workspace: "acme".parse().unwrap(),
            issuer: issuer.to_owned(),
            preset: Preset::GitHub(GitHub {
                trusted_refs: vec!["refs/heads/main".parse().unwrap()],
                ..GitHub::new(repository_id.to_owned(), "9".to_owned())
            }),
        }
    }

    #[test]
    fn verified_claims_get_what_the_explanation_says() {
        let rules = Rules::new(vec![github("https://ci.example", "web", "1")]).unwrap();
        let json = br#"{"iss":"https://ci.example","repository_id":"1","repository_owner_id":"9",
            "event_name":"push","ref":"refs/heads/main","ref_protected":"true","run_id":"5"}"#;
        let claims = Claims::parse(json).unwrap();
        let explanation = rules.explain(&claims);
        let verified = VerifiedClaims::new(claims, "https://ci.example".to_owned(), 0);
        let decision = rules.decide(&verified).unwrap();
        assert_eq!(decision.access(), &Access::Trusted);
        assert_eq!(explanation.access(), Some(decision.access()));
        assert_eq!(explanation.who(), Some(decision.who()));
        assert_eq!(explanation.provenance(), Some(decision.provenance()));
        assert!(explanation.lines().starts_with(decision.because()));
        assert!(!decision.because().is_empty());

        let other = VerifiedClaims::new(
            Claims::parse(br#"{"iss":"https://ci.example","repository_id":"2"}"#).unwrap(),
            "https://ci.example".to_owned(),
            0,
        );
        assert_eq!(rules.decide(&other), Err(Refused::UnknownRepository));
        assert_eq!(
            rules.explain(&other).refused(),
            Some(Refused::UnknownRepository)
        );
    }
}
