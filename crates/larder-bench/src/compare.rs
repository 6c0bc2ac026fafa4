//! How many times one server's figure another's is, and how sure that is.
//!
//! Blocks come in pairs that were measured right after each other, so whatever changes slowly on a machine changes both. The ratio
//! is the geometric mean of the pairs' ratios; its interval is Student's, at 95 %, on their logarithms.

/// A ratio, and where it lies with 95 % confidence; without bounds if there is only one pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) ratio: f64,
    pub(crate) bounds: Option<(f64, f64)>,
}

/// Student's t at 97.5 %, for 1 to 30 degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// Of figures that are all more than zero. `None` without any pair.
pub(crate) fn ratio(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let logs: Vec<f64> = pairs
        .iter()
        .filter(|(first, second)| *first > 0.0 && *second > 0.0)
        .map(|(first, second)| (first / second).ln())
        .collect();
    let count = logs.len() as f64;
    if logs.is_empty() {
        return None;
    }
    let mean = logs.iter().sum::<f64>() / count;
    let bounds = (logs.len() > 1).then(|| {
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let student = STUDENT.get(logs.len() - 2).copied().unwrap_or(1.96);
        let half = student * (variance / count).sqrt();
        ((mean - half).exp(), (mean + half).exp())
    });
    Some(Estimate {
        ratio: mean.exp(),
        bounds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Random;

    #[test]
    fn the_true_ratio_lies_within_the_bounds_nineteen_times_in_twenty() {
        let mut random = Random::new(5);
        // Nearly normal: a sum of twelve.
        let mut noise = || ((0..12).map(|_| random.share()).sum::<f64>() - 6.0) * 0.1;
        let mut within = 0;
        for _ in 0..2000 {
            let pairs: Vec<(f64, f64)> = (0..5)
                .map(|_| (150.0 * noise().exp(), 100.0 * noise().exp()))
                .collect();
            let (low, high) = ratio(&pairs).unwrap().bounds.unwrap();
            within += usize::from(low <= 1.5 && 1.5 <= high);
        }
        assert!((1860..1940).contains(&within), "{within} of 2000");
    }

    #[test]
    fn one_pair_has_a_ratio_and_no_bounds_and_none_has_nothing() {
        let estimate = ratio(&[(3.0, 2.0)]).unwrap();
        assert!((estimate.ratio - 1.5).abs() < 1e-9);
        assert_eq!(estimate.bounds, None);
        assert_eq!(ratio(&[]), None);
        assert_eq!(ratio(&[(1.0, 0.0)]), None);
    }

    #[test]
    fn pairs_that_agree_leave_no_doubt() {
        let (low, high) = ratio(&[(4.0, 2.0), (8.0, 4.0), (2.0, 1.0)])
            .unwrap()
            .bounds
            .unwrap();
        assert!((low - 2.0).abs() < 1e-9 && (high - 2.0).abs() < 1e-9);
    }
}
