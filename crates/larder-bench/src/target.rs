//! A server to measure: where it is, what it speaks, who asks.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::ServerName;

use crate::error::BenchError;
use crate::socket::TlsClient;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// `/v1/cache/KEY`.
    Nx,
    /// The Remote Execution API over gRPC.
    Reapi,
    /// `/ac/HASH` and `/cas/HASH`, as Bazel's HTTP cache.
    ReapiHttp,
    /// A folder that takes `GET` and `PUT`: nginx, WebDAV.
    Files,
}

/// A credential. It can be sent and not be seen.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token that is the one line of `text`.
    pub fn parse(text: &str) -> Result<Self, BenchError> {
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why = "a token is one line of visible ASCII characters";
            return Err(BenchError::Usage(why.to_owned()));
        }
        Ok(Self(token.to_owned()))
    }

    /// The value of `authorization`.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// A server to measure.
#[derive(Debug, Clone)]
pub struct Target {
    pub(crate) url: String,
    pub(crate) protocol: Protocol,
    /// Host and port, as a connection wants them.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// In front of every HTTP path: empty, or `/…` without a slash at the end.
    pub(crate) prefix: String,
    /// The instance name, for gRPC.
    pub(crate) instance: String,
    pub(crate) token: Option<Token>,
    pub(crate) pid: Option<u32>,
    pub(crate) tls: Option<(Arc<TlsClient>, ServerName<'static>)>,
}

impl Target {
    /// A server by its URL: `http://` or `https://` with a path to put in front, `grpc://` or `grpcs://` with the instance name as
    /// its path. Without `protocol` the scheme decides between Nx and gRPC. `ca_pem` are authorities to believe beside the system's.
    pub fn parse(
        url: &str,
        protocol: Option<Protocol>,
        ca_pem: Option<&[u8]>,
    ) -> Result<Self, BenchError> {
        let usage = |why: &str| {
            BenchError::Usage(format!(
                "{why}: a cache's URL is SCHEME://HOST[:PORT][/PATH]"
            ))
        };
        let uri: Uri = url.parse().map_err(|_| usage("this is no URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(usage("no scheme or no host"));
        };
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(usage("a URL is no place for credentials or questions"));
        }
        let (speaks_grpc, has_tls) = match scheme {
            "http" => (false, false),
            "https" => (false, true),
            "grpc" => (true, false),
            "grpcs" => (true, true),
            _ => return Err(usage("the scheme is none of http, https, grpc and grpcs")),
        };
        let protocol = match (protocol, speaks_grpc) {
            (None | Some(Protocol::Reapi), true) => Protocol::Reapi,
            (None, false) => Protocol::Nx,
            (Some(asked), false) => asked,
            (Some(_), true) => return Err(usage("grpc:// is the Remote Execution API")),
        };
        let path = uri.path().trim_matches('/');
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let mut tls = None;
        if has_tls {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| usage("no certificate can name this host"))?;
            let client = TlsClient::new(ca_pem, protocol == Protocol::Reapi)?;
            tls = Some((client, name));
        }
        let is_grpc = protocol == Protocol::Reapi;
        Ok(Self {
            url: url.to_owned(),
            protocol,
            host,
            port: authority
                .port_u16()
                .unwrap_or(if has_tls { 443 } else { 80 }),
            prefix: match path {
                path if path.is_empty() || is_grpc => String::new(),
                path => format!("/{path}"),
            },
            instance: if is_grpc {
                path.to_owned()
            } else {
                String::new()
            },
            token: None,
            pid: None,
            tls,
        })
    }

    /// The same, with a token on every request.
    #[must_use]
    pub fn with_token(mut self, token: Option<Token>) -> Self {
        self.token = token;
        self
    }

    /// The same, with its process known, whose processor time and memory are then measured.
    #[must_use]
    pub fn with_pid(mut self, pid: Option<u32>) -> Self {
        self.pid = pid;
        self
    }

    /// As it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether requests carry a credential.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// `HOST:PORT`, as a `host` header has it.
    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            return format!("[{host}]:{port}");
        }
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, protocol: Option<Protocol>, expected: &str) {
        let target = Target::parse(url, protocol, None).unwrap();
        let Target {
            protocol,
            prefix,
            instance,
            ..
        } = &target;
        let authority = target.authority();
        assert_eq!(
            format!("{protocol:?} {authority} {prefix:?} {instance:?}"),
            expected
        );
    }

    #[test]
    fn a_url_says_where_and_what() {
        check("http://h:1/w/acme/", None, r#"Nx h:1 "/w/acme" """#);
        check("grpc://h:1", None, r#"Reapi h:1 "" """#);
        check(
            "grpc://[::1]:2/main/x",
            None,
            r#"Reapi [::1]:2 "" "main/x""#,
        );
        check("http://h", Some(Protocol::Files), r#"Files h:80 "" """#);
        check("https://h", Some(Protocol::Reapi), r#"Reapi h:443 "" """#);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for url in ["h:1", "ftp://h", "http://u:secret@h", "http://h?x", "/v1"] {
            let error = Target::parse(url, None, None).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(Target::parse("grpc://h", Some(Protocol::Nx), None).is_err());
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = Token::parse("lrd_visible_only_here\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert_eq!(token.header(), "Bearer lrd_visible_only_here");
        assert!(Token::parse("two words").is_err());
    }
}
