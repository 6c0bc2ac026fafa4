//! Connections that are many, slow, dead or strange: the server goes on serving the others.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder_testkit::http::{Connection, Request, exchange};
use larder_testkit::{Access, Server, ServerOptions, larder_binary, process};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const SOON: Duration = Duration::from_secs(20);

fn start(config: &str) -> Server {
    let options = ServerOptions {
        config: Some(config.to_owned()),
        ..ServerOptions::default()
    };
    Server::start_with(larder_binary(env!("CARGO_BIN_EXE_larder")), options).unwrap()
}

fn check_serves(server: &Server) {
    let answer = exchange(server.address(), &Request::get("/healthz")).unwrap();
    assert_eq!(answer.status, 200);
}

fn open_many(server: &Server, count: usize) -> Vec<Connection> {
    (0..count)
        .map(|_| Connection::open(server.address()).unwrap())
        .collect()
}

#[test]
fn two_thousand_idle_connections_are_nothing_special() {
    let server = start("");
    let mut idle = open_many(&server, 2_000);
    for connection in idle.iter_mut().step_by(100) {
        let answer = connection.exchange(&Request::get("/healthz")).unwrap();
        assert_eq!(answer.status, 200, "an idle connection can be used");
    }
    check_serves(&server);
}

#[test]
fn a_server_out_of_file_descriptors_goes_on_serving() {
    let home = tempfile::tempdir().unwrap();
    let binary = larder_binary(env!("CARGO_BIN_EXE_larder"));
    let script = home.path().join("larder");
    let text = format!(
        "#!/bin/sh\nulimit -n 200\nexec \"{}\" \"$@\"\n",
        binary.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let mut server = Server::start_with(&script, ServerOptions::default()).unwrap();
    let token = server.token(Access::Trusted, None).unwrap();
    // Far more than it can have open; the rest waits in the kernel's queue.
    let idle = open_many(&server, 600);
    let request = Request::put("/v1/cache/1", "one").bearer(&token);
    assert_eq!(exchange(server.address(), &request).unwrap().status, 200);
    let request = Request::get("/v1/cache/1").bearer(&token);
    assert_eq!(exchange(server.address(), &request).unwrap().text(), "one");
    server
        .wait_for_output("every connection is taken", SOON)
        .unwrap();
    assert!(server.ended().unwrap().is_none());
    drop(idle);
    check_serves(&server);
}

#[test]
fn a_server_whose_file_descriptors_are_taken_away_goes_on_serving() {
    let server = start("");
    let open_files = || {
        let pid = server.pid().unwrap();
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count() as u64
    };
    let pid = i32::try_from(server.pid().unwrap()).unwrap();
    let limit = Some(open_files() + 20);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(Pid::from_raw(pid), Resource::Nofile, limit).unwrap();
    let idle = open_many(&server, 100);
    server
        .wait_for_output("no connection can be taken", SOON)
        .unwrap();
    check_serves(&server);
    let complaints = server
        .output()
        .matches("no connection can be taken")
        .count();
    assert_eq!(complaints, 1, "the log is not flooded");
    drop(idle);
}

#[test]
fn a_head_that_dribbles_is_cut_off_and_an_idle_connection_is_not() {
    let server = start("[limits]\nheader_timeout = \"300ms\"\n");
    let mut idle = Connection::open(server.address()).unwrap();
    idle.exchange(&Request::get("/healthz")).unwrap();
    let mut slow = Connection::open(server.address()).unwrap();
    slow.send(b"GET /healthz HTTP/1.1\r\nHost:").unwrap();
    assert!(slow.closes_within(SOON).unwrap());
    let answer = idle.exchange(&Request::get("/healthz")).unwrap();
    assert_eq!(answer.status, 200, "idle for longer than a head may take");
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let server = start("[limits]\nidle_timeout = \"300ms\"\n");
    let mut silent = Connection::open(server.address()).unwrap();
    let mut used = Connection::open(server.address()).unwrap();
    used.exchange(&Request::get("/healthz")).unwrap();
    assert!(silent.closes_within(SOON).unwrap());
    assert!(used.closes_within(SOON).unwrap());
}

#[test]
fn a_head_has_a_largest_size() {
    let server = start("[limits]\nheader_size_max = \"8KiB\"\n");
    let fits = Request::get("/healthz").header("X", &"x".repeat(6_000));
    assert_eq!(exchange(server.address(), &fits).unwrap().status, 200);
    let mut connection = Connection::open(server.address()).unwrap();
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(200 << 10));
    // The server may close while this is still being sent.
    let _ = connection.send(endless.as_bytes());
    assert!(connection.closes_within(SOON).unwrap_or(true));
    check_serves(&server);
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_dropped() {
    let server = start("[limits]\nstall_timeout = \"500ms\"\n");
    let token = server.token(Access::Trusted, None).unwrap();
    let body = vec![5; 64 << 20];
    let put = Request::put("/v1/cache/1", body.clone()).bearer(&token);
    process::wait_until("the upload", SOON, || {
        Ok((exchange(server.address(), &put)?.status == 200).then_some(()))
    })
    .unwrap();
    let mut stalled = Connection::open(server.address()).unwrap();
    stalled
        .send(&Request::get("/v1/cache/1").bearer(&token).bytes())
        .unwrap();
    process::wait_until("the drop", SOON, || {
        let metrics = exchange(server.address(), &Request::get("/metrics"))?.text();
        // This request's own connection.
        Ok(metrics
            .contains("larder_connections_open 1\n")
            .then_some(()))
    })
    .unwrap();
    assert!(
        stalled.read_answer().is_err(),
        "the rest of the answer never comes"
    );
    let answer = exchange(
        server.address(),
        &Request::get("/v1/cache/1").bearer(&token),
    )
    .unwrap();
    assert!(answer.body == body, "a client that reads gets everything");
}

#[test]
fn an_answer_is_never_in_memory_as_a_whole() {
    let server = start("");
    let token = server.token(Access::Trusted, None).unwrap();
    let size = 192 << 20;
    let put = Request::put("/v1/cache/1", vec![5; size]).bearer(&token);
    process::wait_until("the upload", SOON, || {
        Ok((exchange(server.address(), &put)?.status == 200).then_some(()))
    })
    .unwrap();
    let get = Request::get("/v1/cache/1").bearer(&token);
    let answer = exchange(server.address(), &get).unwrap();
    assert_eq!(answer.body.len(), size);
    let memory = memory_peak_bytes(&server);
    assert!(memory < size as u64 / 2, "{memory} bytes of memory");
}

fn memory_peak_bytes(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.pid().unwrap());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: u64 = line.unwrap()["VmHWM:".len()..]
        .trim_end_matches("kB")
        .trim()
        .parse()
        .unwrap();
    kib << 10
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start("");
    let mut connection = Connection::open(server.address()).unwrap();
    let mut bytes = Request::get("/healthz").bytes();
    bytes.extend(Request::get("/nothing").bytes());
    bytes.extend(Request::get("/status").bytes());
    connection.send(&bytes).unwrap();
    let answers: Vec<u16> = (0..3)
        .map(|_| connection.read_answer().unwrap().status)
        .collect();
    assert_eq!(answers, [200, 404, 200]);
}

