//! Where the iterations of a weight begin that comes after another one.

use edkm_cluster::{Centroids, ClusterError, Counted, Prepared, Spec, Trajectory};

/// Where a weight begins that comes after another one, if that is not where that ended. Centroids that coincide have the same share in every weight and never
/// part again: where there are weights for more of them (they were few values at first, zeros, signs, another palette's, or the palette was too soft for so
/// many), a palette begins as if it were the first.
pub(super) fn start_after(weight: &impl Iterable, last: &Centroids) -> Result<Option<Centroids>, ClusterError> {
    if !some_may_begin_anew(last) {
        return Ok(None);
    }
    weight.begun_anew(last, &|palette, values| {
        may_begin_anew(last, palette) && last.distinct(palette) < values
    })
}

/// So many different scalars are enough for a palette to go on with.
const ENOUGH: usize = 16;

/// Whether a palette has collapsed, or has fewer scalars than are enough, having lost two or more to others: one more is worth less than what a new beginning in the
/// middle of training costs. What vectors begin with takes long: of theirs those that have collapsed.
fn may_begin_anew(centroids: &Centroids, group: usize) -> bool {
    let has_lost = || {
        let distinct = centroids.distinct(group);
        distinct < ENOUGH && centroids.clusters() - distinct >= 2
    };
    has_collapsed(centroids, group) || (centroids.dim() == 1 && has_lost())
}

/// Whether some palette has.
pub(crate) fn some_may_begin_anew(centroids: &Centroids) -> bool {
    (0..centroids.groups()).any(|group| may_begin_anew(centroids, group))
}

/// Whether a palette has no more than one or two different centroids, and could have more.
pub(crate) fn has_collapsed(centroids: &Centroids, group: usize) -> bool {
    let distinct = centroids.distinct(group);
    distinct <= 2 && distinct < centroids.clusters()
}

/// A weight that is ready to be clustered, by its numbers or by how often each occurs.
pub(crate) trait Iterable {
    fn spec(&self) -> &Spec;
    fn fingerprint(&self) -> u128;
    fn initial(&self) -> Result<Centroids, ClusterError>;
    fn iterate(&self, start: &Centroids) -> Result<Trajectory, ClusterError>;
    fn begun_anew(
        &self,
        last: &Centroids,
        is_wanted: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<Option<Centroids>, ClusterError>;
}

impl Iterable for Prepared<'_> {
    fn spec(&self) -> &Spec {
        Prepared::spec(self)
    }

    fn fingerprint(&self) -> u128 {
        Prepared::fingerprint(self)
    }

    fn initial(&self) -> Result<Centroids, ClusterError> {
        Prepared::initial(self)
    }

    fn iterate(&self, start: &Centroids) -> Result<Trajectory, ClusterError> {
        Prepared::iterate(self, start)
    }

    fn begun_anew(
        &self,
        last: &Centroids,
        is_wanted: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<Option<Centroids>, ClusterError> {
        Prepared::begun_anew(self, last, is_wanted)
    }
}

impl Iterable for Counted {
    fn spec(&self) -> &Spec {
        Counted::spec(self)
    }

    fn fingerprint(&self) -> u128 {
        Counted::fingerprint(self)
    }

    fn initial(&self) -> Result<Centroids, ClusterError> {
        Ok(Counted::initial(self))
    }

    fn iterate(&self, start: &Centroids) -> Result<Trajectory, ClusterError> {
        Counted::iterate(self, start)
    }

    fn begun_anew(
        &self,
        last: &Centroids,
        is_wanted: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<Option<Centroids>, ClusterError> {
        Counted::begun_anew(self, last, is_wanted)
    }
}
