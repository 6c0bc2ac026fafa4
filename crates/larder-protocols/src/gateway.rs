//! The one entry point: a request in, an answer out.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use larder_auth::Authenticator;
use larder_cache::Cache;
use larder_model::{Caller, WorkspaceName};

use crate::body::Body;
use crate::caller::{NoCaller, WorkspaceTable, default_workspace, resolve};
use crate::intake::{BodyLimits, Intake};
use crate::{control, nx};

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The port that clients connect to: who asks is what the credential says.
    Tcp,
    /// The control socket, which the server's own user alone can open: the local operator.
    ControlSocket,
}

/// Answers requests of every protocol. Share it in an `Arc`.
pub struct Gateway {
    pub(crate) cache: Arc<Cache>,
    pub(crate) limits: BodyLimits,
    authenticator: Arc<Authenticator>,
    workspaces: ArcSwap<WorkspaceTable>,
    default: WorkspaceName,
}

impl Gateway {
    /// A gateway to `cache`. The authenticator is shared with whoever replaces its tokens.
    pub fn new(
        cache: Arc<Cache>,
        authenticator: Arc<Authenticator>,
        workspaces: WorkspaceTable,
        limits: BodyLimits,
    ) -> Self {
        let workspaces = ArcSwap::from_pointee(workspaces);
        Self {
            cache,
            limits,
            authenticator,
            workspaces,
            default: default_workspace(),
        }
    }

    /// Puts another table of workspaces in force for requests from now on.
    pub fn set_workspaces(&self, workspaces: WorkspaceTable) {
        self.workspaces.store(Arc::new(workspaces));
    }

    /// Answers one request. A path of no protocol is 404, once its body has been read.
    ///
    /// Never fails and never panics. The answer's body can fail: then the transport must break the
    /// answer off, as hyper does.
    pub async fn handle<B>(&self, request: Request<B>, origin: Origin) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
    {
        let (head, mut body) = request.into_parts();
        let path = head.uri.path();
        let mut intake = Intake::new(&mut body, &head.headers, self.limits);
        if let Some(target) = nx::wire::target(path) {
            return nx::routes::answer(self, &head, &target, origin, &mut intake).await;
        }
        if let Some(operation) = path.strip_prefix("/v1/control/") {
            return control::routes::answer(self, &head, operation, origin, &mut intake).await;
        }
        intake.drain().await;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    }

    /// Who sent a request, and about which workspace.
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        named: Option<&WorkspaceName>,
        origin: Origin,
    ) -> Result<Caller, NoCaller> {
        match origin {
            Origin::ControlSocket => Ok(Caller::LocalOperator),
            Origin::Tcp => {
                let workspaces = self.workspaces.load();
                let default = &self.default;
                resolve(
                    &self.authenticator,
                    &workspaces,
                    default,
                    headers,
                    named,
                    now_ms(),
                )
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}
