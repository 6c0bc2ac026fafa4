//! JWTs, sessions and certificates at the gateway: introduced once, soft where a build must go on, loud where one is forged.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Response, StatusCode};
use larder_auth::ci::{GitHub, Preset, Rule, Rules};
use larder_auth::{
    Algorithm, BadCredential, CertificateNames, CertificateRule, FetchedDocument, Issuer, Issuers,
    KeySource, San, SessionGrant, SessionSecret,
};
use larder_cache::{PoolHandle, PoolPair};
use larder_ledger::WriterFilter;
use larder_model::Access;
use larder_proto::reapi::{
    ActionResult, BatchUpdateBlobsResponse, GetCapabilitiesRequest, ServerCapabilities,
};
use larder_protocols::{Body, Identity, Origin, Peer};
use larder_store::{Pool, PoolOptions, RealDisk};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::house::{End, House, Pieces, bytes, later, now_ms, tcp};
use crate::log;
use crate::reapi::{Client, GET_CAPABILITIES, NOT_FOUND, PERMISSION_DENIED, digest};

pub(crate) const ISSUER: &str = "https://ci.example";
const AUDIENCE: &str = "https://cache.example";
const MINUTE_MS: u64 = 60_000;

/// A house that believes an issuer, and the issuer's key.
pub(crate) struct Ci {
    pub(crate) house: House,
    key: Ed25519KeyPair,
}

impl Ci {
    /// The issuer's key is known from the start.
    pub(crate) async fn new() -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        let keys = KeySource::Fixed(key_set(&key));
        Self::with(key, keys).await
    }

    async fn with(key: Ed25519KeyPair, keys: KeySource) -> Self {
        Self::within(House::new(), key, keys).await
    }

    async fn within(mut house: House, key: Ed25519KeyPair, keys: KeySource) -> Self {
        house.token("trunk", "acme", Access::Trusted);
        house.ledger.create_workspace("acme", 1).await.unwrap();
        let ci = Self { house, key };
        ci.believe(keys).await;
        ci
    }

    async fn believe(&self, keys: KeySource) {
        let identity = Self::identity(keys, "refs/heads/main");
        self.house.gateway.set_identity(identity).await;
    }

    /// The rule, with another trusted ref.
    pub(crate) fn trusting(&self, trusted_ref: &str) -> Identity {
        Self::identity(KeySource::Fixed(key_set(&self.key)), trusted_ref)
    }

    fn identity(keys: KeySource, trusted_ref: &str) -> Identity {
        let issuer = Issuer {
            algorithms: vec![Algorithm::EdDsa],
            keys,
            ..Issuer::new(ISSUER, AUDIENCE)
        };
        let rule = Rule {
            name: "web".parse().unwrap(),
            workspace: "acme".parse().unwrap(),
            issuer: ISSUER.to_owned(),
            preset: Preset::GitHub(GitHub {
                trusted_refs: vec![trusted_ref.parse().unwrap()],
                ..GitHub::new("1".to_owned(), "9".to_owned())
            }),
        };
        Identity {
            issuers: Arc::new(Issuers::new(vec![issuer]).unwrap()),
            rules: Rules::new(vec![rule]).unwrap(),
            certificates: vec![CertificateRule {
                name: "agents".to_owned(),
                workspace: "acme".parse().unwrap(),
                san: San::dns("agent.example"),
                access: Access::Trusted,
            }],
            ..Identity::default()
        }
    }

    /// A JWT of the issuer's for this job, good for an hour.
    pub(crate) fn jwt(&self, job: &Value) -> String {
        let now_s = now_ms() / 1000;
        let mut claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "iat": now_s,
            "exp": now_s + 3600, "repository_id": "1", "repository_owner_id": "9",
            "repository": "acme/web", "run_id": "5"});
        for (name, value) in job.as_object().unwrap() {
            claims[name] = value.clone();
        }
        signed(&self.key, &claims)
    }

    pub(crate) fn trunk(&self) -> String {
        self.jwt(&json!({"event_name": "push", "ref": "refs/heads/main", "ref_protected": "true"}))
    }

    pub(crate) fn pull_request(&self, number: u32) -> String {
        let git_ref = format!("refs/pull/{number}/merge");
        self.jwt(&json!({"event_name": "pull_request", "ref": git_ref}))
    }

    pub(crate) async fn get(&self, credential: &str, path: &str) -> u16 {
        let auth = [format!("Bearer {credential}")];
        let answer = self.house.send("GET", path, &auth, Pieces::whole(b""));
        answer.await.status.as_u16()
    }

    pub(crate) async fn put(&self, credential: &str, path: &str, body: Pieces) -> u16 {
        let auth = [format!("Bearer {credential}")];
        let answer = self.house.send("PUT", path, &auth, body);
        answer.await.status.as_u16()
    }

    async fn writers(&self) -> usize {
        let filter = WriterFilter {
            issuer: Some(ISSUER.to_owned()),
            ..WriterFilter::default()
        };
        self.house.ledger.writers(&filter, 100).await.unwrap().len()
    }

    /// A client of the Remote Execution API with this credential.
    fn client(&self, credential: &str) -> Client<'_> {
        Client::new(&self.house, Box::leak(format!("?{credential}").into()))
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn signed(key: &Ed25519KeyPair, claims: &Value) -> String {
    let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": "one"});
    let message = format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    );
    let signature = key.sign(message.as_bytes());
    format!("{message}.{}", encode(signature.as_ref()))
}

