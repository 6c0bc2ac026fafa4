//! What one turn of a lane is: one request of a kind, or one task of a build.

use std::sync::Arc;

use bytes::Bytes;

use crate::build::{self, Task};
use crate::content::{Blob, Content, Random, mixed};
use crate::lane::{Got, Halt, Lane};
use crate::messages;
use crate::target::Protocol;

/// What a batch may hold: a little less than gRPC's usual 4 MiB for a message.
const BATCH_BYTES_MAX: u64 = (4 << 20) - (64 << 10);

/// What a blob of a batch adds to its bytes: its digest, a status, the encoding.
const BATCH_ENTRY_BYTES: u64 = 300;

/// The most blobs in a batch, as clients have it.
const BATCH_COUNT_MAX: usize = 1000;

/// What is stored before something is measured.
#[derive(Debug)]
pub(crate) enum Filling {
    One(Blob),
    Batch(Vec<Blob>),
    Result { action: Blob, outputs: Arc<[Blob]> },
}

/// Turns of one kind.
pub(crate) enum Work {
    Fill(Vec<Filling>),
    /// Each of these once: was it kept?
    ReadBack(Vec<Blob>),
    Read(Vec<Blob>),
    Miss {
        size: u64,
    },
    Write {
        size: u64,
    },
    /// Results that all have the same outputs.
    Results {
        actions: Vec<Blob>,
        outputs: Arc<[Blob]>,
    },
    ResultMiss,
    FindMissing {
        request: Bytes,
        missing: Vec<Blob>,
    },
    BatchRead(Vec<(Bytes, Vec<Blob>)>),
    BatchUpdate {
        count: usize,
        size: u64,
    },
    /// Reads of what is there, and for the rest a read in vain and a write.
    Mixed {
        there: Vec<Blob>,
        hit_percent: u8,
        seed: u64,
    },
    Store(Vec<Task>),
    Restore(Vec<Task>),
}

impl Work {
    /// Does turn `number`. `Ok(false)`: this lane has no more to do. What went wrong is counted where it happened.
    pub(crate) async fn turn(&self, lane: &mut Lane, number: u64) -> Result<bool, Halt> {
        match self {
            Self::Fill(fillings) => fill(lane, &fillings[number as usize]).await?,
            Self::ReadBack(blobs) => {
                lane.read_stored(&blobs[number as usize]).await?;
            }
            Self::Read(blobs) => {
                lane.read_stored(pick(blobs, number)).await?;
            }
            Self::Miss { size } => {
                let blob = lane.content.new_blob(lane.target.protocol, *size);
                lane.read_absent(&blob).await?;
            }
            Self::Write { size } => return write_new(lane, *size).await,
            Self::Results { actions, outputs } => {
                if lane.get_result(pick(actions, number), outputs).await? == Got::Miss {
                    lane.tally.borrow_mut().lost += 1;
                }
            }
            Self::ResultMiss => {
                let action = lane
                    .content
                    .new_blob(lane.target.protocol, build::ACTION_BYTES);
                lane.get_result(&action, &[]).await?;
            }
            Self::FindMissing { request, missing } => {
                lane.find_missing(request.clone(), missing).await?;
            }
            Self::BatchRead(batches) => {
                let (request, blobs) = pick(batches, number);
                lane.batch_read(request.clone(), blobs).await?;
            }
            Self::BatchUpdate { count, size } => {
                if !lane.shared.may_write(*size * *count as u64) {
                    return Ok(false);
                }
                let new = || lane.content.new_blob(lane.target.protocol, *size);
                let blobs: Vec<Blob> = std::iter::repeat_with(new).take(*count).collect();
                lane.batch_update(&blobs).await?;
            }
            Self::Mixed {
                there,
                hit_percent,
                seed,
            } => {
                let mut random = Random::new(seed ^ mixed(number));
                if random.below(100) < u64::from(*hit_percent) {
                    lane.read_stored(pick(there, random.next())).await?;
                } else {
                    let size = mixed_size(&mut random);
                    let blob = lane.content.new_blob(lane.target.protocol, size);
                    lane.read_absent(&blob).await?;
                    if !lane.shared.may_write(size) {
                        return Ok(false);
                    }
                    lane.write(&blob).await?;
                }
            }
            Self::Store(tasks) => store(lane, &tasks[number as usize]).await?,
            Self::Restore(tasks) => restore(lane, &tasks[number as usize]).await?,
        }
        Ok(true)
    }

    /// How many turns there are, where that is fixed.
    pub(crate) fn turns(&self) -> Option<u64> {
        match self {
            Self::Fill(fillings) => Some(fillings.len() as u64),
            Self::ReadBack(blobs) => Some(blobs.len() as u64),
            Self::Store(tasks) | Self::Restore(tasks) => Some(tasks.len() as u64),
            _ => None,
        }
    }
}

/// A size of the mixed load: BuildBuddy's, without the few that would be most of the bytes.
pub(crate) fn mixed_size(random: &mut Random) -> u64 {
    build::buildbuddy_size(random).min(1 << 20)
}

/// Any of them, another one each turn, but the same for the same turn.
fn pick<T>(all: &[T], number: u64) -> &T {
    &all[(mixed(number) % all.len() as u64) as usize]
}

async fn write_new(lane: &mut Lane, size: u64) -> Result<bool, Halt> {
    if !lane.shared.may_write(size) {
        return Ok(false);
    }
    let blob = lane.content.new_blob(lane.target.protocol, size);
    lane.write(&blob).await?;
    Ok(true)
}

