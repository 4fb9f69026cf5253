//! What a model learns of another: hidden states, predictions, and how far either is believed.

use dfdx::prelude::*;
use dfdx_edkm::ops::cross_entropy::{cross_entropy, Targets};
use dfdx_edkm::ops::distillation::{distillation, Taught, Teacher};
use dfdx_edkm::ops::hidden_distance::{add_distances, hidden_distance};
use dfdx_edkm::ops::Matrix;
use dfdx_edkm::{backward, StoreTape};
use edkm_store::{Backend, Store};
use edkm_testkit::{assert_bitwise_equal, assert_close};

const TOKENS: usize = 5;
const HIDDEN: usize = 6;
const VOCABULARY: usize = 11;
const IDS: [u32; TOKENS] = [3, 10, 0, 7, 3];

fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 37 + seed * 101) % 64) as f32 / 32.0 - 1.0)
        .collect()
}

fn matrix(dev: &Cpu, seed: usize, shape: (usize, usize)) -> Matrix<Cpu> {
    dev.tensor_from_vec(numbers(seed, shape.0 * shape.1), shape)
}

fn tape(store: &Store) -> StoreTape<f32, Cpu> {
    StoreTape::new(store.clone(), Gradients::leaky())
}

#[test]
fn hidden_states_are_drawn_to_the_teachers() {
    let dev = Cpu::default();
    let mut states = numbers(2, TOKENS * HIDDEN);
    // each token counts alike, however large its state is
    states[..HIDDEN].iter_mut().for_each(|t| *t *= 100.0);
    let (x, teacher) = (
        matrix(&dev, 1, (TOKENS, HIDDEN)),
        dev.tensor_from_vec(states, (TOKENS, HIDDEN)),
    );
    let wide = |tensor: &Matrix<Cpu>| -> Vec<f64> { tensor.as_vec().iter().map(|&x| x.into()).collect() };
    let (wx, wt) = (wide(&x), wide(&teacher));
    let (mut expected, mut by_x) = (0.0f64, Vec::new());
    for (x, t) in wx.chunks(HIDDEN).zip(wt.chunks(HIDDEN)) {
        let size = TOKENS as f64 * t.iter().map(|t| t * t).sum::<f64>();
        expected += x
            .iter()
            .zip(t)
            .map(|(x, t)| 0.5 * (x - t) * (x - t) / size)
            .sum::<f64>();
        // the loss is sum(x) - 2 distance - 2 distance: the distance's gradient comes besides that of what x goes on to
        by_x.extend(x.iter().zip(t).map(|(x, t)| 1.0 - 4.0 * (x - t) / size));
    }
    for store in [Store::memory(), Store::marshaling()] {
        let (out, distance) = hidden_distance(x.clone().put_tape(tape(&store)), teacher.clone(), 0.5).unwrap();
        assert_eq!(out.as_vec(), x.as_vec());
        assert_close("distance", &[distance.array()], &[expected], 1e-6);
        assert_eq!(store.report().held_bytes, (TOKENS * HIDDEN * 4) as u64);
        let (sum, tape) = out.sum::<Rank0, _>().split_tape();
        let value = sum.array();
        let loss = add_distances(sum.put_tape(tape), &[distance.clone(), distance], -2.0).unwrap();
        assert_close("loss", &[loss.array()], &[f64::from(value) - 4.0 * expected], 1e-6);
        let gradients = backward(loss).unwrap();
        assert_close("gradient", &gradients.get(&x).as_vec(), &by_x, 1e-6);
        assert_eq!(store.report().held_bytes, 0);
    }
}

#[test]
fn a_teacher_of_zeros_has_no_distance_and_one_of_another_shape_is_refused() {
    let dev = Cpu::default();
    let x = matrix(&dev, 1, (TOKENS, HIDDEN));
    let (_, distance) = hidden_distance(x.clone(), dev.zeros_like(&x), 0.5).unwrap();
    assert_eq!(distance.array(), 0.0);
    let tape = tape(&Store::memory());
    let failure = tape.failure();
    assert!(hidden_distance(x.put_tape(tape), matrix(&dev, 2, (TOKENS, HIDDEN + 1)), 0.5).is_err());
    let reason = failure.take().expect("a reason").to_string();
    assert!(
        reason.contains("hidden_distance") && reason.contains("(5, 7)"),
        "{reason}"
    );
}

