//! Requests and frames that are made to confuse or to exhaust: two requests are never made of one, and the others are served.
//!
//! `connections.rs` has the slow and the many, `tls.rs` what is wrong before HTTP begins.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use larder_testkit::http::{Connection, Request, exchange};
use larder_testkit::tls::{Authority, Client};
use larder_testkit::{Access, Server, ServerOptions, TlsOptions, larder_binary, process};

const SOON: Duration = Duration::from_secs(20);

fn start() -> Server {
    Server::start(larder_binary(env!("CARGO_BIN_EXE_larder"))).unwrap()
}

fn check_serves(server: &Server) {
    let began = Instant::now();
    let answer = exchange(server.address(), &Request::get("/healthz")).unwrap();
    assert_eq!(answer.status, 200);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// Its answer tells the version, which no other answer here does.
const SMUGGLED: &str = "GET /status HTTP/1.1\r\nHost: x\r\n\r\n";

/// What the server answers to these bytes, if it closes the connection by itself.
#[track_caller]
fn answers_to(server: &Server, bytes: &[u8]) -> String {
    let mut connection = Connection::open(server.address()).unwrap();
    // It may close before everything is sent.
    let _ = connection.send(bytes);
    let mut answers = Vec::new();
    let closed = connection.read_to_close(&mut answers, SOON).unwrap();
    let shown = String::from_utf8_lossy(bytes).into_owned();
    assert!(closed, "the connection stays open after {shown:?}");
    String::from_utf8_lossy(&answers).into_owned()
}

/// A head that could be read in two ways, with what one of them takes for a second request.
#[track_caller]
fn check_smuggling(server: &Server, head: &str, body: &str) {
    let request = format!("{head}\r\n\r\n{body}{SMUGGLED}");
    let answers = answers_to(server, request.as_bytes());
    let count = answers.matches("HTTP/1.1 ").count();
    assert!(count <= 1, "{count} answers to {request:?}: {answers}");
    assert!(!answers.contains("version"), "{request:?}: {answers}");
}

#[test]
fn a_body_with_two_lengths_ends_the_connection() {
    let server = start();
    let put = "PUT /v1/cache/1 HTTP/1.1\r\nHost: x";
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 99999999999999999999999",
    ] {
        check_smuggling(&server, &format!("{put}\r\n{lengths}"), "0\r\n\r\n");
    }
    check_serves(&server);
}

#[test]
fn a_transfer_encoding_in_disguise_ends_the_connection() {
    let server = start();
    let put = "PUT /v1/cache/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5";
    for disguise in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding\r\n : chunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\0",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\n\tTransfer-Encoding: chunked",
        "Transfer Encoding: chunked",
        "transfer-encoding: CHUNKED",
    ] {
        check_smuggling(&server, &format!("{put}\r\n{disguise}"), "0\r\n\r\n");
    }
    let old = "PUT /v1/cache/1 HTTP/1.0\r\nTransfer-Encoding: chunked";
    check_smuggling(&server, old, "0\r\n\r\n");
    check_serves(&server);
}

#[test]
fn a_chunk_that_cannot_be_ends_the_connection() {
    let server = start();
    let token = server.token(Access::Trusted, None).unwrap();
    let head = format!(
        "PUT /v1/cache/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked"
    );
    let long = "x".repeat(64 << 10);
    for body in [
        "fffffffffffffffff\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        &format!("5;{long}\r\nhello\r\n0\r\n\r\n"),
        &format!("0\r\nX: {long}\r\n\r\n"),
    ] {
        check_smuggling(&server, &head, body);
    }
    let get = Request::get("/v1/cache/1").bearer(&token);
    assert_eq!(
        exchange(server.address(), &get).unwrap().status,
        404,
        "nothing is stored"
    );
}

#[test]
fn a_body_that_nobody_reads_is_not_the_next_request() {
    let server = start();
    let ready = exchange(server.address(), &Request::get("/readyz")).unwrap();
    let ready = ready.text();
    for target in ["/healthz", "/v1/cache/1", "/nowhere", "/metrics"] {
        let mut connection = Connection::open(server.address()).unwrap();
        let length = SMUGGLED.len();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
        );
        connection.send(request.as_bytes()).unwrap();
        connection.read_answer().unwrap();
        // Either the connection is over, or the next request gets its own answer.
        let next = connection.exchange(&Request::get("/readyz"));
        if let Ok(answer) = next {
            let answer = answer.text();
            assert_eq!(answer, ready, "{target}: the body was answered");
        } else {
            let mut rest = Vec::new();
            let closed = connection.read_to_close(&mut rest, SOON);
            // What was sent to a connection that is closed may have reset it.
            assert!(closed.unwrap_or(true), "{target}: the connection hangs");
            let rest = String::from_utf8_lossy(&rest);
            assert!(!rest.contains("version"), "{target}: the body was answered");
        }
    }
}

