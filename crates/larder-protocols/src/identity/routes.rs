//! Giving a session, ending one, and telling a client who it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Response};
use larder_auth::{
    BadCredential, Credential, CredentialKind, Presented, SessionGrant, SessionSecret, TokenHash,
    VerifiedClaims,
};
use larder_ledger::{LedgerError, NewSession, Once, WriterRow};
use larder_model::{Access, Caller, Policy, Principal, Scope};

use super::status::{self, NotDone};
use super::wire::{ExchangeRequest, Rights, TokenResponse, WhoamiResponse, revoked_token};
use crate::body::Body;
use crate::caller::NoCaller;
use crate::excerpt::Excerpt;
use crate::gateway::{Gateway, Origin, Peer};
use crate::intake::Intake;
use crate::introduction::{Identified, Unidentified};
use crate::journal::Refused;
use crate::ledger_lane::{Question, TooSlow};
use crate::unwind::{Panicked, caught};

/// The most bytes of a form: a JWT of the longest kind, percent-encoded where it need not be, and a few words.
const FORM_BYTES_MAX: usize = 64 << 10;
/// The longest session, whatever the configuration says: a stolen one is of no use after a day.
const SESSION_TTL_MAX: Duration = Duration::from_hours(24);

/// How long sessions last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTtl {
    /// Those that write trusted entries.
    pub trusted: Duration,
    /// All others.
    pub untrusted: Duration,
}

impl Default for SessionTtl {
    fn default() -> Self {
        Self {
            trusted: Duration::from_hours(2),
            untrusted: Duration::from_hours(6),
        }
    }
}

impl SessionTtl {
    fn of(self, access: &Access, asked_secs: Option<u64>) -> Duration {
        let allowed = if access.kind().writes_trusted() {
            self.trusted
        } else {
            self.untrusted
        };
        let asked = asked_secs.map_or(SESSION_TTL_MAX, Duration::from_secs);
        allowed.min(asked).min(SESSION_TTL_MAX)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Token,
    Revoke,
    Whoami,
}

impl Route {
    /// The route of a path, if it is one of these.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/oauth/token" => Some(Self::Token),
            "/v1/oauth/revoke" => Some(Self::Revoke),
            "/v1/whoami" => Some(Self::Whoami),
            _ => None,
        }
    }
}

/// Answers a request. Its credential, if it has one, has been introduced.
pub(crate) async fn answer<B>(
    gateway: &Gateway,
    head: &Parts,
    route: Route,
    origin: &Origin,
    intake: &mut Intake<'_, B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let done = caught(act(gateway, head, route, origin, intake)).await;
    let done = done.unwrap_or_else(|Panicked| Err(NotDone::Unavailable));
    intake.drain().await;
    done.unwrap_or_else(|not_done| {
        let (path, error) = (head.uri.path(), Excerpt(&not_done));
        tracing::debug!(path, %error, "an identity call was not done");
        status::of_not_done(&not_done)
    })
}

async fn act<B>(
    gateway: &Gateway,
    head: &Parts,
    route: Route,
    origin: &Origin,
    intake: &mut Intake<'_, B>,
) -> Result<Response<Body>, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let content_type = head
        .headers
        .get(CONTENT_TYPE)
        .map(http::HeaderValue::as_bytes);
    match (route, origin) {
        (Route::Whoami, _) => {
            if !matches!(head.method, Method::GET | Method::HEAD) {
                return Err(NotDone::Method { allow: "GET, HEAD" });
            }
            Ok(status::json(&whoami(gateway, head, origin).await?))
        }
        (Route::Token | Route::Revoke, _) if head.method != Method::POST => {
            Err(NotDone::Method { allow: "POST" })
        }
        // The operator needs no session, and no address would answer for failed attempts.
        (Route::Token | Route::Revoke, Origin::ControlSocket) => Err(NotDone::NoSuchPath),
        (Route::Token, Origin::Tcp(peer)) => {
            let form = form(intake).await?;
            let request = ExchangeRequest::parse(content_type, &form)?;
            exchange(gateway, &request, peer).await
        }
        (Route::Revoke, Origin::Tcp(peer)) => {
            let form = form(intake).await?;
            revoke(gateway, &revoked_token(content_type, &form)?, peer).await?;
            Ok(status::ended())
        }
    }
}

