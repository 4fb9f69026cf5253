//! Loss and gradients of every op, beside those of the CPU.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZeroUsize;

use dfdx::prelude::*;
use dfdx_edkm::device::DeviceMemory;
use dfdx_edkm::ops::attention::{attention, AttentionDims, Segments};
use dfdx_edkm::ops::Matrix;
use dfdx_edkm::{backward, visit_clustered, ChannelScale, EdkmDevice, EdkmError, StoreTape};
use edkm_cluster::{Bits, Centroids, ClusterError, GradientMode, Grouping, HalfKind, KeepZero, Spec, VectorLen};
use edkm_store::Store;
use edkm_testkit::{assert_bitwise_equal, assert_close};

use crate::net::{Loss, Net};
use crate::{gpu, random};

/// Both sum in f32, in different orders, through some ten ops.
const TOLERANCE: f64 = 2e-5;

fn loss_and_gradients<D: EdkmDevice>(mut net: Net<D>, kind: Loss) -> (f32, BTreeMap<String, Vec<f32>>) {
    let store = Store::marshaling();
    let tape = StoreTape::new(store, Gradients::leaky());
    let failure = tape.failure();
    let loss = match net.loss(kind, tape) {
        Ok(loss) => loss,
        Err(device) => panic!("{:?} {device}", failure.take()),
    };
    let value = loss.as_vec()[0];
    let gradients = backward(loss).unwrap();
    (value, net.gradients(gradients))
}

fn compare(seq: usize, spec: Option<Spec>, channel_scale: ChannelScale, kind: Loss) {
    let gpu = gpu();
    agree(
        &format!("{spec:?}"),
        &|| Net::new(&Cpu::default(), seq, spec, channel_scale),
        &|| Net::new(&gpu, seq, spec, channel_scale),
        kind,
    );
}

/// The same losses and gradients of models on CPU and GPU.
fn agree(what: &str, on_cpu: &dyn Fn() -> Net<Cpu>, on_gpu: &dyn Fn() -> Net<Cuda>, kind: Loss) {
    let (want_loss, want) = loss_and_gradients(on_cpu(), kind);
    let (loss, got) = loss_and_gradients(on_gpu(), kind);
    assert_close("loss", &[loss], &[want_loss], TOLERANCE);
    for (name, want) in &want {
        assert!(
            want.iter().any(|&g| g != 0.0),
            "{name}: a gradient of zeros shows nothing"
        );
        assert_close(&format!("{name}, {what}"), &got[name], want, TOLERANCE);
    }
    // the same bits when it is done again
    let (again, repeated) = loss_and_gradients(on_gpu(), kind);
    assert_eq!(loss.to_bits(), again.to_bits());
    for (name, got) in &got {
        assert_bitwise_equal(name, &repeated[name], got);
    }
}

#[test]
fn a_model_that_is_not_clustered() {
    // attention's output made again (few tokens), and saved (many)
    for seq in [3, 21] {
        for kind in [Loss::Text, Loss::Teacher] {
            compare(seq, None, ChannelScale::None, kind);
        }
    }
}

fn in_segments<D: EdkmDevice>(mut net: Net<D>, seq: usize, lengths: &[u32]) -> Net<D> {
    net.segments = Segments::new(seq, lengths);
    assert!(net.segments.is_some());
    net
}

/// One batch after the other, of texts of other lengths; with attention's output made again (few tokens), and saved.
#[test]
fn texts_that_share_a_sequence() {
    let gpu = gpu();
    for (seq, lengths) in [
        (3, &[1, 2, 3][..]),
        (21, &[5, 16, 20, 1]),
        (21, &[21, 7, 7, 7]),
        (90, &[70, 20, 1, 89]),
    ] {
        agree(
            &format!("{lengths:?}"),
            &|| in_segments(Net::new(&Cpu::default(), seq, None, ChannelScale::None), seq, lengths),
            &|| in_segments(Net::new(&gpu, seq, None, ChannelScale::None), seq, lengths),
            Loss::Text,
        );
    }
}

