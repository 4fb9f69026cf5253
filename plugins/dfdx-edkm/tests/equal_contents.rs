//! Checkpoints where a store gives another tensor of the same numbers, or where the module holds the tensor that it is applied to.

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::ClusteredLinear;
use dfdx_edkm::nn::IntoClustered;
use dfdx_edkm::{backward, checkpoint, SaveForBackward, Spec, StoreTape};
use edkm_store::StoreSpec;
use edkm_testkit::{assert_bitwise_equal, random};

type Tape = StoreTape<f32, Cpu>;
type X<T = NoneTape> = Tensor<Rank2<6, 16>, f32, Cpu, T>;
type Matrix<T = NoneTape> = Tensor<Rank2<16, 16>, f32, Cpu, T>;
type Loss = Tensor<Rank0, f32, Cpu, Tape>;

/// The last one gives nothing back as it was.
fn stores() -> Vec<String> {
    let kept = ["memory", "marshal", "marshal,compress", "marshal,uniquify"].map(str::to_owned);
    let spilling = format!("spill={}:0", std::env::temp_dir().display());
    kept.into_iter().chain([spilling]).collect()
}

fn x(seed: u64) -> X {
    Cpu::default().tensor(random(seed, 6 * 16))
}

/// Applies `module`, checkpointed or not.
fn apply<S: Shape, M>(module: &M, x: Tensor<S, f32, Cpu, Tape>, checkpointed: bool) -> Tensor<S, f32, Cpu, Tape>
where
    M: Module<Tensor<S, f32, Cpu>, Output = Tensor<S, f32, Cpu>, Error = CpuError>
        + Module<Tensor<S, f32, Cpu, Tape>, Output = Tensor<S, f32, Cpu, Tape>, Error = CpuError>
        + Clone
        + 'static,
{
    match checkpointed {
        true => checkpoint(module, x),
        false => module.forward(x),
    }
}

/// The gradients that `read` finds are those without a checkpoint, to the bit, over every store.
fn compare(what: &str, loss: impl Fn(Tape, bool) -> Loss, read: impl Fn(&Gradients<f32, Cpu>) -> Vec<Vec<f32>>) {
    let gradients = |spec: &str, checkpointed| {
        let store = spec.parse::<StoreSpec>().unwrap().build().unwrap();
        let loss = loss(StoreTape::new(store, Gradients::leaky()), checkpointed);
        read(&backward(loss).unwrap_or_else(|why| panic!("{what}, {spec}: {why}")))
    };
    let want = gradients("memory", false);
    assert!(want.iter().flatten().any(|&number| number != 0.0), "{what}");
    for spec in stores() {
        for (index, (got, want)) in gradients(&spec, true).iter().zip(&want).enumerate() {
            assert_bitwise_equal(&format!("{what}, {spec}, gradient {index}"), got, want);
        }
    }
}

/// Residuals that begin as nothing, rectified numbers that are not negative, inputs that come twice.
#[test]
fn tensors_of_one_content_have_gradients_of_their_own() {
    let dev = Cpu::seed_from_u64(1);
    let block = dev
        .build_module::<(Linear<16, 16>, Tanh), f32>()
        .into_clustered(Spec::default());
    let layer = dev.build_module::<ClusteredLinear<16, 16>, f32>();
    let stock = dev.build_module::<Linear<16, 16>, f32>();

    let mut nothing = layer.clone();
    (nothing.weight, nothing.bias) = (dev.zeros(), dev.zeros());
    let (first, input) = (Residual(nothing), x(2));
    compare(
        "a residual of zeros",
        |tape, checkpointed| {
            apply(&block, first.forward(input.clone().put_tape(tape)), checkpointed)
                .square()
                .mean()
        },
        |gradients| vec![gradients.get(&first.0.weight).as_vec(), gradients.get(&input).as_vec()],
    );

    let positive = x(3).abs();
    compare(
        "relu of relu",
        |tape, checkpointed| {
            let (y, tape) = positive.clone().put_tape(tape).relu().split_tape();
            let (u, tape) = layer.forward(y.clone().put_tape(tape)).split_tape();
            let z = apply(&block, y.put_tape(tape).relu(), checkpointed);
            (z + u).square().mean()
        },
        |gradients| vec![gradients.get(&layer.weight).as_vec(), gradients.get(&positive).as_vec()],
    );

    let (p, q) = (x(4), x(4));
    compare(
        "two inputs, under an op of this crate and one of dfdx",
        |tape, checkpointed| {
            let (u, tape) = layer.forward(p.clone().put_tape(tape)).split_tape();
            let (v, tape) = stock.forward(p.clone().put_tape(tape)).split_tape();
            let (z, tape) = apply(&block, q.clone().put_tape(tape), checkpointed).split_tape();
            (p.clone().put_tape(tape).square() + z + u + v).square().mean()
        },
        |gradients| {
            let weights = [&layer.weight, &stock.weight].map(|weight| gradients.get(weight).as_vec());
            [gradients.get(&p).as_vec(), gradients.get(&q).as_vec()]
                .into_iter()
                .chain(weights)
                .collect()
        },
    );
}

/// A memory of the beginning.
#[derive(Clone)]
struct Holds {
    memory: Matrix,
    weight: Matrix,
    how: u8,
}

impl<T: SaveForBackward<Cpu>> Module<Matrix<T>> for Holds {
    type Output = Matrix<T>;
    type Error = CpuError;
    fn try_forward(&self, x: Matrix<T>) -> Result<Matrix<T>, CpuError> {
        let x = x.try_matmul(self.weight.clone())?;
        match self.how {
            0 => x.try_add(self.memory.clone()),
            1 => x.try_matmul(self.memory.clone()),
            _ => x.try_mul(self.memory.clone()),
        }
    }
}

/// The numbers are those without a checkpoint; over a store that rebuilds their sum is made in another order.
#[test]
fn a_module_may_hold_what_it_is_applied_to() {
    let dev = Cpu::default();
    let [memory, weight] = [1, 2].map(|seed| dev.tensor(random(seed, 16 * 16)));
    for how in 0..3 {
        let holds = Holds {
            memory: memory.clone(),
            weight: weight.clone(),
            how,
        };
        let gradient = |spec: &str, checkpointed| {
            let store = spec.parse::<StoreSpec>().unwrap().build().unwrap();
            let input = memory.clone().put_tape(StoreTape::new(store, Gradients::leaky()));
            let gradients = backward(apply(&holds, input, checkpointed).square().mean()).unwrap();
            gradients.get(&memory).as_vec()
        };
        let want = gradient("memory", false);
        let largest = want.iter().fold(0.0, |most: f32, number| most.max(number.abs()));
        for spec in stores() {
            for (got, want) in gradient(&spec, true).iter().zip(&want) {
                assert!((got - want).abs() <= 1e-6 * largest, "{how}, {spec}: {got} {want}");
            }
        }
    }
}
