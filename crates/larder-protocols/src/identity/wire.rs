//! The messages of the identity routes: forms in, JSON out. Field names are those of RFC 6749, 7009 and 8693.

use std::fmt;

use crate::provenance::ProvenanceText;
use larder_model::{Access, Scope, WorkspaceName};
use serde::{Deserialize, Serialize};

use crate::percent;

/// `grant_type` of a token exchange.
pub(crate) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// `issued_token_type` of a session.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// `subject_token_type`s that an identity token may be called.
const SUBJECT_TOKEN_TYPES: [&str; 2] = [
    "urn:ietf:params:oauth:token-type:jwt",
    "urn:ietf:params:oauth:token-type:id_token",
];
/// The most parameters of a form: more than any client has a use for.
const PARAMETER_COUNT_MAX: usize = 32;

const READ: &str = "cache:read";
const WRITE: &str = "cache:write";

/// A session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The session's token. Whoever has it has the session's rights.
    pub access_token: String,
    /// Always `urn:ietf:params:oauth:token-type:access_token`.
    pub issued_token_type: String,
    /// Always `Bearer`.
    pub token_type: String,
    /// How long it lasts, in seconds.
    pub expires_in: u64,
    /// `cache:read`, `cache:write` or both.
    pub scope: String,
    /// What it may do, in Larder's words.
    pub cache: Rights,
}

impl TokenResponse {
    pub(super) fn new(secret: &str, expires_in_secs: u64, rights: Rights) -> Self {
        let words = [
            (!rights.read_path.is_empty()).then_some(READ),
            rights.write_scope.as_ref().map(|_| WRITE),
        ];
        Self {
            access_token: secret.to_owned(),
            issued_token_type: ACCESS_TOKEN.to_owned(),
            token_type: "Bearer".to_owned(),
            expires_in: expires_in_secs,
            scope: words.into_iter().flatten().collect::<Vec<_>>().join(" "),
            cache: rights,
        }
    }
}

/// Without the token.
impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("expires_in", &self.expires_in)
            .field("scope", &self.scope)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

/// What a credential may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// The workspace it belongs to.
    pub workspace: String,
    /// The scope that it writes to, if it writes.
    pub write_scope: Option<String>,
    /// The scopes that it reads, in this order.
    pub read_path: Vec<String>,
    /// `trusted` if it writes what trunk reads, else `untrusted`.
    pub trust: String,
}

impl Rights {
    pub(super) fn new(
        workspace: &WorkspaceName,
        access: &Access,
        write_scope: Option<&Scope>,
        read_path: impl Iterator<Item = Scope>,
    ) -> Self {
        let trusted = access.kind().writes_trusted();
        Self {
            workspace: workspace.to_string(),
            write_scope: write_scope.map(|scope| scope.as_str().to_owned()),
            read_path: read_path.map(|scope| scope.as_str().to_owned()).collect(),
            trust: if trusted { "trusted" } else { "untrusted" }.to_owned(),
        }
    }
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoamiResponse {
    /// Whether a credential was sent.
    pub authenticated: bool,
    /// `anonymous`, `token`, `session`, `identity-token`, `certificate` or `operator`.
    pub kind: String,
    /// The workspace of the credential, or the one that is asked without any.
    pub workspace: Option<String>,
    /// Who it is, for people: "pull request 123 of acme/web".
    pub who: String,
    /// The scope that it writes to, if it writes.
    pub writes: Option<String>,
    /// The scopes that it reads, in this order.
    pub reads: Vec<String>,
    /// What its issuer said of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<ProvenanceText>,
    /// The end of the session or token in unix milliseconds, if it has one.
    pub expires_at_ms: Option<u64>,
    /// The name in the client's TLS certificate that a rule knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// All of it in a sentence.
    pub text: String,
}

/// Why no session was given (RFC 6749, section 5.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OauthError {
    /// A word of the RFC, such as `invalid_grant`.
    pub error: String,
    /// A sentence for people.
    pub error_description: String,
    /// Under what the server's log says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What is wrong with a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadForm {
    #[error("send a form: Content-Type: application/x-www-form-urlencoded")]
    NotAForm,
    #[error("the form cannot be read")]
    Unreadable,
    #[error("the form has more than {PARAMETER_COUNT_MAX} parameters")]
    TooMany,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("a parameter is there twice")]
    Twice,
    #[error("grant_type is not {TOKEN_EXCHANGE}")]
    GrantType,
    #[error(
        "subject_token_type is neither {} nor {}",
        SUBJECT_TOKEN_TYPES[0],
        SUBJECT_TOKEN_TYPES[1]
    )]
    SubjectTokenType,
    #[error("requested_token_type is not {ACCESS_TOKEN}")]
    RequestedTokenType,
    #[error("a job acts for itself: leave out actor_token")]
    ActorToken,
    #[error("expires_in is not a number of seconds above 0")]
    ExpiresIn,
    #[error("scope is neither \"{READ}\" nor \"{READ} {WRITE}\"")]
    Scope,
}

