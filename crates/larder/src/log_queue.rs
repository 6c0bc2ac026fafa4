//! The way of log lines to standard error.
//!
//! Whoever reads standard error may read slowly, or not at all. So a thread of its own writes, from
//! a queue that has an end: a line that finds no room is dropped and counted, and the count becomes
//! a line as soon as there is room again.
//!
//! Always true: nobody who logs waits for whoever reads the log.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Lines that wait to be written.
const QUEUE_LINE_COUNT_MAX: usize = 1024;
/// The longest line; a longer one is dropped. This bounds the queue's memory to 16 MiB.
const LINE_BYTES_MAX: usize = 16 << 10;
/// How long the program's end waits for the last lines.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long to wait before a full queue is asked again.
const FULL_RETRY: Duration = Duration::from_millis(10);

/// The program's queue, for [`flush`].
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

enum Message {
    Line(Vec<u8>),
    /// Everything before this has been written once the sender hears of it.
    Flush(SyncSender<()>),
}

/// A queue of lines. A clone is the same queue.
#[derive(Clone)]
pub(crate) struct LogQueue {
    messages: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl LogQueue {
    /// The queue to standard error, as the whole program uses it. `notice` makes a line of a count
    /// of dropped lines.
    pub(crate) fn to_standard_error(notice: fn(u64) -> String) -> io::Result<Self> {
        let queue = Self::to(io::stderr(), notice)?;
        Ok(QUEUE.get_or_init(|| queue).clone())
    }

    fn to(sink: impl Write + Send + 'static, notice: fn(u64) -> String) -> io::Result<Self> {
        let (messages, queued) = sync_channel(QUEUE_LINE_COUNT_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&queued, sink, &counted, notice))?;
        Ok(Self { messages, dropped })
    }

    fn flush(&self, deadline: Instant) {
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(refused)) = self.messages.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = refused;
            std::thread::sleep(FULL_RETRY);
        }
        // In vain when nobody reads: then nobody misses the lines.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// One call is one line.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let fits = line.len() <= LINE_BYTES_MAX;
        if !fits
            || self
                .messages
                .try_send(Message::Line(line.to_vec()))
                .is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until what was logged is written, but not for a reader that does not read.
pub(crate) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(Instant::now() + FLUSH_WAIT_MAX);
    }
}

/// A sink that fails has nobody to tell.
fn write_all(
    queued: &Receiver<Message>,
    mut sink: impl Write,
    dropped: &AtomicU64,
    notice: fn(u64) -> String,
) {
    while let Ok(message) = queued.recv() {
        match message {
            Message::Line(line) => {
                let _ = sink.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = sink.flush();
                let _ = done.try_send(());
            }
        }
        let count = dropped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = sink.write_all(notice(count).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use super::*;

    /// A reader that takes a line whenever the test says so.
    struct Stubborn {
        turns: Receiver<()>,
        taken: Sender<String>,
    }

    impl Write for Stubborn {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.turns.recv().map_err(io::Error::other)?;
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.taken.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_stops_nobody_and_hears_how_many_lines_it_missed() {
        let (turn, turns) = std::sync::mpsc::channel();
        let (taken, lines) = std::sync::mpsc::channel();
        let notice = |count| format!("{count} dropped");
        let mut queue = LogQueue::to(Stubborn { turns, taken }, notice).unwrap();
        let count = QUEUE_LINE_COUNT_MAX + 100;
        for number in 0..count {
            queue.write_all(number.to_string().as_bytes()).unwrap();
        }
        LogQueue::flush(&queue, Instant::now());
        for _ in 0..=count {
            turn.send(()).unwrap();
        }
        drop(queue);
        let lines: Vec<String> = lines.iter().collect();
        assert_eq!(lines[0], "0");
        let missed: usize = lines[1].strip_suffix(" dropped").unwrap().parse().unwrap();
        assert_eq!(
            lines.len() - 1 + missed,
            count,
            "each line is written or counted"
        );
        // One line may be in the reader's hands beside the queue.
        assert!((99..=100).contains(&missed), "{missed}");
    }
}
