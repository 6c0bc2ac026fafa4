//! Real moon, Nx and Bazel over TLS, with and without certificates of their own: each builds, forgets, and gets it back.
//!
//! What the clients do otherwise is asked in `moon_real.rs`, `nx_real.rs` and `bazel_real.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;

use larder_testkit::bazel::{self, BazelApi, BazelCache, BazelWorkspace};
use larder_testkit::moon::{MoonRun, MoonWorkspace, PinnedMoon};
use larder_testkit::nx::{NxWorkspace, PinnedNx, RemoteCache};
use larder_testkit::tls::{Authority, Identity, Name, SERVER_NAME};
use larder_testkit::{Access, Server, ServerOptions, TlsOptions, larder_binary, left_out};

fn start(tls: TlsOptions) -> Server {
    let options = ServerOptions {
        tls: Some(tls),
        only_tls: true,
        ..ServerOptions::default()
    };
    Server::start_with(larder_binary(env!("CARGO_BIN_EXE_larder")), options).unwrap()
}

/// A server that shows a certificate and asks for none.
fn showing(authority: &Authority) -> Server {
    start(TlsOptions::new(authority.server().unwrap()))
}

/// A server that lets nobody in without a certificate, and one for a client.
fn demanding(authority: &Authority) -> (Server, Identity) {
    let server = start(TlsOptions {
        client_ca: Some(authority.certificate()),
        client_certificates: Some("required"),
        ..TlsOptions::new(authority.server().unwrap())
    });
    let names = [Name::Uri("spiffe://acme/trunk".to_owned())];
    (server, authority.client("trunk", &names).unwrap())
}

/// Builds with moon, which finds its certificates in the workspace as `settings` say; then again from the cache.
fn check_moon(authority: &Authority, identity: Option<&Identity>, server: &Server, settings: &str) {
    let moon = PinnedMoon::installed("2.5.5").unwrap();
    let workspace = MoonWorkspace::create_with(&moon, settings).unwrap();
    let place = workspace.path().join("tls");
    fs::create_dir(&place).unwrap();
    fs::copy(authority.certificate(), place.join("ca.pem")).unwrap();
    if let Some(identity) = identity {
        fs::copy(&identity.certificate, place.join("client.pem")).unwrap();
        fs::copy(&identity.key, place.join("client-key.pem")).unwrap();
    }
    let token = server.token(Access::Trusted, None).unwrap();
    let host = format!("grpcs://{}", server.tls_address());
    let variables = [
        ("MOON_REMOTE_HOST", host.as_str()),
        ("MOON_REMOTE_AUTH_TOKEN", "LARDER_MOON_TOKEN"),
        ("LARDER_MOON_TOKEN", &token),
    ];
    let build = |hit: bool| {
        let MoonRun { succeeded, output } = workspace.build_as_set("app", &variables).unwrap();
        assert!(succeeded, "{output}");
        assert_eq!(output.contains("cached from remote"), hit, "{output}");
        assert!(!output.contains("WARN"), "{output}");
        fs::read(workspace.dist("app").join("stamp.txt")).unwrap()
    };
    let stamp = build(false);
    workspace.wipe().unwrap();
    assert!(build(true) == stamp, "another output");
}

#[test]
fn moon_believes_the_authority_of_its_tls_settings() {
    if left_out("moon") {
        return;
    }
    let authority = Authority::create().unwrap();
    let server = showing(&authority);
    let settings =
        format!("remote:\n  tls:\n    cert: 'tls/ca.pem'\n    domain: '{SERVER_NAME}'\n");
    check_moon(&authority, None, &server, &settings);
}

#[test]
fn moon_shows_the_certificate_of_its_mtls_settings() {
    if left_out("moon") {
        return;
    }
    let authority = Authority::create().unwrap();
    let (server, identity) = demanding(&authority);
    let settings = format!(
        "remote:\n  mtls:\n    caCert: 'tls/ca.pem'\n    clientCert: 'tls/client.pem'\n    clientKey: \
         'tls/client-key.pem'\n    domain: '{SERVER_NAME}'\n"
    );
    check_moon(&authority, Some(&identity), &server, &settings);
}

#[test]
fn nx_believes_the_authority_of_ssl_cert_file() {
    if left_out("nx") {
        return;
    }
    let authority = Authority::create().unwrap();
    let server = showing(&authority);
    let nx = PinnedNx::installed("24.0.6").unwrap();
    let workspace = NxWorkspace::create(&nx, 0).unwrap();
    let cache = RemoteCache {
        url: server.tls_url(),
        token: Some(server.token(Access::Trusted, None).unwrap()),
    };
    let ca = authority.certificate();
    let variables = [("SSL_CERT_FILE", ca.to_str().unwrap())];
    let build = |hit: bool| {
        let run = workspace
            .nx(&["build", "header"], &cache, &variables)
            .unwrap();
        assert!(run.succeeded, "{}", run.output);
        assert_eq!(run.output.contains("[remote cache]"), hit, "{}", run.output);
        fs::read(workspace.header_dist().join("stamp.txt")).unwrap()
    };
    let stamp = build(false);
    workspace.wipe().unwrap();
    assert!(build(true) == stamp, "another output");

    workspace.wipe().unwrap();
    let doubting = workspace.nx(&["build", "header"], &cache, &[]).unwrap();
    assert!(
        !doubting.succeeded,
        "Nx believes anybody: {}",
        doubting.output
    );
}

/// Debian's Bazel cannot speak gRPC over TLS ("JDK provider does not support ALPN"), and the official one that npm has forgets its
/// headers when it uploads, so it has no token there: what can be seen is that it gets as far as the server's own words. It is too
/// old to have a certificate of its own.
#[test]
fn bazel_believes_the_authority_of_tls_certificate_and_no_other() {
    if left_out("bazel-tls") {
        return;
    }
    let (ours, theirs) = (Authority::create().unwrap(), Authority::create().unwrap());
    let server = showing(&ours);
    let workspace = BazelWorkspace::create_for(bazel::official().unwrap()).unwrap();
    let cache = BazelCache {
        address: server.tls_address(),
        api: BazelApi::Grpc,
        instance: String::new(),
        token: None,
    };
    let build = |authority: &Authority| {
        let ca = format!("--tls_certificate={}", authority.certificate().display());
        // The last address counts.
        let address = format!("--remote_cache=grpcs://{}", server.tls_address());
        workspace.build(&cache, &["//:sum", &address, &ca]).unwrap()
    };
    let run = build(&ours);
    assert!(run.succeeded, "{}", run.output);
    assert!(run.output.contains("no token was sent"), "{}", run.output);
    let run = build(&theirs);
    assert!(!run.succeeded, "{}", run.output);
    assert!(!run.output.contains("no token was sent"), "{}", run.output);
}