async fn form<B>(intake: &mut Intake<'_, B>) -> Result<BytesMut, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let mut form = BytesMut::new();
    while let Some(bytes) = intake.next().await.map_err(NotDone::Interrupted)? {
        if form.len() + bytes.len() > FORM_BYTES_MAX {
            return Err(NotDone::TooLarge {
                limit: FORM_BYTES_MAX,
            });
        }
        form.extend_from_slice(&bytes);
    }
    Ok(form)
}

async fn exchange(
    gateway: &Gateway,
    request: &ExchangeRequest,
    peer: &Peer,
) -> Result<Response<Body>, NotDone> {
    let jwt = request.subject_token.as_bytes();
    let identified = gateway.identify(jwt, Some(peer.address)).await;
    let Identified {
        claims,
        decision,
        writer,
        under,
    } = identified.map_err(|why| not_identified(gateway, &why, peer))?;
    if !request.is_about(decision.workspace()) {
        return Err(NotDone::OtherWorkspace);
    }
    let access = request.wish.reduce(decision.access().clone());
    let access = access.ok_or(NotDone::CannotReduce)?;
    let (workspace, rule) = (decision.workspace(), decision.rule().as_str());
    let pace = &gateway.session_pace;
    pace.take(workspace, rule, &access, Instant::now())
        .map_err(|wait| NotDone::TooManySessions {
            retry_after_secs: wait.as_secs() + 1,
        })?;

    let now_ms = gateway.now_ms();
    let ttl = gateway.identity.load().session_ttl;
    let ttl = ttl.of(&access, request.expires_in_secs);
    let secret = SessionSecret::generate();
    let grant = SessionGrant {
        hash: secret.hash(),
        writer: writer.0,
        workspace: workspace.clone(),
        access,
        expires_at_ms: now_ms.saturating_add(ttl.as_millis() as u64),
        revoked: false,
    };
    let created = gateway.ledger.create_session(NewSession {
        hash: grant.hash.0,
        writer: grant.writer,
        workspace: grant.workspace.to_string(),
        access: grant.access.kind().name().to_owned(),
        scope: grant.access.scope().map(ToString::to_string),
        rule_mark: Some(decision.rule_mark()),
        created_at_ms: now_ms,
        expires_at_ms: grant.expires_at_ms,
        once: Some(once(&claims, jwt)),
        address: Some(peer.address.to_canonical().to_string()),
    });
    in_time(gateway, decision.access(), Box::pin(created))
        .await?
        .map_err(|error| not_created(gateway, error, peer))?;
    let now_in_force = gateway.identity.load_full();
    let mark = decision.rule_mark();
    if !Arc::ptr_eq(&under, &now_in_force) && !now_in_force.rules.marks().contains(&mark) {
        // The sessions of its rule may have been ended before there was this one, which nobody gets.
        gateway.unsettle();
        return Err(NotDone::Unavailable);
    }
    gateway.authenticator.add_session(&grant);
    let who = decision.who();
    tracing::info!(who, %workspace, %writer, address = %peer.address, "a CI job has a session");
    let rights = rights(&grant.principal());
    let response = TokenResponse::new(secret.expose(), ttl.as_secs(), rights);
    Ok(status::json(&response))
}

/// What the ledger says to somebody with this access, if it does so soon.
async fn in_time<T>(
    gateway: &Gateway,
    access: &Access,
    asked: Question<'_, T>,
) -> Result<T, NotDone> {
    let answer = gateway.ledger_lane.ask(access, asked).await;
    answer.map_err(|TooSlow| {
        tracing::warn!("the ledger takes too long; a call about identity was not done");
        NotDone::Unavailable
    })
}

/// What an identity token is known by when it comes again: its `jti`, or all of it.
fn once(claims: &VerifiedClaims, jwt: &[u8]) -> Once {
    let jti_hash = match claims.text("jti") {
        Some(id) if !id.is_empty() => TokenHash::of(format!("jti {id}").as_bytes()),
        _ => TokenHash::of(jwt),
    };
    Once {
        issuer: claims.issuer().to_owned(),
        jti_hash: jti_hash.0,
        until_ms: claims.valid_until_ms(),
    }
}

