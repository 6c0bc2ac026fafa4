//! From a request to a caller: who asks, and about which workspace.

use std::collections::HashMap;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use larder_auth::{Authenticator, BadCredential, CertificateNames, Credential, Presented};
use larder_model::{Caller, Refusal, WorkspaceName};

/// The workspaces of this server, and which of them anyone may read.
#[derive(Debug, Clone, Default)]
pub struct WorkspaceTable {
    public: HashMap<WorkspaceName, bool>,
}

impl WorkspaceTable {
    /// The table of these workspaces; `true` declares one public: readable without a credential.
    pub fn new(workspaces: impl IntoIterator<Item = (WorkspaceName, bool)>) -> Self {
        Self {
            public: workspaces.into_iter().collect(),
        }
    }

    /// A workspace that nobody knows is answered like one that is not public: no oracle.
    fn is_public(&self, workspace: &WorkspaceName) -> bool {
        self.public.get(workspace).copied().unwrap_or(false)
    }
}

/// The workspace of a request that names none and comes with no credential.
pub fn default_workspace() -> WorkspaceName {
    "default".parse().expect("a valid name")
}

/// Why a request has no caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoCaller {
    /// The credential is bad: loud, in the client's own language.
    BadCredential(BadCredential),
    /// A good credential, but the URL names another workspace than the credential's: a soft refusal.
    OtherWorkspace,
    /// A credential that was good and is over, or that cannot be judged for now: a miss, and nothing is stored.
    Expired,
}

/// The value of the `Authorization` header, if there is one.
pub(crate) fn authorization(headers: &HeaderMap) -> Result<Option<&[u8]>, BadCredential> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let authorization = sent.next().map(http::HeaderValue::as_bytes);
    // With two credentials a proxy and this server could each believe another one.
    match sent.next() {
        Some(_) => Err(BadCredential::Unreadable),
        None => Ok(authorization),
    }
}

/// Who sent these headers over a connection whose peer has this certificate. `named` is the workspace in the URL, if there is one: it says what an
/// anonymous caller asks about, and must agree with a credential.
pub(crate) fn resolve(
    authenticator: &Authenticator,
    workspaces: &WorkspaceTable,
    default: &WorkspaceName,
    (headers, certificate): (&HeaderMap, Option<&CertificateNames>),
    named: Option<&WorkspaceName>,
    now_ms: u64,
) -> Result<Caller, NoCaller> {
    let presented = Presented {
        authorization: authorization(headers).map_err(NoCaller::BadCredential)?,
        certificate,
    };
    let credential = authenticator.authenticate(&presented, now_ms);
    match credential.map_err(NoCaller::BadCredential)? {
        Credential::Absent => {
            let workspace = named.unwrap_or(default).clone();
            let public = workspaces.is_public(&workspace);
            Ok(Caller::Anonymous { workspace, public })
        }
        Credential::Known(principal) => match named {
            Some(named) if named != principal.workspace() => Err(NoCaller::OtherWorkspace),
            Some(_) | None => Ok(Caller::Known(principal)),
        },
        // Every request has been introduced; what is not known even so could not be judged.
        Credential::Expired | Credential::Unintroduced => Err(NoCaller::Expired),
    }
}

/// The name of policy's refusal in metrics and logs.
pub(crate) fn refusal_reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Anonymous => "anonymous",
        Refusal::ReadOnly => "read_only",
        Refusal::ControlPlaneOnly => "control_plane_only",
        Refusal::NotAdmin => "not_admin",
        Refusal::LabelNeedsIsolated => "label_needs_isolated",
        Refusal::TooDeep => "too_deep",
    }
}
