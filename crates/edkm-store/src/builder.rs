//! Building a store: the layers in the order in which they act.

use std::path::PathBuf;
use std::sync::Arc;

use crate::codec::Codec;
use crate::layers::{Bf16, Compress, Layer, Marshal, Memory, Origin, OwnBase, Shard, Spill, Uniquify};
use crate::learners::LearnerGroup;
use crate::overlap::Overlap;
use crate::store::{Inner, Top};
use crate::{Backend, Bytes, Precision, Store, StoreError};

/// The layers of a store to be, in the order in which they act. Made by [`Store::builder`].
#[must_use = "a builder makes nothing before `build`"]
#[derive(Default)]
pub struct StoreBuilder {
    choices: Vec<Choice>,
    activations: Activations,
    overlap: Option<Bytes>,
}

enum Choice {
    Marshal,
    Uniquify,
    Shard(Arc<dyn LearnerGroup>),
    Compress(Arc<dyn Codec>),
    Spill { dir: PathBuf, budget: Bytes },
    Base(Arc<dyn Backend>),
}

#[derive(Debug, Clone, Copy, Default)]
enum Activations {
    #[default]
    Exact,
    Bf16,
}

impl Choice {
    /// The name, and the place in the only order that makes sense.
    fn place(&self) -> (&'static str, u8) {
        match self {
            Self::Marshal => ("marshal", 0),
            Self::Uniquify => ("uniquify", 1),
            Self::Shard(_) => ("shard", 2),
            Self::Compress(_) => ("compress", 3),
            Self::Spill { .. } => ("spill", 4),
            Self::Base(_) => ("base", 4),
        }
    }

    /// Refuses to act after `before`, unless that is in order.
    fn check_after(&self, before: &Self) -> Result<(), StoreError> {
        let ((layer, place), (after, place_before)) = (self.place(), before.place());
        if place > place_before {
            return Ok(());
        }
        let reason = match self {
            _ if layer != after && place == place_before => "a store has one base",
            _ if place == place_before => "it is there already, and a second one finds nothing to do",
            Self::Marshal => {
                "it compares what is saved, so it comes first; what the layers after it make is shared too"
            }
            Self::Uniquify => "it looks for equal rows, which a part or an encoded blob has no more",
            Self::Shard(_) => {
                "every learner must hold the same bytes to be given a part of them, and bytes that were \
                               encoded or spilled are not looked at again"
            }
            Self::Compress(_) => "spilled bytes are on their way to the disk; compress before that",
            Self::Spill { .. } | Self::Base(_) => "it is the base",
        };
        Err(StoreError::Order { layer, after, reason })
    }
}

impl StoreBuilder {
    /// Stores a content once, however often it is saved: records here, and after `uniquify` also tables and indices.
    /// Costs one hash of every record that is not the very value that was saved before.
    pub fn marshal(mut self) -> Self {
        self.choices.push(Choice::Marshal);
        self
    }

    /// Keeps records whose rows repeat as a table of distinct rows and the narrowest index (see [`crate::Unique`]).
    pub fn uniquify(mut self) -> Self {
        self.choices.push(Choice::Uniquify);
        self
    }

    /// Keeps only this learner's part of records with [`crate::Placement::Replicated`], 1/world of their bytes, and gathers
    /// the others when they are loaded. Every learner must load its replicated records in the same order. (The ops of `dfdx-edkm` save activations, which
    /// differ between learners; what is replicated is what an op of one's own saves as such.)
    pub fn shard(mut self, group: impl LearnerGroup) -> Self {
        self.choices.push(Choice::Shard(Arc::new(group)));
        self
    }

    /// Encodes blobs that shrink by it with `codec`, such as [`crate::PlaneCodec`].
    pub fn compress(mut self, codec: impl Codec) -> Self {
        self.choices.push(Choice::Compress(Arc::new(codec)));
        self
    }

