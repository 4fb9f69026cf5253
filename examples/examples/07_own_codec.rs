//! A codec of one's own for the store's compress layer: what ReLU leaves is half zeros, so a bit for each number and the others as they are.
//!
//!     cargo run -p edkm-examples --example 07_own_codec

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::ClusteredLinear;
use dfdx_edkm::{backward, StoreTape};
use edkm_store::{Backend, Codec, CodecError, Store};

struct Zeros;

impl Codec for Zeros {
    fn name(&self) -> &'static str {
        "zeros"
    }

    fn encode(&self, bytes: &[u8], element_size: usize) -> Option<Vec<u8>> {
        let elements = bytes.chunks_exact(element_size);
        if !elements.remainder().is_empty() {
            return None;
        }
        let mut encoded = vec![0; elements.len().div_ceil(8)];
        for (i, element) in elements.enumerate() {
            if element.iter().any(|&byte| byte != 0) {
                encoded[i / 8] |= 1 << (i % 8);
                encoded.extend_from_slice(element);
            }
        }
        (encoded.len() < bytes.len()).then_some(encoded)
    }

    fn decode(&self, encoded: &[u8], element_size: usize, out: &mut [u8]) -> Result<(), CodecError> {
        let short = || CodecError("fewer bytes than the bits say".to_owned());
        let bits = (out.len() / element_size).div_ceil(8);
        let (bits, mut rest) = encoded.split_at_checked(bits).ok_or_else(short)?;
        for (i, element) in out.chunks_exact_mut(element_size).enumerate() {
            element.fill(0);
            if bits[i / 8] & 1 << (i % 8) != 0 {
                let (value, after) = rest.split_at_checked(element_size).ok_or_else(short)?;
                element.copy_from_slice(value);
                rest = after;
            }
        }
        match rest {
            [] => Ok(()),
            _ => Err(CodecError(format!("{} bytes too many", rest.len()))),
        }
    }
}

type Model = (ClusteredLinear<64, 512>, ReLU, ClusteredLinear<512, 64>);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let model = dev.build_module::<Model, f32>();
    let x: Tensor<Rank2<64, 64>, f32, _> = dev.sample_normal();
    let mut gradients = Vec::new();
    for (name, store) in [
        ("marshal", Store::builder().marshal().build()?),
        ("marshal, zeros", Store::builder().marshal().compress(Zeros).build()?),
    ] {
        let tape = StoreTape::new(store.clone(), model.alloc_grads());
        let grads = backward(model.forward(x.clone().put_tape(tape)).square().mean())?;
        gradients.push(grads.get(&model.0.weight).as_vec());
        println!("{name:15} kept {} bytes", store.report().peak_bytes);
    }
    assert_eq!(gradients[0], gradients[1]);
    println!("the gradients are the same, bit for bit");
    Ok(())
}
