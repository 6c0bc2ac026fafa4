//! Nobody's answers depend on what others do who may not feed them.
//!
//! Random histories over every protocol at once: take all untrusted operations, or another tenant's, out of a history, and
//! what is left gets the same answers, and none of them later. All writers name the same few entries. Blobs are the same
//! bytes whoever writes them, because their names say so; everything else says who wrote it.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http::header::AUTHORIZATION;
use larder_proto::{Message, reapi as re};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::time::Instant;

use crate::house::{Answer, End, House, Pieces, bytes};
use crate::poisoning::house;
use crate::reapi::{Client, Reply, WRITE, digest, hash, int, names, part, zstd};

/// One operation of a history.
#[derive(Debug, Clone)]
struct Step {
    who: &'static str,
    what: What,
    put: bool,
    label: bool,
    key: u8,
    size: usize,
    end: End,
}

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Nx,
    HttpBlob,
    HttpAction,
    Batch,
    Stream,
    Action,
    Missing,
}

const WHAT: [What; 7] = [
    What::Nx,
    What::HttpBlob,
    What::HttpAction,
    What::Batch,
    What::Stream,
    What::Action,
    What::Missing,
];

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Http(Answer),
    Call(Reply),
}

const TRUSTED: [&str; 3] = ["trunk", "release", "laptop"];
const UNTRUSTED: [&str; 2] = ["pr7", "pr8"];
const TENANT: [&str; 2] = ["tenant", "tenant-pr"];

fn step() -> impl Strategy<Value = Step> {
    let who: Vec<&str> = [&TRUSTED[..], &UNTRUSTED, &TENANT].concat();
    let size = prop_oneof![
        Just(0_usize),
        1..200_usize,
        65_530..65_545_usize,
        Just(200_000)
    ];
    let end = prop_oneof![
        4 => Just(End::Clean),
        1 => Just(End::Broken),
        1 => Just(End::Never),
    ];
    (
        proptest::sample::select(who),
        proptest::sample::select(&WHAT[..]),
        any::<bool>(),
        any::<bool>(),
        0..3_u8,
        size,
        end,
    )
        .prop_map(|(who, what, put, label, key, size, end)| Step {
            who,
            what,
            put,
            label,
            key,
            size,
            end,
        })
}

impl Step {
    async fn run(&self, index: usize, house: &House) -> Seen {
        let prefix = if self.label { "/scope/linux" } else { "" };
        let blob = self.blob();
        match self.what {
            What::Nx => {
                // Every write has bytes of its own, so that a reader can tell whose it got.
                let body = index.to_le_bytes().into_iter().cycle();
                let body: Vec<u8> = body.take(self.size).collect();
                let path = format!("{prefix}/v1/cache/{}", self.key);
                Seen::Http(self.http(house, &path, &body).await)
            }
            What::HttpBlob => {
                let path = format!("{prefix}/cas/{}", hash(&blob));
                Seen::Http(self.http(house, &path, &blob).await)
            }
            What::HttpAction => {
                let path = format!("/main{prefix}/ac/{}", hash(&[self.key]));
                let body = self.result(index).encode_to_vec();
                Seen::Http(self.http(house, &path, &body).await)
            }
            What::Batch | What::Stream | What::Action | What::Missing => {
                let instance = if self.label {
                    "main/scope/linux"
                } else {
                    "main"
                };
                let client = Client::new(house, self.who).at(instance);
                Seen::Call(self.call(&client, index, &blob).await)
            }
        }
    }

    async fn http(&self, house: &House, path: &str, body: &[u8]) -> Answer {
        if !self.put {
            return house.get(self.who, path).await;
        }
        let body = Pieces::new(&[body], Some(body.len() as u64), self.end).0;
        let request = Request::put(path).header(AUTHORIZATION, house.bearer(self.who));
        house
            .exchange(crate::house::tcp(), request.body(body).unwrap())
            .await
    }

