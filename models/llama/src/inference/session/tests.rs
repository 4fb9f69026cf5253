use super::*;
use crate::config::LlamaConfig;
use crate::inference::testing::{assert_close, config, dense_model, full_logits, packed_model, tokens, Form};

/// Enough positions that a prompt takes several batches.
fn long() -> LlamaConfig {
    LlamaConfig {
        max_position_embeddings: 700,
        ..config()
    }
}

/// The same sums in another order.
const ROUNDING: f32 = 2e-5;

#[test]
fn prompt_and_single_tokens_give_the_logits_of_one_pass() {
    let config = long();
    let tokens = tokens(5, 600, &config);
    let vocabulary = config.vocab_size;
    for model in [dense_model(&config), packed_model(&config, 3, None, Form::Packed)] {
        let full = full_logits(&model, &tokens);
        let row = |i: usize| &full[i * vocabulary..(i + 1) * vocabulary];
        let mut session = Session::new(&model, 600, CacheType::F32).unwrap();
        // 1, some, more than one batch, then singly.
        for range in [0..1, 1..20, 20..590] {
            let logits = session.prefill(&tokens[range.clone()]).unwrap();
            assert_close(logits, row(range.end - 1), ROUNDING);
        }
        for (i, &token) in tokens.iter().enumerate().skip(590) {
            let logits = session.decode(token).unwrap();
            assert_close(logits, row(i), ROUNDING);
        }
        assert_eq!((session.tokens(), session.room()), (&tokens[..], 0));
    }
}

#[test]
fn sessions_of_a_model_outlive_it_and_go_to_threads() {
    let config = long();
    let tokens = tokens(5, 40, &config);
    let model = dense_model(&config);
    let full = full_logits(&model, &tokens);
    let sessions = [20, 30].map(|len| (len, Session::new(&model, 40, CacheType::F32).unwrap()));
    let bytes = model.weight_bytes();
    assert_eq!(sessions[0].1.model().weight_bytes(), bytes);
    drop(model);
    let vocabulary = config.vocab_size;
    let (tokens, full) = (&tokens, &full);
    std::thread::scope(|scope| {
        for (len, mut session) in sessions {
            scope.spawn(move || {
                let logits = session.prefill(&tokens[..len]).unwrap();
                assert_close(logits, &full[(len - 1) * vocabulary..len * vocabulary], ROUNDING);
            });
        }
    });
}

#[test]
fn a_half_precision_cache_is_half_as_large_and_nearly_as_good() {
    let config = long();
    let tokens = tokens(6, 100, &config);
    let model = dense_model(&config);
    let run = |cache_type| {
        let mut session = Session::new(&model, 100, cache_type).unwrap();
        session.prefill(&tokens[..90]).unwrap();
        for &token in &tokens[90..] {
            session.decode(token).unwrap();
        }
        (session.logits().to_vec(), session.cache_bytes())
    };
    let (exact, bytes) = run(CacheType::F32);
    let (rounded, half_the_bytes) = run(CacheType::F16);
    // 2 layers x 2 heads x 112 positions x (8 + 16) numbers x 4 bytes.
    assert_eq!((bytes, half_the_bytes), (2 * 2 * 112 * 24 * 4, 2 * 2 * 112 * 24 * 2));
    assert_ne!(exact, rounded);
    // Keys and values are rounded to 2^-11 of their size.
    assert_close(&rounded, &exact, 5e-3);
}

#[test]
fn what_was_truncated_is_forgotten() {
    let config = config();
    let model = dense_model(&config);
    let (a, b) = (tokens(1, 30, &config), tokens(2, 30, &config));
    let mut session = Session::new(&model, 40, CacheType::F32).unwrap();
    session.prefill(&a).unwrap();
    session.truncate(10);
    let again = session.prefill(&b).unwrap().to_vec();
    let mut fresh = Session::new(&model, 40, CacheType::F32).unwrap();
    assert_close(&again, fresh.prefill(&[&a[..10], &b].concat()).unwrap(), ROUNDING);
}

#[test]
fn a_conversation_is_read_from_where_it_differs() {
    let config = config();
    let model = dense_model(&config);
    let a = tokens(1, 30, &config);
    let mut session = Session::new(&model, 40, CacheType::F32).unwrap();
    assert_eq!(session.keep_common_prefix(&a), 0);
    session.prefill(&a).unwrap();
    // Nothing new: the last is read again for its logits.
    assert_eq!(session.keep_common_prefix(&a), 29);
    let mut b = a.clone();
    b[12] = (b[12] + 1) % config.vocab_size as u32;
    assert_eq!(session.keep_common_prefix(&b), 12);
    let logits = session.prefill(&b[12..]).unwrap().to_vec();
    assert_close(&logits, &full_logits(&model, &b)[29 * config.vocab_size..], ROUNDING);
    assert_eq!(session.keep_common_prefix(&[]), 0);
}

#[test]
fn requests_that_cannot_be_met_say_why_and_change_nothing() {
    let config = config();
    let model = dense_model(&config);
    let problem = |error: LlamaError| match error {
        LlamaError::Inference(problem) => problem,
        other => panic!("{other}"),
    };
    for asked in [0, 97] {
        let error = Session::new(&model, asked, CacheType::F32).unwrap_err();
        assert_eq!(problem(error), InferenceProblem::ContextLength { asked, limit: 96 });
    }
    let mut session = Session::new(&model, 10, CacheType::F32).unwrap();
    session.prefill(&[1, 2, 3]).unwrap();
    assert_eq!(problem(session.prefill(&[]).unwrap_err()), InferenceProblem::NoTokens);
    let error = session.prefill(&[1, 97]).unwrap_err();
    assert_eq!(
        problem(error),
        InferenceProblem::Token {
            token: 97,
            vocabulary: 97
        }
    );
    let full = InferenceProblem::ContextFull {
        held: 3,
        new: 8,
        capacity: 10,
        limit: 96,
    };
    assert_eq!(problem(session.prefill(&[1; 8]).unwrap_err()), full);
    assert!(full.to_string().contains("room for 7"), "{full}");
    assert_eq!(session.tokens(), [1, 2, 3]);
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    use crate::checkpoint::Weight;
    use crate::inference::testing::{dense, seed_of};
    let config = config();
    let poisoned = InferenceModel::from_parts(config.clone(), |p| {
        let mut values = dense(p, seed_of(p));
        if p.name == "model.layers.1.mlp.up_proj.weight" {
            values[77] = f32::NAN;
        }
        Ok(Weight::Dense(values))
    })
    .unwrap();
    let mut session = Session::new(&poisoned, 10, CacheType::F32).unwrap();
    let error = session.prefill(&[1, 2]).unwrap_err();
    assert!(
        matches!(&error, LlamaError::NotFinite { name, index: 77, .. } if name == "model.layers.1.mlp.up_proj.weight"),
        "{error}"
    );
    assert!(session.tokens().is_empty() && session.logits().iter().all(|&logit| logit == 0.0));
}

#[test]
fn the_number_of_threads_does_not_change_a_session() {
    let config = config();
    let model = packed_model(&config, 4, Some(8), Form::Packed);
    let tokens = tokens(9, 60, &config);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut session = Session::new(&model, 96, CacheType::F32).unwrap();
            session.prefill(&tokens).unwrap();
            session.decode(3).unwrap().to_vec()
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}
