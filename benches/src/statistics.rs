//! Medians, their spread, and what can be said of a ratio that was measured many times.

/// A median, and what is around it: the quartiles, or where it is with some confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

const RESAMPLES: usize = 2000;

/// The median and the quartiles.
///
/// # Panics
///
/// Where there is no value.
pub fn quartiles(values: &[f64]) -> Spread {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |quarter: usize| sorted[(sorted.len() - 1) * quarter / 4];
    Spread {
        lower: at(1),
        median: at(2),
        upper: at(3),
    }
}

/// How `y` grows with `x`: the exponent of the power law through these points, which is 1 where it grows linearly.
pub fn exponent(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let logarithms: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean_x = logarithms.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = logarithms.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = logarithms
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    let variance: f64 = logarithms.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}

/// The median of all values, and where it is with a confidence of 95 %.
///
/// A bootstrap of two levels: the groups are drawn again, and then the values of each. What one process has in common
/// with itself, such as where its memory lies, is not taken for many measurements.
///
/// # Panics
///
/// Where there is no value.
pub fn median_with_confidence(groups: &[Vec<f64>]) -> Spread {
    // The same numbers give the same interval.
    let mut random = fastrand::Rng::with_seed(1);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut drawn = Vec::new();
            for _ in groups {
                let group = &groups[random.usize(..groups.len())];
                drawn.extend(group.iter().map(|_| group[random.usize(..group.len())]));
            }
            median(&mut drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Spread {
        lower: medians[RESAMPLES / 40],
        median: median(&mut groups.concat()),
        upper: medians[RESAMPLES - 1 - RESAMPLES / 40],
    }
}

fn median(values: &mut [f64]) -> f64 {
    let middle = (values.len() - 1) / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_those_of_the_sorted_values() {
        let spread = quartiles(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((spread.lower, spread.median, spread.upper), (2.0, 3.0, 4.0));
    }

    #[test]
    fn the_exponent_of_a_square_is_two() {
        let points = [10.0, 100.0, 1000.0].map(|x: f64| (x, 3.0 * x * x));
        assert!((exponent(&points) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn groups_that_disagree_widen_the_interval() {
        let agreed = vec![vec![1.0, 1.1, 1.2]; 4];
        let disagreed = [vec![1.0; 3], vec![1.1; 3], vec![1.2; 3], vec![1.3; 3]];
        let width = |groups: &[Vec<f64>]| {
            let interval = median_with_confidence(groups);
            assert!(interval.lower <= interval.median && interval.median <= interval.upper);
            interval.upper - interval.lower
        };
        assert!(width(&disagreed) > width(&agreed));
    }
}