#[test]
fn clustered_models() {
    let spec = Spec::new(Bits::new(3).unwrap());
    let groups = Grouping::PerChannels(NonZeroUsize::new(5).unwrap());
    for kind in [Loss::Text, Loss::Teacher] {
        compare(5, Some(spec), ChannelScale::None, kind);
    }
    for spec in [
        spec.with_grouping(groups),
        spec.with_half(HalfKind::F16).with_keep_zero(KeepZero::Exact),
        spec.with_gradient(GradientMode::Implicit),
        spec.with_gradient(GradientMode::StraightThrough),
        spec.with_gradient(GradientMode::Implicit).with_grouping(groups),
        spec.with_vector(VectorLen::Two),
    ] {
        compare(5, Some(spec), ChannelScale::None, Loss::Text);
    }
    compare(5, Some(spec), ChannelScale::RootMeanSquare, Loss::Text);
}

/// A model of which the first palette of each matrix has lost all centroids but one: it is begun anew, on the host, and the others go on where they were.
fn with_lost_centroids<D: EdkmDevice>(device: &D, spec: Spec) -> Net<D> {
    let mut net = Net::new(device, 5, Some(spec), ChannelScale::None);
    assert!(net.loss(Loss::Text, NoneTape).is_ok());
    let Ok(()) = visit_clustered(&mut net, |weight| {
        let mut state = weight.clustering.state().expect("what the forward pass has reached");
        let mut centroids = state.last.as_slice().to_vec();
        centroids[..spec.clusters()].fill(0.01);
        state.last = Centroids::from_vec(centroids, spec.clusters(), 1).unwrap();
        // as of another weight
        state.fingerprint ^= 1;
        weight.clustering.restore(state);
        Ok::<(), Infallible>(())
    });
    net
}

#[test]
fn palettes_that_begin_anew() {
    let spec = Spec::new(Bits::new(2).unwrap());
    let groups = Grouping::PerChannels(NonZeroUsize::new(5).unwrap());
    let gpu = gpu();
    for spec in [spec, spec.with_grouping(groups)] {
        agree(
            &format!("{spec:?}"),
            &|| with_lost_centroids(&Cpu::default(), spec),
            &|| with_lost_centroids(&gpu, spec),
            Loss::Text,
        );
    }
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let dev = gpu();
    let mut numbers = random(1, 64);
    numbers[37] = f32::NAN;
    let weight: Matrix<Cuda> = dev.tensor_from_host(numbers, (8, 8)).unwrap();
    let x: Matrix<Cuda> = dev.tensor_from_host(random(2, 16), (2, 8)).unwrap();
    let tape = StoreTape::new(Store::memory(), Gradients::leaky());
    let failure = tape.failure();
    let clustering = dfdx_edkm::Clustering::default();
    let outcome = dfdx_edkm::ops::linear::linear(x.put_tape(tape), &weight, None, Some(&clustering));
    assert!(outcome.is_err());
    match failure.take() {
        Some(EdkmError::Cluster {
            source: ClusterError::NonFinite { index, .. },
            ..
        }) => assert_eq!(index, 37),
        other => panic!("{other:?}"),
    }
}

#[test]
fn heads_that_are_too_wide_are_refused() {
    let dev = gpu();
    // one tensor for all would be copied, by dfdx's own kernels
    let [q, k, v]: [Matrix<Cuda>; 3] =
        [1, 2, 3].map(|seed| dev.tensor_from_host(random(seed, 2 * 160), (2, 160)).unwrap());
    let dims = AttentionDims {
        batch: 1,
        seq: 2,
        heads: 1,
        kv_heads: 1,
        head_dim: 160,
        scale: 1.0,
    };
    let tape = StoreTape::new(Store::memory(), Gradients::leaky());
    let failure = tape.failure();
    assert!(attention(q.put_tape(tape), k.retaped(), v.retaped(), dims).is_err());
    let reason = failure.take().expect("a reason").to_string();
    assert!(reason.contains("128") && reason.contains("160"), "{reason}");
}
