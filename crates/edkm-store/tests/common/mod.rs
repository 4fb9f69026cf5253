//! What several tests need.

use edkm_store::Report;

/// Pseudo-random bytes (splitmix64).
pub(crate) fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let number = |i: u64| {
        let x = (i + seed.wrapping_mul(0x1_0000_0001)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    (1..=len.div_ceil(8) as u64)
        .flat_map(|i| number(i).to_le_bytes())
        .take(len)
        .collect()
}

/// Nothing is held: not a ticket, not a byte, in no layer.
#[track_caller]
pub(crate) fn assert_empty(report: &Report, name: &str) {
    let held = [
        report.held_count,
        report.logical_bytes,
        report.held_bytes,
        report.disk_bytes,
        report.in_flight_bytes,
    ];
    assert_eq!(held, [0; 5], "{name}");
    for layer in &report.layers {
        assert_eq!(
            (layer.logical_bytes, layer.kept_bytes),
            (0, 0),
            "{name}: {}",
            layer.name
        );
    }
}
