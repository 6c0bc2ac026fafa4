//! The second reading of `[bucket]`: where entries are kept besides this machine's disk, and what "stored" means.
//!
//! Nothing here asks the bucket. Credentials are no keys: they come from where the clouds' own tools have them.

use std::time::Duration;

use larder_bucket::EXPIRE_AFTER_DEFAULT;
use larder_bucket::link::{Addressing, BucketUrl, Encryption};
use larder_cache::Ack;

use super::keys::Key;
use super::quantity::parse_duration;
use super::raw::RawConfig;
use super::resolve::{Reader, one_of, some};
use super::settings::BucketSettings;

/// Less than this and entries are written again all the time: each is once in half of it.
const EXPIRE_AFTER_MIN: Duration = Duration::from_hours(24);

const ACKS: [(&str, Ack); 2] = [("local", Ack::Local), ("bucket", Ack::Bucket)];
const ADDRESSINGS: [(&str, Addressing); 2] = [
    ("path", Addressing::Path),
    ("virtual-host", Addressing::VirtualHost),
];

/// `None` without a URL; then nothing else of the section may be there either.
pub(super) fn bucket(reader: &mut Reader, raw: &RawConfig) -> Option<BucketSettings> {
    let top = |key| raw.get(key);
    let url = reader.parsed(Key::BucketUrl, top, some(parse_url), None);
    let mut text = |key| reader.parsed(key, top, some(parse_text), None);
    let (endpoint, region, account) = (
        text(Key::BucketEndpoint),
        text(Key::BucketRegion),
        text(Key::BucketAccount),
    );
    let ack = reader.parsed(
        Key::BucketAck,
        top,
        |text| one_of(text, &ACKS),
        Ack::default(),
    );
    let expire_after = reader.parsed(
        Key::BucketExpireAfter,
        top,
        parse_expire_after,
        EXPIRE_AFTER_DEFAULT,
    );
    let addressing = |text: &str| one_of(text, &ADDRESSINGS).map(Some);
    let addressing = reader.parsed(Key::BucketAddressing, top, addressing, None);
    let encryption = reader.parsed(Key::BucketEncryption, top, some(parse_encryption), None);
    let ca_file = reader.file(Key::BucketCaFile, top);
    let Some(url) = url else {
        let of_bucket = |key: &&Key| key.spec().section == "bucket" && raw.get(**key).is_some();
        let written = Key::ALL.iter().find(of_bucket);
        if let Some(written) = written.filter(|key| **key != Key::BucketUrl) {
            reader.fault(raw, *written, "there is no bucket without a url");
        }
        return None;
    };
    Some(BucketSettings {
        url,
        ack,
        expire_after,
        endpoint,
        addressing,
        region,
        account,
        encryption,
        ca_file,
    })
}

fn parse_url(text: &str) -> Result<BucketUrl, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn parse_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("leave the key out instead of writing nothing".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn parse_expire_after(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < EXPIRE_AFTER_MIN {
        Err("at least 1d".to_owned())
    } else {
        Ok(duration)
    }
}

fn parse_encryption(text: &str) -> Result<Encryption, String> {
    match text.split_once(':') {
        None if text == "s3" => Ok(Encryption::S3),
        Some(("kms", key)) if !key.is_empty() => Ok(Encryption::Kms {
            key: key.to_owned(),
        }),
        _ => Err(format!(
            "\"{}\" is neither \"s3\" nor \"kms:\" with a key's id, ARN or alias",
            text.escape_debug()
        )),
    }
}
