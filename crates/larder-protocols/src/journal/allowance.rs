//! How many rows of their own the many get.
//!
//! Rows about what trunk stores and what operators do are always written. Of what anybody can cause, refusals and what untrusted
//! writers store, only so many: else a pull request could fill the audit until its past is gone.

use std::collections::HashMap;

use larder_model::{Scope, WorkspaceName};

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
/// What is stored in one untrusted scope: more than the tasks of a large repository at once, and five a second.
pub(super) const SCOPE_WRITES: Rate = Rate {
    count_max: 5000,
    each_ms: 200,
};
/// What is stored in all untrusted scopes of a workspace: a handful of large pull requests at once, and twenty a second.
pub(super) const WORKSPACE_WRITES: Rate = Rate {
    count_max: 20_000,
    each_ms: 50,
};
/// How many untrusted scopes are followed. Of more at once what is stored there is summed.
const FOLLOWED_SCOPE_COUNT_MAX: usize = 4096;
/// Labels that tell one pull request's scope from another's. A client chooses the third, and a re-run gets another writer: neither
/// is a reason for more rows.
const FOLLOWED_LABEL_COUNT: usize = 2;

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

    fn has_one(&self, rate: Rate, now_ms: u64) -> bool {
        self.left > 0 || now_ms.saturating_sub(self.filled_at_ms) >= rate.each_ms
    }

    fn is_full(&self, rate: Rate, now_ms: u64) -> bool {
        let come = now_ms.saturating_sub(self.filled_at_ms) / rate.each_ms;
        self.left.saturating_add(come) >= rate.count_max
    }
}

/// The allowances of untrusted scopes, and of the workspaces they are in: as many as the operator makes.
#[derive(Default)]
pub(super) struct Untrusted {
    workspaces: HashMap<WorkspaceName, Allowance>,
    scopes: HashMap<(WorkspaceName, Box<str>), Allowance>,
}

impl Untrusted {
    /// Whether what was stored in this untrusted scope gets a row of its own.
    pub(super) fn take(&mut self, workspace: &WorkspaceName, scope: &Scope, now_ms: u64) -> bool {
        let all = self.workspaces.entry(workspace.clone());
        let all = all.or_insert_with(|| Allowance::full(WORKSPACE_WRITES, now_ms));
        if !all.has_one(WORKSPACE_WRITES, now_ms) {
            return false;
        }
        let id = (workspace.clone(), followed(scope.as_str()).into());
        if self.scopes.len() >= FOLLOWED_SCOPE_COUNT_MAX && !self.scopes.contains_key(&id) {
            // A scope whose allowance is full again is as good as a new one.
            self.scopes
                .retain(|_, allowance| !allowance.is_full(SCOPE_WRITES, now_ms));
            if self.scopes.len() >= FOLLOWED_SCOPE_COUNT_MAX {
                return false;
            }
        }
        let of_scope = self.scopes.entry(id);
        let of_scope = of_scope.or_insert_with(|| Allowance::full(SCOPE_WRITES, now_ms));
        of_scope.take(SCOPE_WRITES, now_ms) && all.take(WORKSPACE_WRITES, now_ms)
    }
}

/// The first labels of a scope.
fn followed(scope: &str) -> &str {
    let mut slashes = scope.match_indices('/');
    let end = slashes.nth(FOLLOWED_LABEL_COUNT - 1);
    end.map_or(scope, |(end, _)| &scope[..end])
}
