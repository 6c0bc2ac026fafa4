//! One request's way out and back: a permit of its lane, the breaker, a deadline, the count, and maybe again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::breaker::{Admitted, Breaker, Change, draw};
use super::counts::{Counts, Operation, Outcome};
use super::trouble::{LinkError, Trouble};
use super::{Link, LinkOptions};

/// How many requests of trusted callers are under way at most. A store of the cloud takes thousands; this many 1 MiB answers
/// are all the memory that they should cost here.
const TRUSTED_REQUESTS_MAX: usize = 64;
/// And of untrusted ones.
const UNTRUSTED_REQUESTS_MAX: usize = 32;

/// What failed is tried again so often: once, because a connection may just have been closing.
const RETRIES_WHEN_FAILED: u32 = 1;
/// What the store asked to do later; whoever calls has more patience than this.
const RETRIES_WHEN_THROTTLED: u32 = 2;
/// The wait before the first retry, at least half of it; it doubles.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// The same trouble is told once in this time.
const EVENT_PAUSE: Duration = Duration::from_mins(1);

/// Whose requests have permits of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Of callers that are trusted.
    Trusted,
    /// Of the others.
    Untrusted,
}

/// What an operator should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The bucket is left alone for a while.
    Opened {
        /// What happened last.
        trouble: Trouble,
        /// What was said.
        message: Arc<str>,
        /// How long until it is tried again.
        wait: Duration,
    },
    /// The bucket answers again.
    Closed,
    /// The bucket answers, and refuses: told once a minute for each trouble.
    Refused {
        /// Why.
        trouble: Trouble,
        /// What was said.
        message: Arc<str>,
    },
}

impl fmt::Display for LinkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened {
                trouble,
                message,
                wait,
            } => {
                let seconds = wait.as_secs_f32();
                write!(
                    f,
                    "the bucket is left alone for {seconds:.1} s ({trouble}: {message})"
                )
            }
            Self::Closed => f.write_str("the bucket answers again"),
            Self::Refused { trouble, message } => {
                write!(f, "the bucket refused ({trouble}: {message})")
            }
        }
    }
}

/// What clones of a [`Link`] share.
pub(super) struct Shared {
    store: Arc<dyn ObjectStore>,
    /// Empty, or with `/` at the end.
    prefix: String,
    on_event: Option<Arc<dyn Fn(LinkEvent) + Send + Sync>>,
    counts: Counts,
    trusted: Arc<Semaphore>,
    untrusted: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    breaker: Breaker,
    random: u64,
    /// When which trouble was told last; a handful.
    told: Vec<(Trouble, Instant)>,
}

impl Shared {
    pub(super) fn new(store: Arc<dyn ObjectStore>, options: LinkOptions) -> Self {
        // Only waits are spread with it: without randomness they are not.
        let seed = getrandom::u64().unwrap_or_default();
        let mut prefix = options.prefix;
        if !prefix.is_empty() {
            prefix.push('/');
        }
        Self {
            store,
            prefix,
            on_event: options.on_event,
            counts: Counts::default(),
            trusted: Arc::new(Semaphore::new(TRUSTED_REQUESTS_MAX)),
            untrusted: Arc::new(Semaphore::new(UNTRUSTED_REQUESTS_MAX)),
            state: Mutex::new(State {
                breaker: Breaker::new(seed),
                random: !seed,
                told: Vec::new(),
            }),
        }
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// The place in the store of a plain name.
    pub(super) fn absolute(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    pub(super) fn relative(&self, location: &Path) -> String {
        let name = location.as_ref();
        name.strip_prefix(&self.prefix).unwrap_or(name).to_owned()
    }

    pub(super) fn open_for(&self) -> Option<Duration> {
        self.state.lock().breaker.open_for(Instant::now())
    }

    pub(super) fn requests(&self) -> Vec<(Operation, Outcome, u64)> {
        self.counts.read()
    }

    fn tell(&self, event: Option<LinkEvent>) {
        if let (Some(on_event), Some(event)) = (&self.on_event, event) {
            on_event(event);
        }
    }
}

/// A request under way. One that is dropped was given up by its caller.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    operation: Operation,
    admitted: Admitted,
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl Ticket {
    /// Tells how it ended.
    pub(super) fn end<T>(mut self, result: &Result<T, LinkError>) {
        self.is_over = true;
        self.shared.counts.note(self.operation, Outcome::of(result));
        let now = Instant::now();
        let event = self
            .shared
            .state
            .lock()
            .note(self.admitted, result.as_ref().err(), now);
        self.shared.tell(event);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.counts.note(self.operation, Outcome::GivenUp);
            let mut state = self.shared.state.lock();
            state.breaker.undecided(self.admitted, Instant::now());
        }
    }
}

impl State {
    fn note(
        &mut self,
        admitted: Admitted,
        error: Option<&LinkError>,
        now: Instant,
    ) -> Option<LinkEvent> {
        let Some(LinkError::Unavailable { trouble, message }) = error else {
            return closed(self.breaker.succeeded());
        };
        let (trouble, message) = (*trouble, Arc::clone(message));
        match trouble {
            Trouble::TimedOut | Trouble::Failed | Trouble::AccessDenied => {
                match self.breaker.failed(admitted, now) {
                    Change::Opened(wait) => Some(LinkEvent::Opened {
                        trouble,
                        message,
                        wait,
                    }),
                    Change::None | Change::Closed => None,
                }
            }
            // It is there, and has more to do than it can.
            Trouble::Throttled | Trouble::CircuitOpen => {
                self.breaker.undecided(admitted, now);
                self.refused(trouble, message, now)
            }
            // It is there.
            Trouble::Full | Trouble::Unsupported => {
                let change = closed(self.breaker.succeeded());
                change.or(self.refused(trouble, message, now))
            }
        }
    }

