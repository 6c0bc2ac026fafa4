//! From what kind of job it is to what it may do.
//!
//! The presets say what a job *is* ([`Standing`]); here, in one place for all of them, stands what
//! that gives.

use std::fmt;

use larder_model::{Access, Caller, Policy, Principal, Scope, WorkspaceName, WriterId};

use super::Rule;
use super::provenance::{Provenance, clean};
use super::rule::{Isolation, PullRequests, RuleName};
use super::scope_name::{Kind, Narrowing, scope};
use super::trail::{Trail, shortened};

/// Why a job gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// No rule has the issuer.
    #[error("no rule is for this issuer")]
    UnknownIssuer,
    /// Rules have the issuer, and none the repository.
    #[error("no rule is for this repository")]
    UnknownRepository,
    /// The repository's id is the rule's, but not its owner's: it was transferred, or the rule is wrong.
    #[error("the repository does not belong to the owner that its rule names")]
    OtherOwner,
    /// The job ran in another project than the one the token speaks for.
    #[error("the job ran in another project than its rule names")]
    OtherProject,
    /// The rule gives pull requests nothing. The credential is good: its sender gets misses, and no error.
    #[error("the rule gives pull requests nothing")]
    PullRequest,
    /// There is no claim that a scope could be named after.
    #[error("the token names no run")]
    NoRun,
}

/// What a job gets, and whose it is.
///
/// Outside this crate [`Rules::decide`](super::Rules::decide) alone makes one, of claims that an issuer signed, and nobody
/// changes one:
/// ```compile_fail,E0451
/// # use larder_auth::ci::Decision;
/// # use larder_model::Access;
/// # fn forge(decision: Decision) -> Decision {
/// Decision { access: Access::Trusted, ..decision }
/// # }
/// ```
/// ```compile_fail,E0616
/// # use larder_auth::ci::Decision;
/// # use larder_model::Access;
/// # fn raise(mut decision: Decision) {
/// decision.access = Access::Trusted;
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    rule: RuleName,
    rule_mark: [u8; 32],
    workspace: WorkspaceName,
    access: Access,
    provenance: Provenance,
    who: String,
    because: Vec<String>,
}

impl Decision {
    /// The rule that fitted.
    pub fn rule(&self) -> &RuleName {
        &self.rule
    }

    /// What stands for the rule as it was then: [`Rule::mark`].
    pub fn rule_mark(&self) -> [u8; 32] {
        self.rule_mark
    }

    /// The workspace it gets something in.
    pub fn workspace(&self) -> &WorkspaceName {
        &self.workspace
    }

    /// What it gets.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// What its entries remember of it.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The job in a few words: "pull request 123 of acme/web".
    pub fn who(&self) -> &str {
        &self.who
    }

    /// What was looked at, and why the job gets no more, a line each.
    pub fn because(&self) -> &[String] {
        &self.because
    }

    pub(crate) fn with_trail(mut self, trail: Trail) -> Self {
        self.because = trail.into_lines();
        self
    }
}

/// What a job would get if its claims were genuine. It shows everything, and opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    lines: Vec<String>,
    decided: Result<Decision, Refused>,
}

impl Explanation {
    pub(crate) fn new(decided: Result<Decision, Refused>, trail: Trail) -> Self {
        let mut lines = trail.into_lines();
        match &decided {
            Ok(decision) => {
                lines.push(format!("it is: {}", decision.who));
                lines.push(format!("it gets: {}", described(decision)));
            }
            Err(refused) => lines.push(format!("it gets nothing: {refused}")),
        }
        Self { lines, decided }
    }

    /// Every line: what was looked at, then the outcome.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// What it would get.
    pub fn access(&self) -> Option<&Access> {
        self.decided.as_ref().ok().map(|decision| &decision.access)
    }

    /// Why it would get nothing.
    pub fn refused(&self) -> Option<Refused> {
        self.decided.as_ref().err().copied()
    }

    /// The rule that fits, and its workspace.
    pub fn rule(&self) -> Option<(&WorkspaceName, &RuleName)> {
        let decision = self.decided.as_ref().ok()?;
        Some((&decision.workspace, &decision.rule))
    }

    /// The job in a few words.
    pub fn who(&self) -> Option<&str> {
        self.decided
            .as_ref()
            .ok()
            .map(|decision| decision.who.as_str())
    }

