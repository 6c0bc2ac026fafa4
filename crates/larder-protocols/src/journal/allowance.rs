//! How many rows of their own the many get.
//!
//! Rows about what trunk stores and what operators do are always written. Of what anybody can cause, refusals and what untrusted
//! writers store, only so many: else a pull request could fill the audit until its past is gone.

use std::collections::HashMap;

use larder_model::WriterId;

/// A count that fills up with time and is taken from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    left: u64,
    filled_at_ms: u64,
}

/// How much an allowance holds, and how long one more takes to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) count_max: u64,
    pub(super) each_ms: u64,
}

/// Refusals: 256 rows at once, and 86 400 a day.
pub(super) const REFUSALS: Rate = Rate {
    count_max: 256,
    each_ms: 1000,
};
/// What one untrusted writer stores: more than the tasks of a large repository at once, and five a second.
pub(super) const UNTRUSTED_WRITES: Rate = Rate {
    count_max: 5000,
    each_ms: 200,
};
/// How many untrusted writers are followed. More at once have what they store summed.
const FOLLOWED_WRITER_COUNT_MAX: usize = 4096;

impl Allowance {
    pub(super) fn full(rate: Rate, now_ms: u64) -> Self {
        Self {
            left: rate.count_max,
            filled_at_ms: now_ms,
        }
    }

    /// Takes one, if there is one. A clock that goes backwards fills nothing.
    pub(super) fn take(&mut self, rate: Rate, now_ms: u64) -> bool {
        let come = now_ms.saturating_sub(self.filled_at_ms) / rate.each_ms;
        self.filled_at_ms += come * rate.each_ms;
        self.left = self.left.saturating_add(come).min(rate.count_max);
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    fn is_full(&mut self, rate: Rate, now_ms: u64) -> bool {
        let come = now_ms.saturating_sub(self.filled_at_ms) / rate.each_ms;
        self.left.saturating_add(come) >= rate.count_max
    }
}

/// The allowances of untrusted writers.
#[derive(Default)]
pub(super) struct Untrusted {
    of: HashMap<WriterId, Allowance>,
}

impl Untrusted {
    /// Whether what this writer stored gets a row of its own.
    pub(super) fn take(&mut self, writer: WriterId, now_ms: u64) -> bool {
        if self.of.len() >= FOLLOWED_WRITER_COUNT_MAX && !self.of.contains_key(&writer) {
            // A writer whose allowance is full again is as good as a new one.
            self.of
                .retain(|_, allowance| !allowance.is_full(UNTRUSTED_WRITES, now_ms));
            if self.of.len() >= FOLLOWED_WRITER_COUNT_MAX {
                return false;
            }
        }
        let allowance = self.of.entry(writer);
        allowance
            .or_insert_with(|| Allowance::full(UNTRUSTED_WRITES, now_ms))
            .take(UNTRUSTED_WRITES, now_ms)
    }
}