async fn fill(lane: &mut Lane, filling: &Filling) -> Result<(), Halt> {
    match filling {
        Filling::One(blob) => lane.write(blob).await?,
        Filling::Batch(blobs) => lane.batch_update(blobs).await?,
        Filling::Result { action, outputs } => lane.put_result(action, outputs).await?,
    };
    Ok(())
}

/// A task that was not in the cache, as its client stores it.
async fn store(lane: &mut Lane, task: &Task) -> Result<(), Halt> {
    let outputs = &task.outputs;
    match lane.target.protocol {
        Protocol::Nx | Protocol::Files => {
            lane.read_absent(&outputs[0]).await?;
            lane.write(&outputs[0]).await?;
        }
        Protocol::ReapiHttp => {
            lane.get_result(&task.action, &[]).await?;
            for output in outputs {
                lane.write(output).await?;
            }
            lane.put_result(&task.action, outputs).await?;
        }
        Protocol::Reapi => {
            lane.get_result(&task.action, &[]).await?;
            let request = messages::blobs_request(&lane.target.instance, outputs);
            lane.find_missing(request, outputs).await?;
            let (batches, large) = batches(outputs);
            for batch in batches {
                lane.batch_update(&batch).await?;
            }
            for blob in large {
                lane.write(&blob).await?;
            }
            lane.put_result(&task.action, outputs).await?;
        }
    }
    Ok(())
}

/// A task that is in the cache, as its client restores it.
async fn restore(lane: &mut Lane, task: &Task) -> Result<(), Halt> {
    let outputs = &task.outputs;
    let protocol = lane.target.protocol;
    if matches!(protocol, Protocol::Nx | Protocol::Files) {
        lane.read_stored(&outputs[0]).await?;
        return Ok(());
    }
    if lane.get_result(&task.action, outputs).await? == Got::Miss {
        lane.tally.borrow_mut().lost += 1;
        return Ok(());
    }
    if protocol == Protocol::ReapiHttp {
        for output in outputs {
            lane.read_stored(output).await?;
        }
        return Ok(());
    }
    let (batches, large) = batches(outputs);
    for batch in batches {
        let request = messages::blobs_request(&lane.target.instance, &batch);
        lane.batch_read(request, &batch).await?;
    }
    for blob in large {
        lane.read_stored(&blob).await?;
    }
    Ok(())
}

/// Blobs as clients send them: as many as fit into a batch, and alone what fits into none.
pub(crate) fn batches(blobs: &[Blob]) -> (Vec<Vec<Blob>>, Vec<Blob>) {
    let fits_alone = |blob: &&Blob| blob.size + BATCH_ENTRY_BYTES <= BATCH_BYTES_MAX;
    let (small, large): (Vec<&Blob>, Vec<&Blob>) = blobs.iter().partition(fits_alone);
    let mut batches: Vec<Vec<Blob>> = Vec::new();
    let mut bytes = 0;
    for blob in small {
        let more = blob.size + BATCH_ENTRY_BYTES;
        let is_full =
            |batch: &Vec<Blob>| bytes + more > BATCH_BYTES_MAX || batch.len() == BATCH_COUNT_MAX;
        match batches.last_mut() {
            Some(batch) if !is_full(batch) => batch.push(blob.clone()),
            _ => {
                batches.push(vec![blob.clone()]);
                bytes = 0;
            }
        }
        bytes += more;
    }
    (batches, large.into_iter().cloned().collect())
}

/// As many new blobs of this size as go into one batch.
pub(crate) fn batch_count(size: u64) -> usize {
    ((BATCH_BYTES_MAX / (size + BATCH_ENTRY_BYTES)) as usize).min(BATCH_COUNT_MAX)
}

/// What stores these blobs in the fewest requests.
pub(crate) fn fillings(protocol: Protocol, blobs: &[Blob]) -> Vec<Filling> {
    if protocol != Protocol::Reapi {
        return blobs.iter().cloned().map(Filling::One).collect();
    }
    let (batches, large) = batches(blobs);
    let batches = batches.into_iter().map(Filling::Batch);
    batches.chain(large.into_iter().map(Filling::One)).collect()
}

/// New blobs, one of each of these sizes.
pub(crate) fn new_blobs(
    content: &Content,
    protocol: Protocol,
    sizes: impl Iterator<Item = u64>,
) -> Vec<Blob> {
    sizes.map(|size| content.new_blob(protocol, size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_blob_once_and_no_batch_is_too_large() {
        let content = Content::new(1);
        let sizes = [
            100,
            5 << 20,
            4_000_000,
            300_000,
            BATCH_BYTES_MAX - 300,
            BATCH_BYTES_MAX - 299,
        ];
        let sizes = sizes.into_iter().chain(std::iter::repeat_n(10, 2500));
        let blobs: Vec<Blob> = sizes
            .map(|size| content.new_blob(Protocol::Reapi, size))
            .collect();
        let (batches, large) = batches(&blobs);
        for batch in &batches {
            let bytes: u64 = batch.iter().map(|blob| blob.size + BATCH_ENTRY_BYTES).sum();
            assert!(bytes <= BATCH_BYTES_MAX, "{bytes}");
            assert!(batch.len() <= BATCH_COUNT_MAX);
        }
        let large: Vec<u64> = large.iter().map(|blob| blob.size).collect();
        assert_eq!(large, [5 << 20, BATCH_BYTES_MAX - 299]);
        let mut names: Vec<&str> = batches
            .iter()
            .flatten()
            .map(|blob| blob.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len() + 2, blobs.len());
        assert_eq!(batch_count(4096), 939);
    }
}
