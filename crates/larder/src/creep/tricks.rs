//! Other ways to write a request, by which a pull request may reach what it may not write plainly.
//!
//! A server and the proxies in front of it read one request several times: as a path to route by, as a path to look up, as
//! headers that say who asks. Where two of them read differently there is a way around the rule.

use http::Method;
use larder_proto::reapi::digest_function;

use super::exchange::Key;

/// A request over HTTP that is written in its own way; the default is a plain `PUT`.
#[derive(Debug, Clone)]
pub(super) struct HttpTrick {
    pub(super) method: Method,
    /// With `{key}` for the key, and `{escaped}` for the key with its first digit percent-encoded.
    path: &'static str,
    /// Values may have `{key}`.
    pub(super) headers: Vec<(&'static str, &'static str)>,
    /// Send the token as the password of this user instead of as a bearer's.
    pub(super) basic_user: Option<&'static str>,
}

impl Default for HttpTrick {
    fn default() -> Self {
        Self {
            method: Method::PUT,
            path: "/v1/cache/{key}",
            headers: Vec::new(),
            basic_user: None,
        }
    }
}

impl HttpTrick {
    pub(super) fn path_of(&self, key: Key) -> String {
        let key = key.0.to_string();
        let (first, rest) = key.split_at(1);
        self.path
            .replace("{key}", &key)
            .replace("{escaped}", &format!("%3{first}{rest}"))
    }
}

/// A request of the Remote Execution API that is written in its own way.
#[derive(Debug, Clone)]
pub(super) enum ReapiTrick {
    /// With this instance name.
    Instance(String),
    /// With these headers.
    Headers(Vec<(&'static str, &'static str)>),
    /// With the hash in capitals.
    Capitals,
    /// With another size beside the hash.
    OtherSize,
    /// With this digest function beside the same hash.
    Function(digest_function::Value),
    /// As a `PUT` of `/ac/HASH` with this in front, which is how Bazel stores over HTTP.
    Http(String),
}

/// A way to write a request, and what it is called.
#[derive(Debug, Clone)]
pub(super) struct Trick {
    pub(super) id: String,
    pub(super) what: String,
    pub(super) how: How,
}

#[derive(Debug, Clone)]
pub(super) enum How {
    Nx(HttpTrick),
    Reapi(ReapiTrick),
}

/// Paths that some reader takes for `/v1/cache/{key}`.
const PATHS: [&str; 18] = [
    "//v1/cache/{key}",
    "/v1//cache/{key}",
    "/v1/cache//{key}",
    "/v1/cache/{key}/",
    "/./v1/cache/{key}",
    "/v1/x/../cache/{key}",
    "/v1/cache/%2e/{key}",
    "/v1/cache/x%2f..%2f{key}",
    "/v1/cache/..;/cache/{key}",
    "/v1/cache/{escaped}",
    "/v1/%63ache/{key}",
    "/v1/cache/{key}?scope=trusted",
    "/v1/cache/{key};scope=trusted",
    "/v1/cache/{key}%00",
    "/v1/cache/{key}%20",
    "/V1/Cache/{key}",
    "/v1\\cache\\{key}",
    "/v1/cache/{key}0/../{key}",
];

/// Prefixes by which a server could let a client choose where it writes.
const PREFIXES: [&str; 9] = [
    "/trusted/v1/cache/{key}",
    "/main/v1/cache/{key}",
    "/scope/trusted/v1/cache/{key}",
    "/scope/main/v1/cache/{key}",
    "/scope/../v1/cache/{key}",
    "/scope/%2e%2e/v1/cache/{key}",
    "/w/default/v1/cache/{key}",
    "/w/default/scope/trusted/v1/cache/{key}",
    "/x/scope/trusted/../../v1/cache/{key}",
];

/// Headers by which a client could say who it is, had a server believed it.
const CLAIMS: [(&str, &str); 12] = [
    ("x-forwarded-for", "127.0.0.1"),
    ("x-real-ip", "127.0.0.1"),
    ("x-forwarded-user", "trunk"),
    ("x-remote-user", "trunk"),
    ("x-scope", "trusted"),
    ("x-cache-scope", "trusted"),
    ("x-larder-scope", "trusted"),
    ("x-larder-access", "trusted"),
    ("x-branch", "main"),
    ("x-git-branch", "main"),
    ("x-git-ref", "refs/heads/main"),
    ("x-github-ref", "refs/heads/main"),
];

/// Headers by which some proxies and frameworks are told another path.
const OTHER_PATHS: [(&str, &str); 3] = [
    ("x-original-url", "/v1/cache/{key}"),
    ("x-rewrite-url", "/v1/cache/{key}"),
    ("x-forwarded-prefix", "/scope/trusted"),
];

