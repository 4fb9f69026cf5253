//! Gradients behind a backward pass: those of what lies between are whole or gone, and never memory of another length.

use dfdx::prelude::*;
use dfdx_edkm::optim::{AdamW, AdamWConfig, StepError};
use dfdx_edkm::{
    backward, backward_by_parts, checkpoint, gradients_of,
    nn::builders::ClusteredLinear,
    ops::linear::{linear, linear_without_product},
    take_gradient, Clustering, EdkmError, ParameterKind, ParameterVisitor, Parameters, ParametersByPart,
    SaveForBackward, StoreTape,
};
use edkm_store::Store;
use edkm_testkit::{assert_bitwise_equal, assert_close, random};

type Layer = <ClusteredLinear<4, 4> as BuildOnDevice<Cpu, f32>>::Built;
type X<T = NoneTape> = Tensor<Rank2<4, 4>, f32, Cpu, T>;

fn layer() -> Layer {
    let mut layer = Cpu::default().build_module::<ClusteredLinear<4, 4>, f32>();
    layer.weight.copy_from(&random(1, 16));
    layer
}

fn x(seed: u64) -> X {
    Cpu::default().tensor(random(seed, 16))
}

fn store_tape(gradients: Gradients<f32, Cpu>) -> StoreTape<f32, Cpu> {
    StoreTape::new(Store::marshaling(), gradients)
}

/// As dfdx has them: d(mean y^2)/dy = 2 y / n.
#[test]
fn gradients_of_what_lies_between_are_whole_where_they_are_kept() {
    let layer = layer();
    let expected = |y: &X| y.as_vec().iter().map(|y| 2.0 * y / 16.0).collect::<Vec<_>>();
    // on dfdx's tape, on a store's, and behind a part that is run again
    let (y, tape) = layer.forward(x(2).leaky_trace()).split_tape();
    let gradients = y.clone().put_tape(tape).square().mean().backward();
    assert_bitwise_equal("dfdx's tape", &gradients.get(&y).as_vec(), &expected(&y));

    let (y, tape) = layer
        .forward(x(2).put_tape(store_tape(Gradients::leaky())))
        .split_tape();
    let gradients = backward(y.clone().put_tape(tape).square().mean()).unwrap();
    assert_bitwise_equal("a store's", &gradients.get(&y).as_vec(), &expected(&y));

    let (y, tape) = checkpoint(&layer, x(2).put_tape(store_tape(Gradients::leaky()))).split_tape();
    let gradients = backward(y.clone().put_tape(tape).square().mean()).unwrap();
    assert_bitwise_equal("run again", &gradients.get(&y).as_vec(), &expected(&y));
}

/// Two losses of one trunk, one after the other into the same gradients.
#[test]
fn a_second_pass_adds_to_what_lies_between() {
    let (layer, head) = (layer(), x(9));
    let run = |gradients: [Gradients<f32, Cpu>; 1]| {
        let [gradients] = gradients;
        let (y, tape) = layer.forward(x(2).put_tape(store_tape(gradients))).split_tape();
        let gradients = backward(y.clone().put_tape(tape).square().mean()).unwrap();
        let loss = y
            .clone()
            .put_tape(store_tape(gradients))
            .matmul(head.clone())
            .square()
            .mean();
        (y, backward(loss).unwrap())
    };
    let (y, gradients) = run([Gradients::leaky()]);
    let stock = {
        let loss = y.clone().leaky_trace().matmul(head.clone()).square().mean();
        loss.backward().get(&y).as_vec()
    };
    let first: Vec<f32> = y.as_vec().iter().map(|y| 2.0 * y / 16.0).collect();
    let expected: Vec<f32> = first.iter().zip(stock).map(|(a, b)| a + b).collect();
    assert_bitwise_equal("both", &gradients.get(&y).as_vec(), &expected);
}

#[test]
fn gradients_of_parameters_alone_accumulate_and_nothing_else_stays() {
    let mut layer = layer();
    let pass = |layer: &Layer, seed, gradients| {
        let y = layer.forward(x(seed).put_tape(store_tape(gradients)));
        backward(y.square().mean()).unwrap()
    };
    let mut known = layer.alloc_grads();
    let mut found = gradients_of(&mut layer);
    for seed in 2..5 {
        known = pass(&layer, seed, known);
        found = pass(&layer, seed, found);
    }
    let of = |gradients: &Gradients<f32, Cpu>| gradients.get(&layer.weight).as_vec();
    assert_bitwise_equal("the weight's", &of(&found), &of(&known));
    // what lies between is not there: it is made anew, of zeros
    let (y, tape) = layer.forward(x(2).put_tape(store_tape(found))).split_tape();
    let mut gradients = backward(y.clone().put_tape(tape).square().mean()).unwrap();
    gradients.try_alloc_for(&y).unwrap();
    assert_eq!(gradients.get(&y).as_vec(), [0.0; 16]);
}

