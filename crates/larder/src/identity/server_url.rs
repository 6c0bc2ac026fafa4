//! The address of a Larder server, as people and tools write it.

use std::fmt;

use http::Uri;

/// A server's address without a slash at the end: `https://cache.example.com/base`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    tls: bool,
    /// Host and port.
    authority: String,
    /// Empty, or a path that starts and does not end with `/`.
    base_path: String,
    /// What the address says besides, for Nx: `/w/WORKSPACE/scope/LABEL`.
    place: String,
}

impl ServerUrl {
    /// Reads an address. Those of gRPC clients and those with Nx's workspace and scope are the same server's.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "\"{}\" is not a server's address; write one like \"https://cache.example.com\"",
                text.escape_debug()
            )
        };
        let uri: Uri = text.trim().parse().map_err(|_| fault())?;
        let tls = match uri.scheme_str() {
            Some("https" | "grpcs") => true,
            Some("http" | "grpc") => false,
            _ => return Err(fault()),
        };
        let authority = uri.authority().ok_or_else(fault)?.as_str();
        if authority.contains('@') || uri.query().is_some() {
            return Err(fault());
        }
        let segments: Vec<&str> = uri
            .path()
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        let before_scope = match segments[..] {
            [.., "scope", _] => segments.len() - 2,
            _ => segments.len(),
        };
        let end = match segments[..before_scope] {
            [.., "w", _] => before_scope - 2,
            _ => before_scope,
        };
        let joined = |parts: &[&str]| {
            let with_slash = |path: String, part: &&str| path + "/" + part;
            parts.iter().fold(String::new(), with_slash)
        };
        Ok(Self {
            tls,
            authority: authority.to_ascii_lowercase(),
            base_path: joined(&segments[..end]),
            place: joined(&segments[end..]),
        })
    }

    /// The address of `path` on the server.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// What Nx is told.
    pub(crate) fn for_nx(&self) -> String {
        format!("{self}{}", self.place)
    }

    /// What gRPC clients are told.
    pub(crate) fn for_grpc(&self) -> String {
        let scheme = if self.tls { "grpcs" } else { "grpc" };
        format!("{scheme}://{}", self.authority)
    }

    /// Whether secrets cross the network readably, and that network is not this machine.
    pub(crate) fn is_plain_and_remote(&self) -> bool {
        let (host, _) = self.host_and_port();
        let loopback = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        !self.tls && host != "localhost" && !loopback.is_ok_and(|address| address.is_loopback())
    }

    /// Whether a request to `uri` goes to this server: the same host and the same port, and encrypted if the server's address is.
    /// An unencrypted one may be called https: gRPC's library for Java writes so whatever it does.
    pub(crate) fn is_of(&self, uri: &Uri) -> bool {
        let Some(host) = uri.host() else {
            return false;
        };
        let port = uri.port_u16().or(match uri.scheme_str() {
            Some("https" | "grpcs") => Some(443),
            Some("http" | "grpc") => Some(80),
            _ => None,
        });
        if self.tls && !matches!(uri.scheme_str(), Some("https" | "grpcs")) {
            return false;
        }
        let (own, own_port) = self.host_and_port();
        host.eq_ignore_ascii_case(own) && port == Some(own_port)
    }

    fn host_and_port(&self) -> (&str, u16) {
        let default = if self.tls { 443 } else { 80 };
        match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(default)),
            _ => (&self.authority, default),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.base_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tools_way_to_write_a_server_is_the_same_server() {
        for (written, server, nx) in [
            (
                "https://c.example",
                "https://c.example",
                "https://c.example",
            ),
            (
                "https://C.example/",
                "https://c.example",
                "https://c.example",
            ),
            (
                "grpcs://c.example:9443",
                "https://c.example:9443",
                "https://c.example:9443",
            ),
            (
                "grpc://127.0.0.1:9092",
                "http://127.0.0.1:9092",
                "http://127.0.0.1:9092",
            ),
            (
                "http://c.example/base//w/acme/scope/pr-1/",
                "http://c.example/base",
                "http://c.example/base/w/acme/scope/pr-1",
            ),
            (
                "http://c.example/w/acme",
                "http://c.example",
                "http://c.example/w/acme",
            ),
            (
                "http://c.example/w",
                "http://c.example/w",
                "http://c.example/w",
            ),
            (
                "http://c.example/scope",
                "http://c.example/scope",
                "http://c.example/scope",
            ),
            (
                "http://c.example/scope/x",
                "http://c.example",
                "http://c.example/scope/x",
            ),
        ] {
            let url = ServerUrl::parse(written).unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.for_nx().as_str()),
                (server, nx),
                "{written}"
            );
        }
        for none in [
            "",
            "c.example",
            "ftp://c.example",
            "http://u:p@c.example",
            "http://c.example/?x=1",
        ] {
            assert!(ServerUrl::parse(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_request_elsewhere_is_not_one_to_the_server() {
        let check = |server: &str, uri: &str, expected: bool| {
            let server = ServerUrl::parse(server).unwrap();
            assert_eq!(
                server.is_of(&uri.parse().unwrap()),
                expected,
                "{server} {uri}"
            );
        };
        check("https://c.example", "https://c.example/x.Y/Z", true);
        check("https://c.example:443", "https://C.EXAMPLE/", true);
        check("http://127.0.0.1:9092", "https://127.0.0.1:9092/", true);
        check("http://[::1]:9092", "http://[::1]:9092/", true);
        check("https://c.example", "https://c.example:8443/", false);
        check(
            "https://c.example",
            "https://c.example.evil.example/",
            false,
        );
        check("https://c.example", "https://evil.example/c.example", false);
        check("https://c.example", "http://c.example/", false);
        check("https://c.example", "http://c.example:443/", false);
        check("https://c.example", "grpc://c.example:443", false);
        check("https://c.example", "grpcs://c.example", true);
    }

    #[test]
    fn plain_http_to_another_machine_is_noticed() {
        let check = |server: &str, expected: bool| {
            let server = ServerUrl::parse(server).unwrap();
            assert_eq!(server.is_plain_and_remote(), expected, "{server}");
        };
        check("http://c.example", true);
        check("http://10.0.0.1:9092", true);
        check("http://127.0.0.1:9092", false);
        check("http://[::1]:9092", false);
        check("http://localhost", false);
        check("https://c.example", false);
    }
}
