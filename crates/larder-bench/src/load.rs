//! One block of load on one server: lanes on threads, a window of time, and what the server used in it.
//!
//! Each thread has its own runtime and lanes; they share a counter that gives every turn its number. The thread that calls
//! [`measure`] only waits, reads the server's processor time when the window opens and closes, and gives up if nothing is answered
//! for a minute.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::content::Content;
use crate::error::BenchError;
use crate::lane::{Client, Lane};
use crate::pace::Pace;
use crate::process;
use crate::tally::Tally;
use crate::target::Target;
use crate::work::Work;

/// How long nothing may be answered.
const STALL_LIMIT: Duration = Duration::from_mins(1);

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// How many requests may go without an answer in a block.
const ERROR_COUNT_MAX: u64 = 100;

/// A window stays open until so many requests were answered: of fewer there is no rate to speak of.
const ANSWER_COUNT_MIN: u64 = 12;

/// How often the waiting thread looks.
const TICK: Duration = Duration::from_millis(5);

/// How often the server's memory is looked at.
const MEMORY_TICK: Duration = Duration::from_millis(100);

/// Closer to a request's time than this, timers are too coarse, and the lane yields until it has come.
const TIMER_COARSENESS: Duration = Duration::from_millis(2);

/// The longest sleep of a lane, which must see that the window has closed.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// How much is asked, for how long.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Load {
    /// Requests in each second, whatever the server does; `None`: each answer sends the next request.
    pub rate: Option<f64>,
    /// Connections; `None`: as fits the scenario.
    pub connections: Option<u32>,
    /// Calls at a time on each connection of gRPC; `None`: as fits the scenario.
    pub streams: Option<u32>,
    /// Threads of this client, at least one.
    pub threads: u32,
    /// What is not counted at the beginning of each block.
    pub warm_up: Duration,
    /// How long each block measures.
    pub duration: Duration,
    /// Bytes after which a block that writes ends early.
    pub write_bytes_max: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            rate: None,
            connections: None,
            streams: None,
            threads: 1,
            warm_up: Duration::from_millis(500),
            duration: Duration::from_secs(3),
            write_bytes_max: 4 << 30,
        }
    }
}

/// How many lanes there are, and how they share connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seats {
    pub(crate) connections: u32,
    pub(crate) streams: u32,
}

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    WarmingUp,
    Measuring,
    /// Lanes end after the request they are at.
    Stopping,
    /// Lanes end at once.
    GivenUp,
}

/// What the lanes of a block share.
pub(crate) struct Shared {
    phase: watch::Sender<Phase>,
    turns: AtomicU64,
    turns_max: u64,
    answered: AtomicU64,
    broken: AtomicU64,
    write_bytes_left: AtomicU64,
    pace: Pace,
    ready: AtomicUsize,
    finished: AtomicUsize,
    failure: Mutex<Option<BenchError>>,
    waiting: thread::Thread,
}

impl Shared {
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// A request went without an answer.
    pub(crate) fn broken(&self, error: &BenchError) {
        if self.broken.fetch_add(1, Ordering::Relaxed) >= ERROR_COUNT_MAX {
            let why = format!("{ERROR_COUNT_MAX} requests failed; the last: {error}");
            self.fail(BenchError::Connection(why));
        }
    }

