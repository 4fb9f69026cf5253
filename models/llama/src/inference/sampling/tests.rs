use super::*;
use proptest::prelude::*;

fn sampler(options: SamplingOptions) -> Sampler {
    Sampler::new(options).unwrap()
}

/// Everything left in.
fn open() -> SamplingOptions {
    SamplingOptions {
        temperature: 1.0,
        top_p: 1.0,
        ..SamplingOptions::default()
    }
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits
        .iter()
        .map(|&logit| (f64::from(logit) / temperature).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// How often each token comes, divided by the number of draws.
fn frequencies(options: SamplingOptions, logits: &[f32], draws: usize) -> Vec<f64> {
    let mut sampler = sampler(options);
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits, &[]).unwrap() as usize] += 1.0 / draws as f64;
    }
    counts
}

const LOGITS: [f32; 6] = [0.5, -1.0, 2.0, 1.5, f32::NEG_INFINITY, 0.0];

#[test]
fn frequencies_are_the_probabilities() {
    const DRAWS: usize = 40_000;
    for temperature in [0.5, 1.0, 2.0] {
        let want = softmax(&LOGITS, temperature);
        let got = frequencies(
            SamplingOptions {
                temperature: temperature as f32,
                ..open()
            },
            &LOGITS,
            DRAWS,
        );
        for (got, want) in got.iter().zip(&want) {
            // Five times the deviation of a frequency.
            let tolerance = 5.0 * (want * (1.0 - want) / DRAWS as f64).sqrt() + 1e-12;
            assert!((got - want).abs() <= tolerance, "{got} against {want}");
        }
    }
}

#[test]
fn top_k_and_top_p_leave_the_likeliest() {
    let left = |options| -> Vec<usize> {
        let frequencies = frequencies(options, &LOGITS, 4000);
        (0..LOGITS.len()).filter(|&token| frequencies[token] > 0.0).collect()
    };
    let top_k = |k| SamplingOptions {
        top_k: NonZeroUsize::new(k),
        ..open()
    };
    assert_eq!(left(top_k(1)), [2]);
    assert_eq!(left(top_k(3)), [0, 2, 3]);
    assert_eq!(left(top_k(100)), [0, 1, 2, 3, 5]);
    // Probabilities: 0.11, 0.03, 0.49, 0.30, 0, 0.07.
    let top_p = |top_p| SamplingOptions { top_p, ..open() };
    assert_eq!(left(top_p(0.3)), [2]);
    assert_eq!(left(top_p(0.6)), [2, 3]);
    assert_eq!(left(top_p(0.85)), [0, 2, 3]);
    let min_p = |min_p| SamplingOptions { min_p, ..open() };
    assert_eq!(left(min_p(1.0)), [2]);
    assert_eq!(left(min_p(0.5)), [2, 3]);
    assert_eq!(left(min_p(0.2)), [0, 2, 3]);
    assert_eq!(
        left(SamplingOptions {
            top_k: NonZeroUsize::new(2),
            ..top_p(0.99)
        }),
        [2, 3]
    );
}

#[test]
fn greedy_takes_the_likeliest_and_the_first_of_equals() {
    let mut greedy = sampler(SamplingOptions::greedy());
    assert_eq!(greedy.sample(&LOGITS, &[]).unwrap(), 2);
    assert_eq!(greedy.sample(&[1.0, 3.0, 3.0], &[]).unwrap(), 1);
    // A temperature so small that everything else underflows.
    let mut cold = sampler(SamplingOptions {
        temperature: f32::MIN_POSITIVE,
        ..open()
    });
    assert_eq!(cold.sample(&LOGITS, &[]).unwrap(), 2);
}

#[test]
fn a_penalty_falls_on_what_was_seen_once_each() {
    let mut greedy = sampler(SamplingOptions {
        repetition_penalty: 2.0,
        ..SamplingOptions::greedy()
    });
    // 3 / 2 is below 2, and so is -1 below -1.5 x nothing: only seen tokens change.
    assert_eq!(greedy.sample(&[3.0, 2.0, -1.0], &[0]).unwrap(), 1);
    assert_eq!(greedy.sample(&[3.0, 1.4, -1.0], &[0, 0, 0, 9]).unwrap(), 0);
    assert_eq!(greedy.sample(&[-2.0, -1.5], &[1]).unwrap(), 0);
}

#[test]
fn what_is_not_finite_is_never_chosen() {
    let logits = [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, 0.5];
    for options in [
        open(),
        SamplingOptions::greedy(),
        SamplingOptions {
            top_k: NonZeroUsize::new(3),
            ..open()
        },
    ] {
        let mut sampler = sampler(options);
        for _ in 0..200 {
            assert!([1, 4].contains(&sampler.sample(&logits, &[2]).unwrap()));
        }
        for nothing in [&[][..], &[f32::NAN, f32::INFINITY]] {
            let error = sampler.sample(nothing, &[]).unwrap_err();
            let expected = InferenceProblem::NoCandidate { count: nothing.len() };
            assert!(matches!(error, LlamaError::Inference(problem) if problem == expected));
        }
    }
}

