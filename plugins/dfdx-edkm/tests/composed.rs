//! Models that are composed as dfdx composes them, walked by the plugin's own visitor.

use std::convert::Infallible;

use dfdx::nn::modules::{
    RecursiveWalker, TensorCollection, TensorOptions, TensorVisitor, ViewTensorName, ViewTensorRef,
};
use dfdx::prelude::*;
use dfdx_edkm::nn::builders::{ClusteredEmbedding, ClusteredLinear, RmsNorm, UnbiasedClusteredLinear};
use dfdx_edkm::nn::IntoClustered;
use dfdx_edkm::optim::{AdamW, AdamWConfig};
use dfdx_edkm::{
    backward, clusterings_of, count_parameters, gradients_of, reset_clusterings, restore_clusterings, set_temperatures,
    visit_clustered, Bits, ChannelScale, Clustering, MatrixShape, ParameterKind, ParameterVisitor, Parameters, Spec,
    StoreTape, Temperature, VectorLen,
};
use edkm_store::Store;

type Net = (
    ClusteredLinear<8, 8>,
    Residual<(UnbiasedClusteredLinear<8, 8>, Tanh)>,
    Repeated<(Linear<8, 8>, ReLU), 2>,
    GeneralizedResidual<RmsNorm<8>, LayerNorm1D<8>>,
    SplitInto<(UnbiasedLinear<8, 4>, ClusteredLinear<8, 4>)>,
);

/// Names and lengths, from either walk.
#[derive(Default)]
struct Names(Vec<(String, usize)>);

impl ParameterVisitor<Cpu> for Names {
    type Error = Infallible;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        _: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, Cpu>,
    ) -> Result<(), Infallible> {
        self.0.push((name.to_owned(), parameter.shape().num_elements()));
        Ok(())
    }
}

impl TensorVisitor<f32, Cpu> for Names {
    type Viewer = (ViewTensorRef, ViewTensorName);
    type Err = CpuError;
    type E2 = f32;
    type D2 = Cpu;

    fn visit<S: Shape>(
        &mut self,
        _: TensorOptions<S, f32, Cpu>,
        (parameter, name): (&Tensor<S, f32, Cpu>, String),
    ) -> Result<Option<Tensor<S, f32, Cpu>>, CpuError> {
        self.0.push((name, parameter.shape().num_elements()));
        Ok(None)
    }
}

fn assert_walks_agree<M: TensorCollection<f32, Cpu> + Parameters<Cpu>>(mut model: M) {
    let (mut ours, mut dfdxs) = (Names::default(), Names::default());
    model.visit_parameters("", &mut ours).unwrap();
    let mut walker = RecursiveWalker {
        m: (&model, String::new()),
        f: &mut dfdxs,
    };
    M::iter_tensors(&mut walker).unwrap();
    assert!(!ours.0.is_empty());
    assert_eq!(ours.0, dfdxs.0);
}

#[test]
fn parameters_have_the_names_of_dfdxs_files() {
    let dev = Cpu::default();
    assert_walks_agree(dev.build_module::<Net, f32>());
    assert_walks_agree(dev.build_module::<(
        Embedding<8, 4>,
        ClusteredEmbedding<8, 4>,
        AddInto<(Linear<4, 4>, Linear<4, 4>)>,
    ), f32>());
}

#[test]
fn a_composed_model_is_trained_with_clipping_and_its_clustered_matrices_are_found() {
    let dev = Cpu::default();
    let mut model = dev.build_module::<Net, f32>();
    assert_eq!(count_parameters(&mut model), model.num_trainable_params());
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let mut adamw = AdamW::new(dev, AdamWConfig::default());
    let mut losses = Vec::new();
    for _ in 0..20 {
        let tape = StoreTape::new(Store::marshaling(), model.alloc_grads());
        let (a, b) = model.forward(x.clone().put_tape(tape));
        let loss = a.square().mean() + b.square().mean();
        losses.push(loss.array());
        let mut gradients = backward(loss).unwrap();
        adamw.step(&mut model, &mut gradients, 1e-2, 1.0).unwrap();
    }
    assert!(losses[19] < losses[0] / 2.0, "{losses:?}");
    let mut clustered = Vec::new();
    visit_clustered(&mut model, |matrix| {
        clustered.push(matrix.name.to_owned());
        Ok::<(), Infallible>(())
    })
    .unwrap();
    assert_eq!(clustered, ["0.weight", "1.0.0.weight", "4.0.1.weight"]);
}

