//! The law: from a caller to a grant.
//!
//! The whole of trust is decided in this file, by matching on who calls. What a request says can
//! pick a sub-scope below the caller's own untrusted scope and nothing else.

use crate::entry::WriterId;
use crate::name::{ScopeLabel, WorkspaceName};
use crate::principal::{Access, AccessKind, Caller};
use crate::scope::{ReadPath, Scope, UntrustedScope};

/// Why a caller gets no grant. A protocol turns it into its client's own kind of miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No credential, and the workspace is not public (or the caller wants to write).
    #[error("no credential was sent")]
    Anonymous,
    /// The credential may only read.
    #[error("this credential may only read")]
    ReadOnly,
    /// The credential is for the control plane and touches no entries.
    #[error("this credential is for administration and reads and writes no entries")]
    ControlPlaneOnly,
    /// The credential is not for the control plane.
    #[error("this credential is not for administration")]
    NotAdmin,
    /// A scope label came with a credential that has no untrusted scope to narrow.
    #[error("only an isolated or gate credential may name a scope")]
    LabelNeedsIsolated,
    /// The label would make the scope's path too deep.
    #[error("the scope has too many labels")]
    TooDeep,
}

/// Permission to read entries of one workspace along one path of scopes.
///
/// Outside this crate only [`Policy`] makes one; its fields are private:
/// ```compile_fail,E0451
/// # use larder_model::{AccessKind, ReadGrant};
/// # fn forge(read: &ReadGrant) -> ReadGrant {
/// ReadGrant { workspace: "acme".parse().unwrap(), path: read.path().clone(), kind: AccessKind::Trusted }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadGrant {
    workspace: WorkspaceName,
    path: ReadPath,
    kind: AccessKind,
}

impl ReadGrant {
    /// The workspace to read in.
    pub fn workspace(&self) -> &WorkspaceName {
        &self.workspace
    }

    /// The scopes to consult, in order.
    pub fn path(&self) -> &ReadPath {
        &self.path
    }

    /// What kind of caller this was granted to.
    pub fn kind(&self) -> AccessKind {
        self.kind
    }
}

/// Permission to write entries into exactly one scope.
///
/// Outside this crate only [`Policy`] makes one, and nobody moves one to another scope:
/// ```compile_fail,E0451
/// # use larder_model::{ReadGrant, Scope, WriteGrant, WriterId};
/// # fn forge(read: ReadGrant) -> WriteGrant {
/// WriteGrant { scope: Scope::Trusted, writer: WriterId(1), visible: read }
/// # }
/// ```
/// ```compile_fail,E0616
/// # use larder_model::{Scope, WriteGrant};
/// # fn raise(mut grant: WriteGrant) {
/// grant.scope = Scope::Trusted;
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteGrant {
    scope: Scope,
    writer: WriterId,
    visible: ReadGrant,
}

impl WriteGrant {
    /// The workspace to write in.
    pub fn workspace(&self) -> &WorkspaceName {
        &self.visible.workspace
    }

    /// The one scope to write to.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whom the entry will remember as its writer.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// What the writer can see. A write conflicts with an entry in here and with no other (R5).
    pub fn visible(&self) -> &ReadGrant {
        &self.visible
    }

    /// What kind of caller this was granted to.
    pub fn kind(&self) -> AccessKind {
        self.visible.kind
    }
}

/// Permission to use the control plane.
///
/// Outside this crate only [`Policy`] makes one:
/// ```compile_fail,E0451
/// # use larder_model::AdminGrant;
/// let grant = AdminGrant { workspace: None };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminGrant {
    workspace: Option<WorkspaceName>,
}

impl AdminGrant {
    /// The only workspace this grant is for; `None` is the whole server.
    pub fn workspace(&self) -> Option<&WorkspaceName> {
        self.workspace.as_ref()
    }
}

/// Decides what a caller may do.
#[derive(Debug)]
pub struct Policy(());

impl Policy {
    /// May `caller` read entries? `label` is the scope the request named, if it did.
    pub fn read(caller: &Caller, label: Option<&ScopeLabel>) -> Result<ReadGrant, Refusal> {
        let (workspace, path) = match caller {
            Caller::Anonymous {
                workspace,
                public: true,
            } => {
                refuse_label(label)?;
                (workspace, ReadPath::trusted())
            }
            Caller::Anonymous { public: false, .. } => return Err(Refusal::Anonymous),
            Caller::LocalOperator => return Err(Refusal::ControlPlaneOnly),
            Caller::Known(principal) => {
                let path = match principal.access() {
                    Access::Trusted | Access::Reader => {
                        refuse_label(label)?;
                        ReadPath::trusted()
                    }
                    Access::CleanRoom => {
                        refuse_label(label)?;
                        ReadPath::nowhere()
                    }
                    Access::Isolated { scope } => ReadPath::trusted_then(narrow(scope, label)?),
                    Access::Gate { scope } => {
                        narrow(scope, label)?;
                        ReadPath::trusted()
                    }
                    Access::Admin => return Err(Refusal::ControlPlaneOnly),
                };
                (principal.workspace(), path)
            }
        };
        Ok(ReadGrant {
            workspace: workspace.clone(),
            path,
            kind: caller.kind(),
        })
    }

    /// May `caller` write entries, and where to?
    pub fn write(caller: &Caller, label: Option<&ScopeLabel>) -> Result<WriteGrant, Refusal> {
        let principal = match caller {
            Caller::Anonymous { .. } => return Err(Refusal::Anonymous),
            Caller::LocalOperator => return Err(Refusal::ControlPlaneOnly),
            Caller::Known(principal) => principal,
        };
        let scope = match principal.access() {
            Access::Trusted | Access::CleanRoom => {
                refuse_label(label)?;
                Scope::Trusted
            }
            Access::Isolated { scope } | Access::Gate { scope } => {
                Scope::Untrusted(narrow(scope, label)?)
            }
            Access::Reader => return Err(Refusal::ReadOnly),
            Access::Admin => return Err(Refusal::ControlPlaneOnly),
        };
        Ok(WriteGrant {
            scope,
            writer: principal.writer(),
            visible: Self::read(caller, label)?,
        })
    }

    /// May `caller` use the control plane?
    pub fn admin(caller: &Caller) -> Result<AdminGrant, Refusal> {
        match caller {
            Caller::LocalOperator => Ok(AdminGrant { workspace: None }),
            Caller::Known(principal) if matches!(principal.access(), Access::Admin) => {
                Ok(AdminGrant {
                    workspace: Some(principal.workspace().clone()),
                })
            }
            Caller::Known(_) => Err(Refusal::NotAdmin),
            Caller::Anonymous { .. } => Err(Refusal::Anonymous),
        }
    }
}

/// A label below a scope that has nothing untrusted to narrow is refused, never ignored: its
/// sender believes to be isolated.
fn refuse_label(label: Option<&ScopeLabel>) -> Result<(), Refusal> {
    if label.is_some() {
        Err(Refusal::LabelNeedsIsolated)
    } else {
        Ok(())
    }
}

fn narrow(scope: &UntrustedScope, label: Option<&ScopeLabel>) -> Result<UntrustedScope, Refusal> {
    match label {
        None => Ok(scope.clone()),
        Some(label) => scope.child(label).map_err(|_| Refusal::TooDeep),
    }
}
