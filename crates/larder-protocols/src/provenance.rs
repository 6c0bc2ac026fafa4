//! What is known of a writer beyond its number, on its way: from a rule's decision into the ledger, and from there to people.

use larder_auth::ci::Provenance;
use larder_ledger::ProvenanceColumns;
use serde::{Deserialize, Serialize};

/// What an issuer said of a job. What it did not say is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProvenanceText {
    /// The issuer of its tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The name of the configuration's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The repository's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// The repository's name at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The git ref.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<String>,
    /// The commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What started the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The id of the run, pipeline or build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Which attempt of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_attempt: Option<String>,
    /// The job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Who started the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The `sub` of the token, or the name in the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The deployment environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
}

impl From<ProvenanceColumns> for ProvenanceText {
    fn from(said: ProvenanceColumns) -> Self {
        Self {
            issuer: said.issuer,
            rule: said.rule,
            repository_id: said.repository_id,
            repository: said.repository,
            git_ref: said.git_ref,
            commit: said.commit_sha,
            event: said.event,
            workflow: said.workflow,
            run: said.run_id,
            run_attempt: said.run_attempt,
            job: said.job,
            actor: said.actor,
            subject: said.subject,
            environment: said.environment,
        }
    }
}

/// The ledger's columns of what a rule found out.
pub(crate) fn columns(provenance: &Provenance) -> ProvenanceColumns {
    let Provenance {
        issuer,
        rule,
        repository_id,
        repository,
        git_ref,
        commit_sha,
        event,
        workflow,
        run_id,
        run_attempt,
        job,
        actor,
        subject,
        environment,
    } = provenance.clone();
    ProvenanceColumns {
        issuer,
        rule,
        repository_id,
        repository,
        git_ref,
        commit_sha,
        event,
        workflow,
        run_id,
        run_attempt,
        job,
        actor,
        subject,
        environment,
    }
}