/// Loss, gradient of x, and trust, of a student whose logits are `times` the right answer's.
fn taught(times: f32, teacher_times: f32, fade: f32) -> (f32, Vec<f32>, f32) {
    let dev = Cpu::default();
    let (x, head) = right(&dev, times);
    let (hidden, teacher_head) = right(&dev, teacher_times);
    let teacher = Teacher {
        hidden,
        head: teacher_head,
        temperature: 1.0,
        share: 0.75,
        fade,
    };
    let store = Store::memory();
    let x_taped = x.clone().put_tape(tape(&store));
    let Taught {
        loss,
        cross_entropy,
        trust,
    } = distillation(x_taped, &head, None, teacher, targets()).unwrap();
    assert!((cross_entropy - cross_entropy_of(times.into())).abs() < 1e-6);
    let value = loss.array();
    (value, backward(loss).unwrap().get(&x).as_vec(), trust)
}

/// Hidden states and a head that give the target's logit this value, and all others 0.
fn right(dev: &Cpu, times: f32) -> (Matrix<Cpu>, Matrix<Cpu>) {
    let mut x = vec![0.0; TOKENS * VOCABULARY];
    for (row, &id) in x.chunks_mut(VOCABULARY).zip(&IDS) {
        row[id as usize] = times;
    }
    let mut head = vec![0.0; VOCABULARY * VOCABULARY];
    (0..VOCABULARY).for_each(|i| head[i * VOCABULARY + i] = 1.0);
    (
        dev.tensor_from_vec(x, (TOKENS, VOCABULARY)),
        dev.tensor_from_vec(head, (VOCABULARY, VOCABULARY)),
    )
}

fn targets() -> Targets {
    Targets {
        ids: IDS.to_vec().into(),
        weights: vec![1.0; TOKENS].into(),
    }
}

/// Nats a token.
fn cross_entropy_of(times: f64) -> f64 {
    (times.exp() + (VOCABULARY - 1) as f64).ln() - times
}

#[test]
fn a_teacher_is_believed_until_the_student_is_better() {
    // a better teacher, and one that is as good
    for teacher in [2.0, 1.0] {
        let (believed, gradient, trust) = taught(1.0, teacher, 0.1);
        let (always, same, _) = taught(1.0, teacher, f32::INFINITY);
        assert_eq!((trust, believed), (1.0, always));
        assert_bitwise_equal("gradient", &gradient, &same);
    }
    // halfway
    let ahead = cross_entropy_of(1.0) - cross_entropy_of(1.2);
    let (_, _, trust) = taught(1.2, 1.0, (2.0 * ahead) as f32);
    assert_close("trust", &[trust], &[0.5], 1e-5);
    assert_eq!(taught(1.2, 1.0, f32::INFINITY).2, 1.0);
    // and not at all: what is left is the text
    for fade in [(0.9 * ahead) as f32, 0.0] {
        let (value, gradient, trust) = taught(1.2, 1.0, fade);
        assert_eq!(trust, 0.0);
        let dev = Cpu::default();
        let (x, head) = right(&dev, 1.2);
        let store = Store::memory();
        let text = cross_entropy(x.clone().put_tape(tape(&store)), &head, None, targets()).unwrap();
        assert_close("loss", &[value], &[f64::from(text.array())], 1e-6);
        let of_text: Vec<f64> = backward(text)
            .unwrap()
            .get(&x)
            .as_vec()
            .iter()
            .map(|&g| g.into())
            .collect();
        assert_close("gradient", &gradient, &of_text, 1e-6);
    }
}