/// Headers by which some frameworks are told another method.
const OTHER_METHODS: [(&str, &str); 3] = [
    ("x-http-method-override", "PUT"),
    ("x-http-method", "PUT"),
    ("x-method-override", "PUT"),
];

/// All ways to write a `PUT` for Nx.
pub(super) fn of_nx() -> Vec<Trick> {
    let trick = |what: &str, how: HttpTrick| Trick {
        id: format!("trick: {what}"),
        what: format!("as a pull request: {what}"),
        how: How::Nx(how),
    };
    let path = |path: &'static str| HttpTrick {
        path,
        ..HttpTrick::default()
    };
    let headers = |headers: &[(&'static str, &'static str)]| HttpTrick {
        headers: headers.to_vec(),
        ..HttpTrick::default()
    };
    let mut tricks: Vec<Trick> = PATHS
        .into_iter()
        .chain(PREFIXES)
        .map(|written| trick(&format!("PUT {written}"), path(written)))
        .collect();
    tricks.push(trick("headers that claim to be trunk", headers(&CLAIMS)));
    let mut elsewhere = headers(&OTHER_PATHS);
    elsewhere.path = "/v1/cache/{key}0";
    tricks.push(trick("headers that name the path", elsewhere));
    for user in ["trunk", "trusted", "main"] {
        let basic = HttpTrick {
            basic_user: Some(user),
            ..HttpTrick::default()
        };
        tricks.push(trick(&format!("the token as password of `{user}`"), basic));
    }
    for method in [Method::POST, Method::PATCH] {
        let plain = HttpTrick {
            method: method.clone(),
            ..HttpTrick::default()
        };
        tricks.push(trick(&format!("{method} /v1/cache/{{key}}"), plain));
    }
    for method in [Method::POST, Method::GET] {
        let mut overridden = headers(&OTHER_METHODS);
        overridden.method = method.clone();
        let what = format!("{method} with headers that say PUT");
        tricks.push(trick(&what, overridden));
    }
    tricks
}

/// All ways to write an `UpdateActionResult` for `instance`.
pub(super) fn of_reapi(instance: &str) -> Vec<Trick> {
    let trick = |what: String, how: ReapiTrick| Trick {
        id: format!("trick: {what}"),
        what: format!("as a pull request: {what}"),
        how: How::Reapi(how),
    };
    let mut names = [
        "",
        "main",
        "master",
        "trunk",
        "trusted",
        "default",
        "/",
        "scope/trusted",
        "scope/..",
        "w/default",
        "w/default/scope/trusted",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend([
        format!("/{instance}"),
        format!("{instance}/"),
        format!("./{instance}"),
        format!("x/../{instance}"),
        format!("{instance}/scope/trusted"),
        format!("{instance}/."),
        instance.to_uppercase(),
    ]);
    names.retain(|name| name != instance);
    names.sort();
    names.dedup();
    let mut tricks: Vec<Trick> = names
        .into_iter()
        .map(|name| {
            trick(
                format!("instance name {name:?}"),
                ReapiTrick::Instance(name),
            )
        })
        .collect();
    let fixed = [
        (
            "headers that claim to be trunk",
            ReapiTrick::Headers(CLAIMS.to_vec()),
        ),
        ("the hash in capitals", ReapiTrick::Capitals),
        ("another size beside the hash", ReapiTrick::OtherSize),
        (
            "the digest function said",
            ReapiTrick::Function(digest_function::Value::Sha256),
        ),
        (
            "another digest function said",
            ReapiTrick::Function(digest_function::Value::Blake3),
        ),
        ("PUT /ac/HASH over HTTP", ReapiTrick::Http(String::new())),
    ];
    tricks.extend(fixed.map(|(what, how)| trick(what.to_owned(), how)));
    if !instance.is_empty() {
        let what = format!("PUT /{instance}/ac/HASH over HTTP");
        tricks.push(trick(what, ReapiTrick::Http(format!("/{instance}"))));
    }
    tricks
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_trick_can_be_sent_and_has_a_name_of_its_own() {
        let tricks = [of_nx(), of_reapi(""), of_reapi("main"), of_reapi("a/b")];
        for tricks in tricks {
            let names: HashSet<&str> = tricks.iter().map(|trick| &*trick.id).collect();
            assert_eq!(names.len(), tricks.len());
            for trick in &tricks {
                if let How::Nx(how) = &trick.how {
                    let path = how.path_of(Key(1234));
                    let url: Result<http::Uri, _> = format!("http://cache.example{path}").parse();
                    assert!(url.is_ok(), "{path}");
                }
            }
        }
    }

    #[test]
    fn the_escaped_key_is_the_same_key() {
        let escaped = HttpTrick {
            path: "/v1/cache/{escaped}",
            ..HttpTrick::default()
        };
        assert_eq!(escaped.path_of(Key(9234)), "/v1/cache/%39234");
    }
}
