use super::*;
use crate::testing::{assert_close, assert_same_for_any_pool, central_differences, random, wide};

const TOKENS: usize = 6;
const VOCABULARY: usize = 13;
const WEIGHTS: [f32; TOKENS] = [1.0, 0.0, 2.0, 0.5, 0.0, 1.5];
/// The second does not count, so it may be any number.
const TARGETS: [u32; TOKENS] = [3, u32::MAX, 12, 0, 7, 3];

fn lesson(teacher_share: f32, temperature: f32) -> Lesson<'static> {
    Lesson {
        targets: &TARGETS,
        token_weights: &WEIGHTS,
        teacher_share,
        temperature,
    }
}

/// Student of hidden size 4, teacher of hidden size 7.
fn inputs() -> [Vec<f32>; 4] {
    [
        random(1, TOKENS * 4),
        random(2, VOCABULARY * 4),
        random(3, TOKENS * 7),
        random(4, VOCABULARY * 7),
    ]
}

fn log_softmax(x: &[f64], w: &[f64], token: usize, temperature: f64) -> Vec<f64> {
    let hidden = x.len() / TOKENS;
    let x = &x[token * hidden..][..hidden];
    let logits: Vec<f64> = w
        .chunks_exact(hidden)
        .map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() / temperature)
        .collect();
    let lse = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
    logits.iter().map(|l| l - lse).collect()
}

fn reference(sx: &[f64], sw: &[f64], tx: &[f64], tw: &[f64], share: f64, temperature: f64) -> f64 {
    (0..TOKENS)
        .map(|n| {
            let (s, t) = (log_softmax(sx, sw, n, temperature), log_softmax(tx, tw, n, temperature));
            let divergence: f64 = s.iter().zip(&t).map(|(s, t)| t.exp() * (t - s)).sum();
            let target = TARGETS[n] as usize;
            let cross_entropy = if WEIGHTS[n] > 0.0 { -s[target] } else { 0.0 };
            let loss = share * divergence + (1.0 - share) * cross_entropy;
            f64::from(WEIGHTS[n]) * temperature * temperature * loss
        })
        .sum()
}

#[test]
fn agrees_with_the_definition_and_its_differences() {
    let [sx, sw, tx, tw] = inputs();
    for (share, temperature) in [(1.0f32, 1.0f32), (1.0, 2.0), (0.25, 1.0), (0.5, 0.5), (0.0, 1.0)] {
        let (student, teacher) = (Projection { x: &sx, w: &sw }, Projection { x: &tx, w: &tw });
        let (sums, kept) = forward(student, teacher, lesson(share, temperature));
        let total = lesson(share, temperature).total(&sums);
        let loss = |sx: &[f64], sw: &[f64]| {
            reference(sx, sw, &wide(&tx), &wide(&tw), f64::from(share), f64::from(temperature))
        };
        let expected = loss(&wide(&sx), &wide(&sw));
        assert!(
            (total - expected).abs() <= 2e-6 * expected,
            "{sums:?}: {total}, expected {expected}"
        );
        assert_eq!(sums.weight, 5.0);
        // the teacher on the text is a student that learns the text alone
        let as_student = reference(
            &wide(&tx),
            &wide(&tw),
            &wide(&tx),
            &wide(&tw),
            0.0,
            f64::from(temperature),
        );
        let by_teacher = f64::from(temperature).powi(2) * sums.teacher_cross_entropy;
        assert!(
            (by_teacher - as_student).abs() <= 2e-6 * as_student,
            "{sums:?}, expected {as_student}"
        );

        let (mut to_x, mut to_w) = (vec![1.0; sx.len()], vec![-1.0; sw.len()]);
        backward(
            student,
            teacher,
            lesson(share, temperature),
            kept,
            1.0,
            &mut to_x,
            &mut to_w,
        );
        let by_x = central_differences(&wide(&sx), |sx| loss(sx, &wide(&sw)));
        let by_w = central_differences(&wide(&sw), |sw| loss(&wide(&sx), sw));
        assert_close("x", &to_x, &by_x.iter().map(|g| g + 1.0).collect::<Vec<_>>(), 2e-6);
        assert_close("w", &to_w, &by_w.iter().map(|g| g - 1.0).collect::<Vec<_>>(), 2e-6);
    }
}

#[test]
fn a_student_like_its_teacher_has_no_loss() {
    let [sx, sw, ..] = inputs();
    let both = Projection { x: &sx, w: &sw };
    let (sums, kept) = forward(both, both, lesson(1.0, 1.5));
    assert!(sums.divergence.abs() <= 1e-6, "{sums:?}");
    assert_eq!(sums.cross_entropy, sums.teacher_cross_entropy);
    let (mut to_x, mut to_w) = (vec![0.0; sx.len()], vec![0.0; sw.len()]);
    backward(both, both, lesson(1.0, 1.5), kept, 1.0, &mut to_x, &mut to_w);
    assert!(to_x.iter().chain(&to_w).all(|&g| g == 0.0));
}

