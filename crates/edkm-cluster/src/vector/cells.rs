//! A coarse grid over the range of the centroids, by which near vectors are brought together, and the clusters that can matter to them.

use crate::vector::hard::nearest_of;

/// A term of the softmax is left out when it is below 2^-34 of the largest.
///
/// A row of 256 terms so loses less than 2^-26 of its sum, a quarter of what rounding to f32 may take; a cluster may miss 2^-34 of a
/// vector's mass for each vector there is: 2e-4 of a single vector's for four million. In four dimensions the clusters that are kept go with the
/// square of this number.
pub(crate) const CUTOFF_BITS: f64 = 34.0;

/// Cells in order of the centroid nearest to them, and for each centroid the others by distance.
pub(crate) struct Cells<const D: usize> {
    low: [f32; D],
    cells_per_unit: [f32; D],
    bits: [u32; D],
    /// Where each cell stands when they are sorted by their nearest centroid, and so that near ones stand together.
    places: Vec<u16>,
    /// The centroid nearest to the middle of the cell at each place.
    references: Vec<u8>,
    neighbours: Neighbours,
}

/// Clusters to look at.
enum Neighbours {
    /// All of them: for few vectors lists do not pay.
    All(Vec<u8>),
    /// For each cluster all clusters in order of the distance between the centroids, and these distances.
    Sorted {
        clusters: Vec<Vec<u8>>,
        distances: Vec<Vec<f32>>,
    },
}

impl<const D: usize> Cells<D> {
    /// For so many vectors near the given centroids.
    pub(crate) fn new(centroids_kd: &[[f64; D]], vectors: usize) -> Self {
        const VECTORS_PER_CELL: usize = 32;
        const MOST_BITS: usize = 15;
        const WORTH_LISTS: usize = 64;
        let bits = (vectors / VECTORS_PER_CELL).max(1).ilog2() as usize;
        let bits = bits.min(MOST_BITS);
        let mut cells = Cells {
            low: [0.0; D],
            cells_per_unit: [0.0; D],
            bits: [0; D],
            places: Vec::new(),
            references: Vec::new(),
            neighbours: Neighbours::All((0..centroids_kd.len()).map(|k| k as u8).collect()),
        };
        let mut middles = vec![[0.0f64; D]; 1 << bits];
        let mut stride = 1;
        for j in (0..D).rev() {
            let low = centroids_kd.iter().map(|c| c[j]).fold(f64::INFINITY, f64::min);
            let high = centroids_kd.iter().map(|c| c[j]).fold(f64::NEG_INFINITY, f64::max);
            let bits_j = bits / D + usize::from(j < bits % D);
            let size = (high - low) / (1 << bits_j) as f64;
            for (cell, middle) in middles.iter_mut().enumerate() {
                middle[j] = low + ((cell / stride % (1 << bits_j)) as f64 + 0.5) * size;
            }
            stride <<= bits_j;
            cells.low[j] = low as f32;
            cells.bits[j] = bits_j as u32;
            // Infinite where the centroids have no extent, which the cell of a vector survives.
            cells.cells_per_unit[j] = (1.0 / size) as f32;
        }
        let references = nearest_of(centroids_kd, &middles);
        let mut order: Vec<u16> = (0..middles.len()).map(|cell| cell as u16).collect();
        order.sort_by_cached_key(|&cell| (references[cell as usize], interleaved(cell as usize, &cells.bits)));
        cells.references = order.iter().map(|&cell| references[cell as usize]).collect();
        cells.places = vec![0; order.len()];
        for (place, &cell) in order.iter().enumerate() {
            cells.places[cell as usize] = place as u16;
        }
        if vectors >= WORTH_LISTS * centroids_kd.len() {
            cells.neighbours = Neighbours::sorted(centroids_kd);
        }
        cells
    }

    /// Number of places.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The place of a vector's cell.
    #[inline(always)]
    pub(crate) fn place(&self, vector: &[f32]) -> u16 {
        let mut cell = 0;
        for (j, &w) in vector.iter().enumerate() {
            let last = (1u32 << self.bits[j]) - 1;
            // The conversion saturates, and takes NaN to 0.
            let at = (((w - self.low[j]) * self.cells_per_unit[j]) as u32).min(last);
            cell = cell << self.bits[j] | at as usize;
        }
        self.places[cell]
    }

    /// A cluster near the vectors of a place.
    #[inline(always)]
    pub(crate) fn reference(&self, place: u16) -> u8 {
        self.references[place as usize]
    }

    /// The references of all places, repeated as they come.
    pub(crate) fn references(&self) -> &[u8] {
        &self.references
    }

    /// All clusters, in the order of which [`candidates`](Cells::candidates) are the first.
    pub(crate) fn clusters(&self, reference: u8) -> &[u8] {
        match &self.neighbours {
            Neighbours::All(clusters) => clusters,
            Neighbours::Sorted { clusters, .. } => &clusters[reference as usize],
        }
    }

