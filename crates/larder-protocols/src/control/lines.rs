//! Answers that report while the work goes on: a line of JSON now and then, and the result as the last one.
//!
//! What is wrong before the first line becomes the answer's status; later trouble becomes its last line. A reader that
//! goes away stops the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use serde::Serialize;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::status::{self, NotDone};
use super::wire::Line;
use crate::body::Body;

/// How many lines may wait for a slow reader.
const LINE_COUNT_MAX: usize = 16;

/// The least time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Is told entries done and in all; false stops the work.
pub(super) type Progress = Box<dyn FnMut(u64, u64) -> bool + Send>;

/// Starts a work and answers with its lines.
pub(super) async fn stream<T, W>(
    work: impl FnOnce(Progress) -> W,
) -> Result<Response<Body>, NotDone>
where
    T: Serialize + Send + 'static,
    W: Future<Output = Result<T, NotDone>> + Send + 'static,
{
    let (lines, mut answer) = mpsc::channel(LINE_COUNT_MAX);
    let begun = Arc::new(AtomicBool::new(false));
    let work = work(progress::<T>(lines.clone(), begun.clone()));
    let work = tokio::spawn(async move {
        let end = match work.await {
            Ok(result) => Line::Result(result),
            Err(error) if !begun.load(Ordering::Relaxed) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "a control call ended early");
                Line::Error {
                    error: error.to_string(),
                }
            }
        };
        // Nobody is left to be told if this fails.
        let _ = lines.send(status::bytes(&end)).await;
        Ok(())
    });
    match answer.recv().await {
        Some(first) => Ok(status::lines(first, answer)),
        None => match work.await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Err(NotDone::Failed),
        },
    }
}

fn progress<T: Serialize>(lines: mpsc::Sender<Bytes>, begun: Arc<AtomicBool>) -> Progress {
    let mut last: Option<Instant> = None;
    Box::new(move |done_entries, total_entries| {
        if last.is_some_and(|last| last.elapsed() < PROGRESS_INTERVAL) {
            return !lines.is_closed();
        }
        last = Some(Instant::now());
        begun.store(true, Ordering::Relaxed);
        let line = status::bytes(&Line::<T>::Progress {
            done_entries,
            total_entries,
        });
        // A reader that falls behind misses lines; one that is gone ends the work.
        !matches!(lines.try_send(line), Err(TrySendError::Closed(_)))
    })
}