fn key_set(key: &Ed25519KeyPair) -> Vec<u8> {
    let x = encode(key.public_key().as_ref());
    let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x}]});
    keys.to_string().into_bytes()
}

pub(crate) fn accepted(lines: &[(tracing::Level, String)]) -> usize {
    let accepted = lines
        .iter()
        .filter(|(_, line)| line.contains("a CI token was accepted"));
    accepted.count()
}

#[tokio::test]
async fn a_job_of_trunk_writes_trusted_and_a_pull_request_its_own_scope() {
    let ci = Ci::new().await;
    let (trunk, pr7, pr8) = (ci.trunk(), ci.pull_request(7), ci.pull_request(8));
    let path = "/v1/cache/aaaa1111";
    assert_eq!(ci.put(&pr7, path, Pieces::whole(b"poison")).await, 200);
    assert_eq!(ci.get(&pr7, path).await, 200);
    assert_eq!(ci.get(&trunk, path).await, 404);
    assert_eq!(ci.get(&pr8, path).await, 404);
    assert_eq!(ci.put(&trunk, path, Pieces::whole(b"good")).await, 200);
    let auth = [format!("Bearer {pr7}")];
    let answer = ci.house.send("GET", path, &auth, Pieces::whole(b"")).await;
    assert_eq!(answer.brief(), (200, &b"good"[..]));
    assert_eq!(ci.writers().await, 3);
    // Another JWT of the same run is the same writer.
    let again =
        ci.jwt(&json!({"event_name": "pull_request", "ref": "refs/pull/7/merge", "jti": "2"}));
    assert_eq!(ci.get(&again, path).await, 200);
    assert_eq!(ci.writers().await, 3);
}

