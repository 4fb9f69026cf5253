use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Barrier;
use std::time::Duration;

use super::*;
use crate::{Backend, Codec, CodecError, DType, Record, Store};

/// A codec that stores everything raw, and waits for the test when it is asked to encode.
struct Gate {
    enter: Barrier,
    waiting: AtomicUsize,
}

impl Codec for Arc<Gate> {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn encode(&self, _: &[u8], _: usize) -> Option<Vec<u8>> {
        self.waiting.fetch_add(1, SeqCst);
        self.enter.wait();
        None
    }

    fn decode(&self, _: &[u8], _: usize, _: &mut [u8]) -> Result<(), CodecError> {
        Ok(())
    }
}

fn record(value: u8) -> Record {
    Record::new(Arc::new(vec![value; 1000]), DType::U8, [1000], "x")
}

fn gated(bound: u64) -> (Arc<Gate>, Store) {
    let gate = Arc::new(Gate {
        enter: Barrier::new(2),
        waiting: AtomicUsize::new(0),
    });
    let store = Store::builder()
        .compress(gate.clone())
        .overlap(bound)
        .build()
        .expect("legal");
    (gate, store)
}

#[test]
fn saving_does_not_wait_for_packing() {
    let (gate, store) = gated(10_000);
    let tickets: Vec<_> = (0..5).map(|i| store.save(record(i)).expect("queued")).collect();
    // Nothing has been packed: the thread is held at the gate.
    assert!(gate.waiting.load(SeqCst) <= 1);
    for _ in 0..5 {
        gate.enter.wait();
    }
    for (i, ticket) in tickets.into_iter().enumerate().rev() {
        assert_eq!(ticket.load().expect("loaded").as_bytes(), [i as u8; 1000]);
    }
}

#[test]
fn a_dropped_ticket_is_not_packed() {
    let (gate, store) = gated(10_000);
    let mut tickets: Vec<_> = (0..5).map(|i| store.save(record(i)).expect("queued")).collect();
    // The first may be at the gate already; the second and what follows cannot.
    tickets.truncate(1);
    gate.enter.wait();
    tickets.pop().expect("the first").load().expect("loaded");
    assert_eq!(store.report().in_flight_bytes, 0);
    assert_eq!(gate.waiting.load(SeqCst), 1);
}

#[test]
fn what_waits_is_bounded() {
    let (gate, store) = gated(2500);
    let saved = Arc::new(AtomicUsize::new(0));
    let saver = std::thread::spawn({
        let (store, saved) = (store.clone(), saved.clone());
        move || {
            (0..6)
                .map(|i| {
                    let ticket = store.save(record(i)).expect("queued");
                    saved.fetch_add(1, SeqCst);
                    ticket
                })
                .collect::<Vec<_>>()
        }
    });
    for packed in 0..6 {
        // Long enough for a saver that does not stop to go too far.
        std::thread::sleep(Duration::from_millis(20));
        assert!(
            saved.load(SeqCst) <= packed + 2,
            "{} saved, {packed} packed",
            saved.load(SeqCst)
        );
        gate.enter.wait();
    }
    drop(saver.join().expect("no panic"));
    assert!(store.report().in_flight_peak_bytes <= 2500);
}

#[test]
fn a_record_above_the_bound_goes_alone() {
    let store = Store::builder().overlap(10).build().expect("legal");
    let tickets: Vec<_> = (0..5).map(|i| store.save(record(i)).expect("queued")).collect();
    for (i, ticket) in tickets.into_iter().enumerate().rev() {
        assert_eq!(ticket.load().expect("loaded").as_bytes(), [i as u8; 1000]);
    }
    assert!(store.report().in_flight_peak_bytes <= 2000, "one on either way");
}

/// A codec that counts how often it decodes.
struct Counting(AtomicUsize);

impl Codec for Arc<Counting> {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn encode(&self, bytes: &[u8], _: usize) -> Option<Vec<u8>> {
        Some(vec![bytes[0]])
    }

    fn decode(&self, encoded: &[u8], _: usize, out: &mut [u8]) -> Result<(), CodecError> {
        self.0.fetch_add(1, SeqCst);
        out.fill(encoded[0]);
        Ok(())
    }
}