/// The answer for an identity token that is nobody's: its sender learns no reason, and the log names the request.
fn not_identified(gateway: &Gateway, why: &Unidentified, peer: &Peer) -> NotDone {
    gateway.note_unidentified(why, peer.address);
    match why {
        // It will not be given one later either.
        Unidentified::Jwt(_)
        | Unidentified::NoRule(_)
        | Unidentified::Ledger(LedgerError::RevokedWriter(_)) => {
            let request_id = request_id(gateway);
            tracing::info!(request_id, address = %peer.address, "no session was given: {why}");
            NotDone::NotAccepted { request_id }
        }
        Unidentified::KeysMissing { .. } | Unidentified::Ledger(_) | Unidentified::LedgerSlow => {
            NotDone::Unavailable
        }
    }
}

fn not_created(gateway: &Gateway, error: LedgerError, peer: &Peer) -> NotDone {
    if let LedgerError::RevokedWriter(_) = error {
        return not_identified(gateway, &Unidentified::Ledger(error), peer);
    }
    let LedgerError::UsedBefore = error else {
        tracing::error!(%error, "a session could not be written into the ledger");
        return NotDone::Unavailable;
    };
    let (now_ms, request_id) = (gateway.now_ms(), request_id(gateway));
    tracing::warn!(request_id, address = %peer.address, "no session was given: the identity token was exchanged before");
    gateway.attempts().failed(peer.address, now_ms);
    gateway.journal.record(Refused {
        at_ms: now_ms,
        reason: "jwt_used_before",
        bad_credential: true,
        dialect: None,
        workspace: None,
        writer: None,
        address: Some(peer.address),
    });
    NotDone::NotAccepted { request_id }
}

/// Under what the log can be searched for one request.
fn request_id(gateway: &Gateway) -> String {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{serial:x}", gateway.now_ms())
}

/// Ends a session. What is no session of this server is none that could go on.
async fn revoke(gateway: &Gateway, token: &str, peer: &Peer) -> Result<(), NotDone> {
    let Ok(secret) = SessionSecret::parse(token) else {
        return Ok(());
    };
    let authorization = format!("Bearer {}", secret.expose());
    let presented = Presented {
        authorization: Some(authorization.as_bytes()),
        certificate: None,
    };
    let (now_ms, hash) = (gateway.now_ms(), secret.hash());
    let access = match gateway.authenticator.authenticate(&presented, now_ms) {
        Ok(Credential::Known(principal)) => principal.access().clone(),
        Err(BadCredential::UnknownSession) => match unread_session(gateway, &hash, peer).await? {
            Some(access) => access,
            None => return Ok(()),
        },
        // It is over already.
        Ok(Credential::Expired | Credential::Absent | Credential::Unintroduced) | Err(_) => {
            return Ok(());
        }
    };
    let address = peer.address.to_canonical().to_string();
    let revoked = gateway
        .ledger
        .revoke_session(&hash.0, Some(&address), now_ms);
    let revoked = in_time(gateway, &access, Box::pin(revoked)).await?;
    revoked.map_err(|error| {
        tracing::error!(%error, "a session could not be ended");
        NotDone::Unavailable
    })?;
    gateway.authenticator.end_session(&hash);
    Ok(())
}

/// What may be done in a session that this node has not read yet, because another one has just given it; `None` if there is none.
/// The ledger is asked, but not for those who guess.
async fn unread_session(
    gateway: &Gateway,
    hash: &TokenHash,
    peer: &Peer,
) -> Result<Option<Access>, NotDone> {
    let now_ms = gateway.now_ms();
    let attempts = &gateway.attempts;
    if attempts.allowed(peer.address, now_ms).is_err() {
        return Err(NotDone::Unavailable);
    }
    // Nobody knows what it may do: it is asked for among the untrusted.
    let asked = Box::pin(gateway.ledger.session(&hash.0));
    let row = in_time(gateway, &Access::Reader, asked).await?;
    let row = row.map_err(|error| {
        tracing::error!(%error, "a session could not be looked up");
        NotDone::Unavailable
    })?;
    if row.is_none() {
        attempts.failed(peer.address, now_ms);
    }
    Ok(row.map(|_| Access::Reader))
}

