//! The store: a stack of layers over a base.

use std::sync::Arc;

use crate::builder::StoreBuilder;
use crate::layers::{Bf16, Layer, Marshal, Memory, Origin, Piece};
use crate::learners::LearnerGroup;
use crate::meter::{Charge, Meter, Side};
use crate::overlap::Overlap;
use crate::{Backend, Held, Precision, Quote, Record, Report, SharedBytes, StoreError, Ticket};

/// A stack of layers over a base that keeps what comes out of them. Clones are the same store; it lives until the last
/// clone and the last ticket are gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    top: Top,
    group: Option<Arc<dyn LearnerGroup>>,
    /// What `Precision::Unsaid` means here.
    unsaid: Precision,
    /// Open tickets: their records' bytes as logical, their number as kept.
    tickets: Arc<Meter>,
}

/// Where the stack runs.
pub(crate) enum Top {
    /// On the thread that saves or loads.
    Inline(Box<dyn Layer>),
    /// On a thread beside it.
    Beside(Arc<Overlap>),
}

impl Inner {
    pub(crate) fn new(top: Top, group: Option<Arc<dyn LearnerGroup>>, unsaid: Precision) -> Self {
        Self {
            top,
            group,
            unsaid,
            tickets: Meter::new("tickets"),
        }
    }
}

impl Store {
    /// Keeps every record in memory as it is, without a copy.
    pub fn memory() -> Self {
        let top = Box::new(Bf16::new(Box::new(Memory::new())));
        Self::of(Inner::new(Top::Inline(top), None, Precision::Exact))
    }

    /// Keeps every content once, in memory, without a copy.
    pub fn marshaling() -> Self {
        let below = Box::new(Bf16::new(Box::new(Memory::new())));
        let top = Box::new(Marshal::new("marshal", Origin::Saver, below));
        Self::of(Inner::new(Top::Inline(top), None, Precision::Exact))
    }

    /// A store of one's own: call its layers in the order in which they act, then [`StoreBuilder::build`].
    pub fn builder() -> StoreBuilder {
        StoreBuilder::default()
    }

    pub(crate) fn of(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    fn top(&self) -> &dyn Layer {
        match &self.inner.top {
            Top::Inline(top) => &**top,
            Top::Beside(overlap) => overlap.top(),
        }
    }

    /// Waits until the packing thread, if there is one, has done what it was given.
    fn settle(&self) {
        if let Top::Beside(overlap) = &self.inner.top {
            overlap.settle();
        }
    }
}

/// An open ticket, counted.
struct Open {
    held: Box<dyn Held>,
    group: Option<Arc<dyn LearnerGroup>>,
    _charges: [Charge; 2],
}

impl Drop for Open {
    fn drop(&mut self) {
        abort_in_panic(self.group.as_ref());
    }
}

impl Held for Open {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.held.fetch().inspect_err(|error| abort(self.group.as_ref(), error))
    }

    fn kept_bytes(&self) -> usize {
        self.held.kept_bytes()
    }
}

/// The other learners would wait for this one at the next gather.
fn abort(group: Option<&Arc<dyn LearnerGroup>>, error: &StoreError) {
    if let Some(group) = group {
        group.abort(&error.to_string());
    }
}

/// A learner may be kept alive by its packing thread for a while after its own thread has panicked.
fn abort_in_panic(group: Option<&Arc<dyn LearnerGroup>>) {
    if let (true, Some(group)) = (std::thread::panicking(), group) {
        group.abort("its thread panicked");
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        abort_in_panic(self.group.as_ref());
    }
}

impl Backend for Store {
    fn save(&self, mut record: Record) -> Result<Ticket, StoreError> {
        let Inner {
            top,
            group,
            unsaid,
            tickets,
            ..
        } = &*self.inner;
        record.precision = record.precision.or(*unsaid);
        let logical = record.len_bytes();
        let save = |piece: Piece| match top {
            Top::Inline(top) => piece.record.arrive().and_then(|()| top.save(piece)),
            Top::Beside(overlap) => overlap.save(piece),
        };
        let held = record.check().and_then(|()| save(Piece::new(record)));
        let held = held.inspect_err(|error| abort(group.as_ref(), error))?;
        let _charges = [tickets.charge(Side::Logical, logical), tickets.charge(Side::Kept, 1)];
        Ok(Ticket::new(
            Box::new(Open {
                held,
                group: group.clone(),
                _charges,
            }),
            logical,
        ))
    }

    fn quote(&self, record: &Record) -> Quote {
        self.settle();
        let mut record = record.clone();
        record.precision = record.precision.or(self.inner.unsaid);
        let logical_bytes = record.len_bytes();
        // A record that cannot be saved is answered as if it were stored raw; its save tells what is wrong with it.
        let quote = record.check().and_then(|()| self.top().quote(Piece::new(record)));
        Quote {
            logical_bytes,
            kept_bytes: quote.unwrap_or(logical_bytes),
        }
    }

    fn unsaid_precision(&self) -> Precision {
        self.inner.unsaid
    }

    fn report(&self) -> Report {
        self.settle();
        let mut report = Report::default();
        self.top().report(&mut report);
        let tickets = &self.inner.tickets;
        report.held_count = tickets.kept();
        (report.logical_bytes, report.logical_peak_bytes) = tickets.logical();
        if let Top::Beside(overlap) = &self.inner.top {
            (report.in_flight_bytes, report.in_flight_peak_bytes) = overlap.in_flight();
        }
        report
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut report = Report::default();
        self.top().report(&mut report);
        f.debug_list()
            .entries(report.layers.iter().map(|layer| layer.name))
            .finish()
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
