//! The one entry point: a request in, an answer out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use larder_auth::{Authenticator, BadCredential};
use larder_cache::Cache;
use larder_model::{Caller, WorkspaceName};

use crate::body::Body;
use crate::caller::{NoCaller, WorkspaceTable, default_workspace, resolve};
use crate::intake::{BodyLimits, Intake, WholeBodies};
use crate::{bazel_http, control, nx, reapi};

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The port that clients connect to: who asks is what the credential says.
    Tcp,
    /// The control socket, which the server's own user alone can open: the local operator.
    ControlSocket,
}

/// What the paths of the control plane begin with.
const CONTROL_PATH: &str = "/v1/control/";

/// Whose request it is.
enum Route {
    Grpc,
    Nx(nx::wire::Target),
    BazelHttp(bazel_http::wire::Target),
    Control,
    Nowhere,
}

impl Route {
    /// A gRPC call is known by its content type and names its method in its path; all others are known by their paths.
    fn of(head: &Parts) -> Self {
        let path = head.uri.path();
        if larder_grpc::is_grpc(&head.headers) {
            Self::Grpc
        } else if let Some(target) = nx::wire::target(path) {
            Self::Nx(target)
        } else if let Some(target) = bazel_http::wire::target(path) {
            Self::BazelHttp(target)
        } else if path.starts_with(CONTROL_PATH) {
            Self::Control
        } else {
            Self::Nowhere
        }
    }
}

/// Answers requests of every protocol. Share it in an `Arc`.
pub struct Gateway {
    pub(crate) cache: Arc<Cache>,
    pub(crate) limits: BodyLimits,
    /// Memory for the bodies of requests that are needed whole.
    pub(crate) whole_bodies: WholeBodies,
    /// Memory for answers that are made whole.
    pub(crate) whole_answers: WholeBodies,
    authenticator: Arc<Authenticator>,
    workspaces: ArcSwap<WorkspaceTable>,
    default: WorkspaceName,
    now_ms: fn() -> u64,
}

impl Gateway {
    /// A gateway to `cache`. The authenticator is shared with whoever replaces its tokens; `now_ms`
    /// tells the unix time in milliseconds, by which tokens expire.
    pub fn new(
        cache: Arc<Cache>,
        authenticator: Arc<Authenticator>,
        workspaces: WorkspaceTable,
        limits: BodyLimits,
        now_ms: fn() -> u64,
    ) -> Self {
        let workspaces = ArcSwap::from_pointee(workspaces);
        Self {
            cache,
            limits,
            whole_bodies: WholeBodies::of_requests(),
            whole_answers: WholeBodies::of_answers(),
            authenticator,
            workspaces,
            default: default_workspace(),
            now_ms,
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
    pub fn handle<B>(self: &Arc<Self>, request: Request<B>, origin: Origin) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Send,
    {
        let (head, body) = request.into_parts();
        let route = Route::of(&head);
        if let Some(response) = self.answer_at_hand(&head, &route, origin) {
            return response.into();
        }
        let gateway = Arc::clone(self);
        Answer(State::Awaited(Box::pin(async move {
            gateway.wait_for(&head, body, route, origin).await
        })))
    }

    fn answer_at_hand(
        &self,
        head: &Parts,
        route: &Route,
        origin: Origin,
    ) -> Option<Response<Body>> {
        match route {
            Route::Nx(target) => nx::routes::answer_at_hand(self, head, target, origin),
            Route::BazelHttp(target) => {
                bazel_http::routes::answer_at_hand(self, head, target, origin)
            }
            Route::Grpc | Route::Control | Route::Nowhere => None,
        }
    }

    async fn wait_for<B>(
        &self,
        head: &Parts,
        mut body: B,
        route: Route,
        origin: Origin,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
    {
        let mut intake = Intake::new(&mut body, &head.headers, self.limits);
        let intake = &mut intake;
        match route {
            Route::Grpc => reapi::routes::answer(self, head, origin, intake).await,
            Route::Nx(target) => nx::routes::answer(self, head, &target, origin, intake).await,
            Route::BazelHttp(target) => {
                bazel_http::routes::answer(self, head, &target, origin, intake).await
            }
            Route::Control => {
                let path = head.uri.path();
                let operation = path.strip_prefix(CONTROL_PATH).unwrap_or_default();
                control::routes::answer(self, head, operation, origin, intake).await
            }
            Route::Nowhere => {
                intake.drain().await;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }

    /// Whether a request's credential, if it has one, is in order: for routes that answer everybody, at which clients show what
    /// is wrong.
    pub fn check_credential(&self, headers: &HeaderMap) -> Result<(), BadCredential> {
        match self.caller(headers, None, Origin::Tcp) {
            Ok(_) | Err(NoCaller::OtherWorkspace) => Ok(()),
            Err(NoCaller::BadCredential(bad)) => Err(bad),
        }
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
                    (self.now_ms)(),
                )
            }
        }
    }
}

/// An answer to come. Most are at hand when they are asked for; a transport moves them about, so
/// the work of all others is kept out of the way.
#[must_use = "an answer comes only to those who wait for it"]
pub struct Answer(State);

enum State {
    AtHand(Response<Body>),
    Awaited(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
    Given,
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self(State::AtHand(response))
    }
}

impl Future for Answer {
    type Output = Response<Body>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response<Body>> {
        if let State::Awaited(answer) = &mut self.0 {
            return answer.as_mut().poll(context);
        }
        match std::mem::replace(&mut self.0, State::Given) {
            State::AtHand(response) => Poll::Ready(response),
            State::Awaited(_) | State::Given => panic!("an answer was polled after it was given"),
        }
    }
}