    /// Keeps up to `budget` in memory and the rest in an unlinked temporary file in `dir`, oldest first. Reading ahead of the
    /// backward pass comes with [`StoreBuilder::overlap`]. The file keeps its largest size as long as the store lives.
    pub fn spill(mut self, dir: impl Into<PathBuf>, budget: impl Into<Bytes>) -> Self {
        self.choices.push(Choice::Spill {
            dir: dir.into(),
            budget: budget.into(),
        });
        self
    }

    /// Keeps everything in a backend of one's own, under the layers before it: what comes to it has been shared and encoded by them, and what comes back is
    /// compared with its checksum. In place of memory or [`StoreBuilder::spill`].
    pub fn base(mut self, backend: impl Backend) -> Self {
        self.choices.push(Choice::Base(Arc::new(backend)));
        self
    }

    /// Keeps every `F32` record as bf16 that does not ask for [`Precision::Exact`]. **Lossy**: what comes back is within
    /// 2^-8 of what was saved, relatively (see [`Precision::Bf16`] for the bound), and so gradients are approximate. The store says so by
    /// [`Backend::unsaid_precision`](crate::Backend::unsaid_precision).
    pub fn bf16_activations(mut self) -> Self {
        self.activations = Activations::Bf16;
        self
    }

    /// Packs on a thread of its own beside the forward pass, and fetches ahead of the backward pass, with at most `bound`
    /// waiting in either direction (one record may exceed it alone). The same bytes come out as without.
    ///
    /// Records that wait hold on to what was saved, so the memory in use may exceed what the layers keep by twice `bound`.
    pub fn overlap(mut self, bound: impl Into<Bytes>) -> Self {
        self.overlap = Some(bound.into());
        self
    }

    /// Builds the store.
    ///
    /// # Errors
    /// [`StoreError::Order`] for layers in another order than marshal, uniquify, shard, compress, spill or base, or one of them
    /// twice; [`StoreError::SpillDir`] when no file can be made in the directory; [`StoreError::Worker`] when the system starts no thread for
    /// `overlap`.
    pub fn build(self) -> Result<Store, StoreError> {
        for pair in self.choices.windows(2) {
            pair[1].check_after(&pair[0])?;
        }
        let marshals = self.choices.iter().any(|choice| matches!(choice, Choice::Marshal));
        let mut group = None;
        let mut choices = self.choices;
        let mut top: Box<dyn Layer> =
            match choices.pop_if(|last| matches!(last, Choice::Spill { .. } | Choice::Base(_))) {
                Some(Choice::Spill { dir, budget }) => Box::new(Spill::new(dir, budget)?),
                Some(Choice::Base(backend)) => Box::new(OwnBase::new(backend)),
                _ => Box::new(Memory::new()),
            };
        for choice in choices.into_iter().rev() {
            top = match choice {
                Choice::Compress(codec) => Box::new(Compress::new(codec, top)),
                Choice::Shard(learners) => {
                    group = Some(learners.clone());
                    Box::new(Shard::new(learners, top))
                }
                Choice::Uniquify if marshals => Box::new(Uniquify::new(Box::new(Marshal::new(
                    "marshal parts",
                    Origin::Layer,
                    top,
                )))),
                Choice::Uniquify => Box::new(Uniquify::new(top)),
                // One is the base, the other stands above what every store has.
                Choice::Spill { .. } | Choice::Base(_) | Choice::Marshal => top,
            };
        }
        top = Box::new(Bf16::new(top));
        if marshals {
            top = Box::new(Marshal::new("marshal", Origin::Saver, top));
        }
        let top = match self.overlap {
            Some(bound) => Top::Beside(Overlap::start(top, bound)?),
            None => Top::Inline(top),
        };
        let unsaid = match self.activations {
            Activations::Exact => Precision::Exact,
            Activations::Bf16 => Precision::Bf16,
        };
        Ok(Store::of(Inner::new(top, group, unsaid)))
    }
}
