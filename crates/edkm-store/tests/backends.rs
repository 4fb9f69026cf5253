//! Backends of one's own: around another one, behind pointers, under the layers of a store.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;

use edkm_store::{
    Backend, DType, Held, PlaneCodec, Precision, Quote, Record, Report, SharedBytes, Store, StoreError, Ticket,
};

/// Hands on bytes that nobody else can read.
struct Secret {
    inner: Arc<dyn Backend>,
    /// Whether what comes back is damaged.
    damages: Arc<AtomicBool>,
}

struct Hidden(Ticket, Arc<AtomicBool>);

const KEY: u8 = 0x5a;

impl Backend for Secret {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        let hidden: Vec<u8> = record.bytes.as_bytes().iter().map(|byte| byte ^ KEY).collect();
        let len = hidden.len();
        let record = Record::new(Arc::new(hidden), DType::U8, [len], record.label).with_precision(Precision::Exact);
        let ticket = self.inner.save(record)?;
        Ok(Ticket::new(Box::new(Hidden(ticket, self.damages.clone())), len))
    }

    fn quote(&self, record: &Record) -> Quote {
        self.inner.quote(record)
    }

    fn report(&self) -> Report {
        self.inner.report()
    }

    fn unsaid_precision(&self) -> Precision {
        self.inner.unsaid_precision()
    }
}

impl Held for Hidden {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        let mut bytes: Vec<u8> = self.0.fetch()?.as_bytes().iter().map(|byte| byte ^ KEY).collect();
        if self.1.load(Relaxed) {
            bytes[0] ^= 1;
        }
        Ok(Arc::new(bytes))
    }

    fn kept_bytes(&self) -> usize {
        Held::kept_bytes(&self.0)
    }
}

fn secret() -> (Secret, Arc<AtomicBool>) {
    let damages = Arc::new(AtomicBool::new(false));
    let secret = Secret {
        inner: Arc::new(Store::memory()),
        damages: damages.clone(),
    };
    (secret, damages)
}

fn numbers(seed: usize) -> Arc<Vec<f32>> {
    Arc::new((0..5000).map(|i| ((i * seed) % 97) as f32).collect())
}

fn record(numbers: &Arc<Vec<f32>>) -> Record {
    Record::new(numbers.clone(), DType::F32, [numbers.len()], "x")
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn the_same_bytes_come_back_from_behind_pointers_and_other_backends() {
    let around: Box<dyn Backend> = Box::new(secret().0);
    let shared: Arc<dyn Backend> = Arc::new(around);
    let x = numbers(3);
    // as a program takes one
    fn save(backend: impl Backend, record: Record) -> Ticket {
        backend.save(record).unwrap()
    }
    let ticket = save(shared.clone(), record(&x));
    assert_eq!(shared.unsaid_precision(), Precision::Exact);
    assert_eq!((ticket.kept_bytes(), shared.report().held_bytes), (20_000, 20_000));
    assert_eq!(ticket.load().unwrap().as_bytes(), bytes_of(&x));
    assert_eq!(shared.report().held_bytes, 0);
}

#[test]
fn layers_act_above_a_base_of_ones_own() {
    let plain = || Store::builder().marshal().compress(PlaneCodec::Adaptive);
    let kept_without = {
        let store = plain().build().unwrap();
        let _tickets = [store.save(record(&numbers(3))).unwrap()];
        store.report().held_bytes
    };
    for overlaps in [false, true] {
        let builder = plain().base(secret().0);
        let store = match overlaps {
            true => builder.overlap(1u64 << 20),
            false => builder,
        };
        let store = store.build().unwrap();
        let tickets: Vec<Ticket> = [3, 5, 3]
            .iter()
            .map(|&seed| store.save(record(&numbers(seed))).unwrap())
            .collect();
        for (seed, ticket) in [3, 5, 3].into_iter().zip(tickets).rev() {
            assert_eq!(
                ticket.load().unwrap().as_bytes(),
                bytes_of(&numbers(seed)),
                "{overlaps}"
            );
        }
        let report = store.report();
        assert_eq!(report.held_bytes, 0);
        // two contents, each as small as without
        assert!(
            report.peak_bytes <= 3 * kept_without && report.peak_bytes > 0,
            "{report}"
        );
        assert_eq!(report.layers.last().unwrap().name, "base");
    }
}

/// Keeps what it is given, and counts nothing.
struct Silent(Store);

impl Backend for Silent {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        self.0.save(record)
    }

    fn quote(&self, record: &Record) -> Quote {
        self.0.quote(record)
    }

    fn report(&self) -> Report {
        Report::default()
    }
}

