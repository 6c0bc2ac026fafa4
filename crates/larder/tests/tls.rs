//! TLS against the running program: handshakes, certificates that change, clients with certificates, and what is no TLS at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder_testkit::http::{Connection, Request, exchange, exchange_tls};
use larder_testkit::tls::{Authority, Client, Identity, Name, SERVER_NAME, der};
use larder_testkit::{Access, Server, ServerOptions, TlsOptions, larder_binary, process};
use rustls_pki_types::ServerName;

const SOON: Duration = Duration::from_secs(20);

fn options(tls: TlsOptions) -> ServerOptions {
    ServerOptions {
        tls: Some(tls),
        ..ServerOptions::default()
    }
}

fn try_start(options: ServerOptions) -> anyhow::Result<Server> {
    Server::start_with(larder_binary(env!("CARGO_BIN_EXE_larder")), options)
}

/// A server with a certificate of `authority`.
fn start(authority: &Authority) -> Server {
    let identity = authority.server().unwrap();
    try_start(options(TlsOptions::new(identity))).unwrap()
}

/// One that asks clients for a certificate of `authority` as well.
fn start_asking(authority: &Authority, mode: &'static str) -> Server {
    try_start(options(asking(authority, mode))).unwrap()
}

fn asking(authority: &Authority, mode: &'static str) -> TlsOptions {
    TlsOptions {
        client_ca: Some(authority.certificate()),
        client_certificates: Some(mode),
        ..TlsOptions::new(authority.server().unwrap())
    }
}

fn serves(server: &Server, client: &Client) -> anyhow::Result<()> {
    let answer = exchange_tls(server.tls_address(), client, &Request::get("/healthz"))?;
    anyhow::ensure!(answer.status == 200, "{}", answer.status);
    Ok(())
}

fn metric(server: &Server, name: &str) -> f64 {
    let metrics = exchange(server.address(), &Request::get("/metrics")).unwrap();
    let text = metrics.text();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn both_ports_serve_the_same_cache() {
    let authority = Authority::create().unwrap();
    let server = start(&authority);
    let client = Client::new(&authority, None).unwrap();
    let token = server.token(Access::Trusted, None).unwrap();
    let body = vec![7; 3 << 20];
    let put = Request::put("/v1/cache/1", body.clone()).bearer(&token);
    let stored = exchange_tls(server.tls_address(), &client, &put).unwrap();
    assert_eq!(stored.status, 200);
    let get = Request::get("/v1/cache/1").bearer(&token);
    assert!(exchange(server.address(), &get).unwrap().body == body);
    let mut connection = Connection::open_tls(server.tls_address(), &client).unwrap();
    for _ in 0..3 {
        assert!(connection.exchange(&get).unwrap().body == body);
    }
}

#[test]
fn a_server_can_do_without_plain_http() {
    let authority = Authority::create().unwrap();
    let options = ServerOptions {
        only_tls: true,
        ..options(TlsOptions::new(authority.server().unwrap()))
    };
    let server = try_start(options).unwrap();
    let output = server.output();
    assert!(!output.contains("http://"), "{output}");
    assert!(
        output.contains("grpcs://"),
        "the newcomer is told: {output}"
    );
    serves(&server, &Client::new(&authority, None).unwrap()).unwrap();
}

/// The handshakes of two connections, one after the other, in each version of TLS.
#[track_caller]
fn check_handshakes(
    server: &Server,
    authority: &Authority,
    identity: Option<&Identity>,
    expected: [rustls::HandshakeKind; 2],
) {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Client::with(authority, identity, &[b"http/1.1"], &[version]).unwrap();
        let kinds: Vec<_> = (0..2)
            .map(|_| {
                let mut connection = Connection::open_tls(server.tls_address(), &client).unwrap();
                connection.exchange(&Request::get("/healthz")).unwrap();
                connection.tls().unwrap().tls().handshake_kind().unwrap()
            })
            .collect();
        assert_eq!(kinds, expected, "{version:?}");
    }
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_sessions_are_resumed() {
    let authority = Authority::create().unwrap();
    let server = start(&authority);
    let expected = [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed];
    check_handshakes(&server, &authority, None, expected);
}

#[test]
fn where_clients_have_certificates_each_connection_is_verified_anew() {
    let authority = Authority::create().unwrap();
    let server = start_asking(&authority, "optional");
    let identity = authority.client("job", &[]).unwrap();
    for identity in [Some(&identity), None] {
        let expected = [rustls::HandshakeKind::Full; 2];
        check_handshakes(&server, &authority, identity, expected);
    }
}

#[tokio::test]
async fn http2_is_chosen_by_alpn() {
    let authority = Authority::create().unwrap();
    let server = start(&authority);
    let token = server.token(Access::Trusted, None).unwrap();
    let large = vec![3; 5 << 20];
    let put = Request::put("/v1/cache/1", large.clone()).bearer(&token);
    assert_eq!(exchange(server.address(), &put).unwrap().status, 200);

    let offered: [&[u8]; 2] = [b"h2", b"http/1.1"];
    let client = Client::with(&authority, None, &offered, rustls::ALL_VERSIONS).unwrap();
    let socket = tokio::net::TcpStream::connect(server.tls_address())
        .await
        .unwrap();
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let connector = tokio_rustls::TlsConnector::from(client.config());
    let stream = connector.connect(name, socket).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    // What is held back for one write must not be forgotten in the buffer of TLS.
    for _ in 0..5 {
        let request = http::Request::get(format!("{}/v1/cache/1", server.tls_url()))
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let answer = tokio::time::timeout(SOON, sender.send_request(request));
        let answer = answer.await.unwrap().unwrap();
        let body = tokio::time::timeout(SOON, answer.into_body().collect());
        assert!(body.await.unwrap().unwrap().to_bytes() == large);
    }
}

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let authority = Authority::create().unwrap();
    let server = start(&authority);
    let request = Request::put("/v1/cache/1", vec![1; 100_000]).bearer("lrd_secret");
    let answer = exchange(server.tls_address(), &request).unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.text(), "this port speaks TLS\n");
    process::wait_until("the failure to be counted", SOON, || {
        Ok((metric(&server, "larder_tls_handshake_failures_total") >= 1.0).then_some(()))
    })
    .unwrap();
    assert!(!server.output().contains("lrd_secret"));
}

