//! The figures of the Remote Execution API, over gRPC on loopback, with the program as it is released.
//!
//! `cargo xtask bench reapi` runs this and keeps the results. Each line printed is one figure, as JSON: name, value, unit, and
//! what was aimed at. The server has one core for itself and runs with its defaults but for larger pools; a token comes with every call; the data is
//! in the page cache. CPU is user and system time of the server's process in `/proc/PID/stat`, over enough calls that its
//! resolution of 10 ms does not matter. The workload `repository` has the shape of a real monorepo's cache: 324 tasks, 25,863
//! blobs, 449 MB, of which two thirds are below 1 kB and the largest twentieth holds nine tenths of the bytes.

mod client;

use std::fs;
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use client::Client;
use larder_proto::{Message, reapi};
use larder_testkit::{Access, Server, ServerOptions};
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;
/// A large blob, as digests have it.
const LARGE_BYTES: i64 = 64 << 20;
const SERVER_CORE: usize = 0;
const BATCH_BYTES_MAX: usize = 4 * MIB - (64 << 10);
const TASK_COUNT: usize = 324;
const BLOB_COUNT: usize = 25_863;
const BLOB_BYTES: usize = 449_000_000;
/// Tasks that a client works on at the same time.
const TASKS_AT_A_TIME: usize = 8;
/// Uploads that must not fill the server's memory together.
const UPLOADS_AT_A_TIME: usize = 200;

type Cas = reapi::Digest;

struct House {
    server: Server,
    client: Client,
    token: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("calls") {
        calls().await;
    }
    if wanted("streams") {
        streams().await;
    }
    if wanted("repository") {
        repository().await;
    }
    if wanted("memory") {
        memory().await;
    }
}