#[test]
fn chunks_do_not_change_sums_and_gradients() {
    // More logits than one chunk holds: two and a bit chunks.
    let (tokens, hidden, vocabulary) = (40, 2, 1 << 20);
    let [sx, tx] = [1, 2].map(|seed| random(seed, tokens * hidden));
    let [sw, tw] = [3, 4].map(|seed| random(seed, vocabulary * hidden));
    let weights: Vec<f32> = random(5, tokens).iter().map(|w| w + 1.5).collect();
    let targets: Vec<u32> = (0..tokens as u32).map(|n| n * 12).collect();
    let of = |range: std::ops::Range<usize>, share: f32, way: Way, to_x: &mut [f32], to_w: &mut [f32]| {
        let lesson = Lesson {
            targets: &targets[range.clone()],
            token_weights: &weights[range.clone()],
            teacher_share: share,
            temperature: 2.0,
        };
        let range = range.start * hidden..range.end * hidden;
        let student = Projection {
            x: &sx[range.clone()],
            w: &sw,
        };
        let teacher = Projection {
            x: &tx[range.clone()],
            w: &tw,
        };
        let (sums, kept) = match way {
            Way::Again => forward(student, teacher, lesson),
            Way::AheadUntil(weight) => forward_ahead(student, teacher, lesson, &|sums| {
                (sums.weight < weight).then_some(share)
            }),
            Way::OtherFrom(weight) => forward_ahead(student, teacher, lesson, &|sums| {
                Some(if sums.weight < weight { 1.0 - share } else { share })
            }),
        };
        let is_ahead = matches!(way, Way::AheadUntil(f64::INFINITY));
        assert_eq!(
            (kept.ahead.is_some(), kept.last.student.is_empty()),
            (is_ahead, is_ahead)
        );
        backward(student, teacher, lesson, kept, 0.5, &mut to_x[range], to_w);
        lesson.total(&sums)
    };
    for share in [0.25, 0.0] {
        let whole = |way| {
            let (mut to_x, mut to_w) = (vec![0.0; sx.len()], vec![0.0; sw.len()]);
            (of(0..tokens, share, way, &mut to_x, &mut to_w), to_x, to_w)
        };
        let again = whole(Way::Again);
        // what was found ahead for nothing leaves no trace
        for way in [Way::AheadUntil(0.0), Way::AheadUntil(30.0), Way::OtherFrom(30.0)] {
            assert!(whole(way) == again, "another gradient");
        }
        let ahead = whole(Way::AheadUntil(f64::INFINITY));
        let (mut parts_x, mut parts_w) = (vec![0.0; sx.len()], vec![0.0; sw.len()]);
        // each in one chunk
        let parts = (0..tokens)
            .step_by(10)
            .map(|n| of(n..n + 10, share, Way::Again, &mut parts_x, &mut parts_w));
        let parts: f64 = parts.sum();
        assert_eq!(again.0, ahead.0);
        for (whole, to_x, to_w) in [again, ahead] {
            assert!((whole - parts).abs() <= 1e-6 * parts, "{whole} and {parts}");
            assert_close("x", &to_x, &wide(&parts_x), 2e-6);
            assert_close("w", &to_w, &wide(&parts_w), 2e-6);
        }
    }
}

/// How gradients are found.
#[derive(Clone, Copy)]
enum Way {
    /// In the backward pass.
    Again,
    /// With the losses, as long as the weights of the tokens come to less.
    AheadUntil(f64),
    /// With the losses, of another share as long as the weights of the tokens come to less.
    OtherFrom(f64),
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (tokens, vocabulary) = (70, 900);
    let (sx, sw) = (random(1, tokens * 32), random(2, vocabulary * 32));
    let (tx, tw) = (random(3, tokens * 48), random(4, vocabulary * 48));
    let weights = random(5, tokens);
    let targets: Vec<u32> = (0..tokens as u32).map(|n| n * 12).collect();
    let lesson = Lesson {
        targets: &targets,
        token_weights: &weights,
        teacher_share: 0.5,
        temperature: 2.0,
    };
    let (student, teacher) = (Projection { x: &sx, w: &sw }, Projection { x: &tx, w: &tw });
    assert_same_for_any_pool("distillation", || {
        let (_, kept) = forward(student, teacher, lesson);
        let lse = kept.lse.clone();
        let (mut to_x, mut to_w) = (vec![0.0; sx.len()], vec![0.0; sw.len()]);
        backward(student, teacher, lesson, kept, 0.1, &mut to_x, &mut to_w);
        to_x.extend(to_w);
        to_x.extend(lse.student);
        to_x
    });
}
