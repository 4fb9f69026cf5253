//! The optimizer of any dfdx module beside that of models that say what their parameters are.

use dfdx::prelude::*;
use dfdx_edkm::optim::{AdamW, AdamWConfig, AdamWOptimizer, StepError};
use edkm_testkit::assert_bitwise_equal;

type Model = <(Linear<6, 4>, LayerNorm1D<4>) as BuildOnDevice<Cpu, f32>>::Built;

fn model() -> Model {
    Cpu::seed_from_u64(3).build_module::<(Linear<6, 4>, LayerNorm1D<4>), f32>()
}

fn gradients(model: &Model, x: f32) -> Gradients<f32, Cpu> {
    let x: Tensor<Rank2<3, 6>, f32, _> = Cpu::default().tensor([[x, 2.0, -1.0, 0.5, 0.0, 3.0]; 3]);
    // the scale of the norm has no gradient, which counts as zero
    let y = model.0.forward(x.traced(model.alloc_grads()));
    y.square().sum::<Rank0, _>().backward()
}

#[test]
fn it_clips_and_decays_as_a_step_does() {
    let config = AdamWConfig {
        clip_norm: 1e-3,
        weight_decay: 0.1,
        ..AdamWConfig::default()
    };
    let (mut by_step, mut by_update) = (model(), model());
    let mut adamw = AdamW::new(Cpu::default(), config);
    let mut optimizer = AdamWOptimizer::new(Cpu::default(), 1e-2, config);
    for _ in 0..3 {
        let mut of_step = gradients(&by_step, 1.0);
        adamw.step(&mut by_step, &mut of_step, 1e-2, 1.0).unwrap();
        let of_update = gradients(&by_update, 1.0);
        optimizer.update(&mut by_update, &of_update).unwrap();
    }
    let numbers = |model: &Model| {
        let (linear, norm) = model;
        [
            linear.weight.as_vec(),
            linear.bias.as_vec(),
            norm.gamma.as_vec(),
            norm.beta.as_vec(),
        ]
    };
    for (update, step) in numbers(&by_update).iter().zip(&numbers(&by_step)) {
        assert_bitwise_equal("parameter", update, step);
    }
    assert_eq!(optimizer.adamw.state().unwrap(), adamw.state().unwrap());
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut model = model();
    let before = model.0.weight.as_vec();
    let gradients = gradients(&model, f32::NAN);
    let mut optimizer = AdamWOptimizer::new(Cpu::default(), 1e-2, AdamWConfig::default());
    match optimizer.try_update(&mut model, &gradients) {
        Err(StepError::NotFinite { parameter }) => assert_eq!(parameter, "0.weight"),
        other => panic!("{other:?}"),
    }
    assert_eq!(model.0.weight.as_vec(), before);
    assert_eq!(optimizer.adamw.step_count(), 0);
}