#[test]
fn a_composed_model_is_clustered_whole_and_keeps_names_and_numbers() {
    type Plain = (
        Embedding<8, 8>,
        Residual<(UnbiasedLinear<8, 8>, Tanh)>,
        Repeated<(Linear<8, 8>, DropoutOneIn<2>), 2>,
        GeneralizedResidual<ClusteredLinear<8, 8>, LayerNorm1D<8>>,
        SplitInto<(UnbiasedLinear<8, 4>, Linear<8, 4>)>,
    );
    let dev = Cpu::default();
    let mut plain = dev.build_module::<Plain, f32>();
    let mut names = Names::default();
    plain.visit_parameters("", &mut names).unwrap();
    plain.1 .0 .0.weight = dev.zeros();

    let mut model = plain.into_clustered(Spec::new(Bits::new(2).unwrap()));
    let mut after = Names::default();
    model.visit_parameters("", &mut after).unwrap();
    assert_eq!(after.0, names.0);
    assert_eq!(model.1 .0 .0.weight.as_vec(), [0.0; 64]);
    let mut bits = Vec::new();
    visit_clustered(&mut model, |matrix| {
        bits.push((matrix.name.to_owned(), matrix.clustering.spec().bits.get()));
        Ok::<(), Infallible>(())
    })
    .unwrap();
    let of = |name: &str, bits| (name.to_owned(), bits);
    let want = [
        of("0.weight", 2),
        of("1.0.0.weight", 2),
        of("2.0.0.weight", 2),
        of("2.1.0.weight", 2),
        // it was clustered, to 3 bits
        of("3.f.weight", 3),
        of("4.0.0.weight", 2),
        of("4.0.1.weight", 2),
    ];
    assert_eq!(bits, want);
    // it runs
    model.1 .0 .0.weight.fill_with_ones();
    let _ = model.forward(dev.tensor([3usize, 1]));
}

/// What a step says that is refused.
fn refused<M: Parameters<Cpu>>(config: AdamWConfig, model: &mut M, rate: f64, scale: f64) -> String {
    let mut adamw = AdamW::new(Cpu::default(), config);
    let error = adamw.step(model, &mut Gradients::leaky(), rate, scale).unwrap_err();
    assert_eq!(adamw.step_count(), 0);
    error.to_string()
}

#[test]
fn a_step_that_cannot_be_made_changes_nothing() {
    let config = AdamWConfig::default();
    let mut model = Cpu::default().build_module::<Linear<4, 4>, f32>();
    let before = model.weight.as_vec();
    let mut says = |config, rate, scale| refused(config, &mut model, rate, scale);
    assert_eq!(says(config, f64::NAN, 1.0), "the learning rate is NaN");
    assert_eq!(says(config, 0.1, f64::INFINITY), "the scale of the gradients is inf");
    // finite, and infinite as f32
    assert_eq!(says(config, 1e39, 1.0), format!("the learning rate is {}", 1e39));
    for (what, config) in [
        (
            "first beta is 1",
            AdamWConfig {
                betas: [1.0, 0.9],
                ..config
            },
        ),
        (
            "second beta is NaN",
            AdamWConfig {
                betas: [0.9, f32::NAN],
                ..config
            },
        ),
        (
            "eps is inf",
            AdamWConfig {
                eps: f32::INFINITY,
                ..config
            },
        ),
        (
            "weight decay is NaN",
            AdamWConfig {
                weight_decay: f32::NAN,
                ..config
            },
        ),
    ] {
        assert_eq!(says(config, 0.1, 1.0), format!("the {what}"));
    }
    for clip_norm in [-1.0, f64::NAN] {
        let config = AdamWConfig { clip_norm, ..config };
        assert_eq!(says(config, 0.1, 1.0), format!("the norm to clip at is {clip_norm}"));
    }
    assert_eq!(model.weight.as_vec(), before);
}

