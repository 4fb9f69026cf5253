use super::*;
use crate::config::LlamaConfig;
use crate::inference::testing::{assert_close, config, dense_model, full_logits, packed_model, tokens, Form};

/// By the definition, from the logits of one pass in f64.
fn reference(model: &InferenceModel, context: &[u32], tokens: &[u32]) -> Vec<f64> {
    let all = [context, tokens].concat();
    let vocabulary = model.config().vocab_size;
    let logits = full_logits(model, &all[..all.len() - 1]);
    let rows = logits.chunks_exact(vocabulary).skip(context.len() - 1);
    rows.zip(tokens)
        .map(|(row, &token)| {
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            f64::from(row[token as usize]) - sum.ln()
        })
        .collect()
}

#[track_caller]
fn check(model: &InferenceModel, asked: &[(Vec<u32>, Vec<u32>)]) {
    let continuations: Vec<Continuation<'_>> = asked
        .iter()
        .map(|(context, tokens)| Continuation { context, tokens })
        .collect();
    let got = model.continuation_log_likelihoods(&continuations).unwrap();
    assert_eq!(got.len(), asked.len());
    for (got, (context, tokens)) in got.iter().zip(asked) {
        let want = if tokens.is_empty() {
            Vec::new()
        } else {
            reference(model, context, tokens)
        };
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            // The same sums in another order.
            assert!((f64::from(*got) - want).abs() <= 5e-5, "{got} against {want}");
        }
    }
}

fn long() -> LlamaConfig {
    LlamaConfig {
        max_position_embeddings: 1200,
        ..config()
    }
}

#[test]
fn whole_sequences() {
    let config = long();
    for model in [dense_model(&config), packed_model(&config, 3, None, Form::Packed)] {
        // One batch, and more than one.
        for len in [2, 17, 400, 1100] {
            let tokens = tokens(len as u64, len, &config);
            let got = model.log_likelihoods(&tokens).unwrap();
            let want = reference(&model, &tokens[..1], &tokens[1..]);
            assert_eq!(got.len(), len - 1);
            for (got, want) in got.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() <= 5e-5, "{got} against {want}");
            }
        }
        assert!(model.log_likelihoods(&[3]).unwrap().is_empty());
    }
}

#[test]
fn continuations_share_contexts_and_batches() {
    let config = long();
    let model = dense_model(&config);
    let make = |seed, len| tokens(seed, len, &config);
    // Alone; of one token; none; many of one context, more than a batch together; equal contexts apart.
    let mut asked = vec![
        (make(1, 5), make(2, 9)),
        (make(1, 16), make(3, 1)),
        (make(1, 16), make(4, 33)),
        (make(1, 16), make(5, 0)),
        (make(1, 16), make(6, 2)),
    ];
    asked.extend((0..12).map(|i| (make(7, 100), make(i, 60))));
    asked.push((make(1, 5), make(8, 1)));
    asked.extend((0..30).map(|i| (make(20 + i, 1 + i as usize), make(60 + i, 30 - i as usize))));
    check(&model, &asked);
}

#[test]
fn contexts_longer_than_a_batch_are_shared_too() {
    let config = long();
    let model = packed_model(&config, 4, Some(8), Form::Packed);
    let make = |seed, len| tokens(seed, len, &config);
    let context = make(1, 600);
    check(
        &model,
        &[
            (context.clone(), make(2, 1)),
            (context.clone(), make(3, 300)),
            (context.clone(), make(4, 0)),
            (context.clone(), make(5, 2)),
            (make(6, 2), make(7, 4)),
        ],
    );
}

/// Contexts that begin alike, in calls of a few, against each by itself: no other is there to have anything in common with.
#[track_caller]
fn check_shared(model: &InferenceModel, asked: &[(Vec<u32>, Vec<u32>)], tolerance: f32) {
    let asked: Vec<Continuation<'_>> = asked
        .iter()
        .map(|(context, tokens)| Continuation { context, tokens })
        .collect();
    let groups: Vec<_> = asked.chunk_by(|a, b| a.context == b.context).collect();
    let alone = groups
        .iter()
        .flat_map(|group| model.continuation_log_likelihoods(group).unwrap());
    let want: Vec<Vec<f32>> = alone.collect();
    for at_once in [1, 3, groups.len()] {
        let mut scorer = model.scorer().unwrap();
        let calls = groups.chunks(at_once);
        let got = calls.flat_map(|groups| scorer.log_likelihoods(&groups.concat()).unwrap());
        let got: Vec<Vec<f32>> = got.collect();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert_close(got, want, tolerance);
        }
    }
}

