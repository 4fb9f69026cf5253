use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::Record;

fn spill(budget: u64) -> Spill {
    Spill::new(std::env::temp_dir(), Bytes(budget)).expect("the system has a directory for such files")
}

fn piece(value: u8, len: usize) -> Piece {
    Piece::new(Record::new(Arc::new(vec![value; len]), DType::U8, [len], "x"))
}

fn report(spill: &Spill) -> Report {
    let mut report = Report::default();
    spill.report(&mut report);
    report
}

#[test]
fn the_oldest_go_to_disk_and_the_budget_holds() {
    let spill = spill(2500);
    let held: Vec<_> = (0..6).map(|i| spill.save(piece(i, 1000)).expect("saved")).collect();
    let now = report(&spill);
    assert_eq!((now.held_bytes, now.disk_bytes), (2000, 4000));
    assert!(now.peak_bytes <= 2500);
    // all were given to the layer, and two stay in memory
    let given: Vec<_> = now.layers.iter().map(|layer| layer.logical_bytes).collect();
    assert_eq!(given, [6000, 2000]);
    for (i, held) in held.iter().enumerate().rev() {
        held.warm();
        assert_eq!(held.fetch().expect("fetched").as_bytes(), vec![i as u8; 1000]);
    }
    drop(held);
    let now = report(&spill);
    assert_eq!((now.held_bytes, now.disk_bytes), (0, 0));
}

#[test]
fn a_blob_above_the_budget_goes_straight_to_disk_and_others_stay() {
    let spill = spill(100);
    let small = spill.save(piece(3, 50)).expect("saved");
    let large = spill.save(piece(7, 1000)).expect("saved");
    let now = report(&spill);
    assert_eq!((now.held_bytes, now.peak_bytes, now.disk_bytes), (50, 50, 1000));
    assert_eq!(large.fetch().expect("fetched").as_bytes(), vec![7; 1000]);
    assert_eq!(small.fetch().expect("fetched").as_bytes(), vec![3; 50]);
}

#[test]
fn steps_reuse_the_room_in_the_file() {
    let spill = spill(0);
    for _ in 0..200 {
        let held: Vec<_> = (0..5).map(|i| spill.save(piece(i, 1000)).expect("saved")).collect();
        drop(held);
    }
    spill.file.room.store(5000, Relaxed);
    let _held: Vec<_> = (0..5)
        .map(|i| spill.save(piece(i, 1000)).expect("the room of the first step"))
        .collect();
}

#[test]
fn a_full_disk_names_the_directory_and_the_bytes() {
    let spill = spill(1500);
    spill.file.room.store(2000, Relaxed);
    let mut held = Vec::new();
    let error = loop {
        match spill.save(piece(held.len() as u8, 1000)) {
            Ok(blob) => held.push(blob),
            Err(error) => break error,
        }
    };
    assert_eq!(held.len(), 3, "two on disk, one in memory");
    assert!(matches!(
        error,
        StoreError::Disk {
            wanted: 1000,
            doing: "write",
            ..
        }
    ));
    assert!(
        error.to_string().contains(&std::env::temp_dir().display().to_string()),
        "{error}"
    );
    // What was there before the failure is still there.
    for (i, held) in held.iter().enumerate() {
        assert_eq!(held.fetch().expect("fetched").as_bytes(), vec![i as u8; 1000]);
    }
    drop(held);
    assert_eq!((report(&spill).held_bytes, report(&spill).disk_bytes), (0, 0));
}

#[test]
fn a_bit_flipped_in_the_file_is_corruption() {
    let spill = spill(0);
    let held = spill.save(piece(1, 1000)).expect("saved");
    let blob = lock(&spill.resident)
        .blobs
        .back()
        .and_then(Weak::upgrade)
        .expect("held");
    match &*lock(&blob.place) {
        Place::Disk { extent, .. } => extent.flip_bit(),
        Place::Memory { .. } => panic!("nothing fits a budget of nothing"),
    }
    assert!(matches!(
        held.fetch(),
        Err(StoreError::Corrupt {
            label: "x",
            bytes: 1000,
            ..
        })
    ));
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let error = Spill::new("/no/such/directory".into(), Bytes(0))
        .err()
        .expect("refused");
    assert!(error.to_string().contains("/no/such/directory"), "{error}");
}