/// A matrix of dfdx's and a layer of this crate's, which are used before and behind where their part begins.
#[derive(Clone)]
struct UsedBefore {
    matrix: X,
    layer: Layer,
    /// Which of the two is used before.
    stock: bool,
}

impl UsedBefore {
    fn loss(&self, gradients: Gradients<f32, Cpu>) -> Tensor<Rank0, f32, Cpu, StoreTape<f32, Cpu>> {
        let tape = store_tape(gradients);
        let before = match self.stock {
            true => x(2).put_tape(tape).matmul(self.matrix.clone()),
            false => self.layer.forward(x(2).put_tape(tape)),
        };
        let (before, mut tape) = before.split_tape();
        tape.begin_part(0);
        self.layer
            .forward(before.put_tape(tape))
            .matmul(self.matrix.clone())
            .square()
            .mean()
    }
}

impl Parameters<Cpu> for UsedBefore {
    fn visit_parameters<V: ParameterVisitor<Cpu>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        self.visit_part(0, prefix, visitor)
    }
}

impl ParametersByPart<Cpu> for UsedBefore {
    fn parts(&self) -> usize {
        1
    }

    fn visit_part<V: ParameterVisitor<Cpu>>(&mut self, _: usize, _: &str, visitor: &mut V) -> Result<(), V::Error> {
        visitor.visit("matrix", ParameterKind::Linear { clustering: None }, &mut self.matrix)?;
        self.layer.visit_parameters("layer.", visitor)
    }
}

#[test]
fn a_part_that_was_used_before_it_began_is_an_error() {
    for stock in [true, false] {
        let mut model = UsedBefore {
            matrix: x(3),
            layer: layer(),
            stock,
        };
        let mut adamw = AdamW::new(Cpu::default(), AdamWConfig::default());
        let gradients = gradients_of(&mut model);
        let loss = model.loss(gradients);
        let step = adamw.backward_and_step(&mut model, loss, 1e-3);
        assert!(
            matches!(step, Err(StepError::Backward(EdkmError::GradientTaken))),
            "{stock}: {step:?}"
        );
    }
}

#[test]
fn what_was_taken_is_zeros_behind_the_pass() {
    let mut model = UsedBefore {
        matrix: x(3),
        layer: layer(),
        stock: true,
    };
    let gradients = gradients_of(&mut model);
    let mut taken = Vec::new();
    let rest = backward_by_parts(model.loss(gradients), |_, gradients| {
        let weight = take_gradient(gradients, &model.layer.weight).unwrap();
        taken = weight.iter().copied().collect();
        Ok::<_, EdkmError>(())
    });
    let rest = rest.unwrap();
    assert!(taken.len() == 16 && taken.iter().any(|&g| g != 0.0));
    assert_eq!(rest.get(&model.layer.weight).as_vec(), [0.0; 16]);
    // not taken: both uses
    assert!(rest.get(&model.matrix).as_vec().iter().any(|&g| g != 0.0));
    // outside of a pass
    let mut rest = rest;
    assert_eq!(take_gradient(&mut rest, &model.matrix).unwrap().len(), 16);
    assert_eq!(rest.get(&model.matrix).as_vec(), [0.0; 16]);
}

/// Two names of one tensor.
struct Tied(Layer, Layer);

impl Parameters<Cpu> for Tied {
    fn visit_parameters<V: ParameterVisitor<Cpu>>(&mut self, _: &str, visitor: &mut V) -> Result<(), V::Error> {
        self.0.visit_parameters("a.", visitor)?;
        self.1.visit_parameters("b.", visitor)
    }
}

impl ParametersByPart<Cpu> for Tied {
    fn parts(&self) -> usize {
        1
    }

    fn visit_part<V: ParameterVisitor<Cpu>>(
        &mut self,
        _: usize,
        prefix: &str,
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        self.visit_parameters(prefix, visitor)
    }
}

