//! Exact k-means in one dimension by dynamic programming over distinct values.
//!
//! best[k][j] = min over i of best[k - 1][i] + cost(i, j), with cost(i, j) the squared error of values i..j around their mean. The matrix that
//! a row of minima is taken over is totally monotone, so each of the K layers takes O(U) evaluations by SMAWK (Aggarwal et al. 1987; for
//! k-means, Grønlund et al., arXiv 1701.07204).
//!
//! Axes: U distinct values in ascending order, K clusters.

/// Centroids of the k-means of `values_u` (ascending), each with a mass, that has the smallest squared error, in ascending order.
///
/// Values without mass are left out. With fewer values than clusters every value is a centroid, some of them several.
/// All masses zero: the values count equally.
///
/// Memory: 2 K U bytes for the way back, at most 32 MiB.
pub(crate) fn exact(values_u: &[f64], masses_u: &[f64], clusters: usize) -> Vec<f64> {
    let points = Points::new(values_u, masses_u);
    let len = points.values_u.len();
    if len <= clusters {
        return (0..clusters).map(|k| points.values_u[k * len / clusters]).collect();
    }
    // first_ku[k][j - 1]: where the last of k + 1 clusters of the first j values begins.
    let mut first_ku: Vec<Vec<u16>> = Vec::with_capacity(clusters);
    let mut best_u: Vec<f64> = (0..=len).map(|j| points.cost(0, j)).collect();
    let columns: Vec<usize> = (0..len).collect();
    let rows: Vec<usize> = (1..=len).collect();
    for _ in 1..clusters {
        let entry = |j: usize, i: usize| {
            if i < j {
                best_u[i] + points.cost(i, j)
            } else {
                f64::INFINITY
            }
        };
        let first_u = row_minima(&rows, &columns, &entry);
        let next_u = std::iter::once(0.0)
            .chain(rows.iter().zip(&first_u).map(|(&j, &i)| entry(j, i)))
            .collect();
        best_u = next_u;
        first_ku.push(first_u.into_iter().map(|i| i as u16).collect());
    }
    let mut centroids = Vec::with_capacity(clusters);
    let mut end = len;
    for first_u in first_ku.iter().rev() {
        let first = if end > 0 { first_u[end - 1].into() } else { 0 };
        centroids.push(points.mean(first, end));
        end = first;
    }
    centroids.push(points.mean(0, end));
    centroids.reverse();
    centroids
}

/// Values and masses, with prefix sums of mass, of mass x value and of mass x value^2, about the mean of all.
struct Points {
    values_u: Vec<f64>,
    masses_u: Vec<f64>,
    sums_u: Vec<[f64; 3]>,
}

/// The share of all mass that a value with any mass counts with at least: 65,536 such values come to a millionth of the whole. No count of weights is so few.
const LIGHTEST: f64 = 1.0 / (1u64 << 36) as f64;

impl Points {
    fn new(values_u: &[f64], masses_u: &[f64]) -> Self {
        let any_mass = masses_u.iter().any(|&m| m > 0.0);
        let mut points: Vec<(f64, f64)> = Vec::with_capacity(values_u.len());
        for (&value, &mass) in values_u.iter().zip(masses_u) {
            let mass = if any_mass { mass } else { 1.0 };
            match points.last_mut() {
                _ if mass == 0.0 => {}
                // Zeros of both signs.
                Some((last, total)) if *last == value => *total += mass,
                _ => points.push((value, mass)),
            }
        }
        // Lighter values would vanish in the differences of sums: a run of them would have no mass, and no mean.
        let lightest = masses_u.iter().sum::<f64>() * LIGHTEST;
        points.iter_mut().for_each(|(_, mass)| *mass = mass.max(lightest));
        let total: f64 = points.iter().map(|(_, m)| m).sum();
        let center: f64 = points.iter().map(|(v, m)| v * (m / total)).sum();
        let mut sums_u = vec![[0.0; 3]];
        let mut sums = [0.0; 3];
        for (value, mass) in &points {
            let v = value - center;
            sums = [sums[0] + mass, sums[1] + mass * v, sums[2] + mass * v * v];
            sums_u.push(sums);
        }
        let (values_u, masses_u) = points.into_iter().unzip();
        Points {
            values_u,
            masses_u,
            sums_u,
        }
    }

