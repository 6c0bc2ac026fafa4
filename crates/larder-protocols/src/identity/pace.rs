//! How fast jobs get sessions: every session is a write in the ledger's one queue, and memory until it is forgotten.
//!
//! Each scope of a rule has a pace of its own, and so has trunk: a pull request that asks for sessions without end slows down
//! nobody but itself.
//!
//! Always true: memory is bounded, and no clock that can be set decides.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_model::{Access, WorkspaceName};

/// How many sessions can be had at once: a large pipeline starts some hundred jobs together.
const AT_ONCE: u32 = 500;
/// How often one more can be had after that: 3600 an hour.
const EVERY: Duration = Duration::from_secs(1);
/// The most places that are remembered. Whichever is next to be forgotten makes room.
const PLACE_COUNT_MAX: usize = 4096;

/// Whose sessions are counted together: workspace, rule, and the scope or the word for the access.
type Place = (WorkspaceName, String, String);

/// The sessions that were given lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When all that was taken is there again.
    whole_at: Mutex<HashMap<Place, Instant>>,
}

impl Pace {
    /// Takes one session, or says how long there is none.
    pub(super) fn take(
        &self,
        workspace: &WorkspaceName,
        rule: &str,
        access: &Access,
        now: Instant,
    ) -> Result<(), Duration> {
        let own = access.scope().map(ToString::to_string);
        let whose = own.unwrap_or_else(|| access.kind().name().to_owned());
        let place = (workspace.clone(), rule.to_owned(), whose);
        let mut places = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let whole_at = places.get(&place).copied().unwrap_or(now).max(now);
        let next = whole_at + EVERY;
        let ahead = next.saturating_duration_since(now);
        let wait = ahead.saturating_sub(EVERY * AT_ONCE);
        if !wait.is_zero() {
            return Err(wait);
        }
        if places.len() >= PLACE_COUNT_MAX && !places.contains_key(&place) {
            make_room(&mut places, now);
        }
        places.insert(place, next);
        Ok(())
    }
}

fn make_room(places: &mut HashMap<Place, Instant>, now: Instant) {
    places.retain(|_, whole_at| *whole_at > now);
    if places.len() < PLACE_COUNT_MAX {
        return;
    }
    let first = places.iter().min_by_key(|(_, whole_at)| **whole_at);
    if let Some(first) = first.map(|(place, _)| place.clone()) {
        places.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isolated(scope: &str) -> Access {
        Access::Isolated {
            scope: scope.parse().unwrap(),
        }
    }

    #[test]
    fn a_scope_that_takes_too_many_waits_and_nobody_else() {
        let (pace, now) = (Pace::default(), Instant::now());
        let workspace: WorkspaceName = "acme".parse().unwrap();
        let take = |access: &Access, now| pace.take(&workspace, "web", access, now);
        let greedy = isolated("ci.web/pr-1");
        for _ in 0..AT_ONCE {
            assert_eq!(take(&greedy, now), Ok(()));
        }
        assert_eq!(take(&greedy, now), Err(EVERY));
        assert_eq!(take(&greedy, now), Err(EVERY), "asking costs nothing");
        assert_eq!(take(&isolated("ci.web/pr-2"), now), Ok(()));
        assert_eq!(take(&Access::Trusted, now), Ok(()));
        assert_eq!(pace.take(&workspace, "docs", &greedy, now), Ok(()));
        assert_eq!(take(&greedy, now + EVERY), Ok(()), "one more with time");
        assert!(take(&greedy, now + EVERY).is_err());
    }

    #[test]
    fn memory_is_bounded_and_whoever_is_ahead_most_is_remembered() {
        let (pace, now) = (Pace::default(), Instant::now());
        let workspace: WorkspaceName = "acme".parse().unwrap();
        let greedy = isolated("ci.web/pr-1");
        while pace.take(&workspace, "web", &greedy, now).is_ok() {}
        for number in 0..2 * PLACE_COUNT_MAX {
            let other = isolated(&format!("ci.web/run-{number}"));
            assert_eq!(pace.take(&workspace, "web", &other, now), Ok(()));
        }
        assert_eq!(pace.whole_at.lock().unwrap().len(), PLACE_COUNT_MAX);
        assert!(pace.take(&workspace, "web", &greedy, now).is_err());
    }
}
