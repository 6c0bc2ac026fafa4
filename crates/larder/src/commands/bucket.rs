//! `larder bucket`: through the running server, or here when none runs. The key is the ledger's.

use std::fmt::Write as _;
use std::io::Read as _;

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use serde::de::DeserializeOwned;

use super::control::{Control, read};
use crate::bucket::{self, BucketStatus, Depot, GcFigures, Running};
use crate::cli::{BucketCommand, BucketKeyCommand, BucketStatusArgs, PlaceArgs};
use crate::config::{BucketSettings, LogFormat, Settings, size_text};
use crate::{clock, logging, place, start, terminal};

/// A key in hexadecimal digits.
const KEY_DIGITS: usize = 64;

pub(super) async fn run(command: BucketCommand) -> anyhow::Result<()> {
    match command {
        BucketCommand::Status(args) => status(&args).await,
        BucketCommand::Check { place } => check(&place).await,
        BucketCommand::Gc { place } => gc(&place).await,
        BucketCommand::Key(BucketKeyCommand::Export { place }) => export(&place).await,
        BucketCommand::Key(BucketKeyCommand::Import { place }) => import(&place).await,
    }
}

async fn status(args: &BucketStatusArgs) -> anyhow::Result<()> {
    let settings = place::existing(&args.place)?;
    let status = match ask(&settings, Method::GET, "status").await? {
        Some(status) => status,
        None => from_ledger(&settings).await?,
    };
    let text = if args.json {
        serde_json::to_string_pretty(&status)?
    } else {
        status_text(&status)
    };
    Ok(terminal::print(&text)?)
}

async fn check(place: &PlaceArgs) -> anyhow::Result<()> {
    let settings = place::existing(place)?;
    if ask::<()>(&settings, Method::POST, "check").await?.is_none() {
        bucket::check(configured(&settings)?).await?;
    }
    let note =
        "the bucket can be used: what was written came back, and a second first write was refused";
    Ok(terminal::print(note)?)
}

async fn gc(place: &PlaceArgs) -> anyhow::Result<()> {
    let settings = place::existing(place)?;
    let done = match ask(&settings, Method::POST, "gc").await? {
        Some(done) => done,
        None => gc_here(&settings).await?,
    };
    Ok(terminal::print(&gc_text(&done))?)
}

async fn gc_here(settings: &Settings) -> anyhow::Result<GcFigures> {
    let data_dir = &settings.store.data_dir;
    let advice = "it is another command at work, or a server that starts or stops; try again when it is done";
    let _lock = start::lock(data_dir, advice)?;
    logging::start(LogFormat::Human, tracing::Level::WARN)?;
    let ledger = place::ledger(data_dir).await?;
    let depot = Depot::open(configured(settings)?, data_dir, &ledger).await?;
    depot.gc().await.map_err(anyhow::Error::msg)
}

async fn export(place: &PlaceArgs) -> anyhow::Result<()> {
    let settings = place::existing(place)?;
    let ledger = place::ledger(&settings.store.data_dir).await?;
    let key = ledger.bucket_key_if_any().await?;
    let key = key.context("there is no key yet: it is made when a server first uses a bucket")?;
    let mut digits = String::with_capacity(KEY_DIGITS);
    for byte in key {
        write!(digits, "{byte:02x}").expect("a string takes every write");
    }
    Ok(terminal::print(&digits)?)
}

async fn import(place: &PlaceArgs) -> anyhow::Result<()> {
    let settings = place::existing(place)?;
    let data_dir = &settings.store.data_dir;
    // A running server has the old key in memory, and would go on to use it.
    let _lock = start::lock(data_dir, "stop it first")?;
    let mut text = String::new();
    let mut input = std::io::stdin().take(KEY_DIGITS as u64 + 2);
    input
        .read_to_string(&mut text)
        .context("cannot read the key from standard input")?;
    let key = parse_key(text.trim()).with_context(|| {
        format!("this is no key: `larder bucket key export` prints {KEY_DIGITS} hexadecimal digits")
    })?;
    let ledger = place::ledger(data_dir).await?;
    anyhow::ensure!(
        ledger.replace_bucket_key(key).await?,
        "this ledger has packs that were made with its own key; only a new ledger takes another"
    );
    terminal::note(
        "the key is in the ledger. Packs that another ledger knew are not known here: `larder bucket gc` deletes them",
    );
    Ok(())
}