#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
fn report(name: &str, value: f64, unit: &str, aim: &str) {
    println!(r#"{{"name":"{name}","value":{value:.3},"unit":"{unit}","aim":"{aim}"}}"#);
}

impl House {
    async fn open() -> Self {
        let options = ServerOptions {
            // Unfinished uploads may hold a quarter of a pool.
            config: Some("[store]\ntrusted = \"56GiB\"\nuntrusted = \"1GiB\"\n".to_owned()),
            core: Some(SERVER_CORE),
            ..ServerOptions::default()
        };
        let server = Server::start_with(env!("CARGO_BIN_EXE_larder"), options).expect("a server");
        let token = server.token(Access::Trusted, None).expect("a token");
        let client = Client::connect(server.address(), &token).await;
        Self {
            server,
            client,
            token,
        }
    }

    /// The server's CPU time so far, in seconds.
    fn cpu(&self) -> f64 {
        let pid = self.server.pid().expect("it runs");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        // In units of 10 ms on every Linux.
        (ticks(11) + ticks(12)) as f64 / 100.0
    }

    /// A line of the process's status, in bytes.
    fn memory(&self, key: &str) -> f64 {
        let pid = self.server.pid().expect("it runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.trim_start_matches(':').trim().split(' ').next());
        1024.0 * kib.expect("a figure").parse::<f64>().expect("a number")
    }

    async fn put(&self, blobs: &[Bytes]) -> Vec<Cas> {
        let digests: Vec<Cas> = blobs.iter().map(digest).collect();
        for (blobs, digests) in blobs.chunks(1000).zip(digests.chunks(1000)) {
            self.client
                .unary(UPDATE, batch_update(blobs, digests))
                .await;
        }
        digests
    }
}

const UPDATE: &str = reapi::content_addressable_storage::BATCH_UPDATE_BLOBS;
const READ: &str = reapi::content_addressable_storage::BATCH_READ_BLOBS;
const FIND: &str = reapi::content_addressable_storage::FIND_MISSING_BLOBS;
const GET_RESULT: &str = reapi::action_cache::GET_ACTION_RESULT;
const UPDATE_RESULT: &str = reapi::action_cache::UPDATE_ACTION_RESULT;

/// FindMissingBlobs and GetActionResult: server CPU per call.
async fn calls() {
    let house = House::open().await;
    let blobs: Vec<Bytes> = (0..10_000).map(|number| blob(number, 100)).collect();
    let digests = house.put(&blobs).await;
    let request = reapi::FindMissingBlobsRequest {
        blob_digests: digests.clone(),
        ..Default::default()
    };
    let request = Bytes::from(request.encode_to_vec());
    let cpu = cpu_per_call(&house, 500, || house.client.unary(FIND, request.clone())).await;
    report(
        "FindMissingBlobs, 10,000 digests, all present",
        cpu * 1e3,
        "ms of server CPU",
        "<= 2",
    );

    let absent: Vec<Cas> = (20_000..30_000)
        .map(|number| digest(&blob(number, 100)))
        .collect();
    let request = reapi::FindMissingBlobsRequest {
        blob_digests: absent,
        ..Default::default()
    };
    let request = Bytes::from(request.encode_to_vec());
    let cpu = cpu_per_call(&house, 300, || house.client.unary(FIND, request.clone())).await;
    report(
        "FindMissingBlobs, 10,000 digests, all missing",
        cpu * 1e3,
        "ms of server CPU",
        "",
    );

    for (outputs, calls, aim) in [(1, 20_000, ""), (1000, 1000, "<= 1")] {
        let action = digest(&blob(outputs as u64, 64));
        let result = action_result(&digests[..outputs]);
        update_result(&house.client, &action, result).await;
        let request = get_result(&action);
        let cpu = cpu_per_call(&house, calls, || {
            house.client.unary(GET_RESULT, request.clone())
        })
        .await;
        let name = format!("GetActionResult, {outputs} outputs");
        report(&name, cpu * 1e3, "ms of server CPU", aim);
    }
}

/// Seconds of server CPU per call, with eight calls in flight.
async fn cpu_per_call<F: Future<Output = Bytes>>(
    house: &House,
    calls: usize,
    call: impl Fn() -> F,
) -> f64 {
    call().await;
    let before = house.cpu();
    let mut left = calls;
    while left > 0 {
        let count = left.min(8);
        if count == 8 {
            tokio::join!(
                call(),
                call(),
                call(),
                call(),
                call(),
                call(),
                call(),
                call()
            );
            left -= 8;
        } else {
            call().await;
            left -= 1;
        }
    }
    (house.cpu() - before) / calls as f64
}

/// Large blobs as streams, small ones in batches: bytes and blobs per server CPU second.
async fn streams() {
    let house = House::open().await;
    let count = 16;
    let blobs: Vec<Bytes> = (0..count).map(|number| blob(number, 64 * MIB)).collect();
    let digests: Vec<Cas> = blobs.iter().map(digest).collect();
    let total = (count as usize * 64 * MIB) as f64;

    let (cpu, began) = (house.cpu(), Instant::now());
    for (number, (blob, digest)) in blobs.iter().zip(&digests).enumerate() {
        let name = write_name(number, digest);
        house.client.write(name, std::slice::from_ref(blob)).await;
    }
    let (cpu, wall) = (house.cpu() - cpu, began.elapsed());
    report(
        "ByteStream.Write 64 MiB",
        total / 1e9 / cpu,
        "GB per server CPU second",
        "",
    );
    report(
        "ByteStream.Write 64 MiB, one stream",
        total / 1e9 / wall.as_secs_f64(),
        "GB/s",
        "",
    );
    let mut rest = Context::new(&SHA256);
    let began = Instant::now();
    rest.update(&blobs[0]);
    std::hint::black_box(rest.finish());
    let hash = (64 * MIB) as f64 / 1e9 / began.elapsed().as_secs_f64();
    report("SHA-256 alone, the limit of a write", hash, "GB/s", "");

    let (cpu, began) = (house.cpu(), Instant::now());
    for digest in digests.iter().cycle().take(64) {
        let name = format!("blobs/{}/{}", digest.hash, digest.size_bytes);
        assert!(house.client.read(name).await > 64 * MIB as u64);
    }
    let (cpu, wall) = (house.cpu() - cpu, began.elapsed());
    report(
        "ByteStream.Read 64 MiB",
        4.0 * total / 1e9 / cpu,
        "GB per server CPU second",
        "",
    );
    report(
        "ByteStream.Read 64 MiB, one stream",
        4.0 * total / 1e9 / wall.as_secs_f64(),
        "GB/s",
        "",
    );

    let batches = 40;
    let requests: Vec<Bytes> = (0..batches)
        .map(|batch| {
            let blobs: Vec<Bytes> = (0..1000)
                .map(|number| blob(1_000_000 + batch * 1000 + number, 4096))
                .collect();
            let digests: Vec<Cas> = blobs.iter().map(digest).collect();
            batch_update(&blobs, &digests)
        })
        .collect();
    let cpu = house.cpu();
    for request in requests {
        house.client.unary(UPDATE, request).await;
    }
    let cpu = house.cpu() - cpu;
    let blobs = (batches * 1000) as f64;
    report(
        "BatchUpdateBlobs, 1,000 of 4 KiB",
        blobs / cpu,
        "blobs per server CPU second",
        "",
    );
}

struct Task {
    action: Cas,
    blobs: Vec<(Cas, Bytes)>,
}

/// Stores a repository's cache and restores it, as moon does.
async fn repository() {
    let house = House::open().await;
    let tasks = tasks();
    let bytes: usize = tasks
        .iter()
        .flat_map(|task| &task.blobs)
        .map(|(_, blob)| blob.len())
        .sum();
    let tasks: Vec<std::sync::Arc<Task>> = tasks.into_iter().map(std::sync::Arc::new).collect();

    let (cpu, began) = (house.cpu(), Instant::now());
    each(
        &tasks,
        |client, task| async move { store(&client, &task).await },
        &house.client,
    )
    .await;
    let (stored, stored_cpu) = (began.elapsed(), house.cpu() - cpu);
    let (cpu, began) = (house.cpu(), Instant::now());
    each(
        &tasks,
        |client, task| async move { restore(&client, &task).await },
        &house.client,
    )
    .await;
    let (restored, restored_cpu) = (began.elapsed(), house.cpu() - cpu);
    let name = format!(
        "repository: {TASK_COUNT} tasks, {BLOB_COUNT} blobs, {} MB",
        bytes / 1_000_000
    );
    report(&format!("{name}, store"), stored.as_secs_f64(), "s", "");
    report(
        &format!("{name}, store, server"),
        stored_cpu,
        "s of CPU",
        "",
    );
    report(&format!("{name}, restore"), restored.as_secs_f64(), "s", "");
    report(
        &format!("{name}, restore, server"),
        restored_cpu,
        "s of CPU",
        "",
    );
}

async fn each<F: Future<Output = ()> + Send + 'static>(
    tasks: &[std::sync::Arc<Task>],
    work: impl Fn(Client, std::sync::Arc<Task>) -> F,
    client: &Client,
) {
    let mut running = JoinSet::new();
    for task in tasks {
        if running.len() == TASKS_AT_A_TIME {
            running
                .join_next()
                .await
                .expect("one runs")
                .expect("it ends well");
        }
        running.spawn(work(client.clone(), task.clone()));
    }
    while let Some(done) = running.join_next().await {
        done.expect("it ends well");
    }
}

async fn store(client: &Client, task: &Task) {
    let digests: Vec<Cas> = task
        .blobs
        .iter()
        .map(|(digest, _)| digest.clone())
        .collect();
    let request = reapi::FindMissingBlobsRequest {
        blob_digests: digests.clone(),
        ..Default::default()
    };
    let missing: reapi::FindMissingBlobsResponse = client.ask(FIND, &request).await;
    assert_eq!(missing.missing_blob_digests.len(), digests.len());
    let (large, small): (Vec<_>, Vec<_>) = task
        .blobs
        .iter()
        .partition(|(_, blob)| blob.len() + 300 > BATCH_BYTES_MAX);
    for batch in batches(&small) {
        let (digests, blobs): (Vec<Cas>, Vec<Bytes>) = batch
            .iter()
            .map(|(digest, blob)| (digest.clone(), blob.clone()))
            .unzip();
        client.unary(UPDATE, batch_update(&blobs, &digests)).await;
    }
    for (digest, blob) in large {
        client
            .write(write_name(1, digest), std::slice::from_ref(blob))
            .await;
    }
    update_result(client, &task.action, action_result(&digests)).await;
}

async fn restore(client: &Client, task: &Task) {
    let result: reapi::ActionResult =
        reapi::ActionResult::decode(client.unary(GET_RESULT, get_result(&task.action)).await)
            .expect("a result");
    assert_eq!(result.output_files.len(), task.blobs.len());
    let (large, small): (Vec<_>, Vec<_>) = task
        .blobs
        .iter()
        .partition(|(_, blob)| blob.len() + 300 > BATCH_BYTES_MAX);
    for batch in batches(&small) {
        let request = reapi::BatchReadBlobsRequest {
            digests: batch.iter().map(|(digest, _)| digest.clone()).collect(),
            ..Default::default()
        };
        let answer: reapi::BatchReadBlobsResponse = client.ask(READ, &request).await;
        let bytes: usize = answer
            .responses
            .iter()
            .map(|response| response.data.len())
            .sum();
        assert_eq!(
            bytes,
            batch.iter().map(|(_, blob)| blob.len()).sum::<usize>()
        );
    }
    for (digest, blob) in large {
        let name = format!("blobs/{}/{}", digest.hash, digest.size_bytes);
        assert!(client.read(name).await > blob.len() as u64);
    }
}

fn batches<'a>(blobs: &[&'a (Cas, Bytes)]) -> Vec<Vec<&'a (Cas, Bytes)>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for blob in blobs {
        bytes += blob.1.len() + 300;
        if bytes > BATCH_BYTES_MAX {
            batches.push(Vec::new());
            bytes = blob.1.len() + 300;
        }
        batches.last_mut().expect("one").push(*blob);
    }
    batches
}