    /// What its entries would remember of it.
    pub fn provenance(&self) -> Option<&Provenance> {
        self.decided
            .as_ref()
            .ok()
            .map(|decision| &decision.provenance)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// The decision as the policy will read it: what is written, what is read.
fn described(decision: &Decision) -> String {
    let principal = Principal::new(
        decision.workspace.clone(),
        decision.access.clone(),
        WriterId(0),
    );
    let caller = Caller::Known(principal);
    let writes = Policy::write(&caller, None)
        .map_or_else(|_| "nothing".to_owned(), |grant| grant.scope().to_string());
    let reads: Vec<String> = Policy::read(&caller, None)
        .iter()
        .flat_map(|grant| grant.path().scopes().collect::<Vec<Scope>>())
        .map(|scope| scope.to_string())
        .collect();
    let reads = if reads.is_empty() {
        "nothing".to_owned()
    } else {
        reads.join(", then ")
    };
    format!(
        "{} in workspace {}: it writes {writes}, and reads {reads}",
        decision.access.kind().name(),
        decision.workspace
    )
}

/// What a preset found a job to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Every condition of the preset for `trusted` held.
    Trusted {
        /// The rule names its environment or workflow as a clean room.
        clean_room: bool,
    },
    /// A run that decides about a merge.
    MergeQueue,
    /// A pull request, by its number.
    PullRequest(String),
    /// A merge request of GitLab, by the ref that it wants to have merged.
    MergeRequest(String),
    /// A branch or tag that is not trusted, or not in this way.
    Ref {
        /// The exact text that tells it from all others.
        text: String,
        /// The CI system does not tell whether this is a pull request.
        may_be_pull_request: bool,
    },
    /// Anything else: only the run is known.
    Run {
        /// Whoever started it may act for a pull request.
        may_be_pull_request: bool,
    },
}

/// A job, as its preset read it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) standing: Standing,
    /// The run's id. Without one, nothing can be kept apart by run.
    pub(crate) run: Option<String>,
    pub(crate) commit: Option<String>,
    pub(crate) pull_requests: PullRequests,
    pub(crate) isolation: Isolation,
    pub(crate) provenance: Provenance,
}

/// What the job gets under its rule.
pub(crate) fn decide(rule: &Rule, job: Job, trail: &mut Trail) -> Result<Decision, Refused> {
    let access = access(&rule.name, &job, trail)?;
    let provenance = Provenance {
        issuer: clean(&rule.issuer),
        rule: clean(rule.name.as_str()),
        ..job.provenance
    };
    let who = who(&job.standing, job.run.as_deref(), &provenance);
    Ok(Decision {
        rule: rule.name.clone(),
        rule_mark: rule.mark(),
        workspace: rule.workspace.clone(),
        access,
        provenance,
        who,
        because: Vec::new(),
    })
}

fn access(rule: &RuleName, job: &Job, trail: &mut Trail) -> Result<Access, Refused> {
    let (kind, text, may_be_pull_request) = match &job.standing {
        Standing::Trusted { clean_room: true } => return Ok(Access::CleanRoom),
        Standing::Trusted { clean_room: false } => return Ok(Access::Trusted),
        Standing::MergeQueue => {
            let run = job.run.as_deref().ok_or(Refused::NoRun)?;
            return Ok(Access::Gate {
                scope: scope(rule, Kind::MergeQueue, run, Narrowing::None),
            });
        }
        Standing::PullRequest(number) => (Kind::PullRequest, Some(number), true),
        Standing::MergeRequest(text) => (Kind::MergeRequest, Some(text), true),
        Standing::Ref {
            text,
            may_be_pull_request,
        } => {
            let kind = if text.starts_with("refs/tags/") {
                Kind::Tag
            } else {
                Kind::Branch
            };
            (kind, Some(text), *may_be_pull_request)
        }
        Standing::Run {
            may_be_pull_request,
        } => (Kind::Run, None, *may_be_pull_request),
    };
    if may_be_pull_request {
        match job.pull_requests {
            PullRequests::Isolated => {}
            PullRequests::ReadOnly => {
                trail.note("the rule lets pull requests read, and this may be one");
                return Ok(Access::Reader);
            }
            PullRequests::None => {
                trail.note("the rule gives pull requests nothing, and this may be one");
                return Err(Refused::PullRequest);
            }
        }
    }
    let narrowing = match job.isolation {
        Isolation::Pr => Some(Narrowing::None),
        Isolation::Commit => job.commit.as_deref().map(Narrowing::Commit),
        Isolation::Run => job.run.as_deref().map(Narrowing::Run),
    };
    let scope = match (text, narrowing) {
        (Some(text), Some(narrowing)) => scope(rule, kind, text, narrowing),
        (text, _) => {
            if text.is_some() {
                trail.note(
                    "the token does not name the commit or run that its scope should end with",
                );
            }
            let run = job.run.as_deref().ok_or(Refused::NoRun)?;
            scope(rule, Kind::Run, run, Narrowing::None)
        }
    };
    Ok(Access::Isolated { scope })
}

fn who(standing: &Standing, run: Option<&str>, provenance: &Provenance) -> String {
    let repository = provenance
        .repository
        .as_deref()
        .or(provenance.repository_id.as_deref())
        .map_or_else(|| "an unnamed repository".to_owned(), shortened);
    let run = run.map_or_else(
        || "an unnamed run".to_owned(),
        |run| format!("run {}", shortened(run)),
    );
    let started = match provenance.event.as_deref() {
        Some(event) => shortened(event),
        None => "build".to_owned(),
    };
    match standing {
        Standing::PullRequest(number) => {
            format!("pull request {} of {repository}", shortened(number))
        }
        Standing::MergeRequest(_) => {
            let source = provenance.git_ref.as_deref().unwrap_or("no ref");
            format!("merge request of {} of {repository}", shortened(source))
        }
        Standing::MergeQueue => format!("merge queue {run} of {repository}"),
        Standing::Run { .. } => format!("{run} ({started}) of {repository}"),
        Standing::Trusted { .. } | Standing::Ref { .. } => {
            let word = if started == "push" { "to" } else { "on" };
            let git_ref = provenance.git_ref.as_deref().unwrap_or("no ref");
            format!("{started} {word} {} of {repository}", shortened(git_ref))
        }
    }
}