#[test]
fn a_request_names_its_host_once_and_may_name_it_in_its_target() {
    let server = start();
    for head in [
        "GET /healthz HTTP/1.1",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b",
        "GET http://a/healthz HTTP/1.1",
    ] {
        let answers = answers_to(&server, format!("{head}\r\n\r\n").as_bytes());
        assert!(answers.starts_with("HTTP/1.1 400 "), "{head}: {answers}");
    }
    let absolute = Request::get("http://somewhere.else/healthz");
    assert_eq!(exchange(server.address(), &absolute).unwrap().status, 200);
    let old = answers_to(&server, b"GET /healthz HTTP/1.0\r\n\r\n");
    assert!(old.contains(" 200 "), "a probe of HTTP/1.0: {old}");
}

#[test]
fn more_headers_than_anyone_needs_are_refused() {
    let server = start();
    let with = |count: usize| {
        let headers = (0..count).map(|number| format!("X-{number}: y\r\n"));
        let headers: String = headers.collect();
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
    };
    assert!(answers_to(&server, with(90).as_bytes()).contains(" 200 "));
    assert!(answers_to(&server, with(200).as_bytes()).contains(" 431 "));
    check_serves(&server);
}

#[test]
fn a_second_request_in_one_would_be_seen() {
    let server = start();
    let put = "PUT /v1/cache/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n0\r\n\r\n";
    let last = SMUGGLED.replace("Host: x", "Host: x\r\nConnection: close");
    let answers = answers_to(&server, format!("{put}{last}").as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{answers}");
    assert!(answers.contains("version"), "{answers}");
}

/// A socket, or TLS on one.
trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// HTTP/2 by hand.
struct Frames {
    wire: Box<dyn Wire>,
    /// What it runs over.
    socket: TcpStream,
    /// All that has come.
    bytes: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// `GET` or `PUT` of `/healthz` or `/v1/cache/1`, by HPACK's table of what is usual and literals.
fn head(method: &str, path: &str) -> Vec<u8> {
    let mut head = vec![0x86];
    for (index, value) in [(0x02, method), (0x04, path), (0x01, "x")] {
        head.push(index);
        head.push(u8::try_from(value.len()).unwrap());
        head.extend(value.as_bytes());
    }
    head
}

impl Frames {
    fn open(server: &Server) -> Self {
        let socket = TcpStream::connect(server.address()).unwrap();
        let wire = Box::new(socket.try_clone().unwrap());
        Self::begin(socket, wire)
    }

    fn open_tls(server: &Server, client: &Client) -> Self {
        let stream = client.connect(server.tls_address()).unwrap();
        Self::begin(stream.socket().try_clone().unwrap(), Box::new(stream))
    }

    fn begin(socket: TcpStream, wire: Box<dyn Wire>) -> Self {
        // A server that takes no more of an attack is what is hoped for.
        let patience = Some(Duration::from_millis(500));
        socket.set_write_timeout(patience).unwrap();
        let bytes = Vec::new();
        let mut frames = Self {
            wire,
            socket,
            bytes,
        };
        frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frames.send(&frame(SETTINGS, 0, 0, &[]));
        frames
    }

    /// False when the server takes no more.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire
            .write_all(bytes)
            .and_then(|()| self.wire.flush())
            .is_ok()
    }

    /// Sends what `next` makes until there have been `count` or the server takes no more.
    fn flood(&mut self, count: u32, next: impl Fn(u32) -> Vec<u8>) {
        for first in (0..count).step_by(64) {
            let batch: Vec<u8> = (first..first + 64).flat_map(&next).collect();
            if !self.send(&batch) {
                break;
            }
        }
    }

    /// All frames that have come when the connection is at its end or these are `enough`: type, stream and body.
    #[track_caller]
    fn received(&mut self, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let end = Instant::now() + SOON;
        let mut piece = vec![0; 64 << 10];
        loop {
            let frames = frames_in(&self.bytes);
            if reason_of_end(&frames).is_some() || enough(&frames) {
                return frames;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not enough came in time: {frames:?}");
            self.socket.set_read_timeout(Some(left)).unwrap();
            match self.wire.read(&mut piece) {
                Ok(count @ 1..) => self.bytes.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It is closed.
                Ok(0) | Err(_) => return frames,
            }
        }
    }
}

/// A frame's type, stream and body.
type Received = (u8, u32, Vec<u8>);

fn frames_in(bytes: &[u8]) -> Vec<Received> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some((frame_head, after)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, frame_head[0], frame_head[1], frame_head[2]]);
        let Some((body, next)) = after.split_at_checked(length as usize) else {
            break;
        };
        let stream = u32::from_be_bytes(frame_head[5..9].try_into().unwrap());
        frames.push((frame_head[3], stream, body.to_vec()));
        rest = next;
    }
    frames
}