#[test]
fn loading_backwards_fetches_ahead_within_the_bound() {
    let codec = Arc::new(Counting(AtomicUsize::new(0)));
    let store = Store::builder()
        .compress(codec.clone())
        .overlap(3000)
        .build()
        .expect("legal");
    let mut tickets: Vec<_> = (0..10).map(|i| store.save(record(i)).expect("queued")).collect();
    store.report();
    assert_eq!(codec.0.load(SeqCst), 0);
    tickets.pop().expect("the last").load().expect("loaded");
    let report = store.report();
    assert_eq!(codec.0.load(SeqCst), 4, "the one that was asked for and three ahead");
    assert_eq!(report.in_flight_bytes, 3000);
    for (i, ticket) in tickets.into_iter().enumerate().rev() {
        assert_eq!(ticket.load().expect("loaded").as_bytes(), [i as u8; 1000]);
    }
    assert_eq!(codec.0.load(SeqCst), 10, "each once");
    let report = store.report();
    assert_eq!((report.in_flight_bytes, report.held_bytes), (0, 0));
    assert!(report.in_flight_peak_bytes <= 10_000);
}

#[test]
fn tickets_outlive_the_store_and_go_in_any_order_from_any_thread() {
    let store = Store::builder().marshal().overlap(5000).build().expect("legal");
    let tickets: Vec<_> = (0..50u8)
        .map(|i| (i, store.save(record(i / 2)).expect("queued")))
        .collect();
    drop(store);
    std::thread::scope(|scope| {
        for (i, ticket) in tickets {
            scope.spawn(move || assert_eq!(ticket.load().expect("loaded").as_bytes(), [i / 2; 1000]));
        }
    });
}

/// Bytes that come from a device, when the test lets them.
struct Coming {
    bytes: Vec<u8>,
    arrived: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
}

impl Coming {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: vec![7; 1000],
            arrived: Mutex::new(None),
            changed: Condvar::new(),
        })
    }

    fn arrives(&self, how: Result<(), String>) {
        *lock(&self.arrived) = Some(how);
        self.changed.notify_all();
    }

    fn record(self: &Arc<Self>) -> Record {
        Record::new(self.clone(), DType::U8, [1000], "x")
    }
}

impl SharedBytes for Coming {
    fn as_bytes(&self) -> &[u8] {
        match self.arrive() {
            Ok(()) => &self.bytes,
            Err(_) => &[],
        }
    }

    fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    fn arrive(&self) -> Result<(), String> {
        let mut arrived = lock(&self.arrived);
        loop {
            match &*arrived {
                Some(how) => return how.clone(),
                None => arrived = wait(&self.changed, arrived),
            }
        }
    }
}

#[test]
fn saving_does_not_wait_for_bytes_that_are_still_coming() {
    let store = Store::builder().marshal().overlap(5000).build().expect("legal");
    let coming = [Coming::new(), Coming::new()];
    let tickets: Vec<_> = coming
        .iter()
        .map(|bytes| store.save(bytes.record()).expect("queued"))
        .collect();
    coming.iter().rev().for_each(|bytes| bytes.arrives(Ok(())));
    assert_eq!(tickets.iter().map(crate::Ticket::kept_bytes).sum::<usize>(), 1000);
    for ticket in tickets {
        assert_eq!(ticket.load().expect("loaded").as_bytes(), [7; 1000]);
    }
}

#[test]
fn bytes_that_do_not_arrive_are_an_error() {
    for store in [
        Store::memory(),
        Store::marshaling(),
        Store::builder().overlap(5000).build().expect("legal"),
    ] {
        let coming = Coming::new();
        coming.arrives(Err("the device is gone".to_owned()));
        let error = match store.save(coming.record()) {
            Ok(ticket) => ticket.load().expect_err("nothing came"),
            Err(error) => error,
        };
        let text = error.to_string();
        assert_eq!(
            text,
            "saved tensor `x` did not arrive from its device: the device is gone"
        );
    }
}

/// Counts what it is given, and marks it.
struct Counted(AtomicUsize);

struct Marked(Arc<dyn SharedBytes>);

impl SharedBytes for Marked {
    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl crate::Uptake for Counted {
    fn take_up(&self, bytes: Arc<dyn SharedBytes>) -> Arc<dyn SharedBytes> {
        self.0.fetch_add(1, SeqCst);
        Arc::new(Marked(bytes))
    }
}

#[test]
fn what_is_fetched_ahead_is_taken_up_and_nothing_else() {
    let store = Store::builder().overlap(2000).build().expect("legal");
    let uptake = Arc::new(Counted(AtomicUsize::new(0)));
    let mut tickets: Vec<_> = (0..4)
        .map(|i| record(i).with_uptake(Some(uptake.clone())))
        .map(|record| store.save(record).expect("queued"))
        .collect();
    let last = tickets.pop().expect("the last").load().expect("loaded");
    assert!(crate::downcast::<Marked>(last).is_err(), "nobody fetched it ahead");
    store.report();
    assert_eq!(uptake.0.load(SeqCst), 2, "as far as the bound reaches");
    let next = tickets.pop().expect("the next").load().expect("loaded");
    assert_eq!(next.as_bytes(), [2; 1000]);
    assert!(crate::downcast::<Marked>(next).is_ok());
}
