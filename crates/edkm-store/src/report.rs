//! What a store holds and what it took, layer by layer.

use std::fmt;

/// One layer's account.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerReport {
    /// The layer.
    pub name: &'static str,
    /// Bytes handed to this layer that are still held through it.
    pub logical_bytes: u64,
    /// The largest value that `logical_bytes` had.
    pub logical_peak_bytes: u64,
    /// Bytes that it handed on, or keeps, for them.
    pub kept_bytes: u64,
    /// The largest value that `kept_bytes` had.
    pub peak_bytes: u64,
    /// Records that passed through it since the store was made.
    pub saves: u64,
    /// Records for which the layer found a saving: contents already stored, rows that repeat, blobs that shrank, blobs
    /// that were sharded or went to the disk.
    pub hits: u64,
    /// Seconds of its own work on the way in, summed over threads.
    pub pack_seconds: f64,
    /// Seconds of its own work on the way out, summed over threads.
    pub unpack_seconds: f64,
}

/// What a store holds at one moment, and the most that it held.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The layers in the order in which they act; the last is the base that keeps the bytes.
    pub layers: Vec<LayerReport>,
    /// Tickets that are still open.
    pub held_count: u64,
    /// Bytes of the records behind open tickets, as they were saved.
    pub logical_bytes: u64,
    /// The largest value that `logical_bytes` had.
    pub logical_peak_bytes: u64,
    /// Bytes in memory that the store keeps.
    pub held_bytes: u64,
    /// The largest value that `held_bytes` had.
    pub peak_bytes: u64,
    /// Bytes in the spill file.
    pub disk_bytes: u64,
    /// The largest value that `disk_bytes` had.
    pub disk_peak_bytes: u64,
    /// Bytes that wait to be packed, or were fetched ahead.
    pub in_flight_bytes: u64,
    /// The largest value that `in_flight_bytes` had.
    pub in_flight_peak_bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = (1u64 << 20) as f64;
        writeln!(
            f,
            "{:<16} {:>12} {:>12} {:>8} {:>8} {:>10} {:>10}",
            "layer", "given MiB", "kept MiB", "saves", "hits", "pack s", "unpack s"
        )?;
        for layer in &self.layers {
            let LayerReport {
                name,
                logical_peak_bytes,
                peak_bytes,
                saves,
                hits,
                pack_seconds,
                unpack_seconds,
                ..
            } = layer;
            let [given, kept] = [logical_peak_bytes, peak_bytes].map(|bytes| *bytes as f64 / MIB);
            writeln!(
                f,
                "{name:<16} {given:>12.3} {kept:>12.3} {saves:>8} {hits:>8} {pack_seconds:>10.3} {unpack_seconds:>10.3}"
            )?;
        }
        let [logical, memory, disk] =
            [self.logical_peak_bytes, self.peak_bytes, self.disk_peak_bytes].map(|b| b as f64 / MIB);
        write!(
            f,
            "at the peak: {logical:.3} MiB saved, {memory:.3} MiB in memory, {disk:.3} MiB on disk"
        )
    }
}