/// The reason of the frame that ended the connection, if one did.
fn reason_of_end(frames: &[Received]) -> Option<u32> {
    let (.., body) = frames.iter().find(|(kind, ..)| *kind == GOAWAY)?;
    Some(u32::from_be_bytes(body[4..8].try_into().unwrap()))
}

const ENHANCE_YOUR_CALM: u32 = 11;

/// Ten connections that do this at once, to either port: another client is served meanwhile and after, and memory stays.
fn check_flood(attack: impl Fn(&mut Frames) + Sync) {
    check_flood_on(&start(), Frames::open, &attack);
    let authority = Authority::create().unwrap();
    let versions = [&rustls::version::TLS13];
    let client = Client::with(&authority, None, &[b"h2"], &versions).unwrap();
    let options = ServerOptions {
        tls: Some(TlsOptions::new(authority.server().unwrap())),
        ..ServerOptions::default()
    };
    let program = larder_binary(env!("CARGO_BIN_EXE_larder"));
    let server = Server::start_with(program, options).unwrap();
    check_flood_on(&server, |server| Frames::open_tls(server, &client), &attack);
}

fn check_flood_on(
    server: &Server,
    open: impl Fn(&Server) -> Frames + Sync,
    attack: &(impl Fn(&mut Frames) + Sync),
) {
    const ATTACKERS: usize = 10;
    const GROWTH_BYTES_MAX: u64 = 96 << 20;
    check_serves(server);
    let before = resident_bytes(server);
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut frames = open(server);
                    attack(&mut frames);
                    frames
                })
            })
            .collect();
        while !attackers.iter().all(ScopedJoinHandle::is_finished) {
            check_serves(server);
            let grown = resident_bytes(server).saturating_sub(before);
            assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than before");
        }
    });
    check_serves(server);
}

fn resident_bytes(server: &Server) -> u64 {
    let pid = server.pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() << 10
}

fn stream(number: u32) -> u32 {
    2 * number + 1
}

#[test]
fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    let open_and_reset = |number: u32| {
        let head = head("GET", "/v1/cache/1");
        let mut both = frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &head);
        both.extend(frame(RESET, 0, stream(number), &8_u32.to_be_bytes()));
        both
    };
    let server = start();
    let mut frames = Frames::open(&server);
    frames.flood(2_000, open_and_reset);
    let received = frames.received(|_| false);
    assert_eq!(reason_of_end(&received), Some(ENHANCE_YOUR_CALM));
    check_flood(|frames| frames.flood(100_000, open_and_reset));
}

#[test]
fn settings_and_pings_without_end_hurt_nobody_else() {
    check_flood(|frames| frames.flood(100_000, |_| frame(SETTINGS, 0, 0, &[])));
    check_flood(|frames| frames.flood(100_000, |_| frame(PING, 0, 0, &[7; 8])));
}

#[test]
fn a_head_without_end_ends_the_connection() {
    let server = start();
    let mut frames = Frames::open(&server);
    frames.send(&frame(HEADERS, END_STREAM, 1, &head("GET", "/healthz")));
    let piece = |_| {
        // A literal header that is not to be remembered, of 8 KiB.
        let mut header = vec![0, 1, b'x', 127];
        header.extend([0x81, 0x3f]);
        header.extend([b'y'; 127 + 0x81 - 128 + (0x3f << 7)]);
        frame(CONTINUATION, 0, 1, &header)
    };
    frames.flood(10_000, piece);
    // It comes back only if the connection has ended.
    frames.received(|_| false);
    check_flood(|frames| {
        frames.send(&frame(HEADERS, END_STREAM, 1, &head("GET", "/healthz")));
        frames.flood(10_000, piece);
    });
    // Empty ones cost the client least.
    check_flood(|frames| {
        frames.send(&frame(HEADERS, END_STREAM, 1, &head("GET", "/healthz")));
        frames.flood(100_000, |_| frame(CONTINUATION, 0, 1, &[]));
    });
}

