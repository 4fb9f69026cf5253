//! Products with rounded operands. In a program of its own: how a GPU multiplies is one choice for all that run on it.

#[path = "cuda/common.rs"]
mod common;
#[path = "cuda/net.rs"]
mod net;

use common::{gpu, gradient, random};
use dfdx::prelude::*;
use dfdx_edkm::device::{set_precision, Precision};
use dfdx_edkm::{backward, ChannelScale, StoreTape};
use edkm_cluster::Spec;
use edkm_store::Store;
use net::{Loss, Net};

#[test]
fn gradients_are_near_those_of_f32() {
    let dev = gpu();
    for (spec, loss) in [(None, Loss::Teacher), (Some(Spec::default()), Loss::Text)] {
        let gradients = |precision| {
            set_precision(&dev, precision).unwrap();
            let mut net = Net::new(&dev, 7, spec, ChannelScale::None);
            let tape = StoreTape::new(Store::memory(), Gradients::leaky());
            let gradients = backward(net.loss(loss, tape).unwrap()).unwrap();
            net.gradients(gradients)
        };
        let want = gradients(Precision::F32);
        for precision in [Precision::Tf32, Precision::F16] {
            for (name, got) in gradients(precision) {
                let want = &want[&name];
                let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                let size = norm(&mut want.iter().map(|&x| x.into()));
                let pairs = got.iter().zip(want);
                let error = norm(&mut pairs.map(|(&a, &b)| f64::from(a) - f64::from(b))) / size;
                // errors of 2^-10 in each of a few products in a row
                assert!(error < 1.0 / 128.0, "{precision:?}, {name}: {error}");
                assert!(error > 1e-5, "{precision:?}, {name}: nothing was rounded, {error}");
            }
        }
        assert_eq!(gradients(Precision::F32), want, "the same bits again");
    }
}
