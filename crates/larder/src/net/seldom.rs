//! A future that is seldom ready, awaited beside one that is polled for every request.
//!
//! A select polls all its futures whichever of them woke the task, and to poll a timer or a
//! channel again registers it again: a lock, for some of them one that all connections share. A
//! [`seldom`] future has a waker of its own, and is polled only when that was called.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// What the future calls; passes the call on to the task.
struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Bell {
    fn answer_by(&self, task: &Waker) {
        let mut current = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(task.clone());
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = &*task {
            task.wake_by_ref();
        }
    }
}

/// Awaits `future` without polling it when something else woke the task.
pub(super) async fn seldom<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let bell = Arc::new(Bell {
        rung: AtomicBool::new(false),
        task: Mutex::new(None),
    });
    let waker = Waker::from(Arc::clone(&bell));
    let mut task: Option<Waker> = None;
    poll_fn(move |cx| {
        let known = task.as_ref().is_some_and(|task| task.will_wake(cx.waker()));
        if !known {
            bell.answer_by(cx.waker());
            task = Some(cx.waker().clone());
        }
        // Cleared before the poll: a call from here on is for the next one.
        let rung = bell.rung.load(Ordering::Acquire) && bell.rung.swap(false, Ordering::AcqRel);
        if known && !rung {
            return Poll::Pending;
        }
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// Counts its calls.
    #[derive(Default)]
    struct Task(AtomicU32);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_polled_at_first_and_then_only_when_it_called() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut receiver = pin!(receiver);
        let mut polls = 0;
        let counted = poll_fn(|cx| {
            polls += 1;
            receiver.as_mut().poll(cx)
        });
        let mut counted = pin!(counted);
        {
            let mut future = pin!(seldom(counted.as_mut()));
            let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
            for task in [&first, &first, &first, &second, &second] {
                let waker = Waker::from(Arc::clone(task));
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                assert!(polled.is_pending());
            }
            sender.send(7).unwrap();
            let calls = [&first, &second].map(|task| task.0.load(Ordering::Relaxed));
            assert_eq!(calls, [0, 1], "the call goes to the task that polled last");
            let waker = Waker::from(second);
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            assert_eq!(polled, Poll::Ready(Ok(7)));
        }
        assert_eq!(polls, 3, "once for each task and once for the call");
    }
}
