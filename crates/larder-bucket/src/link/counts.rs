//! How many requests went out, by what they were and how they ended.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::trouble::{LinkError, Trouble};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// An object, or a range of one.
    Get,
    /// To write an object.
    Put,
    /// To write one that is not there.
    Create,
    /// To begin, end or give up an object that is sent in parts.
    Multipart,
    /// To take one part.
    Part,
    /// To copy an object.
    Copy,
    /// To delete up to [`DELETE_NAMES_MAX`](super::DELETE_NAMES_MAX) objects.
    Delete,
    /// Names.
    List,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// It did what was asked.
    Done,
    /// There is no such object.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// It was larger than the caller takes.
    TooLarge,
    /// Whoever wanted it does not any more.
    GivenUp,
    /// See there.
    Trouble(Trouble),
}

const OPERATIONS: [Operation; 8] = [
    Operation::Get,
    Operation::Put,
    Operation::Create,
    Operation::Multipart,
    Operation::Part,
    Operation::Copy,
    Operation::Delete,
    Operation::List,
];

const OUTCOMES: [Outcome; 11] = [
    Outcome::Done,
    Outcome::NotFound,
    Outcome::AlreadyExists,
    Outcome::TooLarge,
    Outcome::GivenUp,
    Outcome::Trouble(Trouble::TimedOut),
    Outcome::Trouble(Trouble::Throttled),
    Outcome::Trouble(Trouble::AccessDenied),
    Outcome::Trouble(Trouble::Full),
    Outcome::Trouble(Trouble::Unsupported),
    Outcome::Trouble(Trouble::Failed),
];

impl fmt::Display for Operation {
    /// Its name in metrics.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Create => "create",
            Self::Multipart => "multipart",
            Self::Part => "part",
            Self::Copy => "copy",
            Self::Delete => "delete",
            Self::List => "list",
        })
    }
}

impl fmt::Display for Outcome {
    /// Its name in metrics.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::TooLarge => "too_large",
            Self::GivenUp => "given_up",
            Self::Trouble(trouble) => trouble.name(),
        })
    }
}

impl Outcome {
    pub(crate) fn of<T>(result: &Result<T, LinkError>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(LinkError::NotFound) => Self::NotFound,
            Err(LinkError::AlreadyExists) => Self::AlreadyExists,
            Err(LinkError::TooLarge { .. }) => Self::TooLarge,
            Err(LinkError::Unavailable { trouble, .. }) => Self::Trouble(*trouble),
        }
    }
}

/// One count for each operation and outcome. What the open circuit refused did not go out and is not here.
#[derive(Debug, Default)]
pub(crate) struct Counts([[AtomicU64; OUTCOMES.len()]; OPERATIONS.len()]);

impl Counts {
    pub(crate) fn note(&self, operation: Operation, outcome: Outcome) {
        let place = OPERATIONS
            .iter()
            .position(|one| *one == operation)
            .zip(OUTCOMES.iter().position(|one| *one == outcome));
        if let Some((operation, outcome)) = place {
            self.0[operation][outcome].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them, also those that are zero, so that a metric is there before it is needed.
    pub(crate) fn read(&self) -> Vec<(Operation, Outcome, u64)> {
        let counts = OPERATIONS.iter().zip(&self.0);
        counts
            .flat_map(|(operation, row)| {
                OUTCOMES
                    .iter()
                    .zip(row)
                    .map(|(outcome, count)| (*operation, *outcome, count.load(Ordering::Relaxed)))
            })
            .collect()
    }
}