    async fn call(&self, client: &Client<'_>, index: usize, blob: &[u8]) -> Reply {
        let (action, named) = (digest(&[self.key]), digest(blob));
        match (self.what, self.put) {
            (What::Batch, true) => client.batch_update(&[(named, blob, 0)]).await,
            (What::Batch, false) => client.batch_read(&[named], true).await,
            (What::Stream, true) => self.stream(client, blob).await,
            (What::Stream, false) => {
                let name = format!("{}/blobs/{}/{}", client.instance, named.hash, blob.len());
                client.read(&name, 0, 0).await
            }
            (What::Action, true) => client.update_action(&action, &self.result(index)).await,
            (What::Action, false) => client.get_inlined(&action, true, &["out"]).await,
            _ => client.find_missing(&[named, digest(b"never")], 0).await,
        }
    }

    /// Uploads a blob, of one key compressed. An upload that does not end well has half of its message.
    async fn stream(&self, client: &Client<'_>, blob: &[u8]) -> Reply {
        let compressed = self.key == 1;
        let name = names(blob, compressed)
            .0
            .replacen("main", client.instance, 1);
        let data = if compressed {
            zstd(blob)
        } else {
            blob.to_vec()
        };
        let message = part(&name, 0, &data, true).encode_to_vec();
        let framed = larder_grpc::frame(&message);
        let sent = match self.end {
            End::Clean => &framed[..],
            End::Broken | End::Never => &framed[..framed.len() / 2],
        };
        client
            .send(WRITE, Pieces::new(&[sent], None, self.end).0)
            .await
    }

    fn blob(&self) -> Vec<u8> {
        bytes([100, 70_000, 200_000][usize::from(self.key)], self.key)
    }

    /// A result that says which step wrote it, and needs a blob that may be there or not.
    fn result(&self, index: usize) -> re::ActionResult {
        let file = re::OutputFile {
            path: "out".to_owned(),
            digest: Some(digest(&self.blob())),
            ..Default::default()
        };
        let files = if self.size == 0 { vec![] } else { vec![file] };
        re::ActionResult {
            output_files: files,
            exit_code: i32::try_from(int(index)).unwrap(),
            stdout_raw: vec![b'x'; 10].into(),
            ..Default::default()
        }
    }

    fn stands_still(&self) -> bool {
        let held = matches!(
            self.what,
            What::Nx | What::HttpBlob | What::HttpAction | What::Stream
        );
        held && self.put && self.end == End::Never
    }
}

/// The answers that `watched` get in a history of which `keep` says who takes part. Uploads that
/// stand still are held open to the history's end, and nobody watched waits for anything.
async fn observe(steps: &[Step], watched: &[&str], keep: impl Fn(&str) -> bool) -> Vec<Seen> {
    let house = house();
    let (mut seen, mut held) = (Vec::new(), Vec::new());
    for (index, step) in steps.iter().enumerate() {
        if !keep(step.who) {
            continue;
        }
        let started = Instant::now();
        let mut run = Box::pin(step.run(index, &house));
        if step.stands_still() {
            poll_fn(|context| Poll::Ready(run.as_mut().poll(context).is_pending())).await;
            held.push(run);
            continue;
        }
        let answer = run.await;
        if watched.contains(&step.who) {
            assert_eq!(started.elapsed(), Duration::ZERO, "{step:?} waited");
            seen.push(answer);
        }
    }
    seen
}

/// Runs random histories with everybody and without `left_out`; `watched` must not see a difference.
fn check_non_interference(watched: &[&str], left_out: &[&str]) {
    let seed = std::env::var("LARDER_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 0x9e37_79b9);
    println!("repeat with LARDER_TEST_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let steps = proptest::collection::vec(step(), 1..60);
    TestRunner::new_with_rng(config, random)
        .run(&steps, |steps| {
            runtime.block_on(async {
                let with = observe(&steps, watched, |_| true).await;
                let without = observe(&steps, watched, |who| !left_out.contains(&who)).await;
                prop_assert_eq!(with, without);
                Ok(())
            })
        })
        .unwrap();
}

#[test]
fn nothing_untrusted_changes_any_answer_that_a_trusted_client_gets() {
    check_non_interference(&TRUSTED, &UNTRUSTED);
}

#[test]
fn nothing_a_tenant_does_changes_any_answer_that_another_gets() {
    check_non_interference(&[&TRUSTED[..], &UNTRUSTED].concat(), &TENANT);
}

#[test]
fn nothing_one_pull_request_does_changes_any_answer_that_another_gets() {
    check_non_interference(&["pr7"], &["pr8"]);
}
