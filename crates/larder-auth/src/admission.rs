//! What was decided about JWTs that came as credentials: admitted as somebody, refused, or to be asked about later.
//!
//! Deciding costs a signature and a look into the ledger, so it is done once and remembered for a while, under the JWT's hash
//! and never with its text. When the rules change everything that was decided under the old ones is void.
//!
//! Always true: both tables are bounded. What was refused, which anybody can cause, never takes the place of what was admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_model::{Principal, WriterId};

use crate::authenticator::{BadCredential, Credential};
use crate::ci::Decision;
use crate::claims::VerifiedClaims;
use crate::shards::{SHARDS, Shard, Shards};
use crate::token::TokenHash;

/// The most JWTs that are remembered as somebody's: more jobs than send theirs directly in ten minutes.
pub const ADMITTED_COUNT_MAX: usize = 4096;
/// The most JWTs that are remembered as nobody's.
const SET_ASIDE_COUNT_MAX: usize = 4096;
/// The longest that an admission lasts: then the issuer's keys, the rules and the ledger are asked again.
pub const ADMITTED_MS_MAX: u64 = 10 * 60 * 1000;
/// How exactly it is known which admission was used last.
const LAST_USED_RESOLUTION_MS: u64 = 1_000;

/// The rules under which something was decided. To be taken before deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyEpoch(u64);

/// Who the bearer of a JWT is. It lasts until the JWT itself stops being good, or for [`ADMITTED_MS_MAX`], whichever is shorter.
///
/// Made of what an issuer signed and what a rule decided, and of nothing else:
/// ```compile_fail,E0451
/// # use larder_auth::{Admission, PolicyEpoch};
/// # use larder_model::Principal;
/// # fn forge(principal: Principal, epoch: PolicyEpoch) -> Admission {
/// Admission { principal, expires_at_ms: u64::MAX, epoch }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Admission {
    principal: Principal,
    /// When the JWT itself stops being good, in unix milliseconds.
    expires_at_ms: u64,
    epoch: PolicyEpoch,
}

impl Admission {
    /// Admits the bearer of these claims as what was decided about them under the rules of `epoch`, with the number that the
    /// ledger has for its writer.
    pub fn of(
        claims: &VerifiedClaims,
        decision: &Decision,
        writer: WriterId,
        epoch: PolicyEpoch,
    ) -> Self {
        let (workspace, access) = (decision.workspace().clone(), decision.access().clone());
        Self {
            principal: Principal::new(workspace, access, writer),
            expires_at_ms: claims.valid_until_ms(),
            epoch,
        }
    }
}

/// Why a JWT is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAside {
    /// It is bad: loud.
    Refused,
    /// It is genuine and is over, or it cannot be judged for now: a miss.
    Soft,
    /// It is genuine, and its bearer is nobody here: as good as no credential.
    Nobody,
}

#[derive(Debug)]
struct Admitted {
    principal: Principal,
    until_ms: u64,
    expires_at_ms: u64,
    epoch: PolicyEpoch,
    last_used_ms: AtomicU64,
}

#[derive(Debug)]
struct Aside {
    why: SetAside,
    since_ms: u64,
    until_ms: u64,
    epoch: PolicyEpoch,
}

#[derive(Debug, Default)]
pub(crate) struct Admissions {
    admitted: Shards<Admitted>,
    aside: Shards<Aside>,
    epoch: AtomicU64,
}