#[test]
fn tls_on_the_plain_port_is_closed() {
    let authority = Authority::create().unwrap();
    let options = ServerOptions {
        environment: vec![("LARDER_LOG_LEVEL".to_owned(), "debug".to_owned())],
        ..options(TlsOptions::new(authority.server().unwrap()))
    };
    let server = try_start(options).unwrap();
    let client = Client::new(&authority, None).unwrap();
    assert!(client.connect(server.address()).is_err());
    server
        .wait_for_output("the client speaks TLS and this port does not", SOON)
        .unwrap();
}

#[test]
fn a_handshake_that_stalls_is_cut_off_and_holds_up_nobody() {
    let authority = Authority::create().unwrap();
    let options = ServerOptions {
        config: Some("[limits]\nheader_timeout = \"500ms\"\nconnections_max = 40\n".to_owned()),
        ..options(TlsOptions::new(authority.server().unwrap()))
    };
    let server = try_start(options).unwrap();
    let mut stalled: Vec<Connection> = (0..30)
        .map(|number| {
            let mut connection = Connection::open(server.tls_address()).unwrap();
            // The head of a record that never comes, or nothing.
            let begun: &[u8] = if number % 2 == 0 {
                &[22, 3, 1, 2, 0, 1]
            } else {
                &[]
            };
            connection.send(begun).unwrap();
            connection
        })
        .collect();
    serves(&server, &Client::new(&authority, None).unwrap()).unwrap();
    for connection in &mut stalled {
        assert!(connection.closes_within(SOON).unwrap());
    }
}

#[test]
fn connections_that_come_to_no_request_make_room_for_others() {
    let authority = Authority::create().unwrap();
    // Nothing, or the head of a record that never comes.
    for begun in [&[][..], &[22, 3, 1, 2, 0, 1]] {
        let limits = "[limits]\nconnections_max = 10\nheader_timeout = \"10m\"\n";
        let options = ServerOptions {
            config: Some(limits.to_owned()),
            ..options(TlsOptions::new(authority.server().unwrap()))
        };
        let server = try_start(options).unwrap();
        let waiting: Vec<Connection> = (0..30)
            .map(|_| {
                let mut connection = Connection::open(server.tls_address()).unwrap();
                connection.send(begun).unwrap();
                connection
            })
            .collect();
        serves(&server, &Client::new(&authority, None).unwrap()).unwrap();
        drop(waiting);
    }
}