async fn whoami(
    gateway: &Gateway,
    head: &Parts,
    origin: &Origin,
) -> Result<WhoamiResponse, NotDone> {
    let who = match gateway.who(&head.headers, origin) {
        Ok(who) => who,
        Err(NoCaller::BadCredential(bad)) => return Err(NotDone::BadCredential(bad)),
        Err(NoCaller::Expired | NoCaller::OtherWorkspace) => return Ok(nobody_any_more()),
    };
    let principal = match who.caller {
        Caller::Known(principal) => principal,
        Caller::Anonymous { workspace, public } => {
            return Ok(anonymous(workspace.to_string(), public));
        }
        Caller::LocalOperator => return Ok(operator()),
    };
    let asked = Box::pin(gateway.ledger.writer(principal.writer().0));
    let writer = in_time(gateway, principal.access(), asked).await?;
    let writer = writer.map_err(|error| {
        tracing::error!(%error, "a writer could not be looked up");
        NotDone::Unavailable
    })?;
    let kind = match who.kind {
        CredentialKind::Absent => "anonymous",
        CredentialKind::Token => "token",
        CredentialKind::Session => "session",
        CredentialKind::Jwt => "identity-token",
        CredentialKind::Certificate => "certificate",
    };
    let rights = rights(&principal);
    let name = name_of(&principal, writer.as_ref());
    let subject = |row: &WriterRow| row.provenance.subject.clone();
    let certificate = writer.as_ref().and_then(subject);
    Ok(WhoamiResponse {
        authenticated: true,
        kind: kind.to_owned(),
        workspace: Some(rights.workspace.clone()),
        text: sentence(&format!("you are {name}"), &rights, principal.access()),
        who: name,
        writes: rights.write_scope,
        reads: rights.read_path,
        provenance: writer.map(|writer| writer.provenance.into()),
        expires_at_ms: who.expires_at_ms,
        certificate: certificate.filter(|_| who.kind == CredentialKind::Certificate),
    })
}

/// What the policy gives a principal that names no scope.
fn rights(principal: &Principal) -> Rights {
    let caller = Caller::Known(principal.clone());
    let writes = Policy::write(&caller, None);
    let writes = writes.ok().map(|grant| grant.scope().clone());
    let reads: Vec<Scope> = Policy::read(&caller, None)
        .iter()
        .flat_map(|grant| grant.path().scopes().collect::<Vec<_>>())
        .collect();
    Rights::new(
        principal.workspace(),
        principal.access(),
        writes.as_ref(),
        reads.into_iter(),
    )
}

fn sentence(who: &str, rights: &Rights, access: &Access) -> String {
    if *access == Access::Admin {
        return format!(
            "{who}; you administer the workspace {}, and read and write no entries",
            rights.workspace
        );
    }
    let writes = rights.write_scope.as_deref().unwrap_or("nothing");
    let reads = if rights.read_path.is_empty() {
        "nothing".to_owned()
    } else {
        rights.read_path.join(", then ")
    };
    format!(
        "{who}; you write {writes}; you read {reads} (workspace {})",
        rights.workspace
    )
}

/// A writer in a few words. What its issuer said of it has been cleaned before it came into the ledger.
fn name_of(principal: &Principal, writer: Option<&WriterRow>) -> String {
    let id = principal.writer();
    let Some(writer) = writer else {
        return format!("writer {id}");
    };
    let said = &writer.provenance;
    if said.issuer.is_none() {
        return match (&said.subject, &writer.name) {
            (Some(subject), _) => format!("the client certificate of {subject}"),
            (None, Some(name)) => format!("token {id} ({name})"),
            (None, None) => format!("token {id}"),
        };
    }
    let repository = said.repository.as_deref().or(said.repository_id.as_deref());
    let repository = repository.unwrap_or("an unnamed repository");
    if let Some(number) = writer.scope.as_deref().and_then(pull_request_number) {
        return format!("pull request {number} of {repository}");
    }
    let event = said.event.as_deref().unwrap_or("build");
    match (&said.git_ref, &said.run_id) {
        (Some(git_ref), _) => format!("a {event} on {git_ref} of {repository}"),
        (None, Some(run)) => format!("run {run} ({event}) of {repository}"),
        (None, None) => format!("a {event} of {repository}"),
    }
}