impl Admissions {
    /// What is known of the JWT; `None` if it must be looked at.
    pub(crate) fn ask(
        &self,
        hash: &TokenHash,
        now_ms: u64,
    ) -> Option<Result<Credential, BadCredential>> {
        let epoch = self.epoch();
        let admitted = self.admitted.get(hash, |it| {
            if it.epoch != epoch {
                return None;
            }
            if now_ms >= it.expires_at_ms {
                return Some(Ok(Credential::Expired));
            }
            if now_ms >= it.until_ms {
                return None;
            }
            let last_used_ms = it.last_used_ms.load(Ordering::Relaxed);
            if now_ms >= last_used_ms.saturating_add(LAST_USED_RESOLUTION_MS) {
                it.last_used_ms.fetch_max(now_ms, Ordering::Relaxed);
            }
            Some(Ok(Credential::Known(it.principal.clone())))
        });
        let aside = || {
            self.aside.get(hash, |it| {
                let counts = it.epoch == epoch && now_ms < it.until_ms;
                counts.then_some(match it.why {
                    SetAside::Refused => Err(BadCredential::Jwt),
                    SetAside::Soft => Ok(Credential::Expired),
                    SetAside::Nobody => Ok(Credential::Absent),
                })
            })
        };
        admitted.flatten().or_else(|| aside().flatten())
    }

    /// When the JWT stops being good, in unix milliseconds, if it was admitted.
    pub(crate) fn expires_at_ms(&self, hash: &TokenHash) -> Option<u64> {
        self.admitted.get(hash, |it| it.expires_at_ms)
    }

    pub(crate) fn epoch(&self) -> PolicyEpoch {
        PolicyEpoch(self.epoch.load(Ordering::SeqCst))
    }

    pub(crate) fn forget(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.admitted.change_all(|_, shard| shard.clear());
        self.aside.change_all(|_, shard| shard.clear());
    }

    pub(crate) fn admit(&self, hash: &TokenHash, admission: Admission, now_ms: u64) {
        let until_ms = now_ms.saturating_add(ADMITTED_MS_MAX);
        let admitted = Arc::new(Admitted {
            principal: admission.principal,
            until_ms: until_ms.min(admission.expires_at_ms),
            expires_at_ms: admission.expires_at_ms,
            epoch: admission.epoch,
            last_used_ms: AtomicU64::new(now_ms),
        });
        self.admitted.change(hash, |shard| {
            insert_bounded(
                shard,
                (hash, &admitted),
                ADMITTED_COUNT_MAX / SHARDS,
                |it| now_ms < it.expires_at_ms,
                |it| it.last_used_ms.load(Ordering::Relaxed),
            );
        });
    }

    pub(crate) fn set_aside(
        &self,
        hash: &TokenHash,
        why: SetAside,
        (now_ms, until_ms): (u64, u64),
        epoch: PolicyEpoch,
    ) {
        let aside = Arc::new(Aside {
            why,
            since_ms: now_ms,
            until_ms,
            epoch,
        });
        // What it was admitted as, if it was, holds no longer.
        self.admitted.change(hash, |shard| {
            shard.remove(hash);
        });
        self.aside.change(hash, |shard| {
            insert_bounded(
                shard,
                (hash, &aside),
                SET_ASIDE_COUNT_MAX / SHARDS,
                |it| now_ms < it.until_ms,
                |it| it.since_ms,
            );
        });
    }

    #[cfg(test)]
    fn count(&self) -> (usize, usize) {
        (self.admitted.count(), self.aside.count())
    }
}

