//! The bytes of an object as they arrive.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::timeout;

use super::exchange::Ticket;
use super::trouble::{self, LinkError, Trouble};

/// How long the next bytes may take.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// The bytes of an object as they arrive. One that is dropped before its end counts as given up.
pub struct Stream {
    body: BoxStream<'static, object_store::Result<Bytes>>,
    bytes_left: u64,
    /// Until the end, good or bad.
    ticket: Option<Ticket>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("bytes_left", &self.bytes_left)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(
        body: BoxStream<'static, object_store::Result<Bytes>>,
        bytes: u64,
        ticket: Ticket,
    ) -> Self {
        Self {
            body,
            bytes_left: bytes,
            ticket: Some(ticket),
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            body: futures_util::stream::empty().boxed(),
            bytes_left: 0,
            ticket: None,
        }
    }

    /// The next bytes; `None` at the end of the range. Ends with `Unavailable` if they stop coming.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        if self.bytes_left == 0 {
            return Ok(None);
        }
        if self.ticket.is_none() {
            return Err(LinkError::unavailable(
                Trouble::Failed,
                "the answer broke off",
            ));
        }
        let result = self.piece().await;
        let is_over = result.is_err() || self.bytes_left == 0;
        if let Some(ticket) = self.ticket.take_if(|_| is_over) {
            ticket.end(&result);
        }
        result.map(Some)
    }

    async fn piece(&mut self) -> Result<Bytes, LinkError> {
        loop {
            let piece = timeout(STALL_LIMIT, self.body.next()).await.map_err(|_| {
                let message = format!("nothing more came for {} s", STALL_LIMIT.as_secs());
                LinkError::unavailable(Trouble::TimedOut, message)
            })?;
            let mut piece = match piece {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Err(trouble::read(&error)),
                None => {
                    let message = format!("the answer ended {} bytes too early", self.bytes_left);
                    return Err(LinkError::unavailable(Trouble::Failed, message));
                }
            };
            if piece.is_empty() {
                continue;
            }
            piece.truncate(usize::try_from(self.bytes_left).unwrap_or(usize::MAX));
            self.bytes_left -= piece.len() as u64;
            return Ok(piece);
        }
    }
}
