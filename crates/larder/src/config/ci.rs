//! The second reading of `[workspace.NAME.ci.RULE]`: one CI system's jobs of one repository.
//!
//! A rule's provider says which keys it may have. A key that would do nothing there is a mistake: it would look like
//! protection.

use std::collections::BTreeMap;

use larder_auth::ci::{
    AzureDevOps, Buildkite, CircleCi, Custom, ExactClaims, GitHub, GitLab, Preset, PullRequests,
    RefPattern, Rule, RuleName, Rules, TrustedEvent, WorkflowPin,
};
use larder_model::WorkspaceName;

use super::identity::{fault, missing, parse_audience, parse_issuer_url};
use super::keys::Key;
use super::problem::{Origin, Problem};
use super::raw::{RawTable, RawValue, Written};
use super::resolve::{Reader, some};

/// A CI system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    GitHub,
    GitLab,
    Buildkite,
    CircleCi,
    AzureDevOps,
    Custom,
}

/// A rule, and what is still to be compared with others.
pub(super) struct ReadRule {
    pub(super) rule: Rule,
    /// The audience that the rule itself asks for.
    pub(super) audience: Option<String>,
    pub(super) origin: Origin,
    /// The table's path from the top.
    pub(super) path: String,
}

impl Provider {
    const ALL: [Self; 6] = [
        Self::GitHub,
        Self::GitLab,
        Self::Buildkite,
        Self::CircleCi,
        Self::AzureDevOps,
        Self::Custom,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::GitHub => "github",
            Self::GitLab => "gitlab",
            Self::Buildkite => "buildkite",
            Self::CircleCi => "circleci",
            Self::AzureDevOps => "azure-devops",
            Self::Custom => "custom",
        }
    }

    /// Whose public issuer this is.
    fn of_issuer(url: &str) -> Option<Self> {
        const CIRCLECI: &str = "https://oidc.circleci.com/";
        const AZURE_DEVOPS: &str = "https://vstoken.dev.azure.com/";
        // Of enterprises, with data residency, and of servers of one's own.
        let is_of_github = |url: &str| {
            let path = url.strip_prefix(GitHub::ISSUER);
            let host = url.strip_prefix("https://token.actions.");
            path.is_some_and(|path| path.starts_with('/'))
                || host.is_some_and(|host| host.ends_with(".ghe.com"))
                || url.ends_with("/_services/token")
        };
        match url {
            GitHub::ISSUER => Some(Self::GitHub),
            _ if is_of_github(url) => Some(Self::GitHub),
            GitLab::ISSUER => Some(Self::GitLab),
            Buildkite::ISSUER => Some(Self::Buildkite),
            _ if url.starts_with(CIRCLECI) => Some(Self::CircleCi),
            _ if url.starts_with(AZURE_DEVOPS) => Some(Self::AzureDevOps),
            _ => None,
        }
    }

    /// The keys that say something about it, besides `provider`, `issuer` and `pull_requests`, which all have.
    fn keys(self) -> &'static [Key] {
        match self {
            Self::GitHub => &[
                Key::CiAudience,
                Key::CiRepositoryId,
                Key::CiRepositoryOwnerId,
                Key::CiRepository,
                Key::CiTrustedRefs,
                Key::CiTrustedEvents,
                Key::CiTrustedWorkflows,
                Key::CiRequireRefProtected,
                Key::CiCreationRestricted,
                Key::CiDispatchTrusted,
                Key::CiCleanRoomEnvironments,
                Key::CiCleanRoomWorkflows,
                Key::CiIsolation,
            ],
            Self::GitLab => &[
                Key::CiAudience,
                Key::CiProjectId,
                Key::CiNamespaceId,
                Key::CiProjectPath,
                Key::CiTrustedRefs,
                Key::CiTrustedEvents,
                Key::CiRequireRefProtected,
                Key::CiCreationRestricted,
                Key::CiCleanRoomEnvironments,
                Key::CiIsolation,
            ],
            Self::Buildkite => &[
                Key::CiAudience,
                Key::CiOrganizationId,
                Key::CiPipelineId,
                Key::CiTrustedRefs,
                Key::CiTrustedEvents,
                Key::CiForkBuilds,
                Key::CiIsolation,
            ],
            Self::CircleCi => &[
                Key::CiAudience,
                Key::CiOrganizationId,
                Key::CiProjectId,
                Key::CiVcsOrigin,
                Key::CiTrustedRefs,
            ],
            Self::AzureDevOps => &[
                Key::CiOrganizationId,
                Key::CiProjectId,
                Key::CiRepositoryId,
                Key::CiDefinitionId,
                Key::CiTrustedRefs,
                Key::CiAcceptSharedAudience,
                Key::CiIsolation,
            ],
            Self::Custom => &[
                Key::CiAudience,
                Key::CiClaims,
                Key::CiTrustedClaims,
                Key::CiRefClaim,
                Key::CiRunClaim,
                Key::CiPullRequestClaim,
                Key::CiCommitClaim,
                Key::CiIsolation,
            ],
        }
    }

    fn has(self, key: Key) -> bool {
        matches!(key, Key::CiProvider | Key::CiIssuer | Key::CiPullRequests)
            || self.keys().contains(&key)
    }
}

