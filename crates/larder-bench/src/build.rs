//! Whole builds: which tasks there are, and what each leaves in the cache.
//!
//! Three shapes. *dxos*: what was published of a monorepo's cache: 324 tasks, 25,863 blobs, 449 MB; two thirds of the blobs are
//! below 1 kB and four in a hundred hold nine tenths of the bytes. *buildbuddy*: the sizes that BuildBuddy published of its cache
//! (66 % below 1 kB, 86 % below 10 kB, 10 % up to 100 kB, 3.2 % up to 1 MB, 0.5 % up to 10 MB, 0.06 % up to 100 MB), evenly on a
//! logarithmic scale within each class, in 200 tasks of 50. *storm*: Nx in CI: 200 projects, 40 of which are asked for at a time,
//! one archive each from 2 kB to 8 MB, a distribution that we assume.
//!
//! For Nx and plain files a task is one archive as large as its blobs together.

use crate::content::{Blob, Content, Random};
use crate::target::Protocol;

const DXOS_TASK_COUNT: usize = 324;
const DXOS_BLOB_COUNT: usize = 25_863;
const DXOS_BYTES: f64 = 449_000_000.0;
const BUILDBUDDY_TASK_COUNT: usize = 200;
const BUILDBUDDY_BLOB_COUNT: usize = 10_000;
const STORM_TASK_COUNT: usize = 200;

/// An action has no content here, only a name; sizes are of a usual one.
pub(crate) const ACTION_BYTES: u64 = 142;

/// The shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A published monorepo.
    Dxos,
    /// A published distribution of sizes.
    Buildbuddy,
    /// Many small projects at a time.
    Storm,
}

impl Shape {
    /// Tasks at a time.
    pub(crate) fn tasks_at_a_time(self) -> u32 {
        match self {
            Self::Dxos | Self::Buildbuddy => 8,
            Self::Storm => 40,
        }
    }

    /// The sizes of each task's blobs, the same for one seed.
    fn sizes(self, seed: u64) -> Vec<Vec<u64>> {
        let mut random = Random::new(seed);
        let (tasks, sizes) = match self {
            Self::Dxos => (DXOS_TASK_COUNT, dxos_sizes(&mut random)),
            Self::Buildbuddy => {
                let sizes = (0..BUILDBUDDY_BLOB_COUNT).map(|_| buildbuddy_size(&mut random));
                (BUILDBUDDY_TASK_COUNT, sizes.collect())
            }
            Self::Storm => {
                let sizes = (0..STORM_TASK_COUNT).map(|_| between(&mut random, 2e3, 8e6));
                (STORM_TASK_COUNT, sizes.collect())
            }
        };
        let mut of_tasks = vec![Vec::new(); tasks];
        for (number, size) in sizes.into_iter().enumerate() {
            of_tasks[number % tasks].push(size);
        }
        of_tasks
    }
}

/// What a task leaves in the cache.
#[derive(Debug)]
pub(crate) struct Task {
    /// The name of its result; for Nx and files nothing is stored under it.
    pub(crate) action: Blob,
    /// Its outputs, or the one archive of them.
    pub(crate) outputs: Vec<Blob>,
}

/// The tasks of one build, under names that this run has not used.
pub(crate) fn tasks(shape: Shape, seed: u64, content: &Content, protocol: Protocol) -> Vec<Task> {
    let sizes = shape.sizes(seed).into_iter();
    let task = |sizes: Vec<u64>| {
        let sizes = match protocol {
            Protocol::Nx | Protocol::Files => vec![sizes.iter().sum()],
            Protocol::Reapi | Protocol::ReapiHttp => sizes,
        };
        let outputs = sizes.iter().map(|size| content.new_blob(protocol, *size));
        Task {
            action: content.new_blob(protocol, ACTION_BYTES),
            outputs: outputs.collect(),
        }
    };
    sizes.map(task).collect()
}