#[test]
fn what_is_no_handshake_is_refused() {
    let authority = Authority::create().unwrap();
    let server = start(&authority);
    let record = |kind: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 3, 1][..], &length, body].concat()
    };
    let hello_of_tls_1_0 = [
        &[1, 0, 0, 43, 3, 1][..],
        &[7; 32],
        &[0, 0, 2, 0, 47, 1, 0, 0, 0],
    ]
    .concat();
    for garbage in [
        record(22, &hello_of_tls_1_0),
        record(22, &[0xff; 300]),
        record(23, b"application data first"),
        record(21, &[2, 80]),
        vec![0x80, 0x2e, 1, 0, 2],
        vec![0; 70_000],
        vec![22; 70_000],
    ] {
        let mut connection = Connection::open(server.tls_address()).unwrap();
        // It may be refused before all is sent.
        let _ = connection.send(&garbage);
        let mut answer = Vec::new();
        let _ = connection.finish_sending();
        assert!(
            connection.read_to_close(&mut answer, SOON).unwrap(),
            "{garbage:?} keeps a connection open"
        );
        // An alert (21), or nothing.
        assert!(answer.first().is_none_or(|kind| *kind == 21), "{answer:?}");
    }
    serves(&server, &Client::new(&authority, None).unwrap()).unwrap();
}

#[test]
fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let authority = Authority::create().unwrap();
    let (in_use, renewed) = (authority.server().unwrap(), authority.server().unwrap());
    let (first, second) = (
        der(&in_use.certificate).unwrap(),
        der(&renewed.certificate).unwrap(),
    );
    let server = try_start(options(TlsOptions::new(in_use.clone()))).unwrap();
    let client = Client::new(&authority, None).unwrap();
    let mut old = Connection::open_tls(server.tls_address(), &client).unwrap();
    assert_eq!(old.tls().unwrap().server_certificate().unwrap(), first);

    renewed.replace(&in_use).unwrap();
    server.reload().unwrap();
    server
        .wait_for_output("the TLS certificate was read again", SOON)
        .unwrap();
    // A client that has never been here, so that nothing is resumed.
    let fresh = Client::new(&authority, None).unwrap();
    let new = Connection::open_tls(server.tls_address(), &fresh).unwrap();
    assert_eq!(new.tls().unwrap().server_certificate().unwrap(), second);
    let answer = old.exchange(&Request::get("/healthz")).unwrap();
    assert_eq!(answer.status, 200, "the old connection goes on");
}

#[test]
fn a_broken_renewal_changes_nothing() {
    let authority = Authority::create().unwrap();
    let in_use = authority.server().unwrap();
    let first = der(&in_use.certificate).unwrap();
    let server = try_start(options(TlsOptions::new(in_use.clone()))).unwrap();
    for broken in ["no certificate", ""] {
        fs::write(&in_use.certificate, broken).unwrap();
        let errors = server.output().matches("stays as it was").count();
        server.reload().unwrap();
        process::wait_until("the error", SOON, || {
            let now = server.output().matches("stays as it was").count();
            Ok((now > errors).then_some(()))
        })
        .unwrap();
        let client = Client::new(&authority, None).unwrap();
        let connection = Connection::open_tls(server.tls_address(), &client).unwrap();
        let shown = connection.tls().unwrap().server_certificate().unwrap();
        assert_eq!(shown, first);
    }
}

#[test]
fn a_certificate_that_ends_soon_is_in_the_log_and_in_the_metrics() {
    let authority = Authority::create().unwrap();
    let ten_days = Duration::from_hours(24 * 10 + 12);
    let identity = authority.server_for(ten_days).unwrap();
    let server = try_start(options(TlsOptions::new(identity))).unwrap();
    server.wait_for_output("expires in 10 days", SOON).unwrap();
    let expiry = metric(&server, "larder_tls_certificate_expiry_seconds");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    let left_days = (expiry - now) / 86_400.0;
    assert!((10.4..10.6).contains(&left_days), "{left_days} days");

    let lasting = start(&authority);
    assert!(
        !lasting.output().contains("expires"),
        "{}",
        lasting.output()
    );
}