#[test]
fn settings_out_of_range_are_named() {
    for (options, name) in [
        (
            SamplingOptions {
                temperature: -0.1,
                ..open()
            },
            "temperature",
        ),
        (
            SamplingOptions {
                temperature: f32::NAN,
                ..open()
            },
            "temperature",
        ),
        (SamplingOptions { top_p: 0.0, ..open() }, "top-p"),
        (SamplingOptions { top_p: 1.1, ..open() }, "top-p"),
        (SamplingOptions { min_p: 1.1, ..open() }, "min-p"),
        (
            SamplingOptions {
                repetition_penalty: 0.0,
                ..open()
            },
            "repetition penalty",
        ),
    ] {
        let error = Sampler::new(options).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

/// What is drawn by the definition, with a candidate for each finite logit. No top-k.
fn drawn(options: SamplingOptions, logits: &[f32], draws: usize) -> Vec<u32> {
    let mut random = SplitMix64::new(options.seed);
    let finite = logits.iter().zip(0..).filter(|(logit, _)| logit.is_finite());
    let mut candidates: Vec<(f32, u32)> = finite.map(|(&logit, token)| (logit, token)).collect();
    let likelier = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let best = candidates.iter().copied().min_by(likelier).unwrap();
    if options.temperature == 0.0 {
        return vec![best.1; draws];
    }
    let temperature = f64::from(options.temperature);
    let probability = |&(logit, _): &(f32, u32)| ((f64::from(logit) - f64::from(best.0)) / temperature).exp();
    if options.top_p < 1.0 {
        let least = f64::from(options.top_p) * candidates.iter().map(probability).sum::<f64>();
        candidates.sort_by(likelier);
        let mut reached = 0.0;
        let last = candidates.iter().position(|candidate| {
            reached += probability(candidate);
            reached >= least
        });
        candidates.truncate(last.map_or(candidates.len(), |last| last + 1));
    }
    candidates.retain(|candidate| probability(candidate) >= f64::from(options.min_p));
    let total: f64 = candidates.iter().map(probability).sum();
    let draw = |_| {
        let mut left = random.uniform() * total;
        let drawn = candidates.iter().find(|candidate| {
            left -= probability(candidate);
            left < 0.0
        });
        drawn.unwrap().1
    };
    (0..draws).map(draw).collect()
}

/// More logits than one thread takes, equal ones and some that are not finite among them.
#[test]
fn candidates_that_are_left_out_change_no_draw() {
    let mut random = SplitMix64::new(7);
    let mut logits: Vec<f32> = (0..3 * AT_ONCE + 5)
        .map(|_| (random.uniform() * 12.0).powi(2) as f32 * 0.2)
        .map(|logit| (logit * 64.0).round() / 64.0)
        .collect();
    logits[17] = f32::NAN;
    logits[AT_ONCE] = f32::INFINITY;
    logits[AT_ONCE + 1] = f32::NEG_INFINITY;
    for (temperature, top_p, min_p) in [
        (0.0, 1.0, 0.0),
        (0.8, 0.95, 0.0),
        (1.0, 1.0, 0.0),
        (0.7, 1.0, 0.05),
        (2.0, 0.5, 0.1),
        (1e-3, 1.0, 0.0),
    ] {
        let options = SamplingOptions {
            temperature,
            top_p,
            min_p,
            seed: 5,
            ..open()
        };
        let mut sampler = sampler(options);
        let got: Vec<u32> = (0..50).map(|_| sampler.sample(&logits, &[]).unwrap()).collect();
        assert_eq!(got, drawn(options, &logits, 50), "{options:?}");
    }
}

#[test]
fn greedy_compares_signs_of_zero_and_numbers_below() {
    let mut greedy = sampler(SamplingOptions::greedy());
    for (logits, want) in [
        (&[-0.0, 0.0, -1.0, 0.0][..], 1),
        (&[-3.0, -2.0, -2.0, -2.5], 1),
        (&[f32::NAN, -f32::NAN, f32::MIN, f32::INFINITY], 2),
        (&[f32::MIN_POSITIVE, f32::MAX, f32::NAN], 1),
    ] {
        assert_eq!(greedy.sample(logits, &[]).unwrap(), want, "{logits:?}");
    }
}

proptest! {
    /// Against the definition: sort all, take until the probability is reached.
    #[test]
    fn what_top_p_leaves_is_the_definition(
        logits in proptest::collection::vec(-8.0f32..8.0, 1..300),
        top_p in 0.01f32..0.999,
        seed in any::<u64>(),
    ) {
        let probabilities = softmax(&logits, 1.0);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let mut reached = 0.0;
        let last = order.iter().position(|&token| {
            reached += probabilities[token];
            // A rounding's difference may leave one more.
            reached >= f64::from(top_p) + 1e-12
        });
        let allowed = &order[..=last.unwrap_or(order.len() - 1)];
        let mut sampler = sampler(SamplingOptions { top_p, seed, ..open() });
        for _ in 0..20 {
            let token = sampler.sample(&logits, &[]).unwrap() as usize;
            prop_assert!(allowed.contains(&token));
        }
        let draws = |seed| {
            let mut sampler = super::Sampler::new(SamplingOptions { top_p, seed, ..open() }).unwrap();
            (0..20).map(|_| sampler.sample(&logits, &[]).unwrap()).collect::<Vec<_>>()
        };
        prop_assert_eq!(draws(seed), draws(seed));
    }
}