    /// Squared error of values `i..j` around their mean; zero for none.
    fn cost(&self, i: usize, j: usize) -> f64 {
        if j <= i + 1 {
            return 0.0;
        }
        let ([m0, s0, q0], [m1, s1, q1]) = (self.sums_u[i], self.sums_u[j]);
        let sum = s1 - s0;
        // The difference of sums may round below zero.
        ((q1 - q0) - sum * sum / (m1 - m0)).max(0.0)
    }

    fn mean(&self, i: usize, j: usize) -> f64 {
        if j == i + 1 {
            return self.values_u[i];
        }
        if j <= i {
            return self.values_u[i.min(self.values_u.len() - 1)];
        }
        // Not by differences of sums: values that cancel have the mean 0, not one of a rounding, which would stand beside a zero that is kept and
        // make a temperature of that distance.
        let (values_u, masses_u) = (&self.values_u[i..j], &self.masses_u[i..j]);
        let sum: f64 = values_u.iter().zip(masses_u).map(|(v, m)| v * m).sum();
        let mean = sum / masses_u.iter().sum::<f64>();
        // Rounding must not carry the mean of nearly equal values out of their range.
        mean.clamp(values_u[0], values_u[values_u.len() - 1])
    }
}

/// SMAWK: the column of the leftmost minimum of each row of a totally monotone matrix.
fn row_minima(rows: &[usize], columns: &[usize], entry: &impl Fn(usize, usize) -> f64) -> Vec<usize> {
    if rows.is_empty() {
        return Vec::new();
    }
    // Reduce: no more columns than rows can hold a minimum.
    let mut kept: Vec<usize> = Vec::with_capacity(rows.len());
    for &column in columns {
        while let Some(&last) = kept.last() {
            let row = rows[kept.len() - 1];
            if entry(row, last) <= entry(row, column) {
                break;
            }
            kept.pop();
        }
        if kept.len() < rows.len() {
            kept.push(column);
        }
    }
    // Solve every other row, and fill in the rows between: their minima lie between those of their neighbours.
    let odd: Vec<usize> = rows.iter().skip(1).step_by(2).copied().collect();
    let odd_minima = row_minima(&odd, &kept, entry);
    let mut minima = Vec::with_capacity(rows.len());
    let mut at = 0;
    for (i, &row) in rows.iter().enumerate() {
        if i % 2 == 1 {
            minima.push(odd_minima[i / 2]);
            continue;
        }
        let last = odd_minima.get(i / 2).copied().unwrap_or(kept[kept.len() - 1]);
        let mut best = (entry(row, kept[at]), kept[at]);
        while kept[at] < last {
            at += 1;
            let value = entry(row, kept[at]);
            if value < best.0 {
                best = (value, kept[at]);
            }
        }
        minima.push(best.1);
    }
    minima
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest squared error over all ways to cut `values` into `clusters` runs.
    fn brute_force(values: &[f64], masses: &[f64], clusters: usize) -> f64 {
        let error = |i: usize, j: usize| -> f64 {
            let mass: f64 = masses[i..j].iter().sum();
            let mean = values[i..j].iter().zip(&masses[i..j]).map(|(v, m)| v * m).sum::<f64>() / mass;
            values[i..j]
                .iter()
                .zip(&masses[i..j])
                .map(|(v, m)| m * (v - mean) * (v - mean))
                .sum()
        };
        if clusters == 1 {
            return error(0, values.len());
        }
        (clusters - 1..values.len())
            .map(|i| brute_force(&values[..i], &masses[..i], clusters - 1) + error(i, values.len()))
            .fold(f64::INFINITY, f64::min)
    }

    fn error_of(values: &[f64], masses: &[f64], centroids: &[f64]) -> f64 {
        let nearest = |v: f64| {
            centroids
                .iter()
                .map(|c| (v - c) * (v - c))
                .fold(f64::INFINITY, f64::min)
        };
        values.iter().zip(masses).map(|(&v, m)| m * nearest(v)).sum()
    }

    /// Squared gradients of rows that hardly any text reaches are smaller than the rounding of the sums of the others.
    #[test]
    fn a_run_of_light_values_has_a_mean() {
        let values: Vec<f64> = (0..64).map(|i| f64::from(i) / 64.0).collect();
        let masses: Vec<f64> = (0..64).map(|i| 10f64.powi(-(i * 7 % 40))).collect();
        for clusters in [2, 8, 32] {
            let centroids = exact(&values, &masses, clusters);
            assert!(centroids.iter().all(|c| (0.0..1.0).contains(c)), "{centroids:?}");
            // at most two values have one mass, so all but the lightest have centroids of their own
            let error = error_of(&values, &masses, &centroids);
            assert!(clusters < 32 || error < 1e-9, "{error}");
        }
    }

    /// As the weights of a layer do whose signs are balanced.
    #[test]
    fn values_that_cancel_have_the_mean_zero() {
        for scale in [1.0, 0.02, 0.013, 7e5] {
            let values = [-1.0, -0.3, -0.1, 0.1, 0.3, 1.0].map(|v| half::bf16::from_f64(v * scale).to_f64());
            assert_eq!(exact(&values, &[8.0; 6], 1), [0.0], "{scale}");
            assert_eq!(exact(&values, &[8.0; 6], 3), [values[0], 0.0, values[5]], "{scale}");
        }
    }

    #[test]
    fn no_cut_is_better() {
        let mut state = 1u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        for trial in 0..300 {
            let len = 1 + trial % 11;
            let mut values: Vec<f64> = (0..len).map(|_| random() * 4.0 - 2.0).collect();
            values.sort_by(f64::total_cmp);
            let masses: Vec<f64> = (0..len).map(|_| (random() * 5.0).ceil()).collect();
            for clusters in 1..=len.min(5) {
                let centroids = exact(&values, &masses, clusters);
                assert_eq!(centroids.len(), clusters);
                assert!(centroids.windows(2).all(|c| c[0] < c[1]));
                let (got, want) = (
                    error_of(&values, &masses, &centroids),
                    brute_force(&values, &masses, clusters),
                );
                // Prefix sums of order 50 in f64.
                assert!(
                    got <= want + 1e-12,
                    "{values:?} {masses:?} {clusters}: {got} above {want}"
                );
            }
        }
    }

    #[test]
    fn values_without_mass_are_left_out() {
        assert_eq!(exact(&[-1.0, 0.0, 5.0], &[1.0, 1.0, 0.0], 2), [-1.0, 0.0]);
        assert_eq!(exact(&[-1.0, 0.0, 5.0], &[0.0; 3], 3), [-1.0, 0.0, 5.0]);
    }

    #[test]
    fn few_values_are_repeated() {
        assert_eq!(exact(&[-1.0, 2.0], &[1.0, 3.0], 4), [-1.0, -1.0, 2.0, 2.0]);
        assert_eq!(exact(&[-0.0, 0.0], &[1.0, 3.0], 2), [0.0, 0.0]);
    }

    #[test]
    fn as_many_values_as_there_are_keys_are_fast_enough() {
        let values: Vec<f64> = (0..65_536).map(|i| (i as f64 / 65_536.0 - 0.5).powi(3)).collect();
        let centroids = exact(&values, &vec![1.0; values.len()], 256);
        assert!(centroids.windows(2).all(|c| c[0] < c[1]));
        // Lloyd's condition: each centroid is the mean of the values nearest to it.
        let mut sums = vec![(0.0, 0.0); 256];
        for &v in &values {
            let right = centroids.partition_point(|&c| c < v).min(255);
            let k = if right > 0 && v - centroids[right - 1] <= centroids[right] - v {
                right - 1
            } else {
                right
            };
            sums[k] = (sums[k].0 + v, sums[k].1 + 1.0);
        }
        for (c, (sum, mass)) in centroids.iter().zip(sums) {
            assert!((c - sum / mass).abs() < 1e-9, "{c} is not {}", sum / mass);
        }
    }
}
