use std::sync::Arc;

use dfdx_edkm::{backward, Clustering, StoreTape};
use edkm_kernels::rotary::Table;
use edkm_llama::model::{AttentionSettings, HeadNorms, Recompute};
use edkm_store::{Backend, Store, StoreSpec};
use edkm_testkit::{assert_bitwise_equal, assert_close};

use super::*;

const BATCH: usize = 2;
const SEQ: usize = 7;
const HIDDEN: usize = 24;
const HEAD: usize = 6;
const KV_HEADS: usize = 2;
const FEATURES: usize = 40;

fn projection(dev: &Cpu, outputs: usize, inputs: usize) -> Projection<usize, usize, Cpu> {
    let weight: Tensor<_, f32, _> = dev.sample_normal_like(&(outputs, inputs));
    Projection {
        weight: weight * (inputs as f32).sqrt().recip(),
        bias: None,
        clustering: None,
    }
}

fn norm(dev: &Cpu, features: usize) -> RmsNorm<usize, f32, Cpu> {
    let weight: Tensor<_, f32, _> = dev.sample_normal_like(&(features,));
    RmsNorm {
        weight: weight * 0.1 + 1.0,
        eps: 1e-5,
    }
}

fn head_norms(dev: &Cpu) -> HeadNorms<Cpu> {
    HeadNorms {
        query: norm(dev, HEAD),
        key: norm(dev, HEAD),
    }
}

fn fused(dev: &Cpu, heads: usize, kv_heads: usize) -> FusedDecoderLayer<Cpu> {
    let frequencies: Vec<f64> = (0..HEAD / 2).map(|j| 0.3f64.powi(j as i32)).collect();
    DecoderLayer {
        input_norm: norm(dev, HIDDEN),
        query: projection(dev, heads * HEAD, HIDDEN),
        key: projection(dev, kv_heads * HEAD, HIDDEN),
        value: projection(dev, kv_heads * HEAD, HIDDEN),
        output: projection(dev, HIDDEN, heads * HEAD),
        head_norms: None,
        post_attention_norm: norm(dev, HIDDEN),
        gate: projection(dev, FEATURES, HIDDEN),
        up: projection(dev, FEATURES, HIDDEN),
        down: projection(dev, HIDDEN, FEATURES),
        attention: AttentionSettings {
            heads,
            kv_heads,
            head_dim: HEAD,
            rotary: Arc::new(Table::new(&frequencies, 2 * SEQ)),
        },
    }
}