#[test]
fn contexts_that_begin_alike_give_what_each_gives_alone() {
    let config = long();
    let make = |seed, len| tokens(seed, len, &config);
    let (examples, others) = (make(1, 300), make(2, 700));
    let context = |of: &[u32], len, seed, rest| [&of[..len], &make(seed, rest)].concat();
    // One answer; several of many and of one token; none; more than run together.
    let mut asked = vec![(context(&examples, 300, 3, 20), make(4, 5))];
    asked.extend([7, 1, 0, 30].map(|len| (context(&examples, 300, 5, 31), make(len as u64, len))));
    asked.extend((0..12).map(|i| (context(&examples, 300, 6, 1), make(i, 40))));
    // Others in front, which have less in common; all of a context, and one that is longer than what follows.
    asked.extend([250, 310, 300, 200].map(|len| (context(&examples, len.min(300), len as u64, 40), make(7, 9))));
    asked.extend([1, 2].map(|len| (examples.clone(), make(8, len))));
    asked.extend([280, 150, 60, 10].map(|len| (examples[..len].to_vec(), make(9, 3))));
    asked.push((make(10, 30), make(11, 30)));
    // Longer than a batch, and a continuation that is.
    asked.extend([4, 5].map(|len| (context(&others, 600, 12, 3), make(len as u64, len))));
    asked.push((context(&others, 690, 13, 100), make(14, 2)));
    asked.push((context(&others, 690, 15, 2), make(16, 500)));
    asked.push((examples.clone(), make(17, 4)));
    asked.extend([6, 700].map(|len| (others[..400].to_vec(), make(18, len))));
    // Dense products round in another way for another number of rows.
    check_shared(&dense_model(&config), &asked, 5e-5);
    // Packed ones, and attention, do not.
    check_shared(&packed_model(&config, 3, None, Form::Packed), &asked, 0.0);
}

#[test]
fn contexts_as_long_as_the_model_allows_are_shared_too() {
    let config = config();
    let text = tokens(1, 200, &config);
    // Cut from the left, as of questions that are too long; then several answers, which have blocks of their own behind the context.
    let mut asked: Vec<_> = (0..4)
        .map(|i| (text[i..i + 90].to_vec(), tokens(2, 7, &config)))
        .collect();
    for last in 0..3 {
        let context = [&text[..89], &[last]].concat();
        asked.extend((2..7).map(|seed| (context.clone(), tokens(seed, 7, &config))));
    }
    check_shared(&dense_model(&config), &asked, 5e-5);
    check_shared(&packed_model(&config, 3, None, Form::Packed), &asked, 0.0);
}

#[test]
fn a_scorer_keeps_the_context_that_it_has_read_last() {
    let config = long();
    let model = dense_model(&config);
    let make = |seed, len| tokens(seed, len, &config);
    let (examples, other) = (make(1, 100), make(2, 100));
    let questions = [3, 4, 5].map(|seed| [&examples[..], &make(seed, 20)].concat());
    let mut scorer = model.scorer().unwrap();
    let read = |scorer: &Scorer| scorer.session.as_ref().map_or(0, |session| session.tokens().len());
    let answer = make(6, 3);
    let ask = |context| Continuation {
        context,
        tokens: &answer,
    };
    // Alone, or with little in common, they run in a batch.
    scorer.log_likelihoods(&[ask(&questions[0])]).unwrap();
    scorer.log_likelihoods(&[ask(&examples[..40]), ask(&other)]).unwrap();
    assert_eq!(read(&scorer), 0);
    scorer
        .log_likelihoods(&[ask(&questions[0]), ask(&questions[1]), ask(&other)])
        .unwrap();
    assert_eq!(scorer.session.as_ref().unwrap().tokens()[..120], questions[1]);
    scorer.log_likelihoods(&[ask(&questions[2])]).unwrap();
    assert_eq!(scorer.session.as_ref().unwrap().tokens()[..120], questions[2]);
}

#[test]
fn requests_that_cannot_be_met_say_why() {
    let model = dense_model(&config());
    let ask = |context: &[u32], tokens: &[u32]| match model
        .continuation_log_likelihoods(&[Continuation { context, tokens }])
    {
        Err(LlamaError::Inference(problem)) => Some(problem),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    };
    assert_eq!(ask(&[], &[1]), Some(InferenceProblem::NoTokens));
    assert_eq!(
        ask(&[1], &[97]),
        Some(InferenceProblem::Token {
            token: 97,
            vocabulary: 97
        })
    );
    // The last token is not read: 96 positions predict 96 tokens.
    assert_eq!(ask(&[1; 50], &[2; 47]), None);
    assert_eq!(
        ask(&[1; 50], &[2; 48]),
        Some(InferenceProblem::ContextLength { asked: 97, limit: 96 })
    );
    assert!(model.continuation_log_likelihoods(&[]).unwrap().is_empty());
}

#[test]
fn log_sum_exp_is_exact_and_hides_nothing() {
    let logits = crate::inference::testing::numbers(1, 5000);
    for len in [1, 15, 16, 17, 1024, 1030, 5000] {
        let want = logits[..len]
            .iter()
            .map(|&l| f64::from(20.0 * l).exp())
            .sum::<f64>()
            .ln();
        let scaled: Vec<f32> = logits[..len].iter().map(|l| 20.0 * l).collect();
        let got = f64::from(log_sum_exp(&scaled));
        // Half a last place of the result, and of the sums.
        assert!((got - want).abs() <= 3e-6, "{len}: {got} against {want}");
    }
    assert!(log_sum_exp(&[0.0, f32::NAN, 1.0]).is_nan());
    assert!(!log_sum_exp(&[0.0, f32::INFINITY, 1.0]).is_finite());
    assert_eq!(log_sum_exp(&[f32::NEG_INFINITY, 2.0]), 2.0);
}