/// Inserts an entry. In a full shard what is over gives way, and if nothing is what is oldest.
fn insert_bounded<T>(
    shard: &mut Shard<T>,
    (hash, entry): (&TokenHash, &Arc<T>),
    count_max: usize,
    counts: impl Fn(&T) -> bool,
    age: impl Fn(&T) -> u64,
) {
    shard.insert(*hash, Arc::clone(entry));
    if shard.len() <= count_max {
        return;
    }
    shard.retain(|key, it| key == hash || counts(it));
    if shard.len() <= count_max {
        return;
    }
    let others = shard.iter().filter(|(key, _)| *key != hash);
    let oldest = others.min_by_key(|(_, it)| age(it)).map(|(key, _)| *key);
    if let Some(oldest) = oldest {
        shard.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_model::Access;

    fn hash(number: u64) -> TokenHash {
        TokenHash::of(&number.to_le_bytes())
    }

    fn admission(writer: u64, epoch: PolicyEpoch) -> Admission {
        let workspace = "acme".parse().expect("a name");
        Admission {
            principal: Principal::new(workspace, Access::Reader, WriterId(writer)),
            expires_at_ms: 1_000_000,
            epoch,
        }
    }

    #[test]
    fn both_tables_stay_within_their_bounds_and_keep_what_is_used() {
        let admissions = Admissions::default();
        let epoch = admissions.epoch();
        admissions.admit(&hash(0), admission(0, epoch), 0);
        for number in 1..20_000 {
            let now_ms = number * 5;
            admissions.admit(&hash(number), admission(number, epoch), now_ms);
            admissions.set_aside(
                &hash(number << 32),
                SetAside::Refused,
                (now_ms, u64::MAX),
                epoch,
            );
            assert!(
                matches!(
                    admissions.ask(&hash(0), now_ms),
                    Some(Ok(Credential::Known(_)))
                ),
                "what is used stays, at {number}"
            );
        }
        let (admitted, aside) = admissions.count();
        assert!(admitted <= ADMITTED_COUNT_MAX && aside <= SET_ASIDE_COUNT_MAX);
        assert!(admitted > ADMITTED_COUNT_MAX * 9 / 10);
    }

    #[test]
    fn what_was_decided_under_old_rules_is_void() {
        let admissions = Admissions::default();
        let old = admissions.epoch();
        admissions.admit(&hash(1), admission(1, old), 0);
        admissions.set_aside(&hash(2), SetAside::Refused, (0, 9), old);
        admissions.forget();
        assert_eq!(admissions.ask(&hash(1), 1), None);
        assert_eq!(admissions.ask(&hash(2), 1), None);
        // A decision that was under way when the rules changed.
        admissions.admit(&hash(3), admission(3, old), 1);
        admissions.set_aside(&hash(4), SetAside::Refused, (1, 9), old);
        assert_eq!(admissions.ask(&hash(3), 1), None);
        assert_eq!(admissions.ask(&hash(4), 1), None);
    }

    /// Puts a third one, of age 0, into a shard that has room for two, and says which are there then. Each has a number, whether it
    /// still counts, and an age.
    fn third_of_two(first: (u64, bool, u64), second: (u64, bool, u64), counts: bool) -> Vec<u64> {
        let mut shard = Shard::default();
        for entry in [first, second, (3, counts, 0)] {
            insert_bounded(
                &mut shard,
                (&hash(entry.0), &Arc::new(entry)),
                2,
                |it| it.1,
                |it| it.2,
            );
        }
        let mut left: Vec<u64> = shard.values().map(|it| it.0).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn in_a_full_shard_what_is_over_gives_way_then_what_is_oldest_and_never_what_comes() {
        assert_eq!(third_of_two((1, false, 9), (2, true, 5), true), [2, 3]);
        assert_eq!(third_of_two((1, true, 5), (2, true, 9), true), [2, 3]);
        assert_eq!(third_of_two((1, true, 9), (2, true, 5), true), [1, 3]);
        assert_eq!(third_of_two((1, false, 9), (2, true, 5), false), [2, 3]);
    }

    #[test]
    fn an_admission_counts_until_its_time_and_is_expired_from_then_on() {
        let admissions = Admissions::default();
        let epoch = admissions.epoch();
        admissions.admit(&hash(1), admission(1, epoch), 0);
        let ask = |now_ms| admissions.ask(&hash(1), now_ms);
        assert!(matches!(
            ask(ADMITTED_MS_MAX - 1),
            Some(Ok(Credential::Known(_)))
        ));
        assert_eq!(ask(ADMITTED_MS_MAX), None);
        assert_eq!(ask(999_999), None);
        assert_eq!(ask(1_000_000), Some(Ok(Credential::Expired)));
        admissions.set_aside(&hash(1), SetAside::Refused, (0, 9), epoch);
        assert_eq!(ask(8), Some(Err(BadCredential::Jwt)));
        assert_eq!(ask(9), None);
    }
}