#[test]
fn two_parameters_of_one_name_are_noticed() {
    type Layer = dfdx::nn::modules::Linear<4, 4, f32, Cpu>;
    struct Twice(Layer, Layer);
    impl Parameters<Cpu> for Twice {
        fn visit_parameters<V: ParameterVisitor<Cpu>>(
            &mut self,
            prefix: &str,
            visitor: &mut V,
        ) -> Result<(), V::Error> {
            self.0.visit_parameters(prefix, visitor)?;
            self.1.visit_parameters(prefix, visitor)
        }
    }
    let layer = || Cpu::default().build_module::<Linear<4, 4>, f32>();
    let said = refused(AdamWConfig::default(), &mut Twice(layer(), layer()), 0.1, 1.0);
    assert!(said.contains("two parameters have the name weight"), "{said}");
}

/// Losses of a layer that begins at zero, every weight of one palette.
fn losses_from_zeros(spec: Spec) -> Vec<f32> {
    let dev = Cpu::default();
    let mut plain = dev.build_module::<Linear<8, 4>, f32>();
    (plain.weight, plain.bias) = (dev.zeros(), dev.zeros());
    let mut model = (plain.into_clustered(spec),);
    let x: Tensor<Rank2<32, 8>, f32, _> = dev.sample_normal();
    let wanted: Tensor<Rank2<8, 4>, f32, _> = dev.sample_normal();
    let y = x.clone().matmul(wanted);
    let mut adamw = AdamW::new(dev, AdamWConfig::default());
    let losses = (0..100).map(|_| {
        let tape = StoreTape::new(Store::marshaling(), model.alloc_grads());
        let loss = mse_loss(model.forward(x.clone().put_tape(tape)), y.clone());
        let value = loss.array();
        adamw.step(&mut model, &mut backward(loss).unwrap(), 2e-2, 1.0).unwrap();
        value
    });
    losses.collect()
}

#[test]
fn a_layer_that_begins_at_zero_learns() {
    let spec = Spec::new(Bits::new(4).unwrap());
    let pairs = Spec {
        vector: VectorLen::new(2).unwrap(),
        ..spec
    };
    for spec in [spec, pairs] {
        let losses = losses_from_zeros(spec);
        assert!(losses[99] < 0.2 * losses[0], "{} {}", losses[0], losses[99]);
    }
}

/// Weights that were few values at first (another palette's) move apart, and so do their centroids.
#[test]
fn centroids_that_coincide_part_where_there_are_weights_for_them() {
    let shape = MatrixShape::new(16, 32);
    let noise = edkm_testkit::random(7, shape.rows * shape.cols);
    for values in [2, 3] {
        let clustering = Clustering::new(Spec::new(Bits::new(3).unwrap()));
        let few: Vec<f32> = noise
            .iter()
            .map(|x| (x * values as f32).floor() / values as f32)
            .collect();
        let distinct = |weight: &[f32]| clustering.cluster(weight, shape).unwrap().trajectory.last().distinct(0);
        let at_first = distinct(&few);
        assert!(at_first < 8, "{values}: {at_first}");
        let moved: Vec<f32> = few.iter().zip(&noise).map(|(few, x)| few + 0.3 * x).collect();
        assert_eq!(distinct(&moved), 8, "{values}");
        // where there are no more values it goes on as it was
        let shifted: Vec<f32> = moved.iter().map(|x| x * 1.01).collect();
        let before = clustering.state().unwrap();
        distinct(&shifted);
        assert_eq!(clustering.state().unwrap().start, before.last);
    }
}

#[test]
fn a_parameter_without_a_rate_is_frozen() {
    let dev = Cpu::default();
    let x: Tensor<Rank2<5, 8>, f32, _> = dev.sample_normal();
    let gradients_of_all = |model: &(dfdx::nn::modules::Linear<8, 8, f32, Cpu>,)| {
        let tape = StoreTape::new(Store::marshaling(), model.alloc_grads());
        backward(model.forward(x.clone().put_tape(tape)).square().mean()).unwrap()
    };
    let mut model = (dev.build_module::<Linear<8, 8>, f32>(),);
    let mut adamw = AdamW::new(dev.clone(), AdamWConfig::default());
    let mut gradients = gradients_of_all(&model);
    let norm = adamw.norm(&mut model, &mut gradients).unwrap();
    adamw.set_rate_factors([("0.bias".to_owned(), 0.0)].into());
    let before = (model.0.weight.as_vec(), model.0.bias.as_vec());
    let mut gradients = gradients_of_all(&model);
    let of_weight = gradients.get(&model.0.weight).as_vec();
    let of_weight: f64 = of_weight.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    let clipped = adamw.step(&mut model, &mut gradients, 1e-2, 1.0).unwrap();
    assert!(
        clipped < norm && (clipped - of_weight.sqrt()).abs() < 1e-5 * norm,
        "{clipped} {norm}"
    );
    assert!(model.0.weight.as_vec() != before.0 && model.0.bias.as_vec() == before.1);
    assert_eq!(adamw.moments().keys().collect::<Vec<_>>(), ["0.weight"]);

    adamw.set_rate_factors([("0.weigth".to_owned(), 0.5)].into());
    let mut gradients = gradients_of_all(&model);
    let error = adamw.step(&mut model, &mut gradients, 1e-2, 1.0).unwrap_err();
    assert!(error.to_string().contains("0.weigth"), "{error}");
}

