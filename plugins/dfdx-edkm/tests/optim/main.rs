//! The optimizer.

mod moments;
mod step;
mod update_in_backward;
