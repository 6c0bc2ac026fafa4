//! How often which latency was seen, within one percent, in a fixed 60 KB however many there are.
//!
//! Values are nanoseconds. Up to 128 each has a place of its own; above, each power of two is cut into 128 places of one width.

/// Places for each power of two.
const PLACES: usize = 128;
const PLACE_BITS: u32 = PLACES.trailing_zeros();

/// Counts of nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let powers = (u64::BITS - PLACE_BITS + 1) as usize;
        Self {
            counts: vec![0; powers * PLACES],
            total: 0,
            sum: 0,
            max: 0,
        }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, nanos: u64) {
        self.counts[place(nanos)] += 1;
        self.total += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum as f64 / self.total.max(1) as f64
    }

    /// What `share` of all values (0 to 1) do not exceed; at most one percent more than that. Zero if there are none.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(place).min(self.max);
            }
        }
        0
    }
}

fn place(nanos: u64) -> usize {
    if nanos < PLACES as u64 {
        return nanos as usize;
    }
    let power = u64::BITS - 1 - nanos.leading_zeros() - PLACE_BITS;
    let within = (nanos >> power) as usize - PLACES;
    (power as usize + 1) * PLACES + within
}

/// The largest value of a place.
fn upper(place: usize) -> u64 {
    if place < PLACES {
        return place as u64;
    }
    let power = place / PLACES - 1;
    let low = ((place % PLACES + PLACES) as u64) << power;
    low + ((1u64 << power) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_place_that_is_at_most_one_percent_wide() {
        let mut last = 0;
        for power in 0..64 {
            for value in [
                1u64 << power,
                (1 << power) + (1 << power) / 3,
                (1 << power) - 1,
            ] {
                let upper = upper(place(value));
                assert!(upper >= value, "{value}");
                assert!((upper - value) as f64 <= value as f64 / 100.0, "{value}");
            }
            assert!(place(1 << power) > last || power == 0);
            last = place(1 << power);
        }
        assert_eq!(place(u64::MAX), Histogram::default().counts.len() - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let values: Vec<u64> = (1..=10_000).map(|n| n * n).collect();
        let (mut all, mut odd) = (Histogram::default(), Histogram::default());
        for value in &values {
            let part = if value % 2 == 0 { &mut all } else { &mut odd };
            part.record(*value);
        }
        all.add(&odd);
        assert_eq!(all.count(), 10_000);
        assert_eq!(all.max(), 100_000_000);
        for share in [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = ((share * 10_000.0) as usize).clamp(1, 10_000);
            let (exact, found) = (values[rank - 1], all.quantile(share));
            assert!(found >= exact, "{share}: {found} < {exact}");
            assert!(
                found as f64 <= exact as f64 * 1.01,
                "{share}: {found} > {exact}"
            );
        }
        let mean = values.iter().sum::<u64>() as f64 / 10_000.0;
        assert!((all.mean() - mean).abs() < 1.0);
    }

    #[test]
    fn of_nothing_every_quantile_is_zero() {
        assert_eq!(Histogram::default().quantile(0.99), 0);
    }
}
