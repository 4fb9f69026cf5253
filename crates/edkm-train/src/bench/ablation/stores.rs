//! The stores of the rows.

use std::sync::Arc;

use edkm_store::{Backend, InProcessLearner, Quote, Record, Report, Store, StoreError, Ticket};

/// What a row leaves of marshaling (M), uniquification (U) and sharding (S).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layers {
    /// Every save is a copy.
    Plain,
    Marshal,
    MarshalShard,
    MarshalUniquify,
    MarshalUniquifyShard,
}

impl Layers {
    pub(super) const ALL: [Self; 5] = [
        Self::Plain,
        Self::Marshal,
        Self::MarshalShard,
        Self::MarshalUniquify,
        Self::MarshalUniquifyShard,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain DKM",
            Self::Marshal => "M",
            Self::MarshalShard => "M+S",
            Self::MarshalUniquify => "M+U",
            Self::MarshalUniquifyShard => "M+U+S",
        }
    }

    /// Whether learners need each other.
    pub(super) fn shard(self) -> bool {
        matches!(self, Self::MarshalShard | Self::MarshalUniquifyShard)
    }

    /// The store of one learner.
    pub(super) fn store(self, learner: InProcessLearner) -> Result<Box<dyn Backend>, StoreError> {
        let builder = Store::builder();
        Ok(match self {
            Self::Plain => Box::new(CopyEverySave(Store::memory())),
            Self::Marshal => Box::new(builder.marshal().build()?),
            Self::MarshalShard => Box::new(builder.marshal().shard(learner).build()?),
            Self::MarshalUniquify => Box::new(builder.marshal().uniquify().build()?),
            Self::MarshalUniquifyShard => Box::new(builder.marshal().uniquify().shard(learner).build()?),
        })
    }
}

/// Copies what it is given, each time: what moving saved tensors to another device one by one does.
struct CopyEverySave(Store);

impl Backend for CopyEverySave {
    fn save(&self, mut record: Record) -> Result<Ticket, StoreError> {
        record.bytes = Arc::new(record.bytes.as_bytes().to_vec());
        record.keys = None;
        self.0.save(record)
    }

    fn quote(&self, record: &Record) -> Quote {
        self.0.quote(record)
    }

    fn report(&self) -> Report {
        self.0.report()
    }
}
