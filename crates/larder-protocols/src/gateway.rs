//! The one entry point: a request in, an answer out.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use larder_auth::ci::Rules;
use larder_auth::{
    Authenticator, BadCredential, CertificateGrant, CertificateNames, CertificateRule, Credential,
    CredentialKind, Issuers, Presented, San,
};
use larder_cache::Cache;
use larder_ledger::{Ledger, LedgerError, NewWriter, ProvenanceColumns, WriterKind};
use larder_model::{Caller, WorkspaceName};
use tokio::sync::{Mutex, Notify};

use crate::archive::InspectedWriters;
use crate::attempts::Attempts;
use crate::body::Body;
use crate::caller::{NoCaller, WorkspaceTable, authorization, default_workspace, resolve};
use crate::identity::SessionTtl;
use crate::intake::{BodyLimits, Intake, WholeBodies};
use crate::introduction::Introductions;
use crate::journal::Journal;
use crate::ledger_lane::LedgerLane;
use crate::{bazel_http, control, identity, nx, reapi};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from; a proxy's word for it counts where the proxy is trusted.
    pub address: IpAddr,
    /// Whether the connection to us is.
    pub encrypted: bool,
    /// What its verified certificate says.
    pub certificate: Option<CertificateNames>,
}

/// Where a request came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The port that clients connect to: who asks is what the credential says.
    Tcp(Arc<Peer>),
    /// The control socket, which the server's own user alone can open: the local operator.
    ControlSocket,
}

impl Origin {
    /// Where the request comes from; `None` is this machine's operator.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(peer) => Some(peer.address),
            Self::ControlSocket => None,
        }
    }

    fn certificate(&self) -> Option<&CertificateNames> {
        match self {
            Self::Tcp(peer) => peer.certificate.as_ref(),
            Self::ControlSocket => None,
        }
    }
}

/// Whom a server believes, and what it gives them.
#[derive(Debug, Default)]
pub struct Identity {
    /// The issuers of JWTs.
    pub issuers: Arc<Issuers>,
    /// What the jobs of their CI systems get.
    pub rules: Rules,
    /// What the bearers of client certificates get.
    pub certificates: Vec<CertificateRule>,
    /// How long the sessions last that JWTs are exchanged for.
    pub session_ttl: SessionTtl,
}

/// What the paths of the control plane begin with.
const CONTROL_PATH: &str = "/v1/control/";

/// Whose request it is.
enum Route {
    Grpc,
    Nx(nx::wire::Target),
    BazelHttp(bazel_http::wire::Target),
    Control,
    Identity(identity::routes::Route),
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
        } else if let Some(route) = identity::routes::Route::of(path) {
            Self::Identity(route)
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
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) identity: ArcSwap<Identity>,
    /// The certificate rules in force. Held by whoever changes what identities mean, which takes more than one step.
    identity_changes: Mutex<Vec<CertificateGrant>>,
    /// The ledger did not do all that the rules in force ask of it: see [`Gateway::settle`].
    is_unsettled: AtomicBool,
    pub(crate) ledger: Ledger,
    pub(crate) ledger_lane: LedgerLane,
    pub(crate) journal: Arc<Journal>,
    pub(crate) introductions: Introductions,
    pub(crate) attempts: Attempts,
    pub(crate) session_pace: identity::Pace,
    pub(crate) keys_wanted: Notify,
    pub(crate) keys_arrived: Notify,
    workspaces: ArcSwap<WorkspaceTable>,
    inspected_writers: ArcSwap<InspectedWriters>,
    default: WorkspaceName,
    now_ms: fn() -> u64,
}

