//! A storage backend of one's own, around another one: what does each op save, and what does the store keep of it?
//!
//!     cargo run -p edkm-examples --example 12_own_backend

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::{ClusteredLinear, RmsNorm};
use dfdx_edkm::{backward, StoreTape};
use edkm_store::{Backend, Precision, Quote, Record, Report, StoreError, StoreSpec, Ticket};

/// Passes records on to a backend, and adds up what it was given and kept by the label of the record.
struct ByLabel<B> {
    below: B,
    sums: Mutex<BTreeMap<&'static str, (usize, usize)>>,
}

impl<B: Backend> Backend for ByLabel<B> {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        let label = record.label;
        // the ticket of the backend below is the ticket of this one: it gives the bytes back, and frees them
        let ticket = self.below.save(record)?;
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let (given, kept) = sums.entry(label).or_default();
        *given += ticket.logical_bytes();
        *kept += ticket.kept_bytes();
        Ok(ticket)
    }

    fn quote(&self, record: &Record) -> Quote {
        self.below.quote(record)
    }

    fn report(&self) -> Report {
        self.below.report()
    }

    fn unsaid_precision(&self) -> Precision {
        self.below.unsaid_precision()
    }
}

type Model = (RmsNorm<64>, ClusteredLinear<64, 256>, ReLU, ClusteredLinear<256, 8>);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let model = dev.build_module::<Model, f32>();
    let x: Tensor<Rank2<32, 64>, f32, _> = dev.sample_normal();
    let backend = Arc::new(ByLabel {
        below: "marshal,compress".parse::<StoreSpec>()?.build()?,
        sums: Mutex::default(),
    });
    let tape = StoreTape::shared(backend.clone(), model.alloc_grads());
    let loss = model.forward(x.put_tape(tape)).square().mean();
    println!("{:20} {:>8} {:>8}", "", "given", "kept");
    for (label, (given, kept)) in &*backend.sums.lock().unwrap_or_else(PoisonError::into_inner) {
        println!("{label:20} {given:8} {kept:8}");
    }
    let held = backend.report().held_bytes;
    backward(loss)?;
    println!(
        "held {held} bytes before backward, {} after it",
        backend.report().held_bytes
    );
    assert_eq!(backend.report().held_bytes, 0);
    Ok(())
}
