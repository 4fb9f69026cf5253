//! A store for tensors saved for backward: bytes in, fewer bytes kept, the same bytes out.
//!
//! A [`Store`] takes [`Record`]s in the forward pass and hands out [`Ticket`]s; a ticket is loaded once in the backward pass.
//! What lies between is a stack of layers over a base, in this order, each of which may be left out:
//!
//! | layer | what it does | from |
//! |---|---|---|
//! | `marshal` | a content that is stored already is not stored again | eDKM, arXiv 2309.00964 |
//! | `uniquify` | rows that repeat become a table of distinct rows and the narrowest index | eDKM |
//! | `shard` | what all learners hold alike is split among them, and gathered when it is loaded | eDKM |
//! | `compress` | byte planes, each with lz4 or a Huffman code where that helps; any other [`Codec`] | |
//! | `spill` | above a budget to an unlinked temporary file | |
//!
//! Beside them, a thread can pack while the forward pass goes on and fetch ahead of the backward pass
//! ([`StoreBuilder::overlap`]), and `f32` can be kept as bf16, which is lossy and therefore never happens unasked
//! ([`Precision::Bf16`], [`StoreBuilder::bf16_activations`]).
//!
//! No layer alters what comes out, every blob carries a checksum that is compared when it is loaded, what need not be
//! rebuilt comes back as the very value that was saved, and dropping the tickets frees everything.
//!
//! ```
//! use std::sync::Arc;
//! use edkm_store::{Backend, DType, PlaneCodec, Record, Store};
//!
//! let store = Store::builder()
//!     .marshal()
//!     .compress(PlaneCodec::Adaptive)
//!     .spill(std::env::temp_dir(), 2 << 30)
//!     .build()?;
//! let x = Record::new(Arc::new(vec![1.0f32; 1024]), DType::F32, [32, 32], "x");
//! assert!(store.quote(&x).kept_bytes < 100);
//! let tickets = [store.save(x.clone())?, store.save(x)?];
//! assert_eq!(tickets[1].kept_bytes(), 0); // one copy for both
//! for ticket in tickets {
//!     assert_eq!(ticket.load()?.as_bytes().len(), 4096);
//! }
//! let report = store.report();
//! assert_eq!((report.held_bytes, report.logical_peak_bytes), (0, 8192));
//! println!("{report}");
//! # Ok::<(), edkm_store::StoreError>(())
//! ```
//!
//! The same store in words is `"marshal,compress,spill=/tmp:2GiB".parse::<StoreSpec>()?.build()?`. A store of one's own is
//! an implementation of [`Backend`].

mod backend;
mod builder;
mod bytes;
mod codec;
mod digest;
mod error;
mod layers;
mod learners;
mod lock;
mod meter;
mod overlap;
mod panics;
mod record;
mod report;
mod size;
mod spec;
mod store;
mod ticket;
mod unique;

pub use backend::{Backend, Quote};
pub use builder::StoreBuilder;
pub use bytes::{downcast, SharedBytes, Uptake};
pub use codec::{Codec, CodecError, PlaneCodec};
pub use digest::Digest;
pub use error::StoreError;
pub use learners::{gather_equal_parts, in_process_learners, InProcessLearner, LearnerGroup, DEFAULT_PATIENCE};
pub use record::{DType, Placement, Precision, Record};
pub use report::{LayerReport, Report};
pub use size::{Bytes, ParseBytesError};
pub use spec::StoreSpec;
pub use store::Store;
pub use ticket::{Held, Ticket};
pub use unique::{expand, ExpandError, Unique};