#[tokio::test]
async fn http2_without_tls_is_served_on_the_same_port() {
    let server = start("");
    let stream = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("{}/healthz", server.url()));
    let response = sender
        .send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "ok\n"
    );
    check_serves(&server);
}

fn resident_bytes(server: &Server) -> u64 {
    let pid = server.pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() << 10
}

#[test]
fn clients_that_take_nothing_of_a_large_entry_cost_no_memory() {
    const GROWTH_BYTES_MAX: u64 = 64 << 20;
    let server = start("[store]\ntrusted = \"1GiB\"\nuntrusted = \"64MiB\"\n");
    let token = server.token(Access::Trusted, None).unwrap();
    let large = vec![7; 48 << 20];
    let put = Request::put("/v1/cache/large", large.clone()).bearer(&token);
    assert_eq!(exchange(server.address(), &put).unwrap().status, 200);
    let get = Request::get("/v1/cache/large").bearer(&token);
    let before = resident_bytes(&server);
    let stalled: Vec<Connection> = (0..8)
        .map(|_| {
            let mut connection = Connection::open(server.address()).unwrap();
            connection.send(&get.bytes()).unwrap();
            connection
        })
        .collect();
    // Time in which the server could do for the stalled what it does for these.
    for _ in 0..4 {
        assert_eq!(exchange(server.address(), &get).unwrap().body, large);
        let grown = resident_bytes(&server).saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than before");
    }
    drop(stalled);
}

#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let server = start("");
    let mut connection = Connection::open(server.address()).unwrap();
    let mut bytes = Request::get("/healthz").bytes();
    bytes.extend_from_slice(b"GET /heal");
    connection.send(&bytes).unwrap();
    assert_eq!(connection.read_answer().unwrap().status, 200);
}
