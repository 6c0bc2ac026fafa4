//! The attempts on blobs of the Remote Execution API. They prove what they are, if the server checks it.

use std::time::Instant;

use bytes::Bytes;
use larder_proto::reapi::Digest;

use super::bench::{Bench, Judged, SETTLING_LIMIT, SETTLING_PAUSE, Trial, fail, new_text, pass};
use super::exchange::{Loaded, Stored, Unclear};
use super::people::Who::{PullRequest, Trunk};
use super::reapi::{ReapiCache, digest};
use super::report::{Attempt, Harm};

/// The doors by which a blob is stored.
#[derive(Debug, Clone, Copy)]
enum Door {
    BatchUpdate,
    Write,
    Http,
}

pub(super) async fn try_all(
    bench: &Bench,
    reapi: &ReapiCache,
    progress: &dyn Fn(&str),
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let what = "a blob that only a pull request stored: is trunk told of it, and can it read it";
    progress(what);
    let attempt = bench.attempt("blob-presence", what, async |trial| {
        presence(trial, reapi).await
    });
    attempts.push(attempt.await);
    for (door, id, what) in [
        (
            Door::BatchUpdate,
            "wrong-blob-in-a-batch",
            "a pull request stores bytes that are not the blob, by BatchUpdateBlobs",
        ),
        (
            Door::Write,
            "wrong-blob-in-a-stream",
            "a pull request stores bytes that are not the blob, by ByteStream.Write",
        ),
        (
            Door::Http,
            "wrong-blob-over-http",
            "a pull request stores bytes that are not the blob, by PUT /cas/HASH",
        ),
    ] {
        progress(what);
        let attempt = bench.attempt(id, what, async |trial| {
            wrong_bytes(trial, reapi, door).await
        });
        attempts.push(attempt.await);
    }
    attempts
}

/// If trunk is told that a blob is there it does not send it again; so it must be there for trunk, too.
async fn presence(trial: &mut Trial<'_>, reapi: &ReapiCache) -> Judged {
    let people = &trial.bench.people;
    let blob = Bytes::from(new_text(PullRequest));
    let digest = digest(&blob);
    let sent = reapi
        .upload(people, PullRequest, &digest, blob.clone())
        .await;
    let stored = trial.blob_sent(PullRequest, sent, &digest, &blob)?;
    let told = reapi.has(people, Trunk, &digest).await;
    if !trial.blob_step(Trunk, told, &digest, None)? {
        return pass(match stored {
            Stored::Accepted => "trunk is not told of it",
            Stored::Exists | Stored::Refused(_) => "the pull request cannot store blobs",
        });
    }
    match read_settled(trial, reapi, &digest).await? {
        Loaded::Bytes(bytes) if bytes == blob => {
            pass("blobs are shared: trunk is told of it and can read it")
        }
        Loaded::Bytes(_) => fail(
            Harm::TrunkPoisoned,
            "trunk gets other bytes than the digest says",
        ),
        Loaded::Nothing | Loaded::Refused(_) => fail(
            Harm::TrunkBlocked,
            "trunk is told that a blob is there which it cannot read",
        ),
    }
}

/// What trunk gets of a blob that should be there: nothing only if that stays so.
async fn read_settled(
    trial: &mut Trial<'_>,
    reapi: &ReapiCache,
    digest: &Digest,
) -> Result<Loaded, Unclear> {
    let people = &trial.bench.people;
    let end = Instant::now() + SETTLING_LIMIT;
    loop {
        let read = reapi.read(people, Trunk, digest).await;
        let missing = matches!(&read.meaning, Ok(Loaded::Nothing | Loaded::Refused(_)));
        if !missing || Instant::now() >= end {
            return trial.blob_read(Trunk, read, digest);
        }
        tokio::time::sleep(SETTLING_PAUSE).await;
    }
}

async fn wrong_bytes(trial: &mut Trial<'_>, reapi: &ReapiCache, door: Door) -> Judged {
    let right = Bytes::from(new_text(Trunk));
    let mut wrong = right.to_vec();
    wrong[0] ^= 1;
    let wrong = Bytes::from(wrong);
    let digest = digest(&right);

    // Nobody has the blob.
    send_wrong(trial, reapi, door, &digest, &wrong).await;
    if let Some(judged) = misled(trial, reapi, &digest, &right, false).await {
        return judged;
    }
    // Trunk has it.
    let people = &trial.bench.people;
    let sent = reapi.upload(people, Trunk, &digest, right.clone()).await;
    if trial.blob_sent(Trunk, sent, &digest, &right)? != Stored::Accepted {
        return fail(
            Harm::TrunkBlocked,
            "trunk cannot store the blob after the wrong bytes",
        );
    }
    send_wrong(trial, reapi, door, &digest, &wrong).await;
    match misled(trial, reapi, &digest, &right, true).await {
        Some(judged) => judged,
        None => pass("trunk gets the blob, or nothing"),
    }
}

/// Whatever is answered, only reading tells what it did.
async fn send_wrong(
    trial: &mut Trial<'_>,
    reapi: &ReapiCache,
    door: Door,
    digest: &Digest,
    wrong: &Bytes,
) {
    let people = &trial.bench.people;
    let sent = match door {
        Door::BatchUpdate => {
            reapi
                .upload(people, PullRequest, digest, wrong.clone())
                .await
        }
        Door::Write => {
            reapi
                .write(people, PullRequest, digest, wrong.clone())
                .await
        }
        Door::Http => {
            let path = format!("/cas/{}", digest.hash);
            reapi.put(people, PullRequest, &path, wrong.clone()).await
        }
    };
    let _ = trial.blob_sent(PullRequest, sent, digest, wrong);
}

/// What trunk is shown, if it is not the blob, and not nothing where nothing is right.
async fn misled(
    trial: &mut Trial<'_>,
    reapi: &ReapiCache,
    digest: &Digest,
    right: &Bytes,
    stored: bool,
) -> Option<Judged> {
    let people = &trial.bench.people;
    let told = reapi.has(people, Trunk, digest).await;
    let told = match trial.blob_step(Trunk, told, digest, None) {
        Ok(told) => told,
        Err(unclear) => return Some(Err(unclear)),
    };
    let read = if told || stored {
        read_settled(trial, reapi, digest).await
    } else {
        let read = reapi.read(people, Trunk, digest).await;
        trial.blob_read(Trunk, read, digest)
    };
    match read {
        Err(unclear) => Some(Err(unclear)),
        Ok(Loaded::Bytes(bytes)) if bytes == *right => None,
        Ok(Loaded::Bytes(_)) => Some(fail(
            Harm::TrunkPoisoned,
            "trunk gets other bytes than the digest says",
        )),
        Ok(Loaded::Nothing | Loaded::Refused(_)) if stored => Some(fail(
            Harm::TrunkBlocked,
            "trunk lost a blob because the pull request stored",
        )),
        Ok(Loaded::Nothing | Loaded::Refused(_)) if told => Some(fail(
            Harm::TrunkBlocked,
            "trunk is told that a blob is there which it cannot read",
        )),
        Ok(Loaded::Nothing | Loaded::Refused(_)) => None,
    }
}
