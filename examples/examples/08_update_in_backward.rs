//! A model of one's own whose layers are updated in backward: the gradients of one layer are there at a time, where no op of dfdx is still to come that might
//! reach for them.
//!
//!     cargo run -p edkm-examples --example 08_update_in_backward

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::{ClusteredLinear, RmsNorm};
use dfdx_edkm::optim::{AdamW, AdamWConfig};
use dfdx_edkm::{gradients_of, ParameterVisitor, Parameters, ParametersByPart, SaveForBackward, StoreTape};
use edkm_store::Store;

type Layer = (RmsNorm<64>, ClusteredLinear<64, 64>);
type Built = <Layer as BuildOnDevice<Cpu, f32>>::Built;
type X<T> = Tensor<Rank2<32, 64>, f32, Cpu, T>;

/// Layers, each a part of its own.
struct Mlp(Vec<Built>);

impl Mlp {
    fn forward<T: SaveForBackward<Cpu>>(&self, mut x: X<T>) -> X<T> {
        for (part, layer) in self.0.iter().enumerate() {
            // its parameters are used from here on
            let (input, mut tape) = x.split_tape();
            tape.begin_part(part);
            x = layer.forward(input.put_tape(tape));
        }
        x
    }
}

impl ParametersByPart<Cpu> for Mlp {
    fn parts(&self) -> usize {
        self.0.len()
    }

    fn visit_part<V: ParameterVisitor<Cpu>>(
        &mut self,
        part: usize,
        prefix: &str,
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        self.0[part].visit_parameters(&format!("{prefix}{part}."), visitor)
    }
}

impl Parameters<Cpu> for Mlp {
    fn visit_parameters<V: ParameterVisitor<Cpu>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        (0..self.parts()).try_for_each(|part| self.visit_part(part, prefix, visitor))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let layers = (0..4).map(|_| dev.build_module::<Layer, f32>());
    let mut model = Mlp(layers.collect());
    let mut adamw = AdamW::new(dev.clone(), AdamWConfig::default());
    let (x, y): (X<NoneTape>, X<NoneTape>) = (dev.sample_normal(), dev.sample_uniform());
    for step in 0..40 {
        let tape = StoreTape::new(Store::marshaling(), gradients_of(&mut model));
        let loss = (model.forward(x.clone().put_tape(tape)) - y.clone()).square().mean();
        let value = loss.array();
        // in place of `backward` and `step`: there are no gradients to hold in between
        let norm = adamw.backward_and_step(&mut model, loss, 3e-3)?;
        if step % 10 == 0 {
            println!("step {step:2}  loss {value:.4}  norm of the gradients {norm:.4}");
        }
    }
    Ok(())
}