#[tokio::test]
async fn a_jwt_is_introduced_once_however_many_requests_come_with_it() {
    let key = Ed25519KeyPair::generate().unwrap();
    let url = "https://ci.example/keys".to_owned();
    let keys = key_set(&key);
    let ci = Ci::with(key, KeySource::Url(url)).await;
    let jwt = ci.trunk();
    log::keep();
    let gateway = &ci.house.gateway;
    let follow = async {
        gateway.keys_wanted().notified().await;
        // All of them wait by now.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let issuers = gateway.issuers();
        let fetch = issuers.due(now_ms()).pop().unwrap();
        let document = FetchedDocument {
            body: keys,
            max_age_s: None,
        };
        issuers.fetched(&fetch, Ok(document), now_ms()).unwrap();
        gateway.keys_arrived();
    };
    let get = || ci.get(&jwt, "/v1/cache/aaaa1111");
    let (first, second, third, fourth, ()) = tokio::join!(get(), get(), get(), get(), follow);
    assert_eq!([first, second, third, fourth], [404; 4]);
    assert_eq!(
        ci.put(&jwt, "/v1/cache/aaaa1111", Pieces::whole(b"x"))
            .await,
        200
    );
    assert_eq!(ci.get(&jwt, "/v1/cache/aaaa1111").await, 200);
    assert_eq!(accepted(&log::kept()), 1);
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_waited_for_once_and_are_a_miss() {
    let key = Ed25519KeyPair::generate().unwrap();
    let url = "https://ci.example/keys".to_owned();
    let ci = Ci::with(key, KeySource::Url(url)).await;
    let (jwt, path) = (ci.trunk(), "/v1/cache/aaaa1111");
    // Only now: the ledger has threads of its own, and timeouts.
    tokio::time::pause();
    let started = Instant::now();
    assert_eq!(ci.get(&jwt, path).await, 404);
    assert_eq!(started.elapsed().as_secs(), 3);
    assert_eq!(ci.put(&jwt, path, Pieces::whole(b"x")).await, 403);
    assert_eq!(ci.get(&jwt, path).await, 404);
    assert_eq!(started.elapsed().as_secs(), 3, "nobody waits again so soon");
    later(5_000);
    assert_eq!(ci.get(&jwt, path).await, 404);
    assert_eq!(started.elapsed().as_secs(), 6);
}

/// A credential that was good and is over is a miss in every protocol, and stores nothing.
async fn check_soft(ci: &Ci, credential: &str) {
    let (nx, hash) = ("/v1/cache/bbbb2222", "d".repeat(64));
    let put = |path: String| async move { ci.put(credential, &path, Pieces::whole(b"x")).await };
    assert_eq!(ci.get(credential, nx).await, 404);
    assert_eq!(put(nx.to_owned()).await, 403);
    for space in ["ac", "cas"] {
        let path = format!("/{space}/{hash}");
        assert_eq!(ci.get(credential, &path).await, 404, "{path}");
        assert_eq!(put(path).await, 403);
    }
    let client = ci.client(credential);
    let (blob, action) = (digest(b"x"), digest(b"an action"));
    let missing = client.missing(std::slice::from_ref(&blob)).await;
    assert_eq!(missing, std::slice::from_ref(&blob));
    assert_eq!(client.get_action(&action).await.code, NOT_FOUND);
    let result = ActionResult {
        exit_code: 1,
        ..ActionResult::default()
    };
    let updated = client.update_action(&action, &result).await;
    assert_eq!(updated.code, PERMISSION_DENIED);
    let stored = client.batch_update(&[(blob, b"x", 0)]).await;
    assert_eq!(stored.code, PERMISSION_DENIED);
    let request = GetCapabilitiesRequest::default();
    let reply = client.call(GET_CAPABILITIES, &request).await;
    let cache = reply.message::<ServerCapabilities>().cache_capabilities;
    let update = cache.unwrap().action_cache_update_capabilities.unwrap();
    assert!(!update.update_enabled);
}

#[tokio::test]
async fn a_jwt_that_is_over_is_soft_in_every_protocol_whether_it_was_known_or_not() {
    let ci = Ci::new().await;
    let (known, unknown) = (ci.trunk(), ci.pull_request(7));
    assert_eq!(
        ci.put(&known, "/v1/cache/bbbb2222", Pieces::whole(b"x"))
            .await,
        200
    );
    later(61 * MINUTE_MS);
    check_soft(&ci, &known).await;
    check_soft(&ci, &unknown).await;
}

#[tokio::test]
async fn a_session_that_is_over_or_ended_is_soft_in_every_protocol() {
    let ci = Ci::new().await;
    let [over, ended] = [MINUTE_MS, 60 * MINUTE_MS].map(|lasts_ms| {
        let secret = SessionSecret::generate();
        ci.house.authenticator.add_session(&SessionGrant {
            hash: secret.hash(),
            writer: 1,
            workspace: "acme".parse().unwrap(),
            access: Access::Trusted,
            expires_at_ms: now_ms() + lasts_ms,
            revoked: false,
        });
        secret
    });
    for session in [&over, &ended] {
        let path = "/v1/cache/bbbb2222";
        let stored = ci.put(session.expose(), path, Pieces::whole(b"x")).await;
        assert!(matches!(stored, 200 | 409));
    }
    later(MINUTE_MS);
    ci.house.authenticator.end_session(&ended.hash());
    check_soft(&ci, over.expose()).await;
    check_soft(&ci, ended.expose()).await;
    let stranger = SessionSecret::generate();
    assert_eq!(ci.get(stranger.expose(), "/v1/cache/bbbb2222").await, 401);
}

#[tokio::test]
async fn an_upload_may_take_longer_than_an_admission_but_not_than_its_jwt() {
    let ci = Ci::new().await;
    let slow = |minutes: u64| {
        let (pieces, _) = Pieces::new(&[b"begin", b"end"], Some(8), End::Clean);
        pieces.before_last(move || later(minutes * MINUTE_MS))
    };
    log::keep();
    let jwt = ci.trunk();
    assert_eq!(ci.put(&jwt, "/v1/cache/aaaa1111", slow(11)).await, 200);
    assert_eq!(accepted(&log::kept()), 2);
    assert_eq!(ci.get(&jwt, "/v1/cache/aaaa1111").await, 200);
    let jwt = ci.trunk();
    assert_eq!(ci.put(&jwt, "/v1/cache/cccc3333", slow(61)).await, 403);
    assert_eq!(ci.get(&ci.trunk(), "/v1/cache/cccc3333").await, 404);
}

/// Stores a batch that must wait this long for its pool.
async fn check_batch(minutes: u64, expected: Result<usize, u8>) {
    let pair = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    let key = Ed25519KeyPair::generate().unwrap();
    let keys = KeySource::Fixed(key_set(&key));
    let ci = Ci::within(House::over(pair.clone()), key, keys).await;
    let blobs: Vec<Vec<u8>> = (0..100).map(|seed| bytes(100, seed)).collect();
    let items: Vec<_> = blobs.iter().map(|it| (digest(it), &it[..], 0)).collect();
    let client = ci.client(&ci.trunk());
    assert_eq!(client.missing(&[]).await, [], "the JWT is introduced");
    let dir = tempfile::TempDir::new().unwrap();
    let waiting = async {
        later(minutes * MINUTE_MS);
        let options = PoolOptions {
            free_reserve_bytes: 0,
            ..PoolOptions::new(16 << 20)
        };
        let open = || Pool::open(Arc::new(RealDisk), dir.path(), options);
        pair.trusted.load(open);
    };
    log::keep();
    // The batch comes first as far as it can.
    let (reply, ()) = tokio::join!(biased; client.batch_update(&items), waiting);
    let stored = pair.trusted.pool().unwrap().usage().entries;
    match expected {
        Ok(introduced) => {
            let response: BatchUpdateBlobsResponse = reply.message();
            let verdicts = response.responses.iter();
            assert!(verdicts.flat_map(|it| &it.status).all(|it| it.code == 0));
            assert_eq!(stored, 100);
            assert_eq!(accepted(&log::kept()), introduced);
        }
        Err(code) => {
            assert_eq!((reply.code, stored), (code, 0));
        }
    }
}

#[tokio::test]
async fn a_batch_may_take_longer_than_an_admission_but_not_than_its_jwt() {
    check_batch(9, Ok(0)).await;
    check_batch(11, Ok(1)).await;
    check_batch(61, Err(PERMISSION_DENIED)).await;
}

#[tokio::test]
async fn a_genuine_jwt_that_no_rule_fits_reads_what_everybody_reads_and_nothing_else() {
    let mut ci = Ci::new().await;
    ci.house.token("open", "open", Access::Trusted);
    let path = "/v1/cache/aaaa1111";
    for token in ["open", "trunk"] {
        assert_eq!(ci.house.put(token, path, b"x").await.status, 200);
    }
    let fork = ci.jwt(&json!({"repository_id": "2", "event_name": "push"}));
    for (workspace, found) in [
        ("open", 200),
        ("acme", 404),
        ("default", 404),
        ("none", 404),
    ] {
        let path = format!("/w/{workspace}{path}");
        assert_eq!(ci.get(&fork, &path).await, found, "{path}");
        assert_eq!(
            ci.put(&fork, &path, Pieces::whole(b"y")).await,
            403,
            "{path}"
        );
    }
    // Whoever is somebody elsewhere is not everybody, as with a token.
    assert_eq!(ci.get(&ci.trunk(), &format!("/w/open{path}")).await, 404);
    assert_eq!(
        ci.house
            .get("trunk", &format!("/w/open{path}"))
            .await
            .status,
        404
    );
}

/// What a route that answers everybody makes of this credential.
async fn shown(ci: &Ci, credential: &str) -> u16 {
    let mut headers = HeaderMap::new();
    let bearer = format!("Bearer {credential}");
    headers.insert(AUTHORIZATION, bearer.parse().unwrap());
    let answer = |checked: Result<(), BadCredential>| {
        let mut response = Response::new(Body::empty());
        if checked.is_err() {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        response
    };
    let gateway = &ci.house.gateway;
    let answer = gateway.check_credential(&headers, &tcp(), answer);
    answer.await.status().as_u16()
}

#[tokio::test]
async fn routes_that_answer_everybody_show_a_forged_jwt_that_nobody_has_seen() {
    let ci = Ci::new().await;
    assert_eq!(shown(&ci, "a.b.c").await, 401);
    assert_eq!(shown(&ci, &ci.jwt(&json!({"aud": "other"}))).await, 401);
    let trunk = ci.trunk();
    assert_eq!(shown(&ci, &trunk).await, 200);
    assert_eq!(shown(&ci, &trunk).await, 200);
    assert_eq!(
        shown(&ci, &ci.jwt(&json!({"repository_id": "2"}))).await,
        200
    );
    later(61 * MINUTE_MS);
    assert_eq!(shown(&ci, &trunk).await, 200);
}

#[tokio::test]
async fn a_forged_jwt_is_loud_and_says_nothing_and_one_of_another_repository_is_nobody() {
    let ci = Ci::new().await;
    let stranger = Ed25519KeyPair::generate().unwrap();
    let now_s = now_ms() / 1000;
    let forged = signed(
        &stranger,
        &json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "iat": now_s, "exp": now_s + 60}),
    );
    let other = ci.jwt(&json!({"aud": "https://other.example"}));
    for bad in [forged.as_str(), other.as_str(), "a.b.c"] {
        let auth = [format!("Bearer {bad}")];
        let path = "/v1/cache/aaaa1111";
        let answer = ci.house.send("GET", path, &auth, Pieces::whole(b"")).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        assert!(answer.text().starts_with("this CI token was not accepted"));
        assert_eq!(ci.put(bad, path, Pieces::whole(b"x")).await, 401);
    }
    let fork = ci.jwt(&json!({"repository_id": "2", "event_name": "push"}));
    assert_eq!(ci.get(&fork, "/v1/cache/aaaa1111").await, 404);
    assert_eq!(
        ci.put(&fork, "/v1/cache/aaaa1111", Pieces::whole(b"x"))
            .await,
        403
    );
    assert_eq!(ci.writers().await, 0);
}

