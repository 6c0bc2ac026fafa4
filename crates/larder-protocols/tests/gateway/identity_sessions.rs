//! Sessions at the gateway: what ends them, and who waits for whom when many are asked for.

use std::future::{Future, ready};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use http::header::CONTENT_TYPE;
use larder_auth::ci::Rules;
use larder_auth::{CertificateRule, San, SessionSecret};
use larder_ledger::{NewSession, WriterFilter};
use larder_model::Access;
use larder_protocols::Identity;
use serde_json::{Value, json};

use crate::house::{Answer, Pieces, now_ms, tcp};
use crate::identity::{Ci, accepted, all, certified};
use crate::log;

const HOUR_MS: u64 = 3_600_000;

impl Ci {
    async fn post(&self, path: &str, form: &str) -> Answer {
        let request = Request::post(path)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Pieces::whole(form.as_bytes()));
        self.house.exchange(tcp(), request.unwrap()).await
    }

    async fn try_exchange(&self, jwt: &str) -> Answer {
        let form = format!(
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={jwt}\
             &subject_token_type=urn:ietf:params:oauth:token-type:jwt"
        );
        self.post("/v1/oauth/token", &form).await
    }

    /// A session for this JWT.
    async fn session(&self, jwt: &str) -> String {
        let answer = self.try_exchange(jwt).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer: Value = serde_json::from_str(answer.text()).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn revoke(&self, session: &str) -> u16 {
        let form = format!("token={session}");
        self.post("/v1/oauth/revoke", &form).await.status.as_u16()
    }

    /// Whether the ledger says that the session is in force.
    async fn is_in_force(&self, session: &str) -> bool {
        let hash = SessionSecret::parse(session).unwrap().hash();
        let row = self.house.ledger.session(&hash.0).await.unwrap();
        row.unwrap().revoked_at_ms.is_none()
    }
}

#[tokio::test]
async fn a_session_ends_when_its_rule_is_changed_or_taken_away_and_no_other_does() {
    let ci = Ci::new().await;
    let gateway = &ci.house.gateway;
    let trunk = ci.session(&ci.trunk()).await;
    gateway.set_identity(ci.trusting("refs/heads/main")).await;
    assert!(ci.is_in_force(&trunk).await, "the rule says what it said");
    gateway.set_identity(ci.trusting("refs/heads/dev")).await;
    assert!(!ci.is_in_force(&trunk).await);
    let pull_request = ci.session(&ci.pull_request(7)).await;
    let without_rules = Identity {
        rules: Rules::default(),
        ..ci.trusting("refs/heads/dev")
    };
    gateway.set_identity(without_rules).await;
    assert!(!ci.is_in_force(&pull_request).await);
}

#[tokio::test]
async fn sessions_of_a_rule_that_is_gone_end_as_soon_as_the_ledger_can_be_written() {
    let ci = Ci::new().await;
    let gateway = &ci.house.gateway;
    let trunk = ci.session(&ci.trunk()).await;
    ci.house
        .alter_ledger("ALTER TABLE sessions RENAME TO away")
        .await;
    gateway.set_identity(ci.trusting("refs/heads/dev")).await;
    ci.house
        .alter_ledger("ALTER TABLE away RENAME TO sessions")
        .await;
    assert!(ci.is_in_force(&trunk).await);
    gateway.settle().await;
    assert!(!ci.is_in_force(&trunk).await);
}

#[tokio::test]
async fn a_certificate_counts_on_while_the_ledger_is_away_and_a_new_one_once_it_is_back() {
    let ci = Ci::new().await;
    let gateway = &ci.house.gateway;
    let put = async |name, path| {
        let (origin, body) = (certified(name), Pieces::whole(b"x"));
        let answer = ci.house.send_from(origin, "PUT", path, &[], body).await;
        answer.status.as_u16()
    };
    assert_eq!(put("agent.example", "/v1/cache/1").await, 200);
    let mut both = ci.trusting("refs/heads/main");
    both.certificates.push(CertificateRule {
        name: "builders".to_owned(),
        san: San::dns("builder.example"),
        ..both.certificates[0].clone()
    });
    ci.house
        .alter_ledger("ALTER TABLE writers RENAME TO away")
        .await;
    gateway.set_identity(both).await;
    assert_eq!(put("agent.example", "/v1/cache/2").await, 200);
    assert_eq!(put("builder.example", "/v1/cache/3").await, 403);
    // A rule that is taken away does not wait for the ledger.
    gateway.set_identity(Identity::default()).await;
    assert_eq!(put("agent.example", "/v1/cache/4").await, 403);
    gateway.set_identity(ci.trusting("refs/heads/main")).await;
    assert_eq!(put("agent.example", "/v1/cache/5").await, 403);
    ci.house
        .alter_ledger("ALTER TABLE away RENAME TO writers")
        .await;
    gateway.settle().await;
    assert_eq!(put("agent.example", "/v1/cache/6").await, 200);
}

/// Begins it, as far as it comes without the ledger's answer.
async fn begin(whole: Pin<&mut impl Future>) {
    tokio::select! {
        biased;
        _ = whole => panic!("the ledger was not asked"),
        () = ready(()) => {}
    }
}