#[test]
fn a_head_that_is_too_large_is_refused_and_the_next_one_served() {
    let server = start();
    let mut frames = Frames::open(&server);
    let mut large = head("GET", "/healthz");
    for _ in 0..3 {
        // 30,000 bytes each; together more than the limit.
        large.extend([0, 1, b'x', 127]);
        let rest: u32 = 30_000 - 127;
        large.extend([
            (rest & 0x7f) as u8 | 0x80,
            ((rest >> 7) & 0x7f) as u8 | 0x80,
            (rest >> 14) as u8,
        ]);
        large.extend(vec![b'y'; 30_000]);
    }
    let mut pieces = large.chunks(16 << 10).peekable();
    let first = pieces.next().unwrap();
    frames.send(&frame(HEADERS, END_STREAM, 1, first));
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        let flags = if last { END_HEADERS } else { 0 };
        frames.send(&frame(CONTINUATION, flags, 1, piece));
    }
    let small = head("GET", "/healthz");
    frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &small));
    let received = frames.received(|frames| {
        let ended = |frame: &Received| frame.0 == DATA && frame.1 == 3;
        frames.iter().any(ended)
    });
    let bodies: Vec<u32> = received
        .iter()
        .filter(|(kind, _, body)| *kind == DATA && body == b"ok\n")
        .map(|(_, stream, _)| *stream)
        .collect();
    let ended = reason_of_end(&received).is_some();
    assert!(bodies == [3] || ended, "{received:?}");
    assert!(!bodies.contains(&1), "a head of 90,000 bytes was served");
    check_serves(&server);
}

#[test]
fn more_streams_than_are_allowed_are_refused() {
    let server = start();
    let mut frames = Frames::open(&server);
    // Uploads that never come.
    let open = |number| {
        frame(
            HEADERS,
            END_HEADERS,
            stream(number),
            &head("PUT", "/v1/cache/1"),
        )
    };
    frames.flood(640, open);
    // It comes back once so many are refused, or the connection has ended.
    frames.received(|frames| {
        let refused =
            |(kind, _, reason): &&Received| *kind == RESET && reason[..] == 7_u32.to_be_bytes();
        frames.iter().filter(refused).count() >= 300
    });
    check_flood(|frames| frames.flood(10_000, open));
}

/// Uploads that are answered before they have come, whose clients send on what is in flight.
#[test]
fn uploads_that_are_answered_early_do_not_end_the_others_of_their_connection() {
    const UPLOADS: u32 = 200;
    const FRAMES_IN_FLIGHT: u32 = 20;
    let server = start();
    let mut frames = Frames::open(&server);
    let upload = |number| {
        let mut head = head("POST", "/google.bytestream.ByteStream/Write");
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
            for text in [name, value] {
                if text == name {
                    head.push(0);
                }
                head.push(u8::try_from(text.len()).unwrap());
                head.extend(text.as_bytes());
            }
        }
        frame(HEADERS, END_HEADERS, stream(number), &head)
    };
    let is_answered = |number| {
        move |frames: &[Received]| {
            let reset = |frame: &Received| frame.0 == RESET && frame.1 == stream(number);
            frames.iter().any(reset)
        }
    };
    for number in 0..UPLOADS {
        // A message that is cut short by the client's own mistake is answered at once; nobody may store here, either.
        assert!(frames.send(&upload(number)));
        assert!(frames.send(&frame(DATA, 0, stream(number), &[9; 5])));
        let received = frames.received(is_answered(number));
        assert_eq!(reason_of_end(&received), None, "upload {number}");
    }
    for number in 0..UPLOADS {
        for _ in 0..FRAMES_IN_FLIGHT {
            assert!(frames.send(&frame(DATA, 0, stream(number), &[7; 100])));
        }
    }
    let small = head("GET", "/healthz");
    let next = stream(UPLOADS);
    assert!(frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, next, &small)));
    let received = frames.received(|frames| {
        let answered = |frame: &Received| frame.0 == DATA && frame.1 == next;
        frames.iter().any(answered)
    });
    assert_eq!(reason_of_end(&received), None);

    // Whoever sends nothing else, and reads no answer.
    check_flood(|frames| {
        frames.flood(UPLOADS, |number| {
            let mut both = upload(number);
            both.extend(frame(DATA, 0, stream(number), &[9; 5]));
            both
        });
        frames.flood(100_000, |number| {
            frame(DATA, 0, stream(number % UPLOADS), &[])
        });
    });
}

#[test]
fn frames_of_nothing_hurt_nobody_else() {
    check_flood(|frames| {
        frames.send(&frame(HEADERS, END_HEADERS, 1, &head("PUT", "/v1/cache/1")));
        frames.flood(100_000, |_| frame(DATA, 0, 1, &[]));
    });
}

#[test]
fn a_server_that_was_attacked_stops_as_any_other() {
    let mut server = start();
    let mut frames = Frames::open(&server);
    frames.flood(1_000, |number| {
        let head = head("PUT", "/v1/cache/1");
        frame(HEADERS, END_HEADERS, stream(number), &head)
    });
    drop(frames);
    process::wait_until("the connection to be gone", SOON, || {
        let metrics = exchange(server.address(), &Request::get("/metrics"))?.text();
        let gone = metrics.contains("larder_connections_open 1\n");
        Ok(gone.then_some(()))
    })
    .unwrap();
    assert!(server.stop().unwrap().success(), "{}", server.output());
}