#[test]
fn one_tensor_under_two_names_is_refused_before_anything_changes() {
    let layer = layer();
    let mut model = Tied(layer.clone(), layer.clone());
    let before = layer.weight.as_vec();
    let mut adamw = AdamW::new(Cpu::default(), AdamWConfig::default());
    let forward = |model: &Tied, gradients| {
        let y = model.1.forward(model.0.forward(x(2).put_tape(store_tape(gradients))));
        y.square().mean()
    };
    let is_refused = |step: Result<f64, StepError>| {
        let Err(StepError::SameTensor { first, second }) = step else {
            panic!("{step:?}")
        };
        assert_eq!((&first[..], &second[..]), ("a.weight", "b.weight"));
    };
    let leaves = gradients_of(&mut model);
    let mut gradients = backward(forward(&model, leaves)).unwrap();
    is_refused(adamw.step(&mut model, &mut gradients, 0.1, 1.0));
    let leaves = gradients_of(&mut model);
    let loss = forward(&model, leaves);
    is_refused(adamw.backward_and_step(&mut model, loss, 0.1));
    assert_bitwise_equal("the weight", &model.0.weight.as_vec(), &before);
}

#[test]
fn a_linear_layer_and_its_bias_have_the_gradients_of_their_definition() {
    const TOKENS: usize = 13;
    const INPUTS: usize = 24;
    const OUTPUTS: usize = 7;
    let dev = Cpu::default();
    let matrix = |seed, rows, columns| -> Tensor<(usize, usize), f32, Cpu> {
        dev.tensor_from_vec(random(seed, rows * columns), (rows, columns))
    };
    let (x, weight) = (matrix(1, TOKENS, INPUTS), matrix(2, OUTPUTS, INPUTS));
    let bias: Tensor<(usize,), f32, Cpu> = dev.tensor_from_vec(random(3, OUTPUTS), (OUTPUTS,));
    let upstream = matrix(4, TOKENS, OUTPUTS);
    let y = linear(
        x.clone().put_tape(store_tape(Gradients::leaky())),
        &weight,
        Some(&bias),
        None,
    );
    let y = y.unwrap();
    let out = y.as_vec();
    let gradients = backward((y * upstream.clone()).sum::<Rank0, _>()).unwrap();
    let [a, w, b, u] = [x.as_vec(), weight.as_vec(), bias.as_vec(), upstream.as_vec()];
    let sum = |n: usize, term: &dyn Fn(usize) -> (f32, f32)| -> f64 {
        (0..n).map(term).map(|(a, b)| f64::from(a) * f64::from(b)).sum()
    };
    let of = |rows: usize, columns: usize, f: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..rows * columns).map(|at| f(at / columns, at % columns)).collect()
    };
    let want = of(TOKENS, OUTPUTS, &|t, o| {
        f64::from(b[o]) + sum(INPUTS, &|i| (a[t * INPUTS + i], w[o * INPUTS + i]))
    });
    assert_close("out", &out, &want, 1e-6);
    let want = of(TOKENS, INPUTS, &|t, i| {
        sum(OUTPUTS, &|o| (u[t * OUTPUTS + o], w[o * INPUTS + i]))
    });
    assert_close("of x", &gradients.get(&x).as_vec(), &want, 1e-6);
    let want = of(OUTPUTS, INPUTS, &|o, i| {
        sum(TOKENS, &|t| (u[t * OUTPUTS + o], a[t * INPUTS + i]))
    });
    assert_close("of the weight", &gradients.get(&weight).as_vec(), &want, 1e-6);
    let want = of(OUTPUTS, 1, &|o, _| sum(TOKENS, &|t| (u[t * OUTPUTS + o], 1.0)));
    assert_close("of the bias", &gradients.get(&bias).as_vec(), &want, 1e-6);
}

#[test]
fn without_its_product_a_linear_layer_has_the_same_gradients() {
    let dev = Cpu::default();
    let matrix = |seed, rows, columns| -> Tensor<(usize, usize), f32, Cpu> {
        dev.tensor_from_vec(random(seed, rows * columns), (rows, columns))
    };
    let (x, weight, upstream) = (matrix(1, 5, 16), matrix(2, 8, 16), matrix(3, 5, 8));
    let bias: Tensor<(usize,), f32, Cpu> = dev.tensor_from_vec(random(4, 8), (8,));
    let clustering = Clustering::default();
    let both = [true, false].map(|is_made| {
        let on_tape = x.clone().put_tape(store_tape(Gradients::leaky()));
        let y = match is_made {
            true => linear(on_tape, &weight, Some(&bias), Some(&clustering)),
            false => linear_without_product(on_tape, &weight, Some(&bias), Some(&clustering)),
        };
        let y = y.unwrap();
        assert_eq!(y.as_vec() != [0.0; 40], is_made);
        let gradients = backward((y * upstream.clone()).sum::<Rank0, _>()).unwrap();
        let of_matrices = [&x, &weight].map(|matrix| gradients.get(matrix).as_vec());
        (of_matrices, gradients.get(&bias).as_vec())
    });
    assert_eq!(both[0], both[1]);
}
