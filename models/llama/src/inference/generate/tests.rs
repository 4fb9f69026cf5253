use super::*;
use crate::inference::testing::{config, dense_model, tokens};
use crate::inference::{CacheType, InferenceProblem};

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        stop_tokens: Vec::new(),
        sampling: SamplingOptions::greedy(),
    }
}

fn go_on(_: u32) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn greedy_generation_is_the_argmax_of_each_step() {
    let config = config();
    let model = dense_model(&config);
    let prompt = tokens(1, 12, &config);
    let mut session = Session::new(&model, 60, CacheType::F32).unwrap();
    let mut handed = Vec::new();
    let generation = generate(&mut session, &prompt, &greedy(20), |token| {
        handed.push(token);
        ControlFlow::Continue(())
    })
    .unwrap();

    let mut by_hand = Session::new(&model, 60, CacheType::F32).unwrap();
    let mut logits = by_hand.prefill(&prompt).unwrap().to_vec();
    for &token in &generation.tokens {
        let best = (0..logits.len())
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap();
        assert_eq!(token as usize, best);
        logits = by_hand.decode(token).unwrap().to_vec();
    }
    assert_eq!(
        (handed, generation.stop),
        (generation.tokens.clone(), StopReason::MaxTokens)
    );
    assert_eq!(
        (
            generation.tokens.len(),
            generation.decoded_tokens,
            generation.prompt_tokens
        ),
        (20, 19, 12)
    );
    assert_eq!(session.tokens(), [&prompt[..], &generation.tokens[..19]].concat());
    assert_eq!(generation.cache_bytes, session.cache_bytes());
    assert!(generation.prompt_tokens_per_second() > 0.0 && generation.decode_tokens_per_second() > 0.0);
}

#[test]
fn seeds_decide_what_is_generated() {
    let model = dense_model(&config());
    let run = |seed| {
        let sampling = SamplingOptions {
            seed,
            ..SamplingOptions::default()
        };
        let mut session = Session::new(&model, 60, CacheType::F32).unwrap();
        generate(&mut session, &[1], &GenerateOptions { sampling, ..greedy(30) }, go_on)
            .unwrap()
            .tokens
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn generation_ends_for_each_reason() {
    let model = dense_model(&config());
    let session = |context| Session::new(&model, context, CacheType::F32).unwrap();
    let all = generate(&mut session(60), &[1, 2], &greedy(10), go_on).unwrap().tokens;

    let stop_tokens = vec![all[3]];
    let first = all.iter().position(|token| stop_tokens.contains(token)).unwrap();
    let options = GenerateOptions {
        stop_tokens,
        ..greedy(10)
    };
    let stopped = generate(&mut session(60), &[1, 2], &options, go_on).unwrap();
    assert_eq!(
        (stopped.tokens, stopped.stop),
        (all[..first].to_vec(), StopReason::StopToken(all[3]))
    );

    let mut left = 4;
    let broken = generate(&mut session(60), &[1, 2], &greedy(10), |_| {
        left -= 1;
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .unwrap();
    assert_eq!((broken.tokens, broken.stop), (all[..4].to_vec(), StopReason::Caller));

    // Two positions for the prompt, four for generated tokens; a fifth is predicted and not read.
    let full = generate(&mut session(6), &[1, 2], &greedy(10), go_on).unwrap();
    assert_eq!((full.tokens, full.stop), (all[..5].to_vec(), StopReason::ContextFull));

    let none = generate(&mut session(6), &[1, 2], &greedy(0), go_on).unwrap();
    assert_eq!(
        (none.tokens.len(), none.stop, none.decode_tokens_per_second()),
        (0, StopReason::MaxTokens, 0.0)
    );
}

#[test]
fn a_conversation_goes_on_where_it_ended() {
    let model = dense_model(&config());
    let mut session = Session::new(&model, 60, CacheType::F32).unwrap();
    let first = generate(&mut session, &[1, 2, 3], &greedy(5), go_on).unwrap();
    let conversation = [&[1, 2, 3], &first.tokens[..], &[7, 8]].concat();
    let known = session.keep_common_prefix(&conversation);
    assert_eq!(known, 3 + 4);
    let second = generate(&mut session, &conversation[known..], &greedy(5), go_on).unwrap();

    let mut fresh = Session::new(&model, 60, CacheType::F32).unwrap();
    assert_eq!(
        second.tokens,
        generate(&mut fresh, &conversation, &greedy(5), go_on).unwrap().tokens
    );
}

#[test]
fn options_come_from_the_model_and_are_checked() {
    let model = dense_model(&config());
    // the end of a text, and the beginning of another
    assert_eq!(GenerateOptions::for_model(&model).stop_tokens, [2, 1]);
    let mut session = Session::new(&model, 60, CacheType::F32).unwrap();
    let sampling = SamplingOptions {
        top_p: 2.0,
        ..SamplingOptions::default()
    };
    let error = generate(&mut session, &[1], &GenerateOptions { sampling, ..greedy(1) }, go_on).unwrap_err();
    assert!(matches!(error, LlamaError::Inference(InferenceProblem::Setting { .. })));
    assert!(session.tokens().is_empty());
}