/// Reads one table. `issuers` are the URLs of the issuers' tables by name.
pub(super) fn rule(
    reader: &mut Reader,
    workspace: &WorkspaceName,
    name: &str,
    table: &RawTable,
    issuers: &BTreeMap<&str, &str>,
) -> Option<ReadRule> {
    let name: Option<RuleName> = name
        .parse()
        .map_err(|error: larder_auth::ci::RuleNameError| {
            reader.problems.push(Problem {
                origin: table.origin.clone(),
                key: Some(table.path.clone()),
                message: error.to_string(),
            });
        })
        .ok();
    reader.within(&table.path, |reader| {
        let provider = provider(reader, table)?;
        let mut keys = Keys {
            reader,
            table,
            provider,
        };
        keys.refuse_others();
        let audience = match provider {
            Provider::AzureDevOps => Some(AzureDevOps::AUDIENCE.to_owned()),
            _ => keys.parsed(Key::CiAudience, parse_audience),
        };
        let organization = keys.needed(Key::CiOrganizationId);
        let issuer = keys.issuer(issuers, organization.as_deref());
        if let Some(own) = issuer.as_deref().and_then(Provider::of_issuer)
            && provider == Provider::Custom
        {
            let message = format!(
                "tokens of this issuer need more than exact claims to tell whose code a job runs; write provider = \"{}\"",
                own.word()
            );
            fault(keys.reader, table, Key::CiIssuer, &message);
        }
        let preset = match provider {
            Provider::GitHub => github(&mut keys).map(Preset::GitHub),
            Provider::GitLab => gitlab(&mut keys).map(Preset::GitLab),
            Provider::Buildkite => buildkite(&mut keys, organization).map(Preset::Buildkite),
            Provider::CircleCi => circleci(&mut keys).map(Preset::CircleCi),
            Provider::AzureDevOps => azure_devops(&mut keys, organization).map(Preset::AzureDevOps),
            Provider::Custom => custom(&mut keys).map(Preset::Custom),
        };
        Some(ReadRule {
            rule: Rule {
                name: name?,
                workspace: workspace.clone(),
                issuer: issuer?,
                preset: preset?,
            },
            audience,
            origin: table.origin.clone(),
            path: table.path.clone(),
        })
    })
}

/// Finds what is wrong with rules taken together, and with each as a whole.
pub(super) fn compare(reader: &mut Reader, read: &[ReadRule]) {
    let rules = read.iter().map(|read| read.rule.clone()).collect();
    let Err(problems) = Rules::new(rules) else {
        return;
    };
    for (workspace, name, problem) in problems.0 {
        let of = |read: &&ReadRule| (&read.rule.workspace, &read.rule.name) == (&workspace, &name);
        let read = read.iter().find(of);
        reader.problems.push(Problem {
            origin: read.map_or(Origin::Whole, |read| read.origin.clone()),
            key: read.map(|read| read.path.clone()),
            message: problem.to_string(),
        });
    }
}