fn parse_key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != KEY_DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

/// What the running server answers; `None`: none runs.
async fn ask<T: DeserializeOwned>(
    settings: &Settings,
    method: Method,
    operation: &str,
) -> anyhow::Result<Option<T>> {
    let Some(mut server) = Control::server(&settings.store.data_dir).await? else {
        return Ok(None);
    };
    let path = format!("{}{operation}", bucket::ROUTES);
    let answer = server.ask(method, &path, Bytes::new()).await?;
    Ok(Some(read(answer).await?))
}

fn configured(settings: &Settings) -> anyhow::Result<&BucketSettings> {
    let bucket = settings.bucket.as_ref();
    bucket.context("the configuration has no bucket; pass the server's --config FILE")
}

async fn from_ledger(settings: &Settings) -> anyhow::Result<BucketStatus> {
    let bucket = configured(settings)?;
    let ledger = place::ledger(&settings.store.data_dir).await?;
    let sums = ledger.pack_sums().await?;
    Ok(BucketStatus {
        url: bucket.url.to_string(),
        packs: sums.packs,
        pack_bytes: sums.object_bytes,
        server: None,
    })
}

fn status_text(status: &BucketStatus) -> String {
    let mut text = status.url.clone();
    let mut line = |name: &str, value: String| {
        write!(text, "\n  {name:<22} {value}").expect("a string takes every write");
    };
    let packs = format!("{}, {}", status.packs, size_text(status.pack_bytes));
    line("packs", packs);
    let Some(server) = &status.server else {
        line("server", "none runs".to_owned());
        return text;
    };
    line("bucket", reachability(server));
    let known = if server.caught_up {
        ""
    } else {
        ", and more to come"
    };
    line(
        "entries known",
        format!(
            "{}{known}, {} of memory",
            server.entries,
            size_text(server.index_memory_bytes)
        ),
    );
    let since = server.queue_oldest_at_ms;
    let since = since.map_or_else(String::new, |ms| {
        format!(", the oldest since {}", clock::utc_text(ms))
    });
    line(
        "waiting for upload",
        format!(
            "{}, {}{since}",
            server.queue_entries,
            size_text(server.queue_bytes)
        ),
    );
    let requests = server.requests.iter();
    let cells: Vec<Vec<String>> = requests
        .map(|of| {
            vec![
                of.operation.clone(),
                of.outcome.clone(),
                of.count.to_string(),
            ]
        })
        .collect();
    if !cells.is_empty() {
        text.push_str("\n\n");
        text.push_str(&terminal::table(
            &["REQUEST", "OUTCOME", "SINCE THE START"],
            &cells,
        ));
    }
    text
}

fn reachability(server: &Running) -> String {
    match server.open_for_ms {
        None => "in use".to_owned(),
        Some(ms) => format!(
            "left alone after failures; asked again in {:.1} s",
            ms as f64 / 1000.0
        ),
    }
}

fn gc_text(done: &GcFigures) -> String {
    let foreign = match done.foreign_objects {
        0 => String::new(),
        count => format!("; {count} objects are not of this deployment and stay"),
    };
    format!(
        "deleted {} expired packs and {} objects that nothing refers to, {}{foreign}",
        done.expired_packs,
        done.unreferenced_objects,
        size_text(done.freed_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits_and_nothing_else() {
        let key = parse_key(&"0aF".repeat(22)[..64]).unwrap();
        assert_eq!(key[..3], [0x0a, 0xf0, 0xaf]);
        for text in ["", "00", &"0".repeat(63), &"g".repeat(64), &"+1".repeat(32)] {
            assert_eq!(parse_key(text), None, "{text}");
        }
    }
}
