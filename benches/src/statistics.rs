//! Medians and confidence intervals.

/// A median, and an interval around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

const RESAMPLES: usize = 2000;

/// Returns the median and the quartiles.
///
/// # Panics
///
/// Panics if there is no value.
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

/// Returns the median of each column.
///
/// # Panics
///
/// Panics if there is no row.
pub fn medians<const N: usize>(rows: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|column| {
        let values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
        quartiles(&values).median
    })
}

/// Returns the median of all values and its confidence interval of 95 %, by a bootstrap of two levels: over the groups,
/// and over the values of each group. The values of one process are thus not treated as independent measurements.
///
/// # Panics
///
/// Panics if there is no value.
pub fn median_with_confidence(groups: &[Vec<f64>]) -> Spread {
    // A fixed seed, so that equal values have equal intervals.
    let mut random = fastrand::Rng::with_seed(1);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut drawn = Vec::new();
            for _ in groups {
                let group = &groups[random.usize(..groups.len())];
                drawn.extend(group.iter().map(|_| group[random.usize(..group.len())]));
            }
            median(&mut drawn)
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    Spread {
        lower: resampled[RESAMPLES / 40],
        median: median(&mut groups.concat()),
        upper: resampled[RESAMPLES - 1 - RESAMPLES / 40],
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
        assert_eq!(medians(&[[1.0, 6.0], [3.0, 4.0], [2.0, 5.0]]), [2.0, 5.0]);
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
