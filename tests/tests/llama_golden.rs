//! The model against float64: logits, loss and the gradient of every parameter.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;

use dfdx::prelude::*;
use dfdx_edkm::ops::cross_entropy::Targets;
use dfdx_edkm::{backward, EdkmDevice, ParameterKind, ParameterVisitor, Parameters, StoreTape};
use edkm_llama::model::{DynamicLlama, Recompute, Tokens};
use edkm_store::Store;
use edkm_testkit::golden::{golden_files, Folder, Golden};
use edkm_testkit::tolerance::{assert_bitwise_equal, assert_close};

/// Gradients by parameter name.
struct Collect<'a, D: EdkmDevice> {
    gradients: &'a mut Gradients<f32, D>,
    found: BTreeMap<String, Vec<f32>>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Collect<'_, D> {
    type Error = Infallible;
    fn visit<S: Shape>(
        &mut self,
        name: &str,
        _: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), Infallible> {
        let gradient = self.gradients.get_or_alloc_mut(parameter).unwrap();
        let gradient = parameter.device().buffer_to_vec(gradient).unwrap();
        self.found.insert(name.to_owned(), gradient);
        Ok(())
    }
}

fn loss_and_gradients<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    tokens: &Tokens,
    targets: &Targets,
    store: Store,
) -> (f32, BTreeMap<String, Vec<f32>>) {
    let tape = StoreTape::new(store, Gradients::leaky());
    let loss = model.try_loss(tokens, targets.clone(), tape).unwrap();
    let value = loss.as_vec()[0];
    let mut gradients = backward(loss).unwrap();
    let mut collect = Collect {
        gradients: &mut gradients,
        found: BTreeMap::new(),
    };
    let Ok(()) = model.visit_parameters("", &mut collect);
    (value, collect.found)
}

fn check<D: EdkmDevice>(golden: &Golden, model_dir: &Path, device: &D) {
    let mut model: DynamicLlama<D> = DynamicLlama::open(model_dir, device).unwrap();
    let [batch, ids_per_row] = golden.shape("input_ids_i64")[..] else {
        panic!("ids are [batch, seq + 1]")
    };
    let seq = ids_per_row - 1;
    let ids = golden.i64s("input_ids_i64");
    let rows = || ids.chunks_exact(ids_per_row);
    let inputs: Vec<u32> = rows().flat_map(|row| &row[..seq]).map(|&id| id as u32).collect();
    let next: Vec<u32> = rows().flat_map(|row| &row[1..]).map(|&id| id as u32).collect();
    let tokens = Tokens {
        ids: inputs.into(),
        batch,
        segments: None,
    };
    let targets = Targets {
        weights: vec![1.0; next.len()].into(),
        ids: next.into(),
    };

    let logits = model.try_logits(&tokens, NoneTape).unwrap().as_vec();
    let vocabulary = logits.len() / (batch * seq);
    let want: Vec<f32> = {
        let all = golden.f32s("logits_f32");
        let positions = golden.shape("logits_f32")[1];
        all.chunks_exact(positions * vocabulary)
            .flat_map(|row| row[..seq * vocabulary].to_vec())
            .collect()
    };
    let worst = logits
        .iter()
        .zip(&want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0f32, |m, e| if e > m || e.is_nan() { e } else { m });
    // absolute, in nats: the bar that the project sets itself
    assert!(worst <= 1e-3, "logits differ by {worst}");

    let (loss, gradients) = loss_and_gradients(&mut model, &tokens, &targets, Store::marshaling());
    let want_loss = golden.f64s("loss_f64")[0];
    assert!(
        (f64::from(loss) / want_loss - 1.0).abs() <= 1e-5,
        "loss {loss}, float64 says {want_loss}"
    );
    for (name, gradient) in &gradients {
        let want = golden.f32s(&format!("grad.{name}"));
        assert!(
            want.iter().any(|&g| g != 0.0),
            "{name}: a reference gradient of zeros shows nothing"
        );
        assert_close(name, gradient, &want, 1e-3);
    }
    let expected = golden.names().iter().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(gradients.len(), expected);

    // the same bits when layers or their attention are run again
    for recompute in [Recompute::Attention, Recompute::Layers] {
        model.recompute = recompute;
        let (again, recomputed) = loss_and_gradients(&mut model, &tokens, &targets, Store::memory());
        assert_eq!(loss.to_bits(), again.to_bits());
        for (name, gradient) in &gradients {
            assert_bitwise_equal(name, &recomputed[name], gradient);
        }
    }
}

fn check_all<D: EdkmDevice>(device: &D) {
    for path in golden_files("llama_") {
        let golden = Golden::read(&path);
        let name = golden.metadata("model").expect("the file names its model");
        if let Some(model_dir) = Folder::Models.locate_in(&name) {
            check(&golden, &model_dir, device);
        }
    }
}

#[test]
fn logits_loss_and_gradients_agree_with_float64() {
    check_all(&Cpu::default());
}

#[cfg(feature = "cuda")]
#[test]
fn on_a_gpu_they_do_too() {
    check_all(&dfdx_edkm::device::open_gpu(0, 0).expect("a GPU"));
}
