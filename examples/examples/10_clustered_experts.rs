//! What is no linear layer: the experts of a mixture, one tensor of three axes, each expert in four values of its own.
//!
//!     cargo run -p edkm-examples --example 10_clustered_experts

use dfdx::prelude::*;
use dfdx_edkm::ops::clustered_weight::clustered_weight;
use dfdx_edkm::optim::{AdamW, AdamWConfig};
use dfdx_edkm::{
    backward, gradients_of, Bits, Clustering, Grouping, ParameterKind, ParameterVisitor, Parameters, Spec, StoreTape,
};
use edkm_store::Store;

const EXPERTS: usize = 4;
const SIZE: usize = 8;

type Rows<T = NoneTape> = Tensor<(usize, usize), f32, Cpu, T>;
type Tape = StoreTape<f32, Cpu>;

/// y = sum of p_e (x) x W_e over the experts, with p = softmax(x G).
struct Mixture {
    gate: Rows,
    experts: Tensor<(usize, usize, usize), f32, Cpu>,
    clustering: Clustering,
}

impl Mixture {
    fn forward(&self, x: Rows<Tape>) -> Result<Rows<Tape>, CpuError> {
        let tokens = x.shape().0;
        let (x, tape) = x.split_tape();
        let shares = x.clone().put_tape(tape).try_matmul(self.gate.clone())?;
        let (shares, tape) = shares.try_softmax::<Axis<1>>()?.split_tape();
        let experts = clustered_weight(self.experts.clone().put_tape(tape), &self.clustering)?;
        let (experts, tape) = experts.split_tape();
        let x = x
            .put_tape(tape)
            .try_broadcast_like::<_, Axis<0>>(&(EXPERTS, tokens, SIZE))?;
        let (found, tape) = x.try_matmul(experts)?.split_tape();
        let shares = shares.put_tape(tape).try_permute::<(usize, usize), _>()?;
        let shares = shares.try_broadcast_like::<_, Axis<2>>(&(EXPERTS, tokens, SIZE))?;
        shares.try_mul(found)?.try_sum::<_, Axis<0>>()
    }
}

impl Parameters<Cpu> for Mixture {
    fn visit_parameters<V: ParameterVisitor<Cpu>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let kind = ParameterKind::Linear { clustering: None };
        visitor.visit(&format!("{prefix}gate"), kind, &mut self.gate)?;
        let clustering = Some(&self.clustering);
        let kind = ParameterKind::Linear { clustering };
        visitor.visit(&format!("{prefix}experts"), kind, &mut self.experts)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::seed_from_u64(0);
    // a row is a slice of the first axis, which is an expert
    let spec = Spec {
        grouping: Grouping::PerChannels(1.try_into()?),
        ..Spec::new(Bits::new(2)?)
    };
    let mut mixture = Mixture {
        gate: dev.sample_normal_like(&(SIZE, EXPERTS)),
        experts: dev.sample_normal_like(&(EXPERTS, SIZE, SIZE)),
        clustering: Clustering::new(spec),
    };
    let mut adamw = AdamW::new(dev.clone(), AdamWConfig::default());
    for step in 0..=300 {
        let x: Rows = dev.sample_normal_like(&(256, SIZE));
        let y = turned(&dev, &x);
        let taped = x.put_tape(StoreTape::new(Store::marshaling(), gradients_of(&mut mixture)));
        let loss = mse_loss(mixture.forward(taped).map_err(|error| error.to_string())?, y);
        if step % 100 == 0 {
            println!("step {step:3}  loss {:.4}", loss.array());
        }
        adamw.step(&mut mixture, &mut backward(loss)?, 1e-2, 1.0)?;
    }
    let reached = mixture.clustering.state().ok_or("no step was made")?;
    for (expert, palette) in reached.last.as_slice().chunks(4).enumerate() {
        println!(
            "the {} weights of expert {expert} take the values {palette:.3?}",
            SIZE * SIZE
        );
    }
    Ok(())
}

/// Where the first number is above 0 the rest turned around, else as it is: what takes two experts.
fn turned(dev: &Cpu, x: &Rows) -> Rows {
    let mut y = x.as_vec();
    for row in y.chunks_mut(SIZE).filter(|row| row[0] > 0.0) {
        row.reverse();
    }
    dev.tensor_from_vec(y, *x.shape())
}