fn provider(reader: &mut Reader, table: &RawTable) -> Option<Provider> {
    let own = |key| table.values.get(&key);
    let parse = |text: &str| {
        let known = Provider::ALL.into_iter().find(|known| known.word() == text);
        known.ok_or_else(|| {
            let words = Provider::ALL.map(Provider::word).join(", ");
            format!("\"{}\" is none of {words}", text.escape_debug())
        })
    };
    if own(Key::CiProvider).is_none() {
        missing(reader, table, Key::CiProvider, "");
    }
    reader.parsed(Key::CiProvider, own, some(parse), None)
}

fn github(keys: &mut Keys<'_>) -> Option<GitHub> {
    let (repository, owner) = (
        keys.needed(Key::CiRepositoryId),
        keys.needed(Key::CiRepositoryOwnerId),
    );
    let rule = GitHub {
        repository: keys.text(Key::CiRepository),
        trusted_refs: keys.refs(),
        trusted_events: keys.events(),
        trusted_workflows: keys.workflows(Key::CiTrustedWorkflows),
        require_ref_protected: keys.boolean(Key::CiRequireRefProtected, true),
        creation_restricted: keys.boolean(Key::CiCreationRestricted, false),
        dispatch_trusted: keys.boolean(Key::CiDispatchTrusted, false),
        pull_requests: keys.pull_requests(),
        isolation: keys.word(Key::CiIsolation),
        clean_room_environments: keys.list(Key::CiCleanRoomEnvironments, parse_text),
        clean_room_workflows: keys.workflows(Key::CiCleanRoomWorkflows),
        ..GitHub::new(String::new(), String::new())
    };
    Some(GitHub {
        repository_id: repository?,
        repository_owner_id: owner?,
        ..rule
    })
}

fn gitlab(keys: &mut Keys<'_>) -> Option<GitLab> {
    let project = keys.needed(Key::CiProjectId);
    let rule = GitLab {
        namespace_id: keys.text(Key::CiNamespaceId),
        project_path: keys.text(Key::CiProjectPath),
        trusted_refs: keys.refs(),
        trusted_events: keys.events(),
        require_ref_protected: keys.boolean(Key::CiRequireRefProtected, true),
        creation_restricted: keys.boolean(Key::CiCreationRestricted, false),
        pull_requests: keys.pull_requests(),
        isolation: keys.word(Key::CiIsolation),
        clean_room_environments: keys.list(Key::CiCleanRoomEnvironments, parse_text),
        ..GitLab::new(String::new())
    };
    Some(GitLab {
        project_id: project?,
        ..rule
    })
}

fn buildkite(keys: &mut Keys<'_>, organization: Option<String>) -> Option<Buildkite> {
    let pipeline = keys.needed(Key::CiPipelineId);
    let rule = Buildkite {
        trusted_refs: keys.refs(),
        trusted_events: keys.events(),
        fork_builds: keys.word(Key::CiForkBuilds),
        pull_requests: keys.pull_requests(),
        isolation: keys.word(Key::CiIsolation),
        ..Buildkite::new(String::new(), String::new())
    };
    Some(Buildkite {
        organization_id: organization?,
        pipeline_id: pipeline?,
        ..rule
    })
}

fn circleci(keys: &mut Keys<'_>) -> Option<CircleCi> {
    let (project, origin) = (keys.needed(Key::CiProjectId), keys.needed(Key::CiVcsOrigin));
    let rule = CircleCi {
        trusted_refs: keys.refs(),
        pull_requests: keys.pull_requests(),
        ..CircleCi::new(String::new(), String::new())
    };
    Some(CircleCi {
        project_id: project?,
        vcs_origin: origin?,
        ..rule
    })
}