/// Tasks of the repository's shape, always the same.
fn tasks() -> Vec<Task> {
    let mut random = Random(0x1a4d_e201);
    let mut sizes: Vec<f64> = (0..BLOB_COUNT)
        .map(|_| match random.below(1000) {
            0..660 => 50.0 + random.below(950) as f64,
            660..860 => 1000.0 + random.below(9000) as f64,
            860..960 => 10_000.0 + random.below(30_000) as f64,
            // The few that hold most of the bytes; their sum is set below.
            _ => -(1.0 + random.below(1000) as f64),
        })
        .collect();
    let small: f64 = sizes.iter().filter(|size| **size > 0.0).sum();
    let large: f64 = sizes.iter().filter(|size| **size < 0.0).sum();
    let unit = (BLOB_BYTES as f64 - small) / -large;
    for size in &mut sizes {
        *size = if *size < 0.0 { -*size * unit } else { *size };
    }
    let mut tasks: Vec<Task> = (0..TASK_COUNT as u64)
        .map(|number| Task {
            action: digest(&blob(number, 500)),
            blobs: Vec::new(),
        })
        .collect();
    for (number, size) in sizes.iter().enumerate() {
        let blob = blob(1_000_000 + number as u64, *size as usize);
        tasks[number % TASK_COUNT].blobs.push((digest(&blob), blob));
    }
    tasks
}