#[tokio::test]
async fn whatever_fails_at_an_address_a_genuine_jwt_of_it_is_as_good_as_before() {
    let ci = Ci::new().await;
    let (path, known) = ("/v1/cache/aaaa1111", ci.trunk());
    assert_eq!(ci.put(&known, path, Pieces::whole(b"x")).await, 200);
    let mut answers = Vec::new();
    for number in 0..40 {
        answers.push(ci.get(&format!("a.b.{number:04}"), path).await);
    }
    assert_eq!(answers, [401; 40]);
    assert_eq!(ci.get(&known, path).await, 200);
    assert_eq!(ci.house.get("trunk", path).await.status, 200);
    assert_eq!(ci.get(&ci.pull_request(7), path).await, 200);
    let new = ci.jwt(&json!({"event_name": "push", "ref": "refs/heads/main",
        "ref_protected": "true", "jti": "2"}));
    assert_eq!(
        ci.put(&new, "/v1/cache/bbbb2222", Pieces::whole(b"x"))
            .await,
        200
    );
}

/// The claims of a job of trunk, signed with a key that its issuer has not published.
fn unsigned(ci: &Ci, number: u32) -> String {
    let header = encode(json!({"alg": "EdDSA", "kid": "two"}).to_string());
    let jwt = ci.jwt(&json!({"jti": number.to_string()}));
    format!("{header}{}", &jwt[jwt.find('.').unwrap()..])
}

