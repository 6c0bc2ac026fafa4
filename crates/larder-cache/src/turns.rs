//! Turns at the control plane: each of its calls reads whole pools and holds a thread.
//!
//! The operator and the administrators of workspaces take turns apart from each other, so no
//! tenant can keep the operator from a purge.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder_model::{AdminGrant, WorkspaceName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lanes::permits;

/// How many calls of the operator run at once, and how many of all workspaces' administrators.
const CONTROL_JOB_COUNT_MAX: usize = 2;

/// How long the operator waits for a turn. An administrator of a workspace does not wait.
const OPERATOR_WAIT_MAX: Duration = Duration::from_mins(1);

type Working = Arc<Mutex<HashSet<WorkspaceName>>>;

/// Who may run a control call now.
#[derive(Debug)]
pub(crate) struct ControlTurns {
    operator: Arc<Semaphore>,
    tenants: Arc<Semaphore>,
    /// The workspaces whose administrators run a call: one each.
    working: Working,
}

impl ControlTurns {
    pub(crate) fn new() -> Self {
        Self {
            operator: Arc::new(Semaphore::new(CONTROL_JOB_COUNT_MAX)),
            tenants: Arc::new(Semaphore::new(CONTROL_JOB_COUNT_MAX)),
            working: Working::default(),
        }
    }

    /// A turn for the holder of `grant`; `None` if there is none.
    pub(crate) async fn take(&self, grant: &AdminGrant) -> Option<ControlTurn> {
        let (permit, only) = match grant.workspace() {
            None => (permits(&self.operator, 1, OPERATOR_WAIT_MAX).await?, None),
            Some(workspace) => {
                let only = OnlyOne::of(&self.working, workspace)?;
                let permit = self.tenants.clone().try_acquire_owned().ok()?;
                (permit, Some(only))
            }
        };
        Some(ControlTurn {
            grant: grant.clone(),
            _held: Arc::new((permit, only)),
        })
    }
}

/// A turn of whoever has a grant, until its last clone is dropped.
#[derive(Debug, Clone)]
pub struct ControlTurn {
    grant: AdminGrant,
    _held: Arc<(OwnedSemaphorePermit, Option<OnlyOne>)>,
}

impl ControlTurn {
    /// Whose turn it is.
    pub fn grant(&self) -> &AdminGrant {
        &self.grant
    }
}

#[derive(Debug)]
struct OnlyOne {
    working: Working,
    workspace: WorkspaceName,
}

impl OnlyOne {
    fn of(working: &Working, workspace: &WorkspaceName) -> Option<Self> {
        let mut names = working.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(workspace.clone()).then(|| Self {
            working: Arc::clone(working),
            workspace: workspace.clone(),
        })
    }
}

impl Drop for OnlyOne {
    fn drop(&mut self) {
        let mut names = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.workspace);
    }
}
