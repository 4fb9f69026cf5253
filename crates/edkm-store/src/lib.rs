//! A store for tensors saved for backward: bytes in, fewer bytes kept, the same bytes out.
//!
//! A [`Store`] takes [`Record`]s in the forward pass and hands out [`Ticket`]s; a ticket is loaded once in the backward pass.
//! What lies between is a stack of layers over a base. No layer alters what comes out, every blob carries a checksum, and
//! dropping the tickets frees everything.
//!
//! ```
//! use std::sync::Arc;
//! use edkm_store::{Backend, DType, Record, Store};
//!
//! let store = Store::marshaling();
//! let x = Record::new(Arc::new(vec![1.0f32; 1024]), DType::F32, [32, 32], "x");
//! let tickets = [store.save(x.clone())?, store.save(x)?];
//! assert_eq!(store.report().held_bytes, 4096); // one copy for both
//! for ticket in tickets {
//!     assert_eq!(ticket.load()?.as_bytes().len(), 4096);
//! }
//! assert_eq!(store.report().held_bytes, 0);
//! # Ok::<(), edkm_store::StoreError>(())
//! ```

mod backend;
mod builder;
mod bytes;
mod codec;
mod digest;
mod error;
mod faults;
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
pub use bytes::{downcast, SharedBytes};
pub use codec::{Codec, CodecError, PlaneCodec};
pub use error::StoreError;
pub use learners::{in_process_learners, InProcessLearner, LearnerGroup, DEFAULT_PATIENCE};
pub use record::{DType, Placement, Precision, Record};
pub use report::{LayerReport, Report};
pub use size::{Bytes, ParseBytesError};
pub use spec::StoreSpec;
pub use store::Store;
pub use ticket::{Held, Ticket};
pub use unique::{expand, ExpandError, Unique};