#[tokio::test]
async fn jwts_whose_key_nobody_has_are_misses_at_once_and_take_nobodys_place() {
    let key = Ed25519KeyPair::generate().unwrap();
    let (url, keys) = ("https://ci.example/keys".to_owned(), key_set(&key));
    let ci = Ci::with(key, KeySource::Url(url)).await;
    let issuers = ci.house.gateway.issuers();
    let fetch = issuers.due(now_ms()).pop().unwrap();
    let document = FetchedDocument {
        body: keys,
        max_age_s: None,
    };
    issuers.fetched(&fetch, Ok(document), now_ms()).unwrap();
    let (path, started) = ("/v1/cache/aaaa1111", Instant::now());
    let jwts: Vec<_> = (0..300).map(|number| unsigned(&ci, number)).collect();
    let (forged, trunk) = tokio::join!(
        biased;
        all(jwts.iter().map(|jwt| ci.get(jwt, path)).collect()),
        async { ci.put(&ci.trunk(), path, Pieces::whole(b"x")).await },
    );
    assert_eq!((forged, trunk), (vec![404; 300], 200));
    assert!(started.elapsed().as_secs() < 3, "nobody waits");
}

/// The outputs of futures that run at once.
pub(crate) async fn all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut under_way: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<T>> = under_way.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, output) in under_way.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        if outputs.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[tokio::test]
async fn what_may_be_the_fault_of_a_clock_or_of_old_keys_is_a_miss() {
    let ci = Ci::new().await;
    let now_s = now_ms() / 1000;
    for doubtful in [
        unsigned(&ci, 1),
        ci.jwt(&json!({"iat": now_s + 60})),
        ci.jwt(&json!({"nbf": now_s + 60})),
        ci.jwt(&json!({"exp": now_s + 48 * 3600})),
    ] {
        check_soft(&ci, &doubtful).await;
    }
}