    /// Whether so much may still be written; it then counts as written.
    pub(crate) fn may_write(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        self.write_bytes_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    pub(crate) fn fail(&self, error: BenchError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.phase.send_replace(Phase::GivenUp);
        self.waiting.unpark();
    }

    fn is_running(&self) -> bool {
        matches!(self.phase(), Phase::WarmingUp | Phase::Measuring)
    }
}

/// What a block came to.
pub(crate) struct Measured {
    pub(crate) tally: Tally,
    pub(crate) wall: Duration,
    /// Seconds of the server's processors, if its process is known.
    pub(crate) server_cpu_s: Option<f64>,
    /// The most that was seen resident.
    pub(crate) server_rss_bytes: Option<u64>,
    /// Seconds of this process's processors.
    pub(crate) client_cpu_s: Option<f64>,
}

/// Measures a block: until its time is over, or for `turns` turns from the first on.
pub(crate) fn measure(
    target: &Arc<Target>,
    content: &Arc<Content>,
    work: &Arc<Work>,
    seats: Seats,
    load: &Load,
    turns: Option<u64>,
) -> Result<Measured, BenchError> {
    let threads = (load.threads.max(1) as usize).min(seats.connections as usize);
    let shared = Arc::new(Shared {
        phase: watch::channel(Phase::Connecting).0,
        turns: AtomicU64::new(0),
        turns_max: turns.unwrap_or(u64::MAX),
        answered: AtomicU64::new(0),
        broken: AtomicU64::new(0),
        // A fixed number of turns has its own end.
        write_bytes_left: AtomicU64::new(match turns {
            Some(_) => u64::MAX,
            None => load.write_bytes_max,
        }),
        pace: match (load.rate, turns) {
            (Some(rate), None) => Pace::Open { rate },
            _ => Pace::Closed,
        },
        ready: AtomicUsize::new(0),
        finished: AtomicUsize::new(0),
        failure: Mutex::new(None),
        waiting: thread::current(),
    });
    thread::scope(|scope| {
        let crews: Vec<_> = (0..threads)
            .map(|number| {
                let connections = (number..seats.connections as usize)
                    .step_by(threads)
                    .count();
                let crew = Crew {
                    target: target.clone(),
                    content: content.clone(),
                    work: work.clone(),
                    shared: shared.clone(),
                    connections,
                    streams: seats.streams,
                };
                scope.spawn(move || crew.run())
            })
            .collect();
        let window = watch_over(&shared, target.pid, load, threads, turns.is_some());
        if let Err(error) = window {
            shared.fail(error);
            join(crews)?;
            return Err(take_failure(&shared));
        }
        let (wall, used) = window?;
        let tally = join(crews)?;
        match shared.phase() {
            Phase::GivenUp => Err(take_failure(&shared)),
            _ => Ok(Measured {
                tally,
                wall,
                server_cpu_s: used.server_cpu_s,
                server_rss_bytes: used.server_rss_bytes,
                client_cpu_s: used.client_cpu_s,
            }),
        }
    })
}

fn take_failure(shared: &Shared) -> BenchError {
    let mut failure = shared
        .failure
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    failure
        .take()
        .unwrap_or_else(|| BenchError::Connection("the load ended without a reason".to_owned()))
}

fn join(
    crews: Vec<thread::ScopedJoinHandle<'_, Result<Tally, BenchError>>>,
) -> Result<Tally, BenchError> {
    let mut tally = Tally::default();
    for crew in crews {
        let part = crew
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        tally.add(part?);
    }
    Ok(tally)
}

#[derive(Default)]
struct Used {
    server_cpu_s: Option<f64>,
    server_rss_bytes: Option<u64>,
    client_cpu_s: Option<f64>,
}

/// Opens the window, waits, closes it.
fn watch_over(
    shared: &Shared,
    pid: Option<u32>,
    load: &Load,
    threads: usize,
    is_fixed: bool,
) -> Result<(Duration, Used), BenchError> {
    let is_finished = || shared.finished.load(Ordering::Acquire) == threads;
    let is_given_up = || shared.phase() == Phase::GivenUp;
    let began = Instant::now();
    while shared.ready.load(Ordering::Acquire) < threads && !is_given_up() {
        if began.elapsed() > CONNECT_LIMIT {
            let why = format!("not all connections were made within {CONNECT_LIMIT:?}");
            return Err(BenchError::Connection(why));
        }
        thread::park_timeout(TICK);
    }
    if !is_fixed {
        advance(shared, Phase::WarmingUp);
        let began = Instant::now();
        while began.elapsed() < load.warm_up && !is_finished() && !is_given_up() {
            thread::park_timeout(TICK.min(load.warm_up));
        }
    }
    let cpu = pid.map(process::cpu_s).transpose()?;
    let own_cpu = process::own_cpu_s();
    let mut memory = Peak {
        pid,
        bytes: None,
        looked: None,
    };
    memory.look()?;
    let began = Instant::now();
    let first = shared.answered.load(Ordering::Relaxed);
    advance(shared, Phase::Measuring);
    let (mut seen, mut seen_at) = (first, began);
    let is_open =
        |seen: u64| is_fixed || began.elapsed() < load.duration || seen < first + ANSWER_COUNT_MIN;
    while !is_finished() && !is_given_up() && is_open(seen) {
        thread::park_timeout(TICK);
        memory.look()?;
        let answered = shared.answered.load(Ordering::Relaxed);
        if answered != seen {
            (seen, seen_at) = (answered, Instant::now());
        } else if seen_at.elapsed() > STALL_LIMIT {
            let why = format!("nothing was answered for {STALL_LIMIT:?}");
            return Err(BenchError::Connection(why));
        }
    }
    let wall = began.elapsed();
    let used = Used {
        server_cpu_s: match (pid, cpu) {
            (Some(pid), Some(before)) => Some(process::cpu_s(pid)? - before),
            _ => None,
        },
        server_rss_bytes: memory.bytes,
        client_cpu_s: process::own_cpu_s()
            .zip(own_cpu)
            .map(|(after, before)| after - before),
    };
    advance(shared, Phase::Stopping);
    let stopping = Instant::now();
    while !is_finished() && !is_given_up() {
        if stopping.elapsed() > STALL_LIMIT {
            let why = format!("the last requests took more than {STALL_LIMIT:?}");
            return Err(BenchError::Connection(why));
        }
        thread::park_timeout(TICK);
    }
    Ok((wall, used))
}

/// To the next phase, unless it was given up.
fn advance(shared: &Shared, phase: Phase) {
    shared.phase.send_if_modified(|now| {
        let goes_on = *now != Phase::GivenUp;
        if goes_on {
            *now = phase;
        }
        goes_on
    });
}

/// The most memory that a process had when it was looked at.
struct Peak {
    pid: Option<u32>,
    bytes: Option<u64>,
    looked: Option<Instant>,
}

impl Peak {
    fn look(&mut self) -> Result<(), BenchError> {
        let is_time = self
            .looked
            .is_none_or(|looked| looked.elapsed() >= MEMORY_TICK);
        if let (true, Some(pid)) = (is_time, self.pid) {
            self.bytes = self.bytes.max(Some(process::rss_bytes(pid)?));
            self.looked = Some(Instant::now());
        }
        Ok(())
    }
}

/// The lanes of one thread.
struct Crew {
    target: Arc<Target>,
    content: Arc<Content>,
    work: Arc<Work>,
    shared: Arc<Shared>,
    connections: usize,
    streams: u32,
}

impl Crew {
    fn run(self) -> Result<Tally, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::connection)?;
        let tally = runtime.block_on(LocalSet::new().run_until(self.work()));
        // What is left of the connections ends here.
        drop(runtime);
        self.shared.finished.fetch_add(1, Ordering::Release);
        self.shared.waiting.unpark();
        Ok(tally)
    }

    async fn work(&self) -> Tally {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let lanes = match self.lanes(&tally).await {
            Ok(lanes) => lanes,
            Err(error) => {
                self.shared.fail(error);
                return Tally::default();
            }
        };
        let mut phase = self.shared.phase.subscribe();
        self.shared.ready.fetch_add(1, Ordering::Release);
        self.shared.waiting.unpark();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase != Phase::Connecting).await;
        let began = Instant::now();
        let mut running: Vec<_> = lanes
            .into_iter()
            .map(|lane| tokio::task::spawn_local(turns(lane, self.work.clone(), began)))
            .collect();
        let all = async {
            for lane in &mut running {
                if let Err(panic) = lane.await {
                    std::panic::resume_unwind(panic.into_panic());
                }
            }
        };
        tokio::select! {
            () = all => {}
            _ = phase.wait_for(|phase| *phase == Phase::GivenUp) => {}
        }
        running.iter().for_each(tokio::task::JoinHandle::abort);
        tally.take()
    }

    async fn lanes(&self, tally: &Rc<RefCell<Tally>>) -> Result<Vec<Lane>, BenchError> {
        let mut lanes = Vec::new();
        for _ in 0..self.connections {
            let first = Client::connect(&self.target).await?;
            let mut clients = vec![first];
            if let Some(Client::Grpc(grpc)) = clients.first() {
                let more = (1..self.streams).map(|_| Client::Grpc(grpc.clone()));
                clients = more.chain([Client::Grpc(grpc.clone())]).collect();
            }
            lanes.extend(clients.into_iter().map(|client| Lane {
                target: self.target.clone(),
                content: self.content.clone(),
                shared: self.shared.clone(),
                tally: tally.clone(),
                client: Some(client),
                due: None,
            }));
        }
        Ok(lanes)
    }
}

/// Turn after turn, until the window closes or there are no more.
async fn turns(mut lane: Lane, work: Arc<Work>, began: Instant) {
    let shared = lane.shared.clone();
    while shared.is_running() {
        let number = shared.turns.fetch_add(1, Ordering::Relaxed);
        if number >= shared.turns_max {
            return;
        }
        if let Pace::Open { .. } = shared.pace {
            let due = began + shared.pace.due(number, began.elapsed());
            if !wait_until(due, &shared).await {
                return;
            }
            lane.due = Some(due);
        }
        // A turn that failed was counted, or it ended the run.
        if matches!(work.turn(&mut lane, number).await, Ok(false)) {
            return;
        }
    }
}

/// False if the window closed before.
async fn wait_until(due: Instant, shared: &Shared) -> bool {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if !shared.is_running() {
            return false;
        }
        if left.is_zero() {
            return true;
        }
        match left.checked_sub(TIMER_COARSENESS) {
            Some(sleep) => tokio::time::sleep(sleep.min(SLEEP_MAX)).await,
            None => tokio::task::yield_now().await,
        }
    }
}
