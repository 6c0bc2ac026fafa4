//! What was recorded since the last flush. Filled by every request, so it is a list and a table behind one mutex.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use larder_model::{Dialect, Scope, WorkspaceName, WriterId};

use super::event::{Act, ActName, Event, Refused, Rewritten, Written};

/// How many stored assertions are remembered one by one. More than a server stores in many seconds; what comes above is summed.
pub(super) const WRITTEN_COUNT_MAX: usize = 32_768;
/// How many acts wait. People and their scripts do them.
const ACT_COUNT_MAX: usize = 1024;
/// How many acts wait that say what a trusted build stored: a build can do thousands, and they must not take the place of the others.
const FLAGGED_COUNT_MAX: usize = 1024;
/// How many rewritten results are counted a second or so, of `trusted` and of all other scopes apart. A figure for people; what
/// comes above is not in it.
const REWRITTEN_COUNT_MAX: usize = 256;
/// How many different sums are kept: writers times scopes times addresses of what was stored, and apart from that reasons times
/// writers times addresses of what was refused. Apart, because anybody can be refused.
const STORED_SUM_COUNT_MAX: usize = 8192;
pub(super) const REFUSED_SUM_COUNT_MAX: usize = 4096;

/// What is summed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Summed {
    Stored {
        workspace: WorkspaceName,
        scope: Scope,
        writer: WriterId,
        dialect: Dialect,
        address: Option<IpAddr>,
    },
    Refused {
        reason: &'static str,
        bad_credential: bool,
        dialect: Option<Dialect>,
        workspace: Option<WorkspaceName>,
        writer: Option<WriterId>,
        address: Option<IpAddr>,
    },
    /// Refusals beyond those that are told apart.
    OtherRefusals { bad_credential: bool },
}

/// How much came together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) first_at_ms: u64,
    pub(super) count: u64,
    pub(super) bytes: u64,
}

/// Sums by what they are of, and how many.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) of: HashMap<Summed, Sum>,
}

impl Sums {
    /// Adds to the sum of `key`, unless that would be one more than `count_max`.
    #[must_use = "what finds no room is to be counted elsewhere"]
    pub(super) fn add(&mut self, key: Summed, more: Sum, count_max: usize) -> bool {
        let full = self.of.len() >= count_max;
        match self.of.entry(key) {
            Entry::Occupied(mut sum) => {
                let sum = sum.get_mut();
                sum.count += more.count;
                sum.bytes += more.bytes;
                true
            }
            Entry::Vacant(_) if full => false,
            Entry::Vacant(sum) => {
                sum.insert(more);
                true
            }
        }
    }
}

/// What was taken out for a flush.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) written: Vec<Written>,
    pub(super) acts: Vec<Act>,
    pub(super) flagged: Vec<Act>,
    pub(super) stored: Sums,
    pub(super) refused: Sums,
    /// Events for which there was no room.
    pub(super) lost: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Pending {
    now: Mutex<Taken>,
    rewritten: Mutex<Rewrites>,
}

/// Results that were rewritten, in `trusted` and elsewhere.
#[derive(Default)]
struct Rewrites {
    trusted: Vec<Rewritten>,
    untrusted: Vec<Rewritten>,
}

impl Pending {
    pub(super) fn push(&self, event: Event) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Written(written) if now.written.len() < WRITTEN_COUNT_MAX => {
                now.written.push(written);
            }
            Event::Written(written) | Event::Blobs(written) => {
                let count = written.count;
                if !add_stored(&mut now.stored, written) {
                    now.lost += count;
                }
            }
            Event::Refused(refused) => add_refused(&mut now.refused, refused),
            Event::Act(act) => {
                let (acts, count_max) = if act.name == ActName::Flagged {
                    (&mut now.flagged, FLAGGED_COUNT_MAX)
                } else {
                    (&mut now.acts, ACT_COUNT_MAX)
                };
                if acts.len() < count_max {
                    acts.push(*act);
                } else {
                    now.lost += 1;
                }
            }
        }
    }

    pub(super) fn push_rewritten(&self, rewritten: Rewritten) {
        let mut all = self
            .rewritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let of_scope = if rewritten.scope == Scope::Trusted.as_str() {
            &mut all.trusted
        } else {
            &mut all.untrusted
        };
        if of_scope.len() < REWRITTEN_COUNT_MAX {
            of_scope.push(rewritten);
        }
    }

    pub(super) fn take_rewritten(&self) -> Vec<Rewritten> {
        let all = self.rewritten.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        let Rewrites {
            mut trusted,
            untrusted,
        } = std::mem::take(&mut *all);
        trusted.extend(untrusted);
        trusted
    }

    /// Takes everything out, or nothing if there is no room for it.
    pub(super) fn take(&self, room: bool) -> Taken {
        if !room {
            return Taken::default();
        }
        std::mem::take(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Adds to what is summed of what was stored.
pub(super) fn add_stored(stored: &mut Sums, written: Written) -> bool {
    let sum = Sum {
        first_at_ms: written.at_ms,
        count: written.count,
        bytes: written.bytes,
    };
    let key = Summed::Stored {
        workspace: written.workspace,
        scope: written.scope,
        writer: written.writer,
        dialect: written.dialect,
        address: written.address,
    };
    stored.add(key, sum, STORED_SUM_COUNT_MAX)
}

fn add_refused(sums: &mut Sums, refused: Refused) {
    let bad_credential = refused.bad_credential;
    let sum = Sum {
        first_at_ms: refused.at_ms,
        count: 1,
        bytes: 0,
    };
    let key = Summed::Refused {
        reason: refused.reason,
        bad_credential,
        dialect: refused.dialect,
        workspace: refused.workspace,
        writer: refused.writer,
        address: refused.address,
    };
    if !sums.add(key, sum, REFUSED_SUM_COUNT_MAX) {
        let others = Summed::OtherRefusals { bad_credential };
        let added = sums.add(others, sum, usize::MAX);
        debug_assert!(added, "there are two of these");
    }
}
