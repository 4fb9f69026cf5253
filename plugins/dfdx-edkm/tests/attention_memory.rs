//! Attention keeps no map of positions x positions.

use dfdx::prelude::*;
use dfdx_edkm::ops::attention::{attention, AttentionDims};
use dfdx_edkm::{backward, StoreTape};
use edkm_store::{Backend, Store};

#[test]
fn long_sequences_keep_little_more_than_q_k_v_and_the_output() {
    let (seq, heads, head_dim) = (4096, 8, 128);
    let dims = AttentionDims {
        batch: 1,
        seq,
        heads,
        kv_heads: heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
    };
    let dev = Cpu::default();
    let matrix = |seed: usize| {
        let numbers = (0..seq * heads * head_dim).map(|i| ((i * 7919 + seed) % 1021) as f32 / 1021.0 - 0.5);
        dev.tensor_from_vec(numbers.collect(), (seq, heads * head_dim))
    };
    let store = Store::marshaling();
    let q = matrix(1).put_tape(StoreTape::new(store.clone(), Gradients::leaky()));
    let out = attention(q, matrix(2).retaped(), matrix(3).retaped(), dims).unwrap();
    let one = (seq * heads * head_dim * 4) as u64;
    let kept = store.report().held_bytes;
    // q, k, v and the output, and one number a query and head
    assert_eq!(kept, 4 * one + (seq * heads * 4) as u64);
    assert!(kept as f64 <= 1.2 * 4.0 * one as f64);
    backward(out.mean()).unwrap();
    assert_eq!(store.report().held_bytes, 0);
}