/// More logits than are held at once: their gradients are found in the forward pass, or, where the teacher is not believed wholly, in the backward pass.
#[test]
fn many_logits_have_the_gradients_of_few() {
    const TOKENS: usize = 40;
    const WORDS: usize = 1 << 20;
    const PART: usize = 10;
    let dev = Cpu::default();
    let [x, teacher_x] = [3, 4].map(|seed| matrix(&dev, seed, (TOKENS, 2)).as_vec());
    let [head, teacher_head] = [5, 6].map(|seed| matrix(&dev, seed, (WORDS, 2)));
    // what the student says, of the first words: those behind them repeat these
    let words = head.as_vec()[..2 * 32].to_vec();
    let likeliest = |x: &[f32]| {
        let logit = |w: &[f32]| x[0] * w[0] + x[1] * w[1];
        let logits = words.chunks_exact(2).map(logit).enumerate();
        logits.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0 as u32
    };
    let ids: Vec<u32> = x.chunks_exact(2).map(likeliest).collect();
    // gradients of x and of the head, of the tokens in a range
    let of = |range: std::ops::Range<usize>, taught: Option<(f32, f32)>| {
        let rows = |numbers: &[f32]| -> Matrix<Cpu> {
            dev.tensor_from_vec(numbers[2 * range.start..2 * range.end].to_vec(), (range.len(), 2))
        };
        let targets = Targets {
            ids: ids[range.clone()].into(),
            weights: vec![1.0; range.len()].into(),
        };
        let store = Store::memory();
        let x = rows(&x);
        let taped = x.clone().put_tape(tape(&store));
        let (loss, trust) = match taught {
            None => (cross_entropy(taped, &head, None, targets).unwrap(), 1.0),
            Some((share, fade)) => {
                let teacher = Teacher {
                    hidden: rows(&teacher_x),
                    head: teacher_head.clone(),
                    temperature: 1.0,
                    share,
                    fade,
                };
                let taught = distillation(taped, &head, None, teacher, targets).unwrap();
                (taught.loss, taught.trust)
            }
        };
        let gradients = backward(loss).unwrap();
        (gradients.get(&x).as_vec(), gradients.get(&head).as_vec(), trust)
    };
    for taught in [None, Some((0.75, f32::INFINITY))] {
        let (of_x, of_head, _) = of(0..TOKENS, taught);
        let (mut parts_x, mut parts_head) = (Vec::new(), vec![0.0; 2 * WORDS]);
        for first in (0..TOKENS).step_by(PART) {
            let (of_x, of_head, _) = of(first..first + PART, taught);
            let share = PART as f64 / TOKENS as f64;
            parts_x.extend(of_x.iter().map(|&g| share * f64::from(g)));
            parts_head
                .iter_mut()
                .zip(of_head)
                .for_each(|(sum, g)| *sum += share * f64::from(g));
        }
        assert_close("x", &of_x, &parts_x, 2e-6);
        assert_close("head", &of_head, &parts_head, 2e-6);
    }
    // not believed at all, the text is what is learned
    let (by_x, by_head, trust) = of(0..TOKENS, Some((0.75, 0.01)));
    let (of_x, of_head, _) = of(0..TOKENS, None);
    assert_eq!(trust, 0.0);
    let wide = |numbers: Vec<f32>| -> Vec<f64> { numbers.into_iter().map(f64::from).collect() };
    assert_close("x", &by_x, &wide(of_x), 2e-6);
    assert_close("head", &by_head, &wide(of_head), 2e-6);
    // believed by so much, it is as one that has a smaller share and is believed
    let (by_x, by_head, trust) = of(0..TOKENS, Some((0.75, 2.0)));
    assert!((0.1..0.9).contains(&trust), "{trust}");
    let (of_x, of_head, _) = of(0..TOKENS, Some((0.75 * trust, f32::INFINITY)));
    assert_close("x", &by_x, &wide(of_x), 2e-6);
    assert_close("head", &by_head, &wide(of_head), 2e-6);
}