fn azure_devops(keys: &mut Keys<'_>, organization: Option<String>) -> Option<AzureDevOps> {
    let (project, repository) = (
        keys.needed(Key::CiProjectId),
        keys.needed(Key::CiRepositoryId),
    );
    let definition = keys.needed(Key::CiDefinitionId);
    let trusted_refs = keys.refs();
    let (pull_requests, isolation) = (keys.pull_requests(), keys.word(Key::CiIsolation));
    Some(AzureDevOps {
        accept_shared_audience: keys.boolean(Key::CiAcceptSharedAudience, false),
        organization_id: organization?,
        project_id: project?,
        repository_id: repository?,
        definition_id: definition?,
        trusted_refs,
        pull_requests,
        isolation,
    })
}

fn custom(keys: &mut Keys<'_>) -> Option<Custom> {
    if keys.written(Key::CiClaims).is_none() {
        missing(
            keys.reader,
            keys.table,
            Key::CiClaims,
            " for provider \"custom\"",
        );
    }
    let (claims, trusted_claims) = (
        keys.claims(Key::CiClaims),
        keys.claims(Key::CiTrustedClaims),
    );
    let rule = Custom {
        trusted_claims: trusted_claims.unwrap_or_default(),
        ref_claim: keys.text(Key::CiRefClaim),
        run_claim: keys.text(Key::CiRunClaim),
        pull_request_claim: keys.text(Key::CiPullRequestClaim),
        commit_claim: keys.text(Key::CiCommitClaim),
        pull_requests: keys.pull_requests(),
        isolation: keys.word(Key::CiIsolation),
        ..Custom::default()
    };
    Some(Custom {
        claims: claims?,
        ..rule
    })
}

/// The keys of one rule's table.
struct Keys<'a> {
    reader: &'a mut Reader,
    table: &'a RawTable,
    provider: Provider,
}