/// What the program says when it does not start with this.
#[track_caller]
fn check_refusal(tls: TlsOptions, expected: &[&str]) {
    let error = format!("{:#}", try_start(options(tls)).unwrap_err());
    for part in expected {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_to_do() {
    let authority = Authority::create().unwrap();
    let (one, other) = (authority.server().unwrap(), authority.server().unwrap());
    let changed = |change: &dyn Fn(&mut Identity)| {
        let mut identity = one.clone();
        change(&mut identity);
        TlsOptions::new(identity)
    };
    let path = |name: &str, text: &str| {
        let path = authority.folder().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let shown = |path: &std::path::Path| path.display().to_string();
    let missing = authority.folder().join("missing.pem");
    let empty = path("empty.pem", "");
    let locked = path(
        "locked.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    check_refusal(
        changed(&|identity| identity.certificate.clone_from(&missing)),
        &[
            "cannot read tls.certificate",
            &shown(&missing),
            "No such file",
        ],
    );
    check_refusal(
        changed(&|identity| identity.certificate.clone_from(&empty)),
        &[
            "tls.certificate",
            "holds no certificate",
            "BEGIN CERTIFICATE",
        ],
    );
    check_refusal(
        changed(&|identity| identity.key.clone_from(&empty)),
        &["tls.key", "holds no private key"],
    );
    check_refusal(
        changed(&|identity| identity.key.clone_from(&locked)),
        &["has a passphrase", "openssl pkey"],
    );
    check_refusal(
        changed(&|identity| identity.key.clone_from(&other.key)),
        &[
            "is not the key of the first certificate",
            &shown(&other.key),
        ],
    );
    check_refusal(
        TlsOptions {
            client_ca: Some(empty.clone()),
            ..TlsOptions::new(one.clone())
        },
        &["tls.client_ca", "holds no certificate"],
    );
    check_refusal(
        TlsOptions {
            client_crl: Some(empty),
            ..asking(&authority, "optional")
        },
        &["tls.client_crl", "holds no list"],
    );
    check_refusal(
        TlsOptions {
            client_certificates: Some("required"),
            ..TlsOptions::new(one.clone())
        },
        &["client_ca is missing"],
    );
}

#[test]
fn a_key_that_everybody_can_read_is_a_warning() {
    let authority = Authority::create().unwrap();
    let identity = authority.server().unwrap();
    fs::set_permissions(&identity.key, fs::Permissions::from_mode(0o644)).unwrap();
    let server = try_start(options(TlsOptions::new(identity))).unwrap();
    server
        .wait_for_output("every user of this machine can read tls.key", SOON)
        .unwrap();
}

#[test]
fn a_required_certificate_must_be_the_authoritys_and_in_force() {
    let (ours, theirs) = (Authority::create().unwrap(), Authority::create().unwrap());
    let server = start_asking(&ours, "required");
    let good = ours
        .client("job", &[Name::Uri("spiffe://acme/ci".into())])
        .unwrap();
    let foreign = theirs
        .client("job", &[Name::Uri("spiffe://acme/ci".into())])
        .unwrap();
    let of_server = ours.server().unwrap();
    serves(&server, &Client::new(&ours, Some(&good)).unwrap()).unwrap();
    for (bad, why) in [
        (None, "none at all"),
        (Some(&foreign), "another authority's"),
        (Some(&of_server), "not made for clients"),
    ] {
        let client = Client::new(&ours, bad).unwrap();
        assert!(serves(&server, &client).is_err(), "{why} was let in");
    }
    process::wait_until("the failures to be counted", SOON, || {
        Ok((metric(&server, "larder_tls_handshake_failures_total") >= 3.0).then_some(()))
    })
    .unwrap();
}

#[test]
fn an_optional_certificate_may_be_missing_but_not_wrong() {
    let (ours, theirs) = (Authority::create().unwrap(), Authority::create().unwrap());
    let server = start_asking(&ours, "optional");
    serves(&server, &Client::new(&ours, None).unwrap()).unwrap();
    let foreign = theirs.client("job", &[]).unwrap();
    assert!(serves(&server, &Client::new(&ours, Some(&foreign)).unwrap()).is_err());
}

#[test]
fn a_revoked_certificate_is_refused_as_soon_as_the_list_is_read() {
    let authority = Authority::create().unwrap();
    let (good, bad) = (
        authority.client("good", &[]).unwrap(),
        authority.client("bad", &[]).unwrap(),
    );
    let list = authority.folder().join("crl.pem");
    fs::write(&list, authority.revocations(&[]).unwrap()).unwrap();
    let server = try_start(options(TlsOptions {
        client_crl: Some(list.clone()),
        ..asking(&authority, "required")
    }))
    .unwrap();
    let good = Client::new(&authority, Some(&good)).unwrap();
    let with_bad = Client::new(&authority, Some(&bad)).unwrap();
    serves(&server, &good).unwrap();
    serves(&server, &with_bad).unwrap();
    fs::write(&list, authority.revocations(&[&bad]).unwrap()).unwrap();
    server.reload().unwrap();
    server
        .wait_for_output("the TLS certificate was read again", SOON)
        .unwrap();
    serves(&server, &good).unwrap();
    assert!(serves(&server, &with_bad).is_err());
}

#[test]
fn a_client_that_vanishes_in_the_handshake_leaves_nothing_behind() {
    let authority = Authority::create().unwrap();
    let server = start(&authority);
    for _ in 0..50 {
        let mut socket = std::net::TcpStream::connect(server.tls_address()).unwrap();
        socket.write_all(&[22, 3, 1]).unwrap();
    }
    process::wait_until("all to be gone", SOON, || {
        // This request's own connection.
        Ok((metric(&server, "larder_connections_open") <= 1.0).then_some(()))
    })
    .unwrap();
    let mut probe = std::net::TcpStream::connect(server.tls_address()).unwrap();
    probe.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(
        probe.read(&mut [0; 1]).unwrap(),
        0,
        "a port check is no failure"
    );
}

/// A configuration with `rules` that says where the files are, too: the operator's commands read it without the server's
/// environment.
fn config_with(tls: &TlsOptions, rules: &str) -> String {
    let client_ca = tls.client_ca.as_ref().unwrap();
    format!(
        "{rules}[tls]\ncertificate = '{}'\nkey = '{}'\nclient_ca = '{}'\n",
        tls.identity.certificate.display(),
        tls.identity.key.display(),
        client_ca.display()
    )
}

const RULES: &str = r#"
[workspace.default.certificate.trunk]
san = "URI:spiffe://acme/trunk"
access = "trusted"
[workspace.default.certificate.jobs]
san = "DNS:job.acme.test"
access = "isolated"
scope = "jobs"
"#;

#[test]
fn a_certificate_with_a_rule_is_a_credential() {
    let authority = Authority::create().unwrap();
    let server = try_start(ServerOptions {
        config: Some(RULES.to_owned()),
        ..options(asking(&authority, "optional"))
    })
    .unwrap();
    let client = |common_name: &str, names: &[Name]| {
        let identity = authority.client(common_name, names).unwrap();
        Client::new(&authority, Some(&identity)).unwrap()
    };
    let trunk = client("a", &[Name::Uri("spiffe://acme/trunk".to_owned())]);
    let job = client("b", &[Name::Dns("job.acme.test".to_owned())]);
    // A common name is no name that counts.
    let stranger = client(
        "spiffe://acme/trunk",
        &[Name::Uri("spiffe://acme/trunk/x".to_owned())],
    );
    let nobody = Client::new(&authority, None).unwrap();
    let status = |client: &Client, request: &Request| {
        exchange_tls(server.tls_address(), client, request)
            .unwrap()
            .status
    };
    let put = |key: u32| Request::put(&format!("/v1/cache/{key}"), "bytes");
    let get = |key: u32| Request::get(&format!("/v1/cache/{key}"));
    assert_eq!(status(&trunk, &put(1)), 200);
    assert_eq!(status(&job, &put(2)), 200);
    assert_eq!(status(&job, &get(1)), 200, "it reads what trunk wrote");
    assert_eq!(status(&job, &get(2)), 200);
    assert_eq!(status(&trunk, &get(2)), 404, "trunk reads nothing of a job");
    for without in [&stranger, &nobody] {
        assert_eq!(status(without, &put(3)), 403);
        assert_eq!(status(without, &get(1)), 404);
    }
    let with_bad_token = put(4).bearer("lrd_unknown");
    assert_eq!(status(&trunk, &with_bad_token), 401, "the header counts");
    let forwarded = put(5).header("X-Forwarded-For", "192.0.2.7");
    assert_eq!(status(&trunk, &forwarded), 200, "whoever is no proxy");
}

#[test]
fn a_proxys_certificate_is_nobodys_credential() {
    let authority = Authority::create().unwrap();
    let rules = format!("[http]\ntrusted_proxies = [\"127.0.0.1\"]\n{RULES}");
    let tls = asking(&authority, "optional");
    let server = try_start(ServerOptions {
        config: Some(config_with(&tls, &rules)),
        ..options(tls)
    })
    .unwrap();
    let name = Name::Uri("spiffe://acme/trunk".to_owned());
    let identity = authority.client("proxy", &[name]).unwrap();
    let proxy = Client::new(&authority, Some(&identity)).unwrap();
    let status = |request: &Request| {
        let answer = exchange_tls(server.tls_address(), &proxy, request);
        answer.unwrap().status
    };
    let put = |key: u32| Request::put(&format!("/v1/cache/{key}"), "bytes");
    assert_eq!(status(&put(1).header("X-Forwarded-For", "192.0.2.7")), 403);
    assert_eq!(status(&put(2)), 403, "with no word of whom it asks for");
    assert_eq!(status(&put(3).header("Forwarded", "for=192.0.2.7")), 403);
    let token = server.token(Access::Trusted, None).unwrap();
    assert_eq!(status(&put(4).bearer(&token)), 200, "its client's token");
}

#[test]
fn a_list_of_the_revoked_that_has_run_out_goes_on_to_count() {
    let authority = Authority::create().unwrap();
    let (good, bad) = (
        authority.client("good", &[]).unwrap(),
        authority.client("bad", &[]).unwrap(),
    );
    let list = authority.folder().join("crl.pem");
    fs::write(&list, authority.outdated_revocations(&[&bad]).unwrap()).unwrap();
    let server = try_start(options(TlsOptions {
        client_crl: Some(list),
        ..asking(&authority, "required")
    }))
    .unwrap();
    serves(&server, &Client::new(&authority, Some(&good)).unwrap()).unwrap();
    assert!(serves(&server, &Client::new(&authority, Some(&bad)).unwrap()).is_err());
}

#[test]
fn a_rule_for_certificates_is_in_force_for_as_long_as_its_workspace_is_there() {
    let authority = Authority::create().unwrap();
    let rule =
        "[workspace.late.certificate.jobs]\nsan = \"DNS:job.acme.test\"\naccess = \"trusted\"\n";
    let tls = asking(&authority, "optional");
    let server = try_start(ServerOptions {
        config: Some(config_with(&tls, rule)),
        ..options(tls)
    })
    .unwrap();
    let name = Name::Dns("job.acme.test".to_owned());
    let identity = authority.client("a", &[name]).unwrap();
    let client = Client::new(&authority, Some(&identity)).unwrap();
    let put = |key: u32| {
        let request = Request::put(&format!("/v1/cache/{key}"), "bytes");
        let answer = exchange_tls(server.tls_address(), &client, &request);
        answer.unwrap().status
    };
    let workspace = |act: &[&str]| {
        // Without the configuration, half of which is in the server's environment.
        let done = std::process::Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")))
            .arg("workspace")
            .args(act)
            .args(["late", "--data-dir"])
            .arg(server.data_dir())
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    assert_eq!(put(1), 403);
    workspace(&["create"]);
    process::wait_until("the rule is in force", SOON, || {
        Ok((put(1) == 200).then_some(()))
    })
    .unwrap();
    workspace(&["delete", "--yes"]);
    process::wait_until("the rule is not in force", SOON, || {
        Ok((put(2) == 403).then_some(()))
    })
    .unwrap();
}