    /// The clusters that can matter to vectors at most `radius` from a reference, where terms reach `reach` beyond an exact match.
    ///
    /// With L the distance from c to the reference r, |w - c| >= L - |w - r|, and c matters only if |w - c|^2 <= |w - r|^2 + reach^2: so only if
    /// L <= radius + sqrt(radius^2 + reach^2).
    #[inline(always)]
    pub(crate) fn candidates(&self, reference: u8, radius: f64, reach: f64) -> &[u8] {
        match &self.neighbours {
            Neighbours::All(clusters) => clusters,
            Neighbours::Sorted { clusters, distances } => {
                // Above the rounding of the list.
                let limit = ((radius + (radius * radius + reach * reach).sqrt()) * (1.0 + 1e-6)) as f32;
                let distances = &distances[reference as usize];
                &clusters[reference as usize][..distances.partition_point(|&distance| distance <= limit)]
            }
        }
    }
}

/// The bits of a cell's coordinates in turn, the highest first: cells in this order (Morton's) stay near each other in every coordinate.
fn interleaved<const D: usize>(cell: usize, bits: &[u32; D]) -> usize {
    let mut coordinates = [0; D];
    let mut rest = cell;
    for j in (0..D).rev() {
        coordinates[j] = rest & ((1 << bits[j]) - 1);
        rest >>= bits[j];
    }
    let mut order = 0;
    for level in 0..bits.iter().copied().max().unwrap_or(0) {
        for (coordinate, &bits) in coordinates.iter().zip(bits) {
            if level < bits {
                order = order << 1 | (coordinate >> (bits - 1 - level)) & 1;
            }
        }
    }
    order
}

impl Neighbours {
    fn sorted<const D: usize>(centroids_kd: &[[f64; D]]) -> Self {
        let mut clusters = Vec::with_capacity(centroids_kd.len());
        let mut distances = Vec::with_capacity(centroids_kd.len());
        for a in centroids_kd {
            let distance = |b: &[f64; D]| (0..D).map(|j| (a[j] - b[j]) * (a[j] - b[j])).sum::<f64>().sqrt() as f32;
            // The bits of numbers that are not negative have their order.
            let mut row: Vec<(u32, u8)> = centroids_kd
                .iter()
                .enumerate()
                .map(|(k, b)| (distance(b).to_bits(), k as u8))
                .collect();
            row.sort_unstable();
            clusters.push(row.iter().map(|&(_, k)| k).collect());
            distances.push(row.iter().map(|&(distance, _)| f32::from_bits(distance)).collect());
        }
        Neighbours::Sorted { clusters, distances }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn centroids() -> Vec<[f64; 2]> {
        (0..64)
            .map(|i| [(i % 8) as f64 + 0.01 * i as f64, (i / 8) as f64])
            .collect()
    }

    #[test]
    fn every_cluster_that_matters_is_a_candidate() {
        let centroids = centroids();
        let cells = Cells::new(&centroids, 1 << 16);
        let squared = |a: &[f64; 2], b: &[f64; 2]| (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
        let mut looked_at = 0;
        for i in 0..1000 {
            let w = [(i * 37 % 101) as f64 / 10.0 - 1.0, (i * 61 % 97) as f64 / 10.0 - 1.0];
            let reference = cells.reference(cells.place(&w.map(|x| x as f32)));
            let radius = squared(&w, &centroids[reference as usize]).sqrt();
            let nearest = centroids.iter().map(|c| squared(&w, c)).fold(f64::INFINITY, f64::min);
            let reach = 1.5;
            let candidates = cells.candidates(reference, radius, reach);
            for (k, c) in centroids.iter().enumerate() {
                assert!(squared(&w, c) > nearest + reach * reach || candidates.contains(&(k as u8)));
            }
            looked_at += candidates.len();
        }
        assert!(looked_at < 1000 * 40, "{looked_at}");
    }

    #[test]
    fn places_go_by_the_nearest_centroid() {
        let centroids = centroids();
        let cells = Cells::new(&centroids, 1 << 20);
        assert!((1..cells.len() as u16).all(|place| cells.reference(place - 1) <= cells.reference(place)));
        let on_the_spot = |c: &[f64; 2]| cells.reference(cells.place(&c.map(|x| x as f32)));
        let right = centroids
            .iter()
            .enumerate()
            .filter(|(k, c)| on_the_spot(c) as usize == *k)
            .count();
        assert!(right > 60, "{right}");
    }

    #[test]
    fn bits_of_a_cell_are_interleaved() {
        // Three bits 101 and two bits 01: 1 0, 0 1, 1.
        assert_eq!(interleaved(0b10101, &[3, 2]), 0b10011);
        let mut all: Vec<usize> = (0..32).map(|cell| interleaved(cell, &[3, 2])).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..32));
        assert_eq!(interleaved(0, &[0, 0]), 0);
    }

    #[test]
    fn coinciding_centroids_have_cells_too() {
        let cells = Cells::new(&[[0.5, 0.5]; 4], 1 << 12);
        for vector in [[0.5, 0.5], [f32::NAN, 1.0], [-1e30, 1e30]] {
            assert_eq!(
                cells.candidates(cells.reference(cells.place(&vector)), 1.0, 1.0).len(),
                4
            );
        }
    }
}