/// The number in a scope's last label: in `pr-123` or `pr-123.r…`. Whatever else stands behind `pr-` is a name with its hash.
fn pull_request_number(scope: &str) -> Option<&str> {
    let label = scope.rsplit('/').next()?.strip_prefix("pr-")?;
    let number = label.split('.').next()?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then_some(number)
}

fn anonymous(workspace: String, public: bool) -> WhoamiResponse {
    let (reads, may) = if public {
        let trusted = vec![Scope::Trusted.as_str().to_owned()];
        (
            trusted,
            format!("the workspace {workspace} is public: you read trusted and write nothing"),
        )
    } else {
        (Vec::new(), "you read nothing and write nothing".to_owned())
    };
    WhoamiResponse {
        authenticated: false,
        kind: "anonymous".to_owned(),
        workspace: Some(workspace),
        who: "nobody".to_owned(),
        writes: None,
        reads,
        provenance: None,
        expires_at_ms: None,
        certificate: None,
        text: format!("you sent no credential; {may}"),
    }
}

fn nobody_any_more() -> WhoamiResponse {
    WhoamiResponse {
        authenticated: false,
        kind: "over".to_owned(),
        workspace: None,
        who: "nobody any more".to_owned(),
        writes: None,
        reads: Vec::new(),
        provenance: None,
        expires_at_ms: None,
        certificate: None,
        text: "your credential is genuine, but its time is over, it was ended, no rule gives it anything, or it cannot be judged \
               at the moment: reads are misses, and nothing you write is stored"
            .to_owned(),
    }
}

fn operator() -> WhoamiResponse {
    WhoamiResponse {
        authenticated: true,
        kind: "operator".to_owned(),
        workspace: None,
        who: "the operator".to_owned(),
        writes: None,
        reads: Vec::new(),
        provenance: None,
        expires_at_ms: None,
        certificate: None,
        text: "you are the operator of this server, by its control socket".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_request_is_called_by_its_number_and_nothing_else_is_taken_for_one() {
        let check = |scope: &str, expected| assert_eq!(pull_request_number(scope), expected);
        check("ci.web/pr-123", Some("123"));
        check(
            "ci.web/pr-123.r7135202999-f210e57b0a7bb9abd09aee66",
            Some("123"),
        );
        for scope in [
            "ci.web/pr-12ab-f210e57b0a7bb9abd09aee66",
            "ci.web/pr-12-f210e57b0a7bb9abd09aee66",
            "ci.web/pr-",
            "ci.web/run-123",
            "ci.pr-1/branch-x-f210e57b0a7bb9abd09aee66",
            "token/7",
            "",
        ] {
            check(scope, None);
        }
    }

    #[test]
    fn a_session_lasts_no_longer_than_its_rule_its_client_and_a_day_allow() {
        let ttl = SessionTtl {
            trusted: Duration::from_hours(2),
            untrusted: Duration::from_hours(100),
        };
        let isolated = Access::Isolated {
            scope: "ci.web/pr-1".parse().unwrap(),
        };
        let check = |access: &Access, asked_secs, hours| {
            assert_eq!(
                ttl.of(access, asked_secs),
                Duration::from_hours(hours),
                "{access:?} {asked_secs:?}"
            );
        };
        check(&Access::Trusted, None, 2);
        check(&Access::CleanRoom, None, 2);
        check(&isolated, None, 24);
        check(&Access::Reader, None, 24);
        check(&Access::Trusted, Some(3600), 1);
        check(&Access::Trusted, Some(u64::MAX), 2);
        check(&isolated, Some(u64::MAX), 24);
    }
}
