//! Several waits at once.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// So many futures are begun before other work of the thread has its turn.
const TURN: usize = 256;

/// Runs the futures, at most `at_once` at a time, and returns their outputs in the futures' order. Each is polled at least once before
/// anything is waited for, so work that is at hand costs no more than a loop. There is no future before its turn.
pub(super) async fn all<F: Future>(
    futures: impl IntoIterator<Item = F>,
    at_once: usize,
) -> Vec<F::Output> {
    let mut waiting = futures.into_iter();
    let mut outputs: Vec<Option<F::Output>> = Vec::with_capacity(waiting.size_hint().0);
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut exhausted = false;
    poll_fn(|context| {
        let turn_end = outputs.len() + TURN;
        loop {
            running.retain_mut(|(index, future)| match future.as_mut().poll(context) {
                Poll::Ready(output) => {
                    outputs[*index] = Some(output);
                    false
                }
                Poll::Pending => true,
            });
            let mut started = false;
            while running.len() < at_once && !exhausted {
                if outputs.len() == turn_end {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let Some(future) = waiting.next() else {
                    exhausted = true;
                    break;
                };
                let mut future = Box::pin(future);
                started = true;
                let index = outputs.len();
                outputs.push(None);
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => outputs[index] = Some(output),
                    Poll::Pending => running.push((index, future)),
                }
            }
            if running.is_empty() && exhausted {
                return Poll::Ready(());
            }
            if !started {
                return Poll::Pending;
            }
        }
    })
    .await;
    let outputs = outputs.into_iter();
    outputs
        .map(|output| output.expect("every future has ended"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::{Ready, ready};
    use std::pin::pin;
    use std::rc::Rc;
    use tokio::task::yield_now;

    #[tokio::test]
    async fn outputs_are_in_order_and_no_more_run_than_may() {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let work = (0..50).map(|index| {
            let (running, most) = (&running, &most);
            async move {
                running.set(running.get() + 1);
                most.set(most.get().max(running.get()));
                for _ in 0..index % 7 {
                    yield_now().await;
                }
                running.set(running.get() - 1);
                index
            }
        });
        assert_eq!(all(work, 5).await, (0..50).collect::<Vec<_>>());
        assert_eq!(most.get(), 5);
        assert!(all(Vec::<Ready<()>>::new(), 5).await.is_empty());
    }

    #[tokio::test]
    async fn of_many_futures_few_exist_and_other_work_has_its_turn() {
        let (alive, most, turns) = (Rc::new(()), Cell::new(0), Cell::new(0));
        let work = (0..10_000).map(|index| {
            let one = Rc::clone(&alive);
            most.set(most.get().max(Rc::strong_count(&one)));
            async move {
                if index % 3 == 0 {
                    yield_now().await;
                }
                drop(one);
            }
        });
        let others = async {
            while Rc::strong_count(&alive) > 1 || turns.get() == 0 {
                turns.set(turns.get() + 1);
                yield_now().await;
            }
        };
        let (done, ()) = tokio::join!(all(work, 5), others);
        assert_eq!(done.len(), 10_000);
        assert!(most.get() <= 1 + 5, "{most:?}");
        // What never waits gives others their turn, too.
        let ready = all((0..10 * TURN).map(|_| ready(())), 5);
        let mut ready = pin!(ready);
        let polled = poll_fn(|context| Poll::Ready(ready.as_mut().poll(context).is_pending()));
        assert!(polled.await);
        assert_eq!(ready.await.len(), 10 * TURN);
    }
}