/// The server's memory while many large blobs are uploaded at once.
async fn memory() {
    let house = House::open().await;
    let at_rest = house.memory("VmRSS");
    let common = blob(7, 64 * MIB - 64);
    let mut hash = Context::new(&SHA256);
    hash.update(&common);
    let began = Instant::now();
    let mut uploads = JoinSet::new();
    for number in 0..UPLOADS_AT_A_TIME {
        let end = blob(number as u64, 64);
        let mut hash = hash.clone();
        hash.update(&end);
        let digest = Cas {
            hash: hex(hash.finish().as_ref()),
            size_bytes: LARGE_BYTES,
        };
        let (address, token) = (house.server.address(), house.token.clone());
        let blob = [common.clone(), end];
        uploads.spawn(async move {
            let client = Client::connect(address, &token).await;
            client.write(write_name(number, &digest), &blob).await
        });
    }
    while let Some(stored) = uploads.join_next().await {
        assert_eq!(stored.expect("it ends well"), LARGE_BYTES);
    }
    let name = format!("{UPLOADS_AT_A_TIME} uploads of 64 MiB at once, a connection each");
    report(
        &format!("{name}, server at rest"),
        at_rest / 1e6,
        "MB of memory",
        "",
    );
    report(
        &format!("{name}, server at its peak"),
        house.memory("VmHWM") / 1e6,
        "MB of memory",
        "",
    );
    report(&name, began.elapsed().as_secs_f64(), "s", "");
}

fn write_name(number: usize, digest: &Cas) -> String {
    let Cas { hash, size_bytes } = digest;
    format!("uploads/00000000-0000-4000-8000-{number:012}/blobs/{hash}/{size_bytes}")
}

fn batch_update(blobs: &[Bytes], digests: &[Cas]) -> Bytes {
    let requests = blobs.iter().zip(digests).map(|(blob, digest)| {
        reapi::batch_update_blobs_request::Request {
            digest: Some(digest.clone()),
            data: blob.clone(),
            ..Default::default()
        }
    });
    let request = reapi::BatchUpdateBlobsRequest {
        requests: requests.collect(),
        ..Default::default()
    };
    request.encode_to_vec().into()
}

fn action_result(outputs: &[Cas]) -> reapi::ActionResult {
    let files = outputs
        .iter()
        .enumerate()
        .map(|(number, digest)| reapi::OutputFile {
            path: format!("packages/application/dist/chunk-{number}.js"),
            digest: Some(digest.clone()),
            ..Default::default()
        });
    reapi::ActionResult {
        output_files: files.collect(),
        ..Default::default()
    }
}

async fn update_result(client: &Client, action: &Cas, result: reapi::ActionResult) {
    let request = reapi::UpdateActionResultRequest {
        action_digest: Some(action.clone()),
        action_result: Some(result),
        ..Default::default()
    };
    client
        .unary(UPDATE_RESULT, request.encode_to_vec().into())
        .await;
}

fn get_result(action: &Cas) -> Bytes {
    let request = reapi::GetActionResultRequest {
        action_digest: Some(action.clone()),
        ..Default::default()
    };
    request.encode_to_vec().into()
}

fn digest(blob: &Bytes) -> Cas {
    let hash = aws_lc_rs::digest::digest(&SHA256, blob);
    Cas {
        hash: hex(hash.as_ref()),
        size_bytes: blob.len().cast_signed() as i64,
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    let digits = |byte: &u8| [digit(byte >> 4), digit(byte & 0xf)];
    bytes.iter().flat_map(digits).collect()
}

/// The `number`th blob of this size: all different, none compressible.
fn blob(number: u64, size: usize) -> Bytes {
    let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ size as u64);
    let mut blob = Vec::with_capacity(size + 8);
    while blob.len() < size {
        blob.extend_from_slice(&random.next().to_le_bytes());
    }
    blob.truncate(size);
    blob.into()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