#[tokio::test]
async fn a_jwt_that_no_rule_fits_is_nobodys_whatever_its_connections_certificate_is() {
    let ci = Ci::new().await;
    let fork = ci.jwt(&json!({"repository_id": "2", "event_name": "push"}));
    let path = "/v1/cache/aaaa1111";
    for (credential, stored) in [(fork.as_str(), 403), ("a.b.c", 401), ("", 200)] {
        let (origin, auth) = (certified("agent.example"), [format!("Bearer {credential}")]);
        let body = Pieces::whole(b"x");
        let answer = ci.house.send_from(origin, "PUT", path, &auth, body).await;
        assert_eq!(answer.status.as_u16(), stored, "{credential}");
    }
}

#[tokio::test]
async fn new_rules_count_for_jwts_that_were_known() {
    let ci = Ci::new().await;
    let (jwt, path) = (ci.trunk(), "/v1/cache/aaaa1111");
    assert_eq!(ci.put(&jwt, path, Pieces::whole(b"x")).await, 200);
    ci.house.gateway.set_identity(Identity::default()).await;
    assert_eq!(ci.get(&jwt, path).await, 404);
    ci.believe(KeySource::Fixed(key_set(&ci.key))).await;
    assert_eq!(ci.get(&jwt, path).await, 200);
}