impl Gateway {
    /// A gateway to `cache` that believes no issuer and no certificate before [`Gateway::set_identity`]. The authenticator is
    /// shared with whoever replaces its tokens and sessions, the journal with whoever writes it into the ledger; `now_ms`
    /// tells the unix time in milliseconds, by which credentials expire.
    pub fn new(
        cache: Arc<Cache>,
        authenticator: Arc<Authenticator>,
        workspaces: WorkspaceTable,
        ledger: Ledger,
        journal: Arc<Journal>,
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
            identity: ArcSwap::default(),
            identity_changes: Mutex::new(Vec::new()),
            is_unsettled: AtomicBool::new(false),
            ledger,
            ledger_lane: LedgerLane::default(),
            journal,
            introductions: Introductions::default(),
            attempts: Attempts::default(),
            session_pace: identity::Pace::default(),
            keys_wanted: Notify::new(),
            keys_arrived: Notify::new(),
            workspaces,
            inspected_writers: ArcSwap::default(),
            default: default_workspace(),
            now_ms,
        }
    }

    /// Believes these from now on, and no others. What was decided before about JWTs is forgotten, and sessions end that were
    /// given by rules which are gone or say something else now. What the ledger does not do at once [`Gateway::settle`] tries
    /// again. A certificate rule whose workspace the ledger does not have maps nothing; the log says so.
    pub async fn set_identity(&self, identity: Identity) {
        let mut in_force = self.identity_changes.lock().await;
        // Certificates and JWTs lose now what they lose, whatever the ledger does. Sessions are in the ledger, and end there.
        in_force.retain(|grant| identity.certificates.contains(&grant.rule));
        self.authenticator.replace_certificates(&in_force);
        self.identity.store(Arc::new(identity));
        self.authenticator.forget_admissions();
        self.settle_with(&mut in_force).await;
    }

    /// Does what was left over because the ledger was busy. To be called every few seconds; it costs nothing if nothing is left.
    pub async fn settle(&self) {
        if self.is_unsettled.load(Ordering::SeqCst) {
            let mut in_force = self.identity_changes.lock().await;
            self.settle_with(&mut in_force).await;
        }
    }

    /// Something is left to be done for [`Gateway::settle`].
    pub(crate) fn unsettle(&self) {
        self.is_unsettled.store(true, Ordering::SeqCst);
    }

    /// Asks the ledger again what rules mean, because its workspaces have changed: those of a workspace that is gone are not in
    /// force any more, and those of one that has come are. The rules themselves stay.
    pub async fn workspaces_changed(&self) {
        // First: the ledger may take its time.
        self.authenticator.forget_admissions();
        self.renew_certificates().await;
    }

    /// Notes the bearers of certificates as seen, so that the ledger does not forget them.
    pub async fn renew_certificates(&self) {
        let mut in_force = self.identity_changes.lock().await;
        if !self.certificates_are_settled(&mut in_force).await {
            self.unsettle();
        }
    }

    async fn settle_with(&self, in_force: &mut Vec<CertificateGrant>) {
        // Before it is done: what is left over meanwhile is not forgotten.
        self.is_unsettled.store(false, Ordering::SeqCst);
        let certificates = self.certificates_are_settled(in_force).await;
        let sessions = self.sessions_are_settled().await;
        if !(certificates && sessions) {
            self.unsettle();
        }
    }

    /// Ends the sessions of rules that are not in force. False if the ledger did not do it.
    async fn sessions_are_settled(&self) -> bool {
        let marks = self.identity.load().rules.marks();
        let ended = self
            .ledger
            .end_sessions_of_other_rules(&marks, self.now_ms());
        match ended.await {
            Ok(0) => true,
            Ok(count) => {
                tracing::warn!(
                    count,
                    "sessions have ended: the rules that gave them are gone or were changed"
                );
                true
            }
            Err(error) => {
                tracing::error!(%error, "sessions of rules that are gone or were changed could not be ended yet");
                false
            }
        }
    }

    /// Puts the rules for certificates in force, with their writers. A rule that was in force before stays so while the ledger does
    /// not answer. False if it did not.
    async fn certificates_are_settled(&self, in_force: &mut Vec<CertificateGrant>) -> bool {
        let identity = self.identity.load_full();
        let mut grants = Vec::with_capacity(identity.certificates.len());
        let mut settled = true;
        for rule in &identity.certificates {
            let kept = || in_force.iter().find(|it| it.rule == *rule).cloned();
            if !settled {
                // It would not answer this one either.
                grants.extend(kept());
                continue;
            }
            match self.ledger.writer_id(&self.new_writer(rule)).await {
                Ok(writer) => grants.push(CertificateGrant {
                    rule: rule.clone(),
                    writer,
                }),
                Err(error @ LedgerError::NotFound(_)) => {
                    let (rule, workspace) = (&rule.name, &rule.workspace);
                    tracing::error!(rule, %workspace, %error, "a rule for client certificates is not in force");
                }
                Err(error) => {
                    tracing::warn!(rule = rule.name, %error, "rules for client certificates stay as they were");
                    settled = false;
                    grants.extend(kept());
                }
            }
        }
        *in_force = grants;
        self.authenticator.replace_certificates(in_force);
        settled
    }

    fn new_writer(&self, rule: &CertificateRule) -> NewWriter {
        let subject = match &rule.san {
            San::Dns(name) => format!("dns:{name}"),
            San::Uri(uri) => format!("uri:{uri}"),
            San::Email(address) => format!("email:{address}"),
            San::Ip(address) => format!("ip:{address}"),
        };
        NewWriter {
            kind: WriterKind::Certificate,
            workspace: rule.workspace.to_string(),
            access: rule.access.kind().name().to_owned(),
            scope: rule.access.scope().map(ToString::to_string),
            provenance: ProvenanceColumns {
                rule: Some(rule.name.clone()),
                subject: Some(subject),
                ..ProvenanceColumns::default()
            },
            address: None,
            now_ms: self.now_ms(),
        }
    }

    /// The issuers in force, for whoever fetches their keys.
    pub fn issuers(&self) -> Arc<Issuers> {
        Arc::clone(&self.identity.load().issuers)
    }

    /// Is notified when requests wait for keys: then [`Issuers::due`] is to be asked at once.
    pub fn keys_wanted(&self) -> &Notify {
        &self.keys_wanted
    }

    /// Wakes the requests that wait for keys, after [`Issuers::fetched`] was told of some.
    pub fn keys_arrived(&self) {
        self.keys_arrived.notify_waiters();
    }

    /// Who has failed too often, for routes that verify JWTs themselves.
    pub fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// The unix time in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    /// Puts another table of workspaces in force for requests from now on.
    pub fn set_workspaces(&self, workspaces: WorkspaceTable) {
        self.workspaces.store(Arc::new(workspaces));
    }

    /// Looks into the archives of these writers from now on; of all of them, unless it is told otherwise.
    pub fn set_inspected_writers(&self, whose: InspectedWriters) {
        self.inspected_writers.store(Arc::new(whose));
    }

    pub(crate) fn inspected_writers(&self) -> InspectedWriters {
        **self.inspected_writers.load()
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
        if let Some(response) = self.answer_at_hand(&head, &route, &origin) {
            self.note_if_bad_credential(&head.headers, &origin, &response);
            return response.into();
        }
        let gateway = Arc::clone(self);
        Answer(State::Awaited(Box::pin(async move {
            let response = gateway.wait_for(&head, body, route, &origin).await;
            gateway.note_if_bad_credential(&head.headers, &origin, &response);
            response
        })))
    }

    fn answer_at_hand(
        &self,
        head: &Parts,
        route: &Route,
        origin: &Origin,
    ) -> Option<Response<Body>> {
        if self.unintroduced(&head.headers, origin).is_some() {
            return None;
        }
        match route {
            Route::Nx(target) => nx::routes::answer_at_hand(self, head, target, origin),
            Route::BazelHttp(target) => {
                bazel_http::routes::answer_at_hand(self, head, target, origin)
            }
            Route::Grpc | Route::Control | Route::Identity(_) | Route::Nowhere => None,
        }
    }

    async fn wait_for<B>(
        &self,
        head: &Parts,
        mut body: B,
        route: Route,
        origin: &Origin,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
    {
        self.introduce(&head.headers, origin).await;
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
            Route::Identity(route) => {
                identity::routes::answer(self, head, route, origin, intake).await
            }
            Route::Nowhere => {
                intake.drain().await;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }

    /// For routes that answer everybody, and at which clients show what is wrong: what `answer` makes of whether the request's
    /// credential, if it has one, is in order. A JWT that nobody knows is introduced before.
    pub fn check_credential(
        self: &Arc<Self>,
        headers: &HeaderMap,
        origin: &Origin,
        answer: impl FnOnce(Result<(), BadCredential>) -> Response<Body> + Send + 'static,
    ) -> Answer {
        if self.unintroduced(headers, origin).is_none() {
            return answer(self.checked(headers, origin)).into();
        }
        let (gateway, headers, origin) = (Arc::clone(self), headers.clone(), origin.clone());
        Answer(State::Awaited(Box::pin(async move {
            gateway.introduce(&headers, &origin).await;
            answer(gateway.checked(&headers, &origin))
        })))
    }

    fn checked(&self, headers: &HeaderMap, origin: &Origin) -> Result<(), BadCredential> {
        match self.caller(headers, None, origin) {
            Ok(_) | Err(NoCaller::OtherWorkspace | NoCaller::Expired) => Ok(()),
            Err(NoCaller::BadCredential(bad)) => Err(bad),
        }
    }

    /// Who sent a request, and about which workspace. A JWT must have been introduced.
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        named: Option<&WorkspaceName>,
        origin: &Origin,
    ) -> Result<Caller, NoCaller> {
        match origin {
            Origin::ControlSocket => Ok(Caller::LocalOperator),
            Origin::Tcp(_) => {
                let workspaces = self.workspaces.load();
                let default = &self.default;
                resolve(
                    &self.authenticator,
                    &workspaces,
                    default,
                    (headers, origin.certificate()),
                    named,
                    self.now_ms(),
                )
            }
        }
    }

    /// Who sent a request, and with what kind of credential: for those who tell people. A JWT must have been introduced.
    pub(crate) fn who(&self, headers: &HeaderMap, origin: &Origin) -> Result<Who, NoCaller> {
        let caller = self.caller(headers, None, origin)?;
        let presented = Presented {
            authorization: authorization(headers).map_err(NoCaller::BadCredential)?,
            certificate: origin.certificate(),
        };
        let standing = self.authenticator.standing(&presented, self.now_ms());
        let standing = standing.map_err(NoCaller::BadCredential)?;
        Ok(Who {
            caller,
            kind: standing.kind,
            expires_at_ms: standing.expires_at_ms,
        })
    }

    /// The request's JWT, if it has one that nobody knows, or not any more.
    pub(crate) fn unintroduced<'h>(
        &self,
        headers: &'h HeaderMap,
        origin: &Origin,
    ) -> Option<&'h [u8]> {
        if *origin == Origin::ControlSocket {
            return None;
        }
        let authorization = authorization(headers).ok().flatten();
        // All that other credentials cost here is a look for two dots.
        let jwt = Authenticator::jwt(authorization?)?;
        let presented = Presented {
            authorization,
            certificate: None,
        };
        let known = self.authenticator.authenticate(&presented, self.now_ms());
        (known == Ok(Credential::Unintroduced)).then_some(jwt)
    }
}

/// A caller, and what there is to say of its credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) caller: Caller,
    pub(crate) kind: CredentialKind,
    /// When the credential ends, in unix milliseconds; `None` is never.
    pub(crate) expires_at_ms: Option<u64>,
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
