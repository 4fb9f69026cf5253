//! The benchmarks of a decoder layer on a GPU: what they say of its memory and of the copies.

use dfdx::prelude::*;
use dfdx_edkm::device::{open_gpu, DeviceBench, DeviceMemory, DeviceUsage, MemoryUsage};
use edkm_cluster::Bits;
use edkm_store::Bytes;
use edkm_train::bench::device_figures::DeviceFigures;
use edkm_train::bench::layer::{LayerBench, LayerMemory, LayerSettings, Variant};
use edkm_train::bench::saved::{SavedPart, SavedRow};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Memory and copies are counted for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bench(device: &Cuda, device_memory: Option<Bytes>) -> LayerBench<Cuda> {
    let settings = LayerSettings {
        hidden: 32,
        intermediate: 48,
        heads: 4,
        kv_heads: 2,
        sequence: 8,
        batch: 2,
        bits: Bits::new(3).unwrap(),
        store: "marshal".parse().unwrap(),
        device_memory,
    };
    LayerBench::new(settings, device).unwrap()
}

/// What a pass keeps at the least: x, q, k, v, the sum behind attention, gate, up, and the log-sum-exp of each query and head.
const SAVED: u64 = 2 * 8 * 4 * (3 * 32 + 2 * 16 + 2 * 48 + 4);

fn memory(bench: &LayerBench<Cuda>, variant: Variant) -> (LayerMemory, DeviceFigures) {
    let memory = bench.memory(variant, Some(0)).unwrap();
    assert_eq!((memory.peak_resident_bytes, memory.kept_bytes), (None, None));
    (memory, memory.device.expect("a GPU has figures"))
}

#[test]
fn usage_is_of_the_tensors_that_there_are() {
    let _turn = alone();
    let dev = open_gpu(0, 0).unwrap();
    let usage = || -> (DeviceUsage, MemoryUsage) {
        let usage = dev.usage().unwrap().expect("a GPU's memory is its own");
        (usage, usage.memory.expect("pools"))
    };
    const LEN: usize = 1 << 20;
    const BYTES: u64 = 4 << 20;
    dev.reset_peak().unwrap();
    let (copies, before) = usage();
    let tensor = dev.tensor_from_host(vec![1.0; LEN], (LEN,)).unwrap();
    let (uploaded, with_tensor) = usage();
    let grown = with_tensor.used_bytes - before.used_bytes;
    // the driver may round up to its units
    assert!((BYTES..BYTES + (2 << 20)).contains(&grown), "{grown}");
    assert_eq!(uploaded.to_host, copies.to_host);
    assert_eq!(uploaded.to_device.count, copies.to_device.count + 1);
    assert_eq!(uploaded.to_device.bytes, copies.to_device.bytes + BYTES);
    let bytes = Cuda::host_bytes(tensor).unwrap();
    bytes.arrive().unwrap();
    let (downloaded, after) = usage();
    assert_eq!(after.used_bytes, before.used_bytes);
    assert!(after.peak_bytes >= before.used_bytes + BYTES, "{after:?} {before:?}");
    assert_eq!(downloaded.to_host.bytes, uploaded.to_host.bytes + BYTES);
    assert_eq!(downloaded.to_device, uploaded.to_device);
    dev.reset_peak().unwrap();
    let small = dev.tensor_from_host(vec![1.0; LEN / 4], (LEN / 4,)).unwrap();
    let (_, again) = usage();
    assert!(again.peak_bytes < after.peak_bytes, "{again:?} {after:?}");
    drop(small);
}