impl<'a> Keys<'a> {
    fn written(&self, key: Key) -> Option<&'a Written> {
        self.table
            .values
            .get(&key)
            .filter(|_| self.provider.has(key))
    }

    /// Whoever writes a key that does nothing believes that it does something.
    fn refuse_others(&mut self) {
        for key in self.table.values.keys() {
            if self.provider.has(*key) {
                continue;
            }
            let of = Provider::ALL
                .into_iter()
                .filter(|provider| provider.has(*key));
            let of: Vec<&str> = of.map(Provider::word).collect();
            let message = format!(
                "says nothing about provider \"{}\"; it is for {}",
                self.provider.word(),
                of.join(", ")
            );
            fault(self.reader, self.table, *key, &message);
        }
    }

    fn parsed<T>(&mut self, key: Key, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let written = self.written(key);
        self.reader.parsed(key, |_| written, some(parse), None)
    }

    /// A text, or a number, which ids often are.
    fn text(&mut self, key: Key) -> Option<String> {
        let written = self.written(key)?;
        if let RawValue::Integer(number) = &written.value {
            return Some(number.clone());
        }
        self.parsed(key, parse_text)
    }

    /// The same, of a provider that has the key.
    fn needed(&mut self, key: Key) -> Option<String> {
        if self.provider.has(key) && self.written(key).is_none() {
            let why = format!(" for provider \"{}\"", self.provider.word());
            missing(self.reader, self.table, key, &why);
        }
        self.text(key)
    }

    fn boolean(&mut self, key: Key, default: bool) -> bool {
        let written = self.written(key);
        written.is_none_or(|_| self.reader.boolean(key, |_| written))
            && (written.is_some() || default)
    }

    fn word<T>(&mut self, key: Key) -> T
    where
        T: std::str::FromStr<Err: std::fmt::Display> + Default,
    {
        self.parsed(key, |text| {
            let word = text.parse();
            word.map_err(|error: T::Err| format!("\"{}\": {error}", text.escape_debug()))
        })
        .unwrap_or_default()
    }

    fn list<T>(&mut self, key: Key, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let written = self.written(key);
        self.reader.list(key, |_| written, parse)
    }

    fn refs(&mut self) -> Vec<RefPattern> {
        self.list(Key::CiTrustedRefs, |text| {
            let pattern = text.parse::<RefPattern>();
            pattern.map_err(|error| format!("\"{}\": {error}", text.escape_debug()))
        })
    }

    fn events(&mut self) -> Vec<TrustedEvent> {
        if self.written(Key::CiTrustedEvents).is_none() {
            return TrustedEvent::DEFAULT.to_vec();
        }
        self.list(Key::CiTrustedEvents, |text| {
            let event = text.parse::<TrustedEvent>();
            event.map_err(|error| {
                format!(
                    "\"{}\": {error}; no other event can be trusted",
                    text.escape_debug()
                )
            })
        })
    }

    fn workflows(&mut self, key: Key) -> Vec<WorkflowPin> {
        self.list(key, |text| {
            let pin = text.parse::<WorkflowPin>();
            pin.map_err(|error| format!("\"{}\": {error}", text.escape_debug()))
        })
    }

    fn pull_requests(&mut self) -> PullRequests {
        self.word(Key::CiPullRequests)
    }

    /// A table of claims, each with the text or the texts that it may be.
    fn claims(&mut self, key: Key) -> Option<ExactClaims> {
        let written = self.written(key)?;
        let text = |value: &RawValue| match value {
            RawValue::Text(text) | RawValue::Integer(text) => Some(text.clone()),
            RawValue::Boolean(truth) => Some(truth.to_string()),
            _ => None,
        };
        let claims = match &written.value {
            RawValue::Table(claims) => claims
                .iter()
                .map(|(claim, value)| {
                    let values: Option<Vec<String>> = match value {
                        RawValue::List(values) => values.iter().map(text).collect(),
                        one => text(one).map(|text| vec![text]),
                    };
                    Some((claim.clone(), values?))
                })
                .collect::<Option<BTreeMap<_, _>>>(),
            _ => None,
        };
        let meaning = claims.map(ExactClaims::new).ok_or_else(|| {
            "write the claims and what they must be: { project = \"7\", kind = [\"a\", \"b\"] }"
                .to_owned()
        });
        self.reader.keep(key, written, meaning)
    }

    /// Who makes the tokens: an issuer's table, an address, or the provider's own.
    fn issuer(
        &mut self,
        tables: &BTreeMap<&str, &str>,
        organization: Option<&str>,
    ) -> Option<String> {
        if let Some(written) = self.written(Key::CiIssuer) {
            let RawValue::Text(text) = &written.value else {
                return self.parsed(Key::CiIssuer, parse_issuer_url);
            };
            return match tables.get(text.as_str()) {
                Some(url) => Some((*url).to_owned()),
                None if text.contains("://") => self.parsed(Key::CiIssuer, parse_issuer_url),
                None => {
                    let message = format!(
                        "there is no [issuer.{}], and it is no https address",
                        text.escape_debug()
                    );
                    fault(self.reader, self.table, Key::CiIssuer, &message);
                    None
                }
            };
        }
        match self.provider {
            Provider::GitHub => Some(GitHub::ISSUER.to_owned()),
            Provider::GitLab => Some(GitLab::ISSUER.to_owned()),
            Provider::Buildkite => Some(Buildkite::ISSUER.to_owned()),
            Provider::CircleCi => organization.map(CircleCi::issuer),
            Provider::AzureDevOps => organization.map(AzureDevOps::issuer),
            Provider::Custom => {
                missing(
                    self.reader,
                    self.table,
                    Key::CiIssuer,
                    " for provider \"custom\"",
                );
                None
            }
        }
    }
}

fn parse_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err("a text is expected that says something".to_owned());
    }
    Ok(text.to_owned())
}
