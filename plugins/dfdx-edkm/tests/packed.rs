//! Trained models with packed weights: they compute what the packed numbers say.

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::{ClusteredEmbedding, ClusteredLinear, RmsNorm, UnbiasedClusteredLinear};
use dfdx_edkm::nn::{IntoPacked, PackedEmbedding, PackedLinear};
use dfdx_edkm::{
    packed_file, visit_clustered, with_reason, ClusterError, Clustering, EdkmDevice, MatrixShape, PackError,
    PaletteDType, PaletteError, PalettizeError,
};
use edkm_testkit::assert_close;

type Net = (
    ClusteredLinear<8, 8>,
    Residual<(UnbiasedClusteredLinear<8, 8>, Tanh)>,
    Repeated<(ClusteredLinear<8, 8>, ReLU), 2>,
    GeneralizedResidual<RmsNorm<8>, Linear<8, 8>>,
    SplitInto<(UnbiasedLinear<8, 4>, ClusteredLinear<8, 4>)>,
);

/// The weight that a file would have, in place of the trained one.
fn rounded<R: Dim, C: Dim, D: EdkmDevice>(weight: &mut Tensor<(R, C), f32, D>, clustering: &Clustering) {
    let shape = *weight.shape();
    let matrix = MatrixShape::new(shape.0.size(), shape.1.size());
    let packed = clustering
        .palettize(&weight.as_vec(), matrix, PaletteDType::F16)
        .unwrap();
    *weight = weight.device().tensor_from_vec(packed.dequantize(), shape);
}

#[test]
fn a_composed_model_computes_what_its_file_says() {
    let dev = Cpu::default();
    let mut model = dev.build_module::<Net, f32>();
    let packed = model.clone().into_packed(PaletteDType::F16).unwrap();
    let written = packed_file(&mut model, PaletteDType::F16).unwrap();
    let mut matrices = 0;
    visit_clustered(&mut model, |_| {
        matrices += 1;
        Ok::<_, ()>(())
    })
    .unwrap();
    assert_eq!(matrices, 5);

    rounded(&mut model.0.weight, &model.0.clustering);
    rounded(&mut model.1 .0 .0.weight, &model.1 .0 .0.clustering);
    for (layer, _) in &mut model.2.modules {
        rounded(&mut layer.weight, &layer.clustering);
    }
    rounded(&mut model.4 .0 .1.weight, &model.4 .0 .1.clustering);
    let plain = |x: Tensor<Rank2<6, 8>, f32, Cpu>| {
        let linear = |w: &Tensor<(Const<8>, Const<8>), f32, Cpu>, x: Tensor<Rank2<6, 8>, f32, Cpu>| {
            x.matmul(w.clone().permute::<_, Axes2<1, 0>>())
        };
        let x = linear(&model.0.weight, x) + model.0.bias.clone().broadcast();
        let x = linear(&model.1 .0 .0.weight, x.clone()).tanh() + x;
        let x = model.2.modules.iter().fold(x, |x, (layer, _)| {
            (linear(&layer.weight, x) + layer.bias.clone().broadcast()).relu()
        });
        let x = model.3.forward(x);
        let last = &model.4 .0 .1;
        let right = x.clone().matmul(last.weight.clone().permute::<_, Axes2<1, 0>>()) + last.bias.clone().broadcast();
        (model.4 .0 .0.forward(x), right)
    };
    let x: Tensor<Rank2<6, 8>, f32, Cpu> = dev.sample_normal();
    let (left, right) = packed.forward(x.clone());
    let (want_left, want_right) = plain(x);
    assert_close("left", &left.as_vec(), &want_left.as_vec(), 1e-5);
    assert_close("right", &right.as_vec(), &want_right.as_vec(), 1e-5);
    assert_eq!(packed.0.weight().spec().bits, 3);
    assert_eq!(packed.0.bias(), Some(&*model.0.bias.as_vec()));
    assert_eq!(written.matrices.len(), 5);
    let of_file = &written.matrices["1.0.0.weight"];
    assert_eq!(of_file.dequantize(), packed.1 .0 .0.weight().dequantize());
    assert_eq!(of_file.dequantize(), model.1 .0 .0.weight.as_vec());
    let norm = &written.plain["3.f.weight"];
    assert_eq!((&*norm.shape, &*norm.numbers), (&[8][..], &[1.0; 8][..]));
    let names: Vec<&str> = written.plain.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "0.bias",
            "2.0.0.bias",
            "2.1.0.bias",
            "3.f.weight",
            "3.r.bias",
            "3.r.weight",
            "4.0.0.weight",
            "4.0.1.bias"
        ]
    );
    assert_eq!(packed.1 .0 .0.bias(), None);
}

