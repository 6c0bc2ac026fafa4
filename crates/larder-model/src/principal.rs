//! Who is asking.

use crate::entry::WriterId;
use crate::name::WorkspaceName;
use crate::scope::UntrustedScope;

/// What a credential may do at all. [`crate::Policy`] turns it into grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes `trusted`: trunk's CI.
    Trusted,
    /// Writes `trusted` and reads nothing: a release that is built from its sources alone.
    CleanRoom,
    /// Reads `trusted` then its own scope, writes its own scope: pull requests.
    Isolated {
        /// The credential's own scope.
        scope: UntrustedScope,
    },
    /// Reads `trusted` and never what it or its like wrote, writes its own scope: the runs that decide about a merge, which
    /// would otherwise believe what a pull request stored for them.
    Gate {
        /// The credential's own scope.
        scope: UntrustedScope,
    },
    /// Reads `trusted`: laptops.
    Reader,
    /// The control plane of its workspace; no entries.
    Admin,
}

impl Access {
    /// The credential's own scope, if it has one.
    pub fn scope(&self) -> Option<&UntrustedScope> {
        match self {
            Self::Isolated { scope } | Self::Gate { scope } => Some(scope),
            Self::Trusted | Self::CleanRoom | Self::Reader | Self::Admin => None,
        }
    }

    /// The kind, without what belongs to one credential.
    pub fn kind(&self) -> AccessKind {
        match self {
            Self::Trusted => AccessKind::Trusted,
            Self::CleanRoom => AccessKind::CleanRoom,
            Self::Isolated { .. } => AccessKind::Isolated,
            Self::Gate { .. } => AccessKind::Gate,
            Self::Reader => AccessKind::Reader,
            Self::Admin => AccessKind::Admin,
        }
    }
}

/// The kinds of access, as words for commands, tables and metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AccessKind {
    /// No credential, or an empty one.
    Anonymous,
    /// [`Access::Trusted`].
    Trusted,
    /// [`Access::CleanRoom`].
    CleanRoom,
    /// [`Access::Isolated`].
    Isolated,
    /// [`Access::Gate`].
    Gate,
    /// [`Access::Reader`].
    Reader,
    /// [`Access::Admin`], and the operator on the server's own machine.
    Admin,
}

impl AccessKind {
    /// Every kind, for tables and metrics.
    pub const ALL: [Self; 7] = [
        Self::Anonymous,
        Self::Trusted,
        Self::CleanRoom,
        Self::Isolated,
        Self::Gate,
        Self::Reader,
        Self::Admin,
    ];

    /// Whether callers of this kind write `trusted`. They have memory, turns and leases that nobody else can use up.
    pub fn writes_trusted(self) -> bool {
        match self {
            Self::Trusted | Self::CleanRoom => true,
            Self::Anonymous | Self::Isolated | Self::Gate | Self::Reader | Self::Admin => false,
        }
    }

    /// The kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Trusted => "trusted",
            Self::CleanRoom => "clean-room",
            Self::Isolated => "isolated",
            Self::Gate => "gate",
            Self::Reader => "reader",
            Self::Admin => "admin",
        }
    }
}

/// Someone whose credential has been verified. Made by `larder-auth` from what the ledger, an issuer or a certificate says of
/// the credential, never from anything else in a request; a test of the crate `larder` sees to it that nobody else makes one.
///
/// Nobody changes one:
/// ```compile_fail,E0451
/// # use larder_model::{Access, Principal};
/// # fn forge(principal: Principal) -> Principal {
/// Principal { access: Access::Trusted, ..principal }
/// # }
/// ```
/// ```compile_fail,E0616
/// # use larder_model::{Access, Principal};
/// # fn raise(mut principal: Principal) {
/// principal.access = Access::Trusted;
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    workspace: WorkspaceName,
    access: Access,
    writer: WriterId,
}

impl Principal {
    /// The holder of a verified credential of `workspace`.
    pub fn new(workspace: WorkspaceName, access: Access, writer: WriterId) -> Self {
        Self {
            workspace,
            access,
            writer,
        }
    }

    /// The workspace the credential belongs to.
    pub fn workspace(&self) -> &WorkspaceName {
        &self.workspace
    }

    /// What the credential may do.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The name under which the principal's entries remember it.
    pub fn writer(&self) -> WriterId {
        self.writer
    }
}

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No credential, or an empty one: what a fork's CI sends when the secret is withheld.
    Anonymous {
        /// The workspace the request is about.
        workspace: WorkspaceName,
        /// Whether the operator declared that workspace readable by anyone.
        public: bool,
    },
    /// A verified credential.
    Known(Principal),
    /// A process of the operator's own user on the server's machine, through the control socket.
    LocalOperator,
}

impl Caller {
    /// The kind of access, for tables and metrics.
    pub fn kind(&self) -> AccessKind {
        match self {
            Self::Anonymous { .. } => AccessKind::Anonymous,
            Self::Known(principal) => principal.access.kind(),
            Self::LocalOperator => AccessKind::Admin,
        }
    }
}
