//! Who writes and where, from the first byte of an upload to its last.
//!
//! An upload can take longer than its credential lasts, so whoever was given a grant when it began is asked again before it is
//! stored: [`Writer::finish`] is how every protocol ends an upload. How a protocol says that nothing was stored is its own affair.

use http::HeaderMap;
use larder_cache::{PutRefusal, Stored, Upload};
use larder_model::{Caller, Policy, Refusal, ScopeLabel, WorkspaceName, WriteGrant};

use crate::caller::NoCaller;
use crate::gateway::{Gateway, Origin};

/// Why something was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotWritten {
    /// Nobody may write here with these headers, or nobody may any more.
    NoCaller(NoCaller),
    /// Policy gives no grant.
    Policy(Refusal),
    /// What the credential may do was changed while the bytes were on their way.
    CallerChanged,
    /// The cache does not take it.
    Cache(PutRefusal),
}

/// A caller with a grant to write.
pub(crate) struct Writer<'a> {
    pub(crate) caller: Caller,
    pub(crate) grant: WriteGrant,
    pub(crate) gateway: &'a Gateway,
    headers: &'a HeaderMap,
    named: Option<WorkspaceName>,
    pub(crate) origin: &'a Origin,
}

impl Gateway {
    /// Who writes with these headers, in the workspace and the scope that the request names.
    pub(crate) async fn writer<'a>(
        &'a self,
        headers: &'a HeaderMap,
        named: Option<&WorkspaceName>,
        label: Option<&ScopeLabel>,
        origin: &'a Origin,
    ) -> Result<Writer<'a>, NotWritten> {
        // The request was introduced when it began, but its body may have taken long.
        self.introduce(headers, origin).await;
        let caller = self.caller(headers, named, origin);
        let caller = caller.map_err(NotWritten::NoCaller)?;
        let grant = Policy::write(&caller, label).map_err(NotWritten::Policy)?;
        Ok(Writer {
            caller,
            grant,
            gateway: self,
            headers,
            named: named.cloned(),
            origin,
        })
    }
}

impl Writer<'_> {
    /// Stores what was uploaded if the caller is still who it was.
    pub(crate) async fn finish(&self, mut upload: Upload) -> Result<Stored, NotWritten> {
        self.introduce().await;
        // Asked only once nothing is left to wait for but the disk.
        upload.take_turn().await.map_err(NotWritten::Cache)?;
        self.still_good()?;
        upload.finish().await.map_err(NotWritten::Cache)
    }

    /// Whether the caller's JWT has to be introduced again: it is known for some minutes, and an upload may take longer than that.
    pub(crate) fn lapsed(&self) -> bool {
        self.gateway
            .unintroduced(self.headers, self.origin)
            .is_some()
    }

    /// Introduces the caller's JWT again, if it has lapsed.
    pub(crate) async fn introduce(&self) {
        self.gateway.introduce(self.headers, self.origin).await;
    }

    /// Whether the caller is still who it was. To be asked after every wait, before anything becomes visible.
    pub(crate) fn still_good(&self) -> Result<(), NotWritten> {
        let now = self
            .gateway
            .caller(self.headers, self.named.as_ref(), self.origin);
        if now.as_ref() == Ok(&self.caller) {
            return Ok(());
        }
        let (workspace, writer) = (self.grant.workspace(), self.grant.writer());
        tracing::info!(%workspace, %writer, "a credential ended before its upload did");
        Err(now.map_or_else(NotWritten::NoCaller, |_| NotWritten::CallerChanged))
    }
}