#[test]
fn pooled_and_normalised_models_are_walked_and_converted() {
    let dev = Cpu::default();
    type Head = (
        AvgPoolGlobal,
        Linear<3, 8>,
        BatchNorm1D<8>,
        Reshape<Rank2<5, 8>>,
        UnbiasedLinear<8, 2>,
    );
    let model = dev.build_module::<Head, f32>();
    let mut model = model.into_clustered(Spec::new(Bits::new(2).unwrap()));
    let mut names = Names::default();
    let Ok(()) = model.visit_parameters("", &mut names);
    let names: Vec<&str> = names.0.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["1.weight", "1.bias", "2.scale", "2.bias", "4.weight"]);
    let images: Tensor<Rank4<5, 3, 4, 4>, f32, _> = dev.sample_normal();
    assert_eq!(model.forward(images).as_vec().len(), 10);
}

/// A step of training, so that centroids, temperatures and factors of rows are not those of a new model.
#[test]
fn a_model_goes_on_from_parameters_and_clusterings() {
    type Net = (ClusteredLinear<8, 16>, Tanh, Residual<UnbiasedClusteredLinear<16, 16>>);
    type Built = <Net as BuildOnDevice<Cpu, f32>>::Built;
    let dev = Cpu::default();
    let x: Tensor<Rank2<5, 8>, f32, _> = dev.sample_normal();
    let step = |model: &mut Built, adamw: &mut AdamW<Cpu>, temperature| {
        set_temperatures(model, Temperature::Relative(temperature));
        let tape = StoreTape::new(Store::marshaling(), gradients_of(model));
        let loss = model.forward(x.clone().put_tape(tape)).square().mean();
        adamw.step(model, &mut backward(loss).unwrap(), 1e-2, 1.0).unwrap();
    };
    let mut model = dev.build_module::<Net, f32>();
    model.0.clustering.set_channel_scale(ChannelScale::RootMeanSquare);
    model.0.clustering.set_spec(Spec::new(Bits::new(2).unwrap()));
    let mut adamw = AdamW::new(dev.clone(), AdamWConfig::default());
    (1..6).for_each(|at| step(&mut model, &mut adamw, 0.1 / f64::from(at)));

    let saved = serde_json::to_string(&clusterings_of(&mut model)).unwrap();
    let mut other = dev.build_module::<Net, f32>();
    other.0.weight = model.0.weight.clone();
    other.0.bias = model.0.bias.clone();
    other.2 .0.weight = model.2 .0.weight.clone();
    let want = model.forward(x.clone()).as_vec();
    assert_ne!(other.forward(x.clone()).as_vec(), want);
    restore_clusterings(&mut other, serde_json::from_str(&saved).unwrap()).unwrap();
    assert_eq!(other.forward(x.clone()).as_vec(), want);
    let mut of_other = AdamW::from_state(dev.clone(), adamw.state().unwrap()).unwrap();
    // not the same tensors any more
    other.0.weight = dev.tensor(model.0.weight.as_vec());
    other.0.bias = dev.tensor(model.0.bias.as_vec());
    other.2 .0.weight = dev.tensor(model.2 .0.weight.as_vec());
    step(&mut model, &mut adamw, 0.01);
    step(&mut other, &mut of_other, 0.01);
    assert_eq!(other.forward(x.clone()).as_vec(), model.forward(x.clone()).as_vec());

    let error = restore_clusterings(&mut other.0, clusterings_of(&mut model)).unwrap_err();
    assert!(error.to_string().contains("weight"), "{error}");
    reset_clusterings(&mut model);
    assert!(model.0.clustering.state().is_none() && model.2 .0.clustering.state().is_none());
}