#[tokio::test]
async fn a_jwt_of_an_issuer_that_nobody_configured_reads_what_everybody_reads_and_stops_no_build() {
    let mut ci = Ci::new().await;
    ci.house.token("open", "open", Access::Trusted);
    let path = "/v1/cache/aaaa1111";
    assert_eq!(ci.house.put("open", path, b"x").await.status, 200);
    let stranger = ci.jwt(&json!({"iss": "https://other.example"}));
    assert_eq!(ci.get(&stranger, path).await, 404);
    assert_eq!(ci.put(&stranger, path, Pieces::whole(b"y")).await, 403);
    assert_eq!(ci.get(&stranger, &format!("/w/open{path}")).await, 200);
    // Nor is it whoever's connection it comes over.
    let (origin, auth) = (certified("agent.example"), [format!("Bearer {stranger}")]);
    let body = Pieces::whole(b"x");
    let answer = ci.house.send_from(origin, "PUT", path, &auth, body).await;
    assert_eq!(answer.status, 403);
    assert_eq!(ci.get("a.b.c", path).await, 401, "what is no JWT is loud");
}

/// A connection of the bearer of a certificate with this name.
pub(crate) fn certified(name: &str) -> Origin {
    Origin::Tcp(Arc::new(Peer {
        address: "192.0.2.9".parse().unwrap(),
        encrypted: true,
        certificate: Some(CertificateNames {
            subject_alternative_names: vec![San::dns(name)],
            not_after_ms: u64::MAX,
        }),
    }))
}

#[tokio::test]
async fn a_certificate_that_a_rule_maps_is_a_credential_of_its_connection() {
    let ci = Ci::new().await;
    let path = "/v1/cache/aaaa1111";
    for (origin, stored) in [
        (certified("agent.example"), 200),
        (certified("other.example"), 403),
        (tcp(), 403),
    ] {
        let body = Pieces::whole(b"x");
        let answer = ci.house.send_from(origin, "PUT", path, &[], body).await;
        assert_eq!(answer.status.as_u16(), stored);
    }
    assert_eq!(ci.house.get("trunk", path).await.status, 200);
}

#[tokio::test]
async fn a_certificate_is_good_for_as_long_as_its_workspace_is_there() {
    let ci = Ci::new().await;
    let (gateway, ledger) = (&ci.house.gateway, &ci.house.ledger);
    let put = async |path| {
        let (origin, body) = (certified("agent.example"), Pieces::whole(b"x"));
        let answer = ci.house.send_from(origin, "PUT", path, &[], body).await;
        answer.status.as_u16()
    };
    assert_eq!(put("/v1/cache/1").await, 200);
    ledger.delete_workspace("acme", 2).await.unwrap();
    gateway.workspaces_changed().await;
    assert_eq!(put("/v1/cache/2").await, 403);
    ledger.create_workspace("acme", 3).await.unwrap();
    gateway.workspaces_changed().await;
    assert_eq!(put("/v1/cache/3").await, 200);
    let writers = ledger.writers(&WriterFilter::default(), 100).await;
    assert_eq!(writers.unwrap().len(), 1, "the same writer as before");
}
