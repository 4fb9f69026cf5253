//! The optimizer.

mod collection;
mod moments;
mod step;
mod update_in_backward;
