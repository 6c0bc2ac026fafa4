//! A panic inside a request ends that request's work, not its answer.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// The work panicked. The panic's message has been printed by the panic hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Runs the future and catches a panic in it.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        if let Ok(polled) = polled {
            return polled.map(Ok);
        }
        Poll::Ready(Err(panicked()))
    })
    .await
}

/// [`caught`] for work that waits for nothing.
pub(crate) fn caught_at_once<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| panicked())
}

fn panicked() -> Panicked {
    tracing::error!("a request panicked; its client gets the mildest answer");
    Panicked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_and_an_answer_stays_an_answer() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let panicking = async {
            tokio::task::yield_now().await;
            assert_eq!(1, 2, "on purpose");
        };
        assert_eq!(caught(panicking).await, Err(Panicked));
        assert_eq!(caught_at_once(|| 7), Ok(7));
        let panicking = || assert_eq!(1, 2, "on purpose");
        assert_eq!(caught_at_once(panicking), Err(Panicked));
    }
}