#[test]
fn ids_and_rows_of_all_ranks_are_taken() {
    let dev = Cpu::default();
    let mut table = dev.build_module::<ClusteredEmbedding<11, 8>, f32>();
    let linear = dev.build_module::<ClusteredLinear<8, 3>, f32>();
    let packed = (table.clone(), linear).into_packed(PaletteDType::F16).unwrap();
    let ids: Tensor<Rank2<2, 3>, usize, Cpu> = dev.tensor([[1, 10, 0], [7, 7, 2]]);
    let y: Tensor<Rank3<2, 3, 3>, f32, Cpu> = packed.forward(ids.clone());
    let rows = packed.0.forward(ids);
    rounded(&mut table.weight, &table.clustering);
    let want = table.weight.as_vec();
    assert_eq!(rows.as_vec()[8..16], want[80..88]);
    // each row alone has the same bits
    let one: Tensor<Rank1<3>, f32, Cpu> = packed.1.forward(dev.tensor(rows.array()[1][2]));
    assert_eq!(one.array(), y.array()[1][2]);
    let none = packed.0.forward(dev.tensor_from_vec(Vec::new(), (0usize,)));
    assert_eq!(*packed.1.forward(none).shape(), (0, Const::<3>));
    let empty = dfdx_edkm::nn::ClusteredLinear::<usize, usize, f32, Cpu> {
        weight: dev.zeros_like(&(0, 4)),
        bias: dev.zeros_like(&(0,)),
        clustering: Clustering::default(),
    };
    assert!(empty.into_packed(PaletteDType::F16).is_err());
}

#[test]
fn what_does_not_fit_is_named() {
    let dev = Cpu::default();
    let mut model = dev.build_module::<Net, f32>();
    let mut values = model.2.modules[1].0.weight.as_vec();
    values[9] = f32::NAN;
    model.2.modules[1].0.weight.copy_from(&values);
    let of_file = packed_file(&mut model, PaletteDType::F16).unwrap_err();
    let error = model.into_packed(PaletteDType::F16).unwrap_err();
    // with a NaN inside, which equals nothing
    assert_eq!(error.to_string(), of_file.to_string());
    assert_eq!(error.name, "2.1.0.weight");
    assert!(matches!(
        error.source,
        PalettizeError::Cluster(ClusterError::NonFinite { .. })
    ));
    assert!(error.to_string().starts_with("2.1.0.weight: "), "{error}");

    let layer = dev.build_module::<ClusteredLinear<8, 4>, f32>();
    let packed = layer.into_packed(PaletteDType::F16).unwrap();
    let weight = packed.weight().clone();
    assert!(matches!(
        PackedLinear::new(8usize, 5usize, weight.clone(), None).unwrap_err(),
        PaletteError::Length {
            expected: 5,
            got: 4,
            ..
        }
    ));
    assert!(PackedLinear::new(7usize, 4usize, weight.clone(), None).is_err());
    assert!(PackedLinear::new(8usize, 4usize, weight.clone(), Some(vec![0.0; 3])).is_err());
    assert!(PackedEmbedding::new(3usize, 8usize, weight.clone()).is_err());
    let run_time = PackedLinear::new(8usize, 4usize, weight.clone(), None).unwrap();
    let x = dev.zeros_like(&(2usize, 7usize));
    let error = with_reason(|| run_time.try_forward(x)).1.unwrap();
    assert!(error.to_string().contains("inputs of 8 features, got 7"), "{error}");
    let table = PackedEmbedding::new(4usize, 8usize, weight).unwrap();
    let error = with_reason(|| table.try_forward(dev.tensor([1, 4]))).1.unwrap();
    assert!(error.to_string().contains("below 4"), "{error}");
    let _: fn(PackError) -> Box<dyn std::error::Error + Send + Sync> = |error| error.into();
}
