//! The circuit breaker: after some failures in a row a bucket is left alone for a while.
//!
//! Closed, every request goes out. [`FAILURES_TO_OPEN`] failures without a success between open it, for a second. Then one
//! request goes out as a probe, the others are still refused. The probe's success closes the circuit; its failure opens it
//! for twice as long, up to [`OPEN_LIMIT`]. What an answer was that came from before the circuit opened changes nothing,
//! unless it is a success, which shows that the bucket is there.
//!
//! No clock and no chance of its own: `now` and the seed come in.

use std::time::Duration;

use tokio::time::Instant;

/// One or two are bad luck, and retried requests make them double.
pub const FAILURES_TO_OPEN: u32 = 5;
/// How long the circuit is open at first.
pub const OPEN_AT_FIRST: Duration = Duration::from_secs(1);
/// And at most: how long the nodes need at most to notice that a bucket is back.
pub const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    failures_in_a_row: u32,
    openings_in_a_row: u32,
    random: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// The time is over and one request is on its way.
    Probing,
}

/// What a request that may go out is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// One of many.
    Plain,
    /// The one that finds out whether the bucket is back.
    Probe,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// It was closed and is open for this long.
    Opened(Duration),
    /// It was not closed and is.
    Closed,
}

impl Breaker {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: State::Closed,
            failures_in_a_row: 0,
            openings_in_a_row: 0,
            random: seed,
        }
    }

    /// Whether a request may go out; if not, for how long not.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Admitted, Duration> {
        match self.state {
            State::Closed => Ok(Admitted::Plain),
            State::Open { until } if now >= until => {
                self.state = State::Probing;
                Ok(Admitted::Probe)
            }
            State::Open { until } => Err(until - now),
            State::Probing => Err(Duration::ZERO),
        }
    }

    pub(crate) fn succeeded(&mut self) -> Change {
        self.failures_in_a_row = 0;
        self.openings_in_a_row = 0;
        if self.state == State::Closed {
            return Change::None;
        }
        self.state = State::Closed;
        Change::Closed
    }

    pub(crate) fn failed(&mut self, admitted: Admitted, now: Instant) -> Change {
        match (self.state, admitted) {
            (State::Closed, _) => {
                self.failures_in_a_row += 1;
                if self.failures_in_a_row < FAILURES_TO_OPEN {
                    return Change::None;
                }
                Change::Opened(self.open(now))
            }
            (State::Probing, Admitted::Probe) => {
                self.open(now);
                Change::None
            }
            (State::Open { .. } | State::Probing, _) => Change::None,
        }
    }

    /// A request that ended without telling anything about the bucket: given up by its caller, or asked to come later.
    pub(crate) fn undecided(&mut self, admitted: Admitted, now: Instant) {
        if admitted == Admitted::Probe && self.state == State::Probing {
            // The next request is the probe.
            self.state = State::Open { until: now };
        }
    }

    /// `None` if it is closed, else how long it is still open.
    pub(crate) fn open_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            State::Open { until } => Some(until.saturating_duration_since(now)),
            State::Probing => Some(Duration::ZERO),
        }
    }

    fn open(&mut self, now: Instant) -> Duration {
        let doubled = OPEN_AT_FIRST.saturating_mul(1 << self.openings_in_a_row.min(16));
        self.openings_in_a_row += 1;
        self.failures_in_a_row = 0;
        // Up to a quarter more, so that many nodes do not come back at the same instant.
        let quarter = doubled.as_millis() as u64 / 4;
        let jitter = Duration::from_millis(draw(&mut self.random) % (quarter + 1));
        let wait = (doubled + jitter).min(OPEN_LIMIT);
        self.state = State::Open { until: now + wait };
        wait
    }
}

