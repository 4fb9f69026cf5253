//! The store: a stack of layers over a base.

use std::sync::Arc;

use crate::layer::{Layer, Origin, Piece};
use crate::marshal::Marshal;
use crate::memory::Memory;
use crate::meter::{Charge, Meter, Side};
use crate::{Backend, Held, Quote, Record, Report, SharedBytes, StoreError, Ticket};

/// A stack of layers over a base that keeps what comes out of them. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    top: Box<dyn Layer>,
    tickets: Arc<Meter>,
}

impl Store {
    /// Keeps every record in memory as it is, without a copy.
    pub fn memory() -> Self {
        Self::over(Box::new(Memory::new()))
    }

    /// Keeps every content once, in memory, without a copy.
    pub fn marshaling() -> Self {
        Self::over(Box::new(Marshal::new(
            "marshal",
            Origin::Saver,
            Box::new(Memory::new()),
        )))
    }

    fn over(top: Box<dyn Layer>) -> Self {
        Self {
            inner: Arc::new(Inner {
                top,
                tickets: Meter::new("tickets"),
            }),
        }
    }
}

/// An open ticket, counted.
struct Open {
    held: Box<dyn Held>,
    _charges: [Charge; 2],
}

impl Held for Open {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.held.fetch()
    }

    fn kept_bytes(&self) -> usize {
        self.held.kept_bytes()
    }
}

impl Backend for Store {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        record.check()?;
        let logical = record.len_bytes();
        let held = self.inner.top.save(Piece::new(record))?;
        let tickets = &self.inner.tickets;
        // The gauge of kept bytes counts the tickets themselves.
        let _charges = [tickets.charge(Side::Logical, logical), tickets.charge(Side::Kept, 1)];
        Ok(Ticket::new(Box::new(Open { held, _charges }), logical))
    }

    fn quote(&self, record: &Record) -> Quote {
        let logical_bytes = record.len_bytes();
        let kept_bytes = self
            .inner
            .top
            .quote(Piece::new(record.clone()))
            .unwrap_or(logical_bytes);
        Quote {
            logical_bytes,
            kept_bytes,
        }
    }

    fn report(&self) -> Report {
        let mut layers = Vec::new();
        self.inner.top.report(&mut layers);
        let tickets = self.inner.tickets.report();
        let base = layers.last().cloned().unwrap_or_else(|| tickets.clone());
        Report {
            held_count: tickets.kept_bytes,
            logical_bytes: tickets.logical_bytes,
            logical_peak_bytes: 0,
            held_bytes: base.kept_bytes,
            peak_bytes: base.peak_bytes,
            disk_bytes: 0,
            disk_peak_bytes: 0,
            in_flight_bytes: 0,
            in_flight_peak_bytes: 0,
            layers,
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut layers = Vec::new();
        self.inner.top.report(&mut layers);
        f.debug_list().entries(layers.iter().map(|layer| layer.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn record(values: Vec<f32>) -> Record {
        let shape = [values.len()];
        Record::new(Arc::new(values), DType::F32, shape, "x")
    }

    #[test]
    fn memory_gives_back_the_very_value() {
        let store = Store::memory();
        let x = record(vec![1.0, 2.0, 3.0]);
        let ticket = store.save(x.clone()).expect("saved");
        assert_eq!(store.report().held_bytes, 12);
        assert!(Arc::ptr_eq(&ticket.load().expect("loaded"), &x.bytes));
        assert_eq!((store.report().held_bytes, store.report().held_count), (0, 0));
    }

    #[test]
    fn marshaling_keeps_a_content_once_until_its_last_reader() {
        let store = Store::marshaling();
        let x = record(vec![1.0, 2.0, 3.0]);
        assert_eq!(store.quote(&x).kept_bytes, 12);
        let first = store.save(x.clone()).expect("saved");
        assert_eq!(store.quote(&x).kept_bytes, 0);
        let same = store.save(x.clone()).expect("saved");
        let equal = store.save(record(vec![1.0, 2.0, 3.0])).expect("saved");
        let other = store.save(record(vec![1.0, 2.0, 4.0])).expect("saved");
        assert_eq!([&first, &same, &equal, &other].map(Ticket::kept_bytes), [12, 0, 0, 12]);
        assert_eq!(store.report().held_bytes, 24);
        assert_eq!(store.report().layers[0].hits, 2);
        assert!(Arc::ptr_eq(&equal.load().expect("loaded"), &x.bytes));
        drop((first, other));
        assert_eq!(store.report().held_bytes, 12);
        assert_eq!(same.load().expect("loaded").as_bytes(), x.bytes.as_bytes());
        assert_eq!((store.report().held_bytes, store.report().held_count), (0, 0));
    }

    #[test]
    fn a_record_that_contradicts_itself_is_refused() {
        let x = Record {
            shape: vec![4],
            ..record(vec![1.0, 2.0, 3.0])
        };
        assert!(matches!(
            Store::memory().save(x),
            Err(StoreError::Length { got: 12, .. })
        ));
        let x = record(vec![1.0, 2.0, 3.0]).with_keys(Arc::new(vec![0u16; 2]));
        assert!(matches!(
            Store::memory().save(x),
            Err(StoreError::Keys { rows: 3, got: 4, .. })
        ));
    }
}