/// The parameters of a form.
struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded`. A parameter without a value is not there (RFC 6749, section 3.2), and none is
    /// there twice.
    fn parse(content_type: Option<&[u8]>, body: &[u8]) -> Result<Self, BadForm> {
        const FORM: &[u8] = b"application/x-www-form-urlencoded";
        let written = content_type.unwrap_or_default();
        let written = written.split(|byte| *byte == b';').next();
        if !written.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(FORM)) {
            return Err(BadForm::NotAForm);
        }
        let body = std::str::from_utf8(body).map_err(|_| BadForm::Unreadable)?;
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in body.split('&').filter(|pair| !pair.is_empty()) {
            if parameters.len() == PARAMETER_COUNT_MAX {
                return Err(BadForm::TooMany);
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(BadForm::Twice);
            }
            parameters.push((name, value));
        }
        parameters.retain(|(_, value)| !value.is_empty());
        Ok(Self(parameters))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn need(&mut self, name: &'static str) -> Result<String, BadForm> {
        self.take(name).ok_or(BadForm::Missing(name))
    }
}

fn decoded(text: &str) -> Result<String, BadForm> {
    let text = text.replace('+', " ");
    let bytes = percent::decode(&text).ok_or(BadForm::Unreadable)?;
    String::from_utf8(bytes.into_owned()).map_err(|_| BadForm::Unreadable)
}

/// How much of what a rule allows a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// All of it.
    All,
    /// Reading alone.
    Read,
}

impl Wish {
    /// `access`, or less. `None` if there is no access that is less: whoever reads nothing cannot have reading alone.
    pub(super) fn reduce(self, access: Access) -> Option<Access> {
        match (self, access) {
            (Self::All, access) => Some(access),
            (
                Self::Read,
                Access::Trusted | Access::Isolated { .. } | Access::Gate { .. } | Access::Reader,
            ) => Some(Access::Reader),
            (Self::Read, Access::CleanRoom | Access::Admin) => None,
        }
    }
}

/// A request for a session.
pub(super) struct ExchangeRequest {
    /// The identity token.
    pub subject_token: String,
    pub wish: Wish,
    /// The longest that the session shall last, in seconds.
    pub expires_in_secs: Option<u64>,
    /// The workspace that the session shall be for: its name, or an address of it.
    pub resource: Option<String>,
}

impl ExchangeRequest {
    pub(super) fn parse(content_type: Option<&[u8]>, body: &[u8]) -> Result<Self, BadForm> {
        let mut form = Form::parse(content_type, body)?;
        if form.need("grant_type")? != TOKEN_EXCHANGE {
            return Err(BadForm::GrantType);
        }
        let subject_token = form.need("subject_token")?;
        let kind = form.need("subject_token_type")?;
        if !SUBJECT_TOKEN_TYPES.contains(&kind.as_str()) {
            return Err(BadForm::SubjectTokenType);
        }
        if form.take("actor_token").is_some() {
            return Err(BadForm::ActorToken);
        }
        let requested = form.take("requested_token_type");
        if requested.is_some_and(|requested| requested != ACCESS_TOKEN) {
            return Err(BadForm::RequestedTokenType);
        }
        let wish = match form.take("scope") {
            None => Wish::All,
            Some(words) => {
                let words: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).collect();
                match words[..] {
                    [READ] => Wish::Read,
                    [READ, WRITE] | [WRITE, READ] => Wish::All,
                    _ => return Err(BadForm::Scope),
                }
            }
        };
        let expires_in_secs = form.take("expires_in").map(|text| match text.parse() {
            Ok(secs) if secs > 0 => Ok(secs),
            _ => Err(BadForm::ExpiresIn),
        });
        Ok(Self {
            subject_token,
            wish,
            expires_in_secs: expires_in_secs.transpose()?,
            resource: form.take("resource"),
        })
    }

    /// Whether the request is about `workspace`: it names none, or this one, or an address that names none or this one.
    pub(super) fn is_about(&self, workspace: &WorkspaceName) -> bool {
        let Some(resource) = &self.resource else {
            return true;
        };
        if resource == workspace.as_str() {
            return true;
        }
        let Some((_, address)) = resource.split_once("://") else {
            return false;
        };
        let mut segments = address.split('/').skip_while(|segment| *segment != "w");
        match (segments.next(), segments.next()) {
            (Some(_), Some(named)) => named == workspace.as_str(),
            _ => true,
        }
    }
}

/// The token of a request to end a session.
pub(super) fn revoked_token(content_type: Option<&[u8]>, body: &[u8]) -> Result<String, BadForm> {
    Form::parse(content_type, body)?.need("token")
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_model::{Caller, Policy, Principal, WriterId};

    const FORM: Option<&[u8]> = Some(b"application/x-www-form-urlencoded; charset=utf-8");

    fn exchange(more: &str) -> Result<ExchangeRequest, BadForm> {
        let body = format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=a.b.c\
             &subject_token_type=urn:ietf:params:oauth:token-type:jwt{more}"
        );
        ExchangeRequest::parse(FORM, body.as_bytes())
    }

    #[test]
    fn a_form_says_each_thing_once_and_in_the_words_of_the_rfc() {
        let plain = exchange("").unwrap();
        assert_eq!(
            (plain.subject_token.as_str(), plain.wish),
            ("a.b.c", Wish::All)
        );
        for (more, problem) in [
            ("&grant_type=x", BadForm::Twice),
            ("&subject_token=a.b.c", BadForm::Twice),
            ("&x=%zz", BadForm::Unreadable),
            ("&x=%ff", BadForm::Unreadable),
            ("&actor_token=a.b.c", BadForm::ActorToken),
            ("&requested_token_type=urn:x", BadForm::RequestedTokenType),
            ("&expires_in=0", BadForm::ExpiresIn),
            ("&expires_in=-1", BadForm::ExpiresIn),
            ("&scope=cache:admin", BadForm::Scope),
            ("&scope=cache:write", BadForm::Scope),
            ("&scope=cache:read+cache:read+cache:write", BadForm::Scope),
        ] {
            assert_eq!(exchange(more).err(), Some(problem), "{more}");
        }
        let many = (0..40).fold(String::new(), |form, n| form + &format!("&p{n}=x"));
        assert_eq!(exchange(&many).err(), Some(BadForm::TooMany));
        for body in ["", "grant_type=password", "grant_type=&subject_token=x"] {
            assert!(
                ExchangeRequest::parse(FORM, body.as_bytes()).is_err(),
                "{body}"
            );
        }
        let json = ExchangeRequest::parse(Some(b"application/json"), b"{}");
        assert_eq!(json.err(), Some(BadForm::NotAForm));
        assert_eq!(revoked_token(None, b"token=x"), Err(BadForm::NotAForm));
    }

    #[test]
    fn what_a_request_may_leave_out_it_may_leave_empty() {
        let request = exchange("&scope=cache:read&expires_in=60&resource=&audience=").unwrap();
        assert_eq!(request.wish, Wish::Read);
        assert_eq!(
            (request.expires_in_secs, request.resource),
            (Some(60), None)
        );
        assert_eq!(
            revoked_token(FORM, b"token=lrd_x&token_type_hint=a"),
            Ok("lrd_x".to_owned())
        );
    }

    #[test]
    fn a_session_for_another_workspace_is_not_given() {
        let acme: WorkspaceName = "acme".parse().unwrap();
        for (resource, is_about) in [
            ("acme", true),
            ("https://cache.example.com", true),
            ("https://cache.example.com/base/w/acme", true),
            ("https://cache.example.com/w/acme/scope/x", true),
            ("https://cache.example.com/w/other", false),
            ("other", false),
        ] {
            let request = exchange(&format!("&resource={resource}")).unwrap();
            assert_eq!(request.is_about(&acme), is_about, "{resource}");
        }
    }

    #[test]
    fn a_wish_never_raises_what_a_rule_allows() {
        let scope = || "ci.main/pr-1".parse().unwrap();
        let all = [
            Access::Trusted,
            Access::CleanRoom,
            Access::Isolated { scope: scope() },
            Access::Gate { scope: scope() },
            Access::Reader,
            Access::Admin,
        ];
        let rights = |access: &Access| {
            let caller = Caller::Known(Principal::new(
                "acme".parse().unwrap(),
                access.clone(),
                WriterId(1),
            ));
            let reads = Policy::read(&caller, None).map(|grant| grant.path().scopes().collect());
            let reads: Vec<Scope> = reads.unwrap_or_default();
            (
                reads,
                Policy::write(&caller, None)
                    .ok()
                    .map(|grant| grant.scope().clone()),
            )
        };
        for access in all {
            assert_eq!(Wish::All.reduce(access.clone()), Some(access.clone()));
            let Some(reduced) = Wish::Read.reduce(access.clone()) else {
                assert!(
                    rights(&access).0.is_empty(),
                    "{access:?} reads, so it can be reduced to that"
                );
                continue;
            };
            let ((before, _), (after, writes)) = (rights(&access), rights(&reduced));
            assert_eq!(writes, None);
            assert!(
                after.iter().all(|scope| before.contains(scope)),
                "{access:?} became {reduced:?}"
            );
        }
    }

    #[test]
    fn a_session_does_not_show_its_token() {
        let rights = Rights::new(
            &"acme".parse().unwrap(),
            &Access::Reader,
            None,
            std::iter::empty(),
        );
        let response = TokenResponse::new("lrd_s_secret", 60, rights);
        assert!(!format!("{response:?}").contains("secret"));
    }
}