#[test]
fn a_base_that_counts_no_peak_has_that_of_what_it_was_given() {
    let store = Store::builder()
        .marshal()
        .base(Silent(Store::memory()))
        .build()
        .unwrap();
    let tickets = [3, 5, 3].map(|seed| store.save(record(&numbers(seed))).unwrap());
    drop(tickets);
    assert_eq!(store.report().peak_bytes, 40_000);
}

/// A whole store as the base of another: what it has packed, or fetched ahead, is given to each record of one content.
#[test]
fn a_base_that_overlaps_gives_a_content_to_all_its_records() {
    for compresses in [false, true] {
        let below = Store::builder();
        let below = match compresses {
            true => below.compress(PlaneCodec::Adaptive),
            false => below,
        };
        let below = below.overlap(1u64 << 20).build().unwrap();
        let store = Store::builder().marshal().base(below.clone()).build().unwrap();
        let tickets: Vec<Ticket> = [3, 5, 3, 3]
            .iter()
            .map(|&seed| store.save(record(&numbers(seed))).unwrap())
            .collect();
        for (seed, ticket) in [3, 5, 3, 3].into_iter().zip(tickets).rev() {
            // let go of before the next one asks
            let bytes = ticket.load().unwrap();
            assert_eq!(bytes.as_bytes(), bytes_of(&numbers(seed)), "{compresses}");
        }
        drop(store);
        assert_eq!(below.report().held_bytes, 0);
    }
}

#[test]
fn what_a_base_damages_is_found() {
    let (secret, damages) = secret();
    let store = Store::builder().marshal().base(secret).build().unwrap();
    let ticket = store.save(record(&numbers(3))).unwrap();
    damages.store(true, Relaxed);
    let error = ticket.load().map(drop).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Corrupt {
                label: "x",
                layer: "base",
                bytes: 20_000
            }
        ),
        "{error}"
    );
}

#[test]
fn a_store_has_one_base() {
    let dir = tempfile::tempdir().unwrap();
    let twice = Store::builder().base(secret().0).spill(dir.path(), 1u64 << 20).build();
    let error = twice.map(drop).unwrap_err().to_string();
    assert!(error.contains("one base"), "{error}");
    let above = Store::builder().base(secret().0).marshal().build();
    assert!(above.is_err());
}

/// A backend whose records panic when they are asked for their bytes a second time.
struct Fragile(Store);

struct FragileHeld(Ticket, AtomicBool);

impl Backend for Fragile {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        let ticket = self.0.save(record)?;
        let len = ticket.logical_bytes();
        Ok(Ticket::new(Box::new(FragileHeld(ticket, Default::default())), len))
    }

    fn quote(&self, record: &Record) -> Quote {
        self.0.quote(record)
    }

    fn report(&self) -> Report {
        self.0.report()
    }
}

impl Held for FragileHeld {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.0.fetch()
    }

    fn kept_bytes(&self) -> usize {
        let asked = self.1.swap(true, Relaxed);
        assert!(!asked, "asked twice");
        self.0.kept_bytes()
    }
}

/// What panics on the packing thread is an error of its record; nobody waits for ever.
#[test]
fn a_panic_of_a_backend_on_the_packing_thread_is_an_error() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let store = Store::builder()
            .base(Fragile(Store::memory()))
            .overlap(1u64 << 20)
            .build()
            .unwrap();
        let save = |value: f32| {
            let record = Record::new(Arc::new(vec![value; 64]), DType::F32, [64], "x");
            store.save(record).unwrap()
        };
        let mut tickets: Vec<Ticket> = (0..6).map(|i| save(i as f32)).collect();
        // what each keeps was asked for when it was saved, and is again when it is fetched ahead
        let mut failed = 0;
        while let Some(ticket) = tickets.pop() {
            failed += usize::from(matches!(ticket.load(), Err(StoreError::Worker { .. })));
            // for the one before to be fetched
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        store.report();
        done.send(failed).unwrap();
    });
    let failed = ended.recv_timeout(std::time::Duration::from_secs(60)).expect("it ends");
    assert!(failed > 0, "none was fetched ahead");
}