/// The next number of a sequence (SplitMix64, Steele and others 2014): good enough to spread waits.
pub(crate) fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opened(breaker: &mut Breaker, now: Instant) -> Duration {
        for _ in 1..FAILURES_TO_OPEN {
            assert_eq!(breaker.failed(Admitted::Plain, now), Change::None);
        }
        match breaker.failed(Admitted::Plain, now) {
            Change::Opened(wait) => wait,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not_let_them_add_up() {
        let (mut breaker, now) = (Breaker::new(1), Instant::now());
        for _ in 0..3 {
            for _ in 1..FAILURES_TO_OPEN {
                breaker.failed(Admitted::Plain, now);
            }
            assert_eq!(breaker.succeeded(), Change::None);
        }
        assert_eq!(breaker.open_for(now), None);
        let wait = opened(&mut breaker, now);
        assert!(breaker.admit(now + wait / 2).is_err());
    }

    #[test]
    fn one_probe_goes_out_and_decides() {
        let (mut breaker, now) = (Breaker::new(2), Instant::now());
        let later = now + opened(&mut breaker, now);
        assert_eq!(breaker.admit(later), Ok(Admitted::Probe));
        assert!(breaker.admit(later).is_err(), "a second one waits");
        assert_eq!(
            breaker.failed(Admitted::Plain, later),
            Change::None,
            "late news is no news"
        );
        assert!(
            breaker.admit(later + OPEN_LIMIT).is_err(),
            "the probe is still on its way"
        );
        breaker.failed(Admitted::Probe, later);
        let again = breaker.open_for(later).unwrap();
        assert!(again >= OPEN_AT_FIRST * 2, "{again:?}");
        assert_eq!(breaker.admit(later + again), Ok(Admitted::Probe));
        assert_eq!(breaker.succeeded(), Change::Closed);
        assert_eq!(breaker.admit(later), Ok(Admitted::Plain));
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place_to_the_next_request() {
        let (mut breaker, now) = (Breaker::new(3), Instant::now());
        let later = now + opened(&mut breaker, now);
        assert_eq!(breaker.admit(later), Ok(Admitted::Probe));
        breaker.undecided(Admitted::Probe, later);
        assert_eq!(breaker.admit(later), Ok(Admitted::Probe));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Ask,
        Succeed(prop::sample::Index),
        Fail(prop::sample::Index),
        GiveUp(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..40_000_u64).prop_map(Step::Wait),
            Just(Step::Ask),
            Just(Step::Ask),
            any::<prop::sample::Index>().prop_map(Step::Succeed),
            any::<prop::sample::Index>().prop_map(Step::Fail),
            any::<prop::sample::Index>().prop_map(Step::Fail),
            any::<prop::sample::Index>().prop_map(Step::GiveUp),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever happens, there is never more than one probe, the circuit is never open for longer than its limit, and it is
        /// never stuck: with nothing on its way a request goes out after that time at the latest.
        #[test]
        fn it_never_sticks_and_never_sends_two_probes(steps in steps(), seed: u64) {
            let mut breaker = Breaker::new(seed);
            let mut now = Instant::now();
            let mut under_way: Vec<Admitted> = Vec::new();
            for step in steps {
                let mut take = |at: prop::sample::Index| {
                    (!under_way.is_empty()).then(|| under_way.remove(at.index(under_way.len())))
                };
                match step {
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Ask => {
                        if let Ok(admitted) = breaker.admit(now) {
                            under_way.push(admitted);
                        }
                    }
                    Step::Succeed(at) => if take(at).is_some() { breaker.succeeded(); },
                    Step::Fail(at) => if let Some(one) = take(at) { breaker.failed(one, now); },
                    Step::GiveUp(at) => if let Some(one) = take(at) { breaker.undecided(one, now); },
                }
                prop_assert!(breaker.open_for(now).unwrap_or_default() <= OPEN_LIMIT);
                if breaker.state == State::Probing {
                    let probes = under_way.iter().filter(|one| **one == Admitted::Probe).count();
                    prop_assert!(probes >= 1, "probing, and no probe is on its way");
                }
            }
            for one in under_way {
                breaker.undecided(one, now);
            }
            prop_assert!(breaker.admit(now + OPEN_LIMIT).is_ok());
        }
    }
}
