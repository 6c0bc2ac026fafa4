//! An object that is sent in parts, because it is large or nobody knows yet how large it will be.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::client::HttpErrorKind;
use object_store::retry::{RetryContext, RetryFailure, RetryPolicy};
use object_store::{MultipartUpload, PutPayload};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::counts::Operation;
use super::trouble::{self, LinkError};
use super::{ANSWER_LIMIT, Link, Trouble, WORK_LIMIT, limit_of};

/// All parts but the last have this size. Stores take 5 MiB to 5 GiB and 10,000 parts: 78 GiB, more than an entry may have.
pub const PART_BYTES: usize = 8 * 1024 * 1024;
/// One is sent while the next is filled.
const PARTS_AT_ONCE: usize = 2;

/// An object in the making. It is given up if it is dropped before it is finished.
#[derive(Debug)]
pub struct Multipart {
    link: Link,
    /// Until it is finished or given up.
    upload: Option<Box<dyn MultipartUpload>>,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    parts: usize,
    under_way: JoinSet<Result<(), LinkError>>,
}

impl Multipart {
    pub(super) fn new(link: Link, upload: Box<dyn MultipartUpload>) -> Self {
        Self {
            link,
            upload: Some(upload),
            waiting: Vec::new(),
            waiting_bytes: 0,
            parts: 0,
            under_way: JoinSet::new(),
        }
    }

    /// Takes the next bytes, however many; sends them in parts of a size that stores take.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), LinkError> {
        while self.waiting_bytes + bytes.len() >= PART_BYTES {
            self.take(bytes.split_to(PART_BYTES - self.waiting_bytes));
            self.send().await?;
        }
        self.take(bytes);
        Ok(())
    }

    fn take(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.waiting_bytes += bytes.len();
            self.waiting.push(bytes);
        }
    }

    async fn send(&mut self) -> Result<(), LinkError> {
        while self.under_way.len() >= PARTS_AT_ONCE {
            self.joined().await?;
        }
        let Some(upload) = &mut self.upload else {
            return Err(LinkError::unavailable(Trouble::Failed, "it was given up"));
        };
        let bytes = std::mem::take(&mut self.waiting_bytes);
        let payload: PutPayload = std::mem::take(&mut self.waiting).into_iter().collect();
        let part = upload.put_part(payload);
        self.parts += 1;
        let (link, limit) = (self.link.clone(), limit_of(bytes as u64));
        self.under_way.spawn(async move {
            let sent = async { part.await.map_err(|error| trouble::read(&error)) };
            let deadline = Instant::now() + limit;
            let ((), ticket) = link.once(Operation::Part, deadline, limit, sent).await?;
            ticket.end::<()>(&Ok(()));
            Ok(())
        });
        Ok(())
    }

    async fn joined(&mut self) -> Result<(), LinkError> {
        match self.under_way.join_next().await {
            None => Ok(()),
            Some(Ok(sent)) => sent,
            Some(Err(panic)) => Err(LinkError::unavailable(Trouble::Failed, panic.to_string())),
        }
    }

    /// The object is there once this returns.
    pub async fn finish(mut self) -> Result<(), LinkError> {
        // An object has one part at least, be it empty.
        if self.waiting_bytes > 0 || self.parts == 0 {
            self.send().await?;
        }
        while !self.under_way.is_empty() {
            self.joined().await?;
        }
        let Some(mut upload) = self.upload.take() else {
            return Err(LinkError::unavailable(Trouble::Failed, "it was given up"));
        };
        let deadline = Instant::now() + WORK_LIMIT;
        let completed = async {
            let completed = upload.complete().await;
            completed.map(|_| ()).map_err(|error| trouble::read(&error))
        };
        let completed = self
            .link
            .once(Operation::Multipart, deadline, WORK_LIMIT, completed)
            .await;
        match completed {
            Ok(((), ticket)) => {
                ticket.end::<()>(&Ok(()));
                Ok(())
            }
            Err(error) => {
                self.upload = Some(upload);
                Err(error)
            }
        }
    }

    /// Gives it up. What cannot be taken back now is left to the store's own rules for unfinished uploads.
    pub async fn abort(mut self) {
        if let Some(upload) = self.upload.take() {
            self.under_way.shutdown().await;
            give_up(self.link.clone(), upload).await;
        }
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        let (Some(upload), Ok(runtime)) =
            (self.upload.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        self.under_way.abort_all();
        runtime.spawn(give_up(self.link.clone(), upload));
    }
}

async fn give_up(link: Link, mut upload: Box<dyn MultipartUpload>) {
    let deadline = Instant::now() + ANSWER_LIMIT;
    let aborted = async {
        let aborted = upload.abort().await;
        aborted.map_err(|error| trouble::read(&error))
    };
    if let Ok(((), ticket)) = link
        .once(Operation::Multipart, deadline, ANSWER_LIMIT, aborted)
        .await
    {
        ticket.end::<()>(&Ok(()));
    }
}

/// A part is tried once more inside of `object_store`, which alone can send it again.
pub(super) fn retry_policy() -> Arc<dyn RetryPolicy> {
    static POLICY: OnceLock<Arc<OnceMore>> = OnceLock::new();
    let policy = POLICY.get_or_init(|| Arc::new(OnceMore));
    Arc::clone(policy) as Arc<dyn RetryPolicy>
}

#[derive(Debug)]
struct OnceMore;

#[async_trait]
impl RetryPolicy for OnceMore {
    async fn retry(&self, context: RetryContext) -> bool {
        const PAUSE: Duration = Duration::from_millis(150);
        let is_worth_it = match context.failure {
            RetryFailure::Status(status) => status.is_server_error(),
            // `Unknown` is a refusal of the transport's, mostly one that comes again.
            RetryFailure::Transport(kind) => kind != HttpErrorKind::Unknown,
            _ => false,
        };
        if context.attempt > 1 || !is_worth_it {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
        true
    }
}