    fn refused(&mut self, trouble: Trouble, message: Arc<str>, now: Instant) -> Option<LinkEvent> {
        let last = self.told.iter().position(|(told, _)| *told == trouble);
        match last {
            Some(at) if now < self.told[at].1 + EVENT_PAUSE => return None,
            Some(at) => self.told[at].1 = now,
            None => self.told.push((trouble, now)),
        }
        Some(LinkEvent::Refused { trouble, message })
    }
}

fn closed(change: Change) -> Option<LinkEvent> {
    (change == Change::Closed).then_some(LinkEvent::Closed)
}

impl Link {
    /// Lets requests out until one is answered, or it is not worth another.
    pub(super) async fn exchange<T, F>(
        &self,
        operation: Operation,
        limit: Duration,
        attempt: impl Fn() -> F,
    ) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        let (answer, ticket) = self.exchange_on(operation, limit, attempt).await?;
        ticket.end(&Ok::<_, LinkError>(()));
        Ok(answer)
    }

    /// As [`exchange`](Self::exchange), for a request that goes on after its answer began.
    pub(super) async fn exchange_on<T, F>(
        &self,
        operation: Operation,
        limit: Duration,
        attempt: impl Fn() -> F,
    ) -> Result<(T, Ticket), LinkError>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        let deadline = Instant::now() + limit;
        let mut last = None;
        let mut retries = 0;
        loop {
            let error = match self.once(operation, deadline, limit, attempt()).await {
                Ok(answer) => return Ok(answer),
                // It opened meanwhile: what happened says more.
                Err(error) if error.trouble() == Some(Trouble::CircuitOpen) => {
                    return Err(last.unwrap_or(error));
                }
                Err(error) => error,
            };
            let Some(wait) = self.wait_before_retry(operation, &error, retries) else {
                return Err(error);
            };
            // Nor is waited for a second attempt that would be refused.
            if self.refuse_if_open().is_err() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            last = Some(error);
            retries += 1;
        }
    }

    /// Lets one request out.
    pub(super) async fn once<T>(
        &self,
        operation: Operation,
        deadline: Instant,
        limit: Duration,
        attempt: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<(T, Ticket), LinkError> {
        let ticket = self.admit(operation, deadline, limit).await?;
        let result = timeout_at(deadline, attempt)
            .await
            .unwrap_or_else(|_| Err(timed_out(limit)));
        match result {
            Ok(answer) => Ok((answer, ticket)),
            Err(error) => {
                ticket.end::<()>(&Err(error.clone()));
                Err(error)
            }
        }
    }

    async fn admit(
        &self,
        operation: Operation,
        deadline: Instant,
        limit: Duration,
    ) -> Result<Ticket, LinkError> {
        let lane = match self.lane {
            Lane::Trusted => &self.shared.trusted,
            Lane::Untrusted => &self.shared.untrusted,
        };
        // Nobody waits in line for what is known not to answer.
        self.refuse_if_open()?;
        let permit = timeout_at(deadline, Arc::clone(lane).acquire_owned())
            .await
            .map_err(|_| timed_out(limit))?
            .expect("nobody closes the semaphore");
        let admitted = self.shared.state.lock().breaker.admit(Instant::now());
        Ok(Ticket {
            shared: Arc::clone(&self.shared),
            operation,
            admitted: admitted.map_err(circuit_open)?,
            is_over: false,
            _permit: permit,
        })
    }

    fn refuse_if_open(&self) -> Result<(), LinkError> {
        match self.open_for() {
            Some(wait) if !wait.is_zero() => Err(circuit_open(wait)),
            _ => Ok(()),
        }
    }

    fn wait_before_retry(
        &self,
        operation: Operation,
        error: &LinkError,
        retries: u32,
    ) -> Option<Duration> {
        let most = match error.trouble()? {
            Trouble::Throttled => RETRIES_WHEN_THROTTLED,
            // It may have happened, and then the second one finds the first.
            Trouble::Failed if operation == Operation::Create => 0,
            Trouble::Failed => RETRIES_WHEN_FAILED,
            _ => 0,
        };
        (retries < most).then(|| {
            let wait = RETRY_WAIT.as_millis() as u64 * (1 << retries);
            let random = draw(&mut self.shared.state.lock().random);
            Duration::from_millis(wait / 2 + random % (wait / 2))
        })
    }
}

fn timed_out(limit: Duration) -> LinkError {
    let message = format!("no answer within {} s", limit.as_secs_f32());
    LinkError::unavailable(Trouble::TimedOut, message)
}

fn circuit_open(wait: Duration) -> LinkError {
    let message = format!("it is left alone for another {:.1} s", wait.as_secs_f32());
    LinkError::unavailable(Trouble::CircuitOpen, message)
}
