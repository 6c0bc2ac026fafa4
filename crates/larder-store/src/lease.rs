//! Leases: how long, and how firmly, an entry has been promised to stay.
//!
//! An entry can have a firm lease and a yielding one at once, each from its own time on, in the four
//! bytes that a slot has for them. A yielding lease never makes a firm one longer: whoever may take only yielding
//! leases can keep nobody's write from its room, nor crowd others' entries out of the pool. Both end late rather than early, by less than 16
//! seconds, a yielding one by at most a fourteenth of its time more.

/// How firmly an entry is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// A write that would need the entry's room is refused.
    Firm,
    /// The entry stays as long as what such leases alone hold back is at most an eighth of what the pool takes up. What
    /// is more counts as used, no more, the oldest segment first. So does all of it when a write would be refused
    /// otherwise.
    Yielding,
}

/// Which leases count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Honour {
    /// Firm and yielding ones.
    All,
    /// Only firm ones: a write would be refused otherwise, or yielding ones hold back too much.
    Firm,
}

/// What has been promised of an entry.
///
/// Bits 4 to 31: when, in steps of 16 seconds since 1970; 0 for never. Bits 0 to 3 say what:
///
/// | value | meaning |
/// |---|---|
/// | 0 | a firm lease from then on |
/// | 1 to 14 | a firm lease from then on, and a yielding one from that many fourteenths of a lease later on |
/// | 15 | a yielding lease from then on |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeasePromise(u32);

const WHAT_BITS: u32 = 4;
const WHAT_MASK: u32 = (1 << WHAT_BITS) - 1;
const YIELDING_ONLY: u32 = WHAT_MASK;
const PARTS: u32 = 14;
const STEP_S: u32 = 16;

impl LeasePromise {
    /// Nothing has been promised.
    pub(crate) const NONE: Self = Self(0);

    /// This promise and a lease from `now_s` on.
    pub(crate) fn with(self, lease: Lease, now_s: u32, lease_s: u32) -> Self {
        let now_steps = now_s.div_ceil(STEP_S).min(u32::MAX >> WHAT_BITS);
        match lease {
            Lease::Firm => Self(now_steps << WHAT_BITS),
            Lease::Yielding if self.until(Honour::Firm, now_s, lease_s).is_some() => {
                let since_s = now_s.saturating_sub(self.began_s());
                let parts = since_s.div_ceil(part_s(lease_s)).min(PARTS);
                Self(self.0 & !WHAT_MASK | parts.max(self.what()))
            }
            Lease::Yielding => Self(now_steps << WHAT_BITS | YIELDING_ONLY),
        }
    }

    /// When the leases that count will have ended, Unix seconds, if they have not.
    pub(crate) fn until(self, honour: Honour, now_s: u32, lease_s: u32) -> Option<u32> {
        let began_s = match (self.what(), honour) {
            _ if self == Self::NONE || lease_s == 0 => return None,
            (YIELDING_ONLY, Honour::Firm) => return None,
            (YIELDING_ONLY, Honour::All) | (_, Honour::Firm) => self.began_s(),
            (parts, Honour::All) => self
                .began_s()
                .saturating_add(parts.saturating_mul(part_s(lease_s))),
        };
        let until_s = began_s.saturating_add(lease_s);
        lasts(until_s, now_s, lease_s).then_some(until_s)
    }

    fn began_s(self) -> u32 {
        (self.0 >> WHAT_BITS) * STEP_S
    }

    fn what(self) -> u32 {
        self.0 & WHAT_MASK
    }

    pub(crate) fn encode(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    pub(crate) fn decode(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }
}

fn part_s(lease_s: u32) -> u32 {
    lease_s.div_ceil(PARTS).max(1)
}

/// Whether what ends at `until_s` lasts. Something that will last for more than twice as long as a lease does was
/// leased with a clock that was wrong: a clock that was set back must not make leases longer than they are.
pub(crate) fn lasts(until_s: u32, now_s: u32, lease_s: u32) -> bool {
    let longest_s = lease_s
        .saturating_add(part_s(lease_s))
        .saturating_add(STEP_S);
    until_s > now_s && until_s <= now_s.saturating_add(longest_s.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGIN_S: u32 = 1_000_000;

    proptest! {
        #[test]
        fn a_lease_lasts_as_long_as_promised_and_only_a_firm_one_lasts_firmly(
            lease_s in 1_u32..10_000,
            taken in prop::collection::vec((0_u32..4_000, any::<bool>()), 1..20),
        ) {
            let mut promise = LeasePromise::NONE;
            let mut now_s = BEGIN_S;
            let (mut last_firm_s, mut last_s) = (None, None);
            for (pause_s, firm) in taken {
                now_s += pause_s;
                let firm_held = promise.until(Honour::Firm, now_s, lease_s).is_some();
                let held = promise.until(Honour::All, now_s, lease_s).is_some();
                let late_s = STEP_S - 1;
                let since = |taken_s: Option<u32>| taken_s.map_or(u32::MAX, |taken_s| now_s - taken_s);
                prop_assert!(firm_held || since(last_firm_s) >= lease_s, "a firm lease ended early");
                prop_assert!(!firm_held || since(last_firm_s) < lease_s + late_s, "a firm lease was drawn out");
                prop_assert!(held || since(last_s) >= lease_s, "a lease ended early");
                prop_assert!(!held || since(last_s) < lease_s + late_s + part_s(lease_s), "a lease was drawn out");
                let lease = if firm { Lease::Firm } else { Lease::Yielding };
                promise = LeasePromise::decode(promise.with(lease, now_s, lease_s).encode());
                last_s = Some(now_s);
                if firm {
                    last_firm_s = Some(now_s);
                }
            }
        }
    }

    #[test]
    fn a_lease_from_a_clock_that_was_years_ahead_does_not_last() {
        for lease in [Lease::Firm, Lease::Yielding] {
            let promise = LeasePromise::NONE.with(lease, 1000 * BEGIN_S, 3600);
            assert_eq!(promise.until(Honour::All, BEGIN_S, 3600), None);
        }
    }

    #[test]
    fn leases_of_any_length_at_any_time_last_unless_they_have_no_length_or_time_has_ended() {
        for lease_s in [0, 1, 3600, u32::MAX] {
            for now_s in [1, BEGIN_S, u32::MAX / 2, u32::MAX] {
                let firm = LeasePromise::NONE.with(Lease::Firm, now_s, lease_s);
                let both = firm.with(Lease::Yielding, now_s.saturating_add(lease_s / 2), lease_s);
                for honour in [Honour::All, Honour::Firm] {
                    let lasts = both.until(honour, now_s, lease_s).is_some();
                    let can_last = lease_s > 0 && now_s < u32::MAX;
                    assert_eq!(lasts, can_last, "{honour:?}, {lease_s} s from {now_s} s on");
                }
            }
        }
    }
}
