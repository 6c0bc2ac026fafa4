//! Who has failed too often to be waited with, or to be written about in the log.
//!
//! Counted are failures alone, by client address. Nobody is refused for them: whoever shares an address with an attacker brings
//! tokens, sessions and JWTs that are as good as before, and to verify one costs no more than to receive it. What is dear is to
//! wait for an issuer's keys, and a line in the log for each JWT that nobody signed.
//!
//! Always true: memory is bounded. Of IPv6 the network of 64 bits counts, which is what one customer has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many failures of one address are taken at once. A build that starts with a wrong token makes a few dozen requests, but
/// they come with one JWT, which fails once.
const FAILURES_MAX: u64 = 30;
/// How long it takes until one failure is forgotten: thirty a minute are tolerated for ever.
const FORGIVEN_MS: u64 = 2_000;
/// How far an address may be ahead of what it is forgiven.
const DEBT_MS_MAX: u64 = FAILURES_MAX * FORGIVEN_MS;
/// The most addresses that are remembered.
const ADDRESS_COUNT_MAX: usize = 4096;

/// The addresses that failed lately.
#[derive(Debug, Default)]
pub struct Attempts {
    /// When the last failure of an address will be forgiven, in unix milliseconds.
    forgiven_at_ms: Mutex<HashMap<IpAddr, u64>>,
}

impl Attempts {
    /// Whether an attempt of this address is worth waiting for. `Err` says how long it is not.
    pub fn allowed(&self, address: IpAddr, now_ms: u64) -> Result<(), Duration> {
        let addresses = self.forgiven_at_ms.lock();
        let addresses = addresses.unwrap_or_else(PoisonError::into_inner);
        let forgiven_at_ms = addresses.get(&network(address)).copied().unwrap_or(0);
        // More than that is never owed, unless the clock was set back.
        let forgiven_at_ms = forgiven_at_ms.min(now_ms.saturating_add(DEBT_MS_MAX));
        let allowed_at_ms = forgiven_at_ms.saturating_sub(DEBT_MS_MAX - FORGIVEN_MS);
        match allowed_at_ms.checked_sub(now_ms) {
            None | Some(0) => Ok(()),
            Some(wait_ms) => Err(Duration::from_millis(wait_ms)),
        }
    }

    /// An attempt of this address failed.
    pub fn failed(&self, address: IpAddr, now_ms: u64) {
        let addresses = self.forgiven_at_ms.lock();
        let mut addresses = addresses.unwrap_or_else(PoisonError::into_inner);
        let network = network(address);
        if addresses.len() >= ADDRESS_COUNT_MAX && !addresses.contains_key(&network) {
            make_room(&mut addresses, now_ms);
        }
        let forgiven_at_ms = addresses.entry(network).or_insert(0);
        let debt_ms = forgiven_at_ms.saturating_sub(now_ms);
        *forgiven_at_ms = now_ms.saturating_add((debt_ms + FORGIVEN_MS).min(DEBT_MS_MAX));
    }
}

/// Forgets who is forgiven, or whoever is next to be.
fn make_room(addresses: &mut HashMap<IpAddr, u64>, now_ms: u64) {
    addresses.retain(|_, forgiven_at_ms| *forgiven_at_ms > now_ms);
    if addresses.len() >= ADDRESS_COUNT_MAX {
        let next = addresses.iter().min_by_key(|(_, at_ms)| **at_ms);
        if let Some(next) = next.map(|(address, _)| *address) {
            addresses.remove(&next);
        }
    }
}

/// What counts of an address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn fail(attempts: &Attempts, address: &str, times: u64) {
        for _ in 0..times {
            attempts.failed(address.parse().unwrap(), NOW_MS);
        }
    }

    fn check(attempts: &Attempts, address: &str, now_ms: u64, allowed: bool) {
        let found = attempts.allowed(address.parse().unwrap(), now_ms);
        assert_eq!(found.is_ok(), allowed, "{address} at {now_ms}: {found:?}");
    }

    #[test]
    fn an_address_that_fails_too_often_waits_and_its_neighbours_do_not() {
        let attempts = Attempts::default();
        fail(&attempts, "192.0.2.7", FAILURES_MAX - 1);
        check(&attempts, "192.0.2.7", NOW_MS, true);
        fail(&attempts, "192.0.2.7", 1);
        check(&attempts, "192.0.2.7", NOW_MS, false);
        check(&attempts, "::ffff:192.0.2.7", NOW_MS, false);
        check(&attempts, "192.0.2.8", NOW_MS, true);
        let refused = attempts.allowed("192.0.2.7".parse().unwrap(), NOW_MS);
        assert_eq!(refused, Err(Duration::from_millis(FORGIVEN_MS)));
        check(&attempts, "192.0.2.7", NOW_MS + FORGIVEN_MS - 1, false);
        check(&attempts, "192.0.2.7", NOW_MS + FORGIVEN_MS, true);
    }

    #[test]
    fn whoever_has_a_network_is_one_address() {
        let attempts = Attempts::default();
        for host in 0..FAILURES_MAX {
            fail(&attempts, &format!("2001:db8:1:2::{host:x}"), 1);
        }
        check(&attempts, "2001:db8:1:2:ffff::1", NOW_MS, false);
        check(&attempts, "2001:db8:1:3::1", NOW_MS, true);
    }

    #[test]
    fn memory_is_bounded_and_whoever_failed_most_is_kept() {
        let attempts = Attempts::default();
        fail(&attempts, "192.0.2.7", FAILURES_MAX);
        for number in 0..20_000_u32 {
            attempts.failed(IpAddr::from(number.to_be_bytes()), NOW_MS);
        }
        assert_eq!(
            attempts.forgiven_at_ms.lock().unwrap().len(),
            ADDRESS_COUNT_MAX
        );
        check(&attempts, "192.0.2.7", NOW_MS, false);
    }
}