#[tokio::test]
async fn a_certificate_whose_rule_is_taken_away_is_nobodys_before_the_ledger_has_answered() {
    let ci = Ci::new().await;
    let put = async |path| {
        let (origin, body) = (certified("agent.example"), Pieces::whole(b"x"));
        let answer = ci.house.send_from(origin, "PUT", path, &[], body).await;
        answer.status.as_u16()
    };
    assert_eq!(put("/v1/cache/1").await, 200);
    let mut other = ci.trusting("refs/heads/main");
    other.certificates[0].san = San::dns("builder.example");
    let mut change = pin!(ci.house.gateway.set_identity(other));
    begin(change.as_mut()).await;
    assert_eq!(put("/v1/cache/2").await, 403);
    change.await;
}

#[tokio::test]
async fn nobody_gets_a_session_of_a_rule_that_was_taken_away_while_it_was_made() {
    let ci = Ci::new().await;
    let jwt = ci.trunk();
    let gateway = &ci.house.gateway;
    // Both go on at once: one may hold what the other needs of the ledger.
    let (answer, ()) = tokio::join!(
        biased;
        ci.try_exchange(&jwt),
        gateway.set_identity(ci.trusting("refs/heads/dev")),
    );
    assert_eq!(answer.status, 503);
    gateway.settle().await;
    let sessions = ci.house.ledger.sessions(0).await.unwrap();
    let in_force = sessions.iter().filter(|it| it.revoked_at_ms.is_none());
    assert_eq!(in_force.count(), 0, "nor does the ledger keep it");
}

#[tokio::test]
async fn renewing_certificates_forgets_no_jwt_and_other_workspaces_do() {
    let ci = Ci::new().await;
    let (jwt, gateway) = (ci.trunk(), &ci.house.gateway);
    let introduced = async || {
        log::keep();
        assert_eq!(ci.get(&jwt, "/v1/cache/1").await, 404);
        accepted(&log::kept())
    };
    assert_eq!(introduced().await, 1);
    gateway.renew_certificates().await;
    assert_eq!(introduced().await, 0);
    gateway.workspaces_changed().await;
    assert_eq!(introduced().await, 1);
}

/// What one pull request asks for at once.
const CROWD: u32 = 200;

#[tokio::test]
async fn trunk_gets_its_session_before_a_crowd_of_a_pull_request_that_came_first() {
    let ci = Ci::new().await;
    let jwts: Vec<String> = (0..CROWD)
        .map(|number| {
            ci.jwt(
                &json!({"event_name": "pull_request", "ref": "refs/pull/7/merge",
                "jti": number.to_string()}),
            )
        })
        .collect();
    // The crowd's writer is known: what it queues for is sessions.
    assert_eq!(ci.try_exchange(&ci.pull_request(7)).await.status, 200);
    let trunk = ci.trunk();
    let done = AtomicUsize::new(0);
    let exchange = async |jwt: &str| {
        let answer = ci.try_exchange(jwt).await;
        (answer.status.as_u16(), done.fetch_add(1, Ordering::SeqCst))
    };
    let (crowd, trunk) = tokio::join!(
        biased;
        all(jwts.iter().map(|jwt| exchange(jwt)).collect()),
        exchange(&trunk),
    );
    assert_eq!(trunk.0, 200);
    assert!(
        trunk.1 < 20,
        "trunk was number {} of {}",
        trunk.1,
        CROWD + 1
    );
    let given = crowd.iter().filter(|(status, _)| *status == 200);
    assert!(given.count() > 0, "the crowd is served as well");
}

#[tokio::test]
async fn a_session_that_another_server_gave_a_moment_ago_is_ended_and_guesses_are_not_looked_up() {
    let ci = Ci::new().await;
    ci.session(&ci.pull_request(7)).await;
    let everybody = WriterFilter::default();
    let writers = ci.house.ledger.writers(&everybody, 10).await.unwrap();
    let writer = writers[0].id;
    let elsewhere = async || {
        let secret = SessionSecret::generate();
        let session = NewSession {
            hash: secret.hash().0,
            writer,
            workspace: "acme".to_owned(),
            access: Access::Reader.kind().name().to_owned(),
            scope: None,
            rule_mark: None,
            created_at_ms: now_ms(),
            expires_at_ms: now_ms() + HOUR_MS,
            once: None,
            address: None,
        };
        ci.house.ledger.create_session(session).await.unwrap();
        secret.expose().to_owned()
    };
    let session = elsewhere().await;
    assert_eq!(ci.revoke(&session).await, 200);
    assert!(!ci.is_in_force(&session).await);
    // Whoever guesses is told the same, until it is too much.
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(ci.revoke(SessionSecret::generate().expose()).await);
    }
    assert_eq!(answers[..30], [200; 30]);
    assert_eq!(answers[30..], [503; 10]);
    let session = elsewhere().await;
    assert_eq!(
        ci.revoke(&session).await,
        503,
        "and is not told that it was done"
    );
    assert!(ci.is_in_force(&session).await);
}