fn dxos_sizes(random: &mut Random) -> Vec<u64> {
    enum Size {
        Known(f64),
        /// One of the few that hold most of the bytes; in proportion.
        Large(f64),
    }
    let sizes: Vec<Size> = (0..DXOS_BLOB_COUNT)
        .map(|_| match random.below(1000) {
            0..660 => Size::Known(50.0 + random.share() * 950.0),
            660..860 => Size::Known(1e3 + random.share() * 9e3),
            860..960 => Size::Known(1e4 + random.share() * 3e4),
            _ => Size::Large(1.0 + random.share() * 1e3),
        })
        .collect();
    let (mut known, mut large) = (0.0, 0.0);
    for size in &sizes {
        match size {
            Size::Known(size) => known += size,
            Size::Large(size) => large += size,
        }
    }
    let unit = (DXOS_BYTES - known) / large;
    let in_bytes = sizes.iter().map(|size| match size {
        Size::Known(size) => *size as u64,
        Size::Large(size) => (size * unit) as u64,
    });
    in_bytes.collect()
}

/// One size of BuildBuddy's distribution, in bytes.
pub(crate) fn buildbuddy_size(random: &mut Random) -> u64 {
    match random.below(10_000) {
        0..6_600 => between(random, 100.0, 1e3),
        6_600..8_600 => between(random, 1e3, 1e4),
        8_600..9_600 => between(random, 1e4, 1e5),
        // What the published classes leave open, 0.24 %, is in this one.
        9_600..9_944 => between(random, 1e5, 1e6),
        9_944..9_994 => between(random, 1e6, 1e7),
        _ => between(random, 1e7, 1e8),
    }
}

/// Evenly on a logarithmic scale.
fn between(random: &mut Random, low: f64, high: f64) -> u64 {
    (low * (high / low).powf(random.share())) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shape: Shape, tasks: usize, blobs: usize, bytes: std::ops::Range<u64>) {
        for seed in [1, 2, 99] {
            let sizes = shape.sizes(seed);
            assert_eq!(sizes.len(), tasks);
            assert_eq!(sizes.iter().map(Vec::len).sum::<usize>(), blobs);
            let sum: u64 = sizes.iter().flatten().sum();
            assert!(bytes.contains(&sum), "{sum} bytes with seed {seed}");
        }
        assert_eq!(shape.sizes(1), shape.sizes(1));
    }

    #[test]
    fn builds_have_the_published_numbers_and_bytes() {
        check(Shape::Dxos, 324, 25_863, 448_900_000..449_000_001);
        check(Shape::Buildbuddy, 200, 10_000, 200_000_000..1_500_000_000);
        check(Shape::Storm, 200, 200, 100_000_000..350_000_000);
    }

    #[test]
    fn buildbuddys_sizes_are_distributed_as_published() {
        let mut random = Random::new(3);
        let sizes: Vec<u64> = (0..100_000).map(|_| buildbuddy_size(&mut random)).collect();
        let share = |below: u64| {
            sizes.iter().filter(|size| **size < below).count() as f64 / sizes.len() as f64
        };
        for (below, expected) in [
            (1_000, 0.66),
            (10_000, 0.86),
            (100_000, 0.96),
            (10_000_000, 0.9994),
        ] {
            assert!(
                (share(below) - expected).abs() < 0.005,
                "{below}: {}",
                share(below)
            );
        }
    }

    #[test]
    fn for_nx_a_task_is_one_archive_of_the_same_bytes() {
        let content = Content::new(1);
        let bytes = |protocol| -> (usize, u64) {
            let tasks = tasks(Shape::Storm, 1, &content, protocol);
            let blobs: Vec<u64> = tasks
                .iter()
                .flat_map(|task| &task.outputs)
                .map(|blob| blob.size)
                .collect();
            (blobs.len(), blobs.iter().sum())
        };
        assert_eq!(bytes(Protocol::Nx), bytes(Protocol::ReapiHttp));
    }
}
