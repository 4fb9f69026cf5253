//! The seam between a tape and whatever keeps its tensors.

use std::sync::Arc;

use crate::{Precision, Record, Report, StoreError, Ticket};

/// Keeps records from the forward pass to the backward pass. [`Store`](crate::Store) is the project's own; a user's takes its place on the tape.
///
/// One of one's own may stand by itself, around another one (whose [`Ticket`] is what it [holds](crate::Held)), or under the layers of a store
/// ([`StoreBuilder::base`](crate::StoreBuilder::base)). One that hands on other bytes than it was given says that they are
/// [`DType::U8`](crate::DType::U8) and [exact](Precision::Exact), so that no layer takes them for numbers.
///
/// What [`Held::fetch`](crate::Held::fetch) returns are the bytes that were saved, in any [`SharedBytes`](crate::SharedBytes). The tape of `dfdx-edkm` compares
/// their number ([`StoreError::OtherLength`]) when it loads a tensor; a backend that may damage them compares checksums itself. Under the layers of a store it
/// waits for no thread that saves (see [`Codec`](crate::Codec)).
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use std::sync::Arc;
/// use edkm_store::{Backend, DType, Held, Quote, Record, Report, SharedBytes, StoreError, Ticket};
///
/// /// Copies what it is given, and counts the copies.
/// #[derive(Default)]
/// struct Copies(Arc<AtomicU64>);
///
/// struct Copied(Vec<u8>, Arc<AtomicU64>);
///
/// impl Backend for Copies {
///     fn save(&self, record: Record) -> Result<Ticket, StoreError> {
///         let bytes = record.bytes.as_bytes().to_vec();
///         let len = bytes.len();
///         self.0.fetch_add(len as u64, Relaxed);
///         Ok(Ticket::new(Box::new(Copied(bytes, self.0.clone())), len))
///     }
///
///     fn quote(&self, record: &Record) -> Quote {
///         let bytes = record.len_bytes();
///         Quote { logical_bytes: bytes, kept_bytes: bytes }
///     }
///
///     fn report(&self) -> Report {
///         let mut report = Report::default();
///         report.held_bytes = self.0.load(Relaxed);
///         report
///     }
/// }
///
/// impl Held for Copied {
///     fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
///         Ok(Arc::new(self.0.clone()))
///     }
///
///     fn kept_bytes(&self) -> usize {
///         self.0.len()
///     }
/// }
///
/// impl Drop for Copied {
///     fn drop(&mut self) {
///         self.1.fetch_sub(self.0.len() as u64, Relaxed);
///     }
/// }
///
/// let backend = Copies::default();
/// let ticket = backend.save(Record::new(Arc::new(vec![1.0f32; 4]), DType::F32, [4], "x"))?;
/// assert_eq!((ticket.kept_bytes(), backend.report().held_bytes), (16, 16));
/// ticket.load()?; // or dropped: either frees it
/// assert_eq!(backend.report().held_bytes, 0);
/// # Ok::<(), StoreError>(())
/// ```
pub trait Backend: Send + Sync + 'static {
    /// Takes `record` into the store.
    ///
    /// # Errors
    /// A record that contradicts itself, and whatever the layers meet. A store that packs on another thread may report an
    /// earlier record's failure here.
    fn save(&self, record: Record) -> Result<Ticket, StoreError>;

    /// What a save of `record` would cost now. It costs the time of the save itself, and keeps nothing.
    fn quote(&self, record: &Record) -> Quote;

    /// What is held at this moment, and what it took.
    fn report(&self) -> Report;

    /// How records are kept that leave it [unsaid](Precision::Unsaid); unsaid itself where that cannot be told. What can be made again is compared with what
    /// would have been saved only if this is [`Precision::Exact`]. A backend around another one passes on what that says. If it is [`Precision::Bf16`], who saves may round the numbers
    /// itself, where that saves a copy, and give [`DType::Bf16`](crate::DType::Bf16), which is kept and comes back as it is.
    fn unsaid_precision(&self) -> Precision {
        Precision::Unsaid
    }
}

macro_rules! behind_a_pointer {
    ($pointer:ident) => {
        impl<B: Backend + ?Sized> Backend for $pointer<B> {
            fn save(&self, record: Record) -> Result<Ticket, StoreError> {
                (**self).save(record)
            }

            fn quote(&self, record: &Record) -> Quote {
                (**self).quote(record)
            }

            fn report(&self) -> Report {
                (**self).report()
            }

            fn unsaid_precision(&self) -> Precision {
                (**self).unsaid_precision()
            }
        }
    };
}

behind_a_pointer!(Arc);
behind_a_pointer!(Box);

/// What a save would cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Bytes of the record.
    pub logical_bytes: usize,
    /// Bytes that the store would keep more than it does now.
    pub kept_bytes: usize,
}
