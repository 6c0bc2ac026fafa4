//! When requests begin, and from when their latency counts.
//!
//! Closed: a request is due when its lane is free. Open: request *n* is due at *n* / rate, whatever the server does. A request that
//! finds no free lane, because answers are late, begins late; its latency counts from when it was due. This is what a user would
//! have waited, and what is left out if one measures from the sending ("coordinated omission").
//!
//! Time is a number that comes in; nothing here looks at a clock.

use std::time::Duration;

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// The answer to one sends the next.
    Closed,
    /// So many in each second, evenly.
    Open {
        /// Requests in a second; more than zero.
        rate: f64,
    },
}

impl Pace {
    /// When request `number` is due, seen at `now`; both count from the start of the load.
    pub(crate) fn due(self, number: u64, now: Duration) -> Duration {
        match self {
            Self::Closed => now,
            Self::Open { rate } => Duration::from_secs_f64(number as f64 / rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Histogram;

    /// One lane against a server that takes 1 ms, but for one second in which it stands still. Latencies in milliseconds.
    fn measure(pace: Pace) -> (u64, Histogram) {
        let ms = Duration::from_millis;
        let standstill = ms(2000)..ms(3000);
        let (mut now, mut histogram, mut number) = (Duration::ZERO, Histogram::default(), 0);
        while now < ms(10_000) {
            let due = pace.due(number, now);
            let sent = now.max(due);
            let begun = if standstill.contains(&sent) {
                standstill.end
            } else {
                sent
            };
            let done = begun + ms(1);
            histogram.record(done.saturating_sub(due).as_millis() as u64);
            (now, number) = (done, number + 1);
        }
        (number, histogram)
    }

    #[test]
    fn a_server_that_stands_still_for_a_second_is_not_spared_the_requests_of_that_second() {
        let (requests, open) = measure(Pace::Open { rate: 100.0 });
        assert_eq!(requests, 1001);
        // Of a thousand requests a hundred were due in that second, the first of which waited for all of it; the longest-waiting
        // twentieth of all waited for more than half.
        assert_eq!(open.quantile(0.5), 1);
        assert!(
            (530..570).contains(&open.quantile(0.95)),
            "{}",
            open.quantile(0.95)
        );
        assert!(open.max() >= 1000);
    }

    #[test]
    fn a_closed_load_sees_only_the_one_request_that_it_had_sent() {
        let (requests, closed) = measure(Pace::Closed);
        assert!(requests > 8000);
        assert_eq!(closed.quantile(0.999), 1);
        assert!(closed.max() >= 1000);
    }

    #[test]
    fn a_rate_that_the_server_cannot_keep_up_with_makes_latencies_grow() {
        let (_, closed) = measure(Pace::Closed);
        let (requests, open) = measure(Pace::Open { rate: 2000.0 });
        assert!(requests < 10_000);
        assert!(open.quantile(0.5) > 1000 * closed.quantile(0.5));
    }
}