/// The output, then the gradients of x and of every weight.
fn run<M>(
    layer: &M,
    weights: &FusedDecoderLayer<Cpu>,
    x: &Tensor<(usize, usize, usize), f32, Cpu>,
) -> Vec<(&'static str, Vec<f32>)>
where
    M: Module<
        Tensor<(usize, usize, usize), f32, Cpu, StoreTape<f32, Cpu>>,
        Output = Tensor<(usize, usize, usize), f32, Cpu, StoreTape<f32, Cpu>>,
        Error = CpuError,
    >,
{
    let tape = StoreTape::new(Store::memory(), Gradients::leaky());
    let (y, tape) = layer.forward(x.clone().put_tape(tape)).split_tape();
    let output = y.as_vec();
    // a loss whose gradient differs from number to number
    let loss = y.put_tape(tape).sin().square().mean::<Rank0, _>();
    let grads = backward(loss).expect("the backward pass runs");
    let of_heads = weights.head_norms.iter().flat_map(|norms| {
        [
            ("query's norm", grads.get(&norms.query.weight).as_vec()),
            ("key's norm", grads.get(&norms.key.weight).as_vec()),
        ]
    });
    let mut all = vec![
        ("y", output),
        ("x", grads.get(x).as_vec()),
        ("input_norm", grads.get(&weights.input_norm.weight).as_vec()),
        ("query", grads.get(&weights.query.weight).as_vec()),
        ("key", grads.get(&weights.key.weight).as_vec()),
        ("value", grads.get(&weights.value.weight).as_vec()),
        ("output", grads.get(&weights.output.weight).as_vec()),
        (
            "post_attention_norm",
            grads.get(&weights.post_attention_norm.weight).as_vec(),
        ),
        ("gate", grads.get(&weights.gate.weight).as_vec()),
        ("up", grads.get(&weights.up.weight).as_vec()),
        ("down", grads.get(&weights.down.weight).as_vec()),
    ];
    all.extend(of_heads);
    all
}

#[test]
fn the_stock_layer_computes_what_the_fused_one_does_forward_and_backward() {
    let dev = Cpu::seed_from_u64(5);
    for (heads, normed) in [(2 * KV_HEADS, false), (KV_HEADS, false), (2 * KV_HEADS, true)] {
        let mut fused = fused(&dev, heads, KV_HEADS);
        fused.head_norms = normed.then(|| head_norms(&dev));
        let stock = StockDecoderLayer::like(&fused).expect("no bias");
        let x = dev.sample_normal_like(&(BATCH, SEQ, HIDDEN));
        for ((name, got), (_, want)) in run(&stock, &fused, &x).into_iter().zip(run(&fused, &fused, &x)) {
            assert!(want.iter().any(|&number| number != 0.0), "{name} of {heads} heads");
            // sums of at most some hundred products of order one, in another order
            assert_close(&format!("{name} of {heads} heads"), &got, &want, 2e-5);
        }
    }
}

#[test]
fn a_bias_is_refused_by_name() {
    let dev = Cpu::default();
    let mut layer = fused(&dev, 2, 2);
    layer.value.bias = Some(dev.zeros_like(&(2 * HEAD,)));
    assert_eq!(StockDecoderLayer::like(&layer).unwrap_err(), HasBias { name: "v_proj" });
}

/// All gradients of a layer whose loss is the mean square, one behind the other.
fn gradients(
    layer: &FusedDecoderLayer<Cpu>,
    x: &Tensor<(usize, usize, usize), f32, Cpu>,
    grads: &Gradients<f32, Cpu>,
) -> Vec<f32> {
    let mut all = grads.get(x).as_vec();
    let of_heads = layer.head_norms.iter().flat_map(|norms| [&norms.query, &norms.key]);
    for norm in [&layer.input_norm, &layer.post_attention_norm]
        .into_iter()
        .chain(of_heads)
    {
        all.extend(grads.get(&norm.weight).as_vec());
    }
    for projection in [
        &layer.query,
        &layer.key,
        &layer.value,
        &layer.output,
        &layer.gate,
        &layer.up,
        &layer.down,
    ] {
        all.extend(grads.get(&projection.weight).as_vec());
    }
    all
}

#[test]
fn every_store_and_every_recomputation_gives_the_gradients_of_the_owned_tape_bit_for_bit() {
    let dev = Cpu::seed_from_u64(6);
    let x = dev.sample_normal_like(&(BATCH, SEQ, HIDDEN));
    let plain = fused(&dev, 4, KV_HEADS);
    let mut clustered = plain.clone();
    for projection in [&mut clustered.key, &mut clustered.output, &mut clustered.down] {
        projection.clustering = Some(Clustering::default());
    }
    let mut normed = plain.clone();
    normed.head_norms = Some(head_norms(&dev));
    for layer in [plain, clustered, normed] {
        // the clustering's first forward pass finds its palettes, which the others start from
        let grads = layer
            .forward(x.clone().put_tape(OwnedTape::default()))
            .square()
            .mean()
            .backward();
        let want = gradients(&layer, &x, &grads);
        for recompute in [Recompute::Nothing, Recompute::Attention, Recompute::Layers] {
            for spec in ["memory", "marshal", "marshal,compress"] {
                let store = spec
                    .parse::<StoreSpec>()
                    .and_then(|spec| spec.build())
                    .expect("a store");
                let tape = StoreTape::new(store.clone(), Gradients::leaky());
                let y = layer
                    .try_forward_saving(x.clone().put_tape(tape), None, recompute)
                    .expect("runs");
                let grads = backward(y.square().mean()).expect("the backward pass runs");
                assert_bitwise_equal(
                    &format!("{recompute:?} over {spec}"),
                    &gradients(&layer, &x, &grads),
                    &want,
                );
                assert_eq!(store.report().held_count, 0);
            }
        }
    }
}