#[test]
fn what_a_pass_saves_goes_to_the_host_and_back_or_stays() {
    let _turn = alone();
    let dev = open_gpu(0, 0).unwrap();
    let (away, stays) = (bench(&dev, None), bench(&dev, Some(Bytes(1 << 30))));
    assert!(away.seconds_of(Variant::Clustered, 1).unwrap() > 0.0);

    let (host, device) = memory(&away, Variant::Unclustered);
    assert_eq!(host.store_bytes, SAVED);
    assert_eq!((device.copies_to_device, device.bytes_to_device), (8, SAVED));
    assert!(
        device.bytes_to_host >= SAVED && device.copies_to_host >= 8,
        "{device:?}"
    );
    let kept_away = device.device_kept_bytes.unwrap();
    assert!(device.device_peak_bytes.unwrap() >= kept_away, "{device:?}");
    assert!(device.device_taken_bytes.unwrap() > 0, "{device:?}");

    let (host, device) = memory(&stays, Variant::Unclustered);
    assert_eq!(host.store_bytes, 0);
    assert_eq!((device.copies_to_device, device.bytes_to_device), (0, 0));
    // x is there in any case
    let x = 2 * 8 * 32 * 4;
    assert!(device.device_kept_bytes.unwrap() >= SAVED - x, "{device:?}");
    assert!(device.device_kept_bytes.unwrap() > kept_away, "{device:?}");

    // the centroids of each of seven matrices, no tables by value
    let (host, clustered) = memory(&stays, Variant::Clustered);
    assert!(host.store_bytes > 0, "the trajectories");
    assert!(
        clustered.copies_to_host >= 7 && clustered.bytes_to_host < 1 << 14,
        "{clustered:?}"
    );
    assert!(
        clustered.copies_to_device >= 7 && clustered.bytes_to_device < 1 << 14,
        "{clustered:?}"
    );

    // the second forward pass brings the input back, and is saved in its turn
    let (host, checkpointed) = memory(&away, Variant::Checkpointed);
    let (trajectories, _) = memory(&stays, Variant::Checkpointed);
    assert_eq!(host.store_bytes - trajectories.store_bytes, x);
    assert!(checkpointed.bytes_to_device > x, "{checkpointed:?}");
}

#[test]
fn every_way_to_keep_is_measured_on_both_sides() {
    let _turn = alone();
    let dev = open_gpu(0, 0).unwrap();
    let rows = bench(&dev, None).saved(SavedPart::Fused, 1).unwrap();
    assert_eq!(rows.len(), 12);
    for row in &rows {
        let device = row.device.expect("a GPU has figures");
        assert_eq!(
            row.kept_bytes.unwrap(),
            device.device_kept_bytes.unwrap() + row.store_bytes.unwrap()
        );
        assert!(row.seconds.unwrap() > 0.0 && device.bytes_to_device > 0, "{row:?}");
    }
    let find = |recompute: &str| -> &SavedRow {
        let row = |row: &&SavedRow| row.ops == "unclustered" && row.store == "marshal" && row.recompute == recompute;
        rows.iter().find(row).unwrap()
    };
    assert_eq!(find("nothing").store_bytes, Some(SAVED));
    assert_eq!(find("layer").store_bytes, Some(2 * 8 * 32 * 4));
    assert!(find("layer").kept_bytes < find("nothing").kept_bytes);
    // the layer's input goes away with the layer
    assert_eq!(find("nothing").device.unwrap().bytes_to_device, SAVED);
}

/// Needs kernels of dfdx's own.
#[test]
fn dfdx_own_ops_keep_everything_on_the_gpu() {
    let _turn = alone();
    let dev = open_gpu(0, 0).unwrap();
    let bench = bench(&dev, Some(Bytes(1 << 30)));
    assert!(bench.seconds_of(Variant::Stock, 1).unwrap() > 0.0);
    let (host, stock) = memory(&bench, Variant::Stock);
    let (_, fused) = memory(&bench, Variant::Unclustered);
    assert_eq!(host.store_bytes, 0);
    assert!(stock.device_kept_bytes > fused.device_kept_bytes, "{stock:?} {fused:?}");
    let [row] = &bench.saved(SavedPart::Stock, 1).unwrap()[..] else {
        panic!("stock ops have one row")
    };
    assert_eq!(row.kept_bytes, row.device.unwrap().device_kept_bytes);
}
