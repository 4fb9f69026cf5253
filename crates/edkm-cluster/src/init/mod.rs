//! Starting centroids from weights alone.

pub(crate) mod exact;
