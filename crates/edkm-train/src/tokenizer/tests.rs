use std::path::PathBuf;

use edkm_testkit::golden::Folder;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::synthetic;

/// A byte-level tokenizer trained on a few sentences: made by the project, so these tests need no file.
fn small() -> Tokenizer {
    let text = "One day the fox found a red kite. \"Is it yours?\" asked the fox. \n\n".repeat(50);
    let bytes = synthetic::train_tokenizer(&text, 300).unwrap();
    Tokenizer::from_bytes(Path::new("small.json"), &bytes, synthetic::special_tokens()).unwrap()
}

/// The folder of a pretrained model, where there is one.
fn stories() -> Option<PathBuf> {
    Folder::Models.locate_in("stories260k")
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files
        .iter()
        .for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
    dir
}

fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let mut stream = tokenizer.decode_stream();
    let mut text: String = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
    text.push_str(&stream.finish().unwrap());
    text
}

#[test]
fn a_sentencepiece_vocabulary_from_a_model_folder() {
    let Some(dir) = stories() else { return };
    let tokenizer = Tokenizer::from_dir(&dir).unwrap();
    assert_eq!(
        (
            tokenizer.begin_token(),
            tokenizer.end_tokens(),
            tokenizer.vocabulary_size()
        ),
        (Some(1), &[2][..], 512)
    );
    let text = "Once upon a time, there was a naïve cat: 日本 🐈.";
    let tokens = tokenizer.encode_document(text).unwrap();
    assert_eq!(tokens[0], 1);
    assert!(!tokens[1..].contains(&1), "the begin token stands once");
    assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    assert_eq!(streamed(&tokenizer, &tokens), text);
    tokenizer.check_vocabulary(512).unwrap();
    let error = tokenizer.check_vocabulary(511).unwrap_err().to_string();
    assert!(error.contains("511") && error.contains("tokenizer.json"), "{error}");
}

/// As Code Llama's and some Llama 2's are: the vocabulary fits the model, and tokens were added that the model has not.
#[test]
fn added_tokens_that_the_model_has_not_are_an_error_where_a_text_has_one() {
    let json = synthetic::train_tokenizer("the fox the kite", 280).unwrap();
    let with = |token: &str, id: u32| {
        let mut json: serde_json::Value = serde_json::from_slice(json.as_ref()).unwrap();
        let added = serde_json::json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        json["added_tokens"].as_array_mut().unwrap().push(added);
        serde_json::to_vec(&json).unwrap()
    };
    let own = Tokenizer::from_bytes(Path::new("a"), json.as_ref(), SpecialTokens::default()).unwrap();
    let rows = own.vocabulary_size();
    let config = format!(r#"{{"vocab_size": {rows}, "bos_token_id": 1, "eos_token_id": 2}}"#);
    let dir = folder(&[
        ("tokenizer.json", &with("<pad>", rows as u32)),
        ("config.json", config.as_bytes()),
    ]);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), rows + 1);
    tokenizer.check_vocabulary(rows).unwrap();
    assert_eq!(tokenizer.encode("the fox").unwrap(), own.encode("the fox").unwrap());
    for error in [
        tokenizer.encode("the <pad> fox").unwrap_err(),
        tokenizer.encode_with_places("the <pad> fox").unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(
            error.contains("\"<pad>\"") && error.contains(&format!("{rows} tokens")),
            "{error}"
        );
    }
    // of another model, and where an end token is the one
    assert!(tokenizer.check_vocabulary(rows - 1).is_err());
    let config = config.replace("\"eos_token_id\": 2", &format!("\"eos_token_id\": {rows}"));
    let dir = folder(&[
        ("tokenizer.json", &with("<pad>", rows as u32)),
        ("config.json", config.as_bytes()),
    ]);
    assert!(Tokenizer::from_dir(dir.path()).unwrap().check_vocabulary(rows).is_err());
}

#[test]
fn questions_begin_as_the_model_s_own_tokenizer_has_it() {
    let json = synthetic::train_tokenizer("the fox the kite", 280).unwrap();
    let config = br#"{"bos_token_id": 1, "eos_token_id": 2}"#;
    for (said, begins) in [
        (r#"{"tokenizer_class": "LlamaTokenizer"}"#, true),
        (r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#, true),
        (
            r#"{"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": false}"#,
            false,
        ),
        (r#"{"tokenizer_class": "GPT2TokenizerFast"}"#, false),
        (r#"{"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true}"#, true),
        (
            r#"{"tokenizer_class": "LlamaTokenizer", "add_bos_token": false}"#,
            false,
        ),
    ] {
        let dir = folder(&[
            ("tokenizer.json", &json),
            ("config.json", config),
            ("tokenizer_config.json", said.as_bytes()),
        ]);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let qwen = br#"{"bos_token_id": 1, "eos_token_id": 2, "model_type": "qwen2"}"#;
        if said.contains("LlamaTokenizer\"}") {
            // without a class, the model's type says which
            let [llama, qwen] =
                [&config[..], qwen].map(|config| folder(&[("tokenizer.json", &json), ("config.json", config)]));
            let begins = [llama, qwen]
                .map(|dir| Tokenizer::from_dir(dir.path()).unwrap().encode_question("fox").unwrap()[0] == 1);
            assert_eq!(begins, [true, false]);
        }
        assert_eq!(
            tokenizer.stop_tokens(),
            [2, 1],
            "the end, and the beginning of another text"
        );
        let tokens = tokenizer.encode_question("the fox").unwrap();
        assert_eq!(tokens[0] == 1, begins, "{said}");
        // in training documents must be told apart
        assert_eq!(tokenizer.encode_document("the fox").unwrap()[0], 1, "{said}");
    }
    // a class that leaves it to the file
    let mut plain: Value = serde_json::from_slice(&json).unwrap();
    plain["post_processor"] = Value::Null;
    let plain = serde_json::to_vec(&plain).unwrap();
    for (class, begins) in [("TokenizersBackend", false), ("LlamaTokenizerFast", true)] {
        let said = format!(r#"{{"tokenizer_class": "{class}"}}"#);
        let files: [(&str, &[u8]); 3] = [
            ("tokenizer.json", &plain),
            ("config.json", config),
            ("tokenizer_config.json", said.as_bytes()),
        ];
        let tokenizer = Tokenizer::from_dir(folder(&files).path()).unwrap();
        assert_eq!(tokenizer.encode_question("the fox").unwrap()[0] == 1, begins, "{class}");
    }
    let dir = folder(&[
        ("tokenizer.json", &json),
        ("tokenizer_config.json", br#"{"add_bos_token": 1}"#),
    ]);
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("add_bos_token"), "{error}");
}

#[test]
fn characters_of_several_tokens_come_whole() {
    let tokenizer = small();
    let tokens = tokenizer.encode("é🦊").unwrap();
    assert_eq!(tokens.len(), 6, "neither character is in the vocabulary");
    let mut stream = tokenizer.decode_stream();
    let pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
    assert_eq!(pieces, ["", "é", "", "", "", "🦊"]);
}

/// A tokenizer as LLaMA's, which puts a space in front of every text and takes one off the text of tokens.
#[test]
fn a_text_that_goes_on_keeps_its_space() {
    let mut json: Value =
        serde_json::from_slice(&synthetic::train_tokenizer("the fox the kite", 280).unwrap()).unwrap();
    json["pre_tokenizer"] = serde_json::json!(null);
    json["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    json["decoder"] = serde_json::json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    json["model"] = serde_json::json!({"type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
        "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "b": 5, "▁a": 6}, "merges": [["▁", "a"]]});
    let dir = folder(&[("tokenizer.json", &serde_json::to_vec(&json).unwrap())]);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let tokens = tokenizer.encode_document("ab a b").unwrap();
    for at in 0..=tokens.len() {
        let (context, rest) = tokens.split_at(at);
        let mut stream = tokenizer.decode_stream_behind(context);
        let mut text = tokenizer.decode(context).unwrap();
        text.extend(rest.iter().map(|&token| stream.push(token).unwrap()));
        assert_eq!(text, "ab a b", "{tokens:?} from {at}");
    }
}

#[test]
fn an_incomplete_character_comes_at_the_end() {
    let tokenizer = small();
    let tokens = tokenizer.encode("a🦊").unwrap();
    let text = streamed(&tokenizer, &tokens[..tokens.len() - 1]);
    assert!(
        text.starts_with('a') && text.ends_with(char::REPLACEMENT_CHARACTER),
        "{text:?}"
    );
    // Bytes that never become text are not held back for ever.
    let mut stream = tokenizer.decode_stream();
    let stray = tokens[1];
    assert!((0..=DecodeStream::HELD).any(|_| !stream.push(stray).unwrap().is_empty()));
}

#[test]
fn special_tokens_are_left_out_of_the_text() {
    let tokenizer = small();
    let mut tokens = tokenizer.encode_document("the fox").unwrap();
    tokens.extend(tokenizer.end_token());
    assert_eq!(tokenizer.decode(&tokens).unwrap(), "the fox");
    assert_eq!(streamed(&tokenizer, &tokens), "the fox");
}

/// Models have more rows than their tokenizers have tokens.
#[test]
fn tokens_that_the_tokenizer_has_not_are_no_text() {
    let tokenizer = small();
    let mut tokens = tokenizer.encode("the fox").unwrap();
    for token in [tokenizer.vocabulary_size() as u32, u32::MAX] {
        tokens.insert(1, token);
        tokens.push(token);
    }
    assert_eq!(tokenizer.decode(&tokens).unwrap(), "the fox");
    assert_eq!(streamed(&tokenizer, &tokens), "the fox");
}

#[test]
fn truncation_and_padding_of_the_file_do_not_apply() {
    let text = "the fox found a red kite ".repeat(20);
    let mut json: Value = serde_json::from_slice(&synthetic::train_tokenizer(&text, 280).unwrap()).unwrap();
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    let bytes = serde_json::to_vec(&json).unwrap();
    let tokenizer = Tokenizer::from_bytes(Path::new("t.json"), &bytes, SpecialTokens::default()).unwrap();
    assert!(tokenizer.encode(&text).unwrap().len() > 4);
}

#[test]
fn special_tokens_come_from_either_configuration() {
    let json = synthetic::train_tokenizer("the fox", 280).unwrap();
    let read = |config: &str, tokenizer_config: &str| {
        let files: [(&str, &[u8]); 3] = [
            ("tokenizer.json", &json),
            ("config.json", config.as_bytes()),
            ("tokenizer_config.json", tokenizer_config.as_bytes()),
        ];
        let dir = folder(&files);
        Tokenizer::from_dir(dir.path()).map(|tokenizer| tokenizer.special.clone())
    };
    let both = SpecialTokens {
        begin: Some(1),
        end: vec![2],
    };
    assert_eq!(
        read(r#"{"bos_token_id": 1, "eos_token_id": [2, 5]}"#, "{}")
            .unwrap()
            .end,
        [2, 5]
    );
    assert_eq!(read(r#"{"bos_token_id": 1, "eos_token_id": 2}"#, "{}").unwrap(), both);
    assert_eq!(
        read("{}", r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#).unwrap(),
        both
    );
    // numbers of the model that this one was made from: what the tokenizer names comes first
    assert_eq!(
        read(
            r#"{"bos_token_id": 2, "eos_token_id": [5, 2]}"#,
            r#"{"bos_token": "<s>", "eos_token": "</s>"}"#
        )
        .unwrap(),
        SpecialTokens {
            begin: Some(1),
            end: vec![2, 5],
        }
    );
    assert_eq!(
        read(
            r#"{"bos_token_id": 1, "eos_token_id": 2}"#,
            r#"{"bos_token": "<absent>"}"#
        )
        .unwrap(),
        both
    );
    assert_eq!(
        read(r#"{"bos_token_id": null}"#, r#"{"bos_token": null}"#).unwrap(),
        SpecialTokens::default()
    );
    for (config, tokenizer_config, about) in [
        (r#"{"bos_token_id": "one"}"#, "{}", "config.json: bos_token_id"),
        (r#"{"bos_token_id": -1}"#, "{}", "config.json: bos_token_id"),
        (r#"{"eos_token_id": 99999}"#, "{}", "special token 99999"),
        ("{}", r#"{"bos_token": "<absent>"}"#, "tokenizer_config.json: bos_token"),
        ("[]", "{}", "config.json: not a JSON object"),
    ] {
        let error = read(config, tokenizer_config).unwrap_err().to_string();
        assert!(error.contains(about), "{error}");
    }
}

#[test]
fn what_is_not_a_tokenizer_is_refused() {
    let absent = tempfile::tempdir().unwrap();
    assert!(Tokenizer::from_dir(absent.path())
        .unwrap_err()
        .to_string()
        .contains("tokenizer.json"));
    let good = synthetic::train_tokenizer("the fox", 280).unwrap();
    let deep = "[".repeat(1_000_000).into_bytes();
    let other = br#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}"#;
    let empty = br#"{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}"#;
    for bytes in [
        &b""[..],
        b"{}",
        b"null",
        b"\xff\xfe",
        &good[..good.len() / 2],
        &deep,
        other,
        empty,
    ] {
        let dir = folder(&[("tokenizer.json", bytes)]);
        let error = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert!(matches!(error, TrainError::Tokenizer { .. }), "{error}");
    }
}

#[test]
fn replacement_characters_of_the_text_itself_do_not_break_what_follows() {
    let tokenizer = small();
    for text in [
        "\u{fffd}\u{fffd}\u{a8f}",
        "\u{fffd}".repeat(40).as_str(),
        "a\u{fffd}\u{1f600}b",
    ] {
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(streamed(&tokenizer, &tokens), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn streamed_text_is_the_text(text in "\\PC{0,40}") {
        thread_local!(static TOKENIZER: Tokenizer = small());
        TOKENIZER.with(|tokenizer| {
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(&tokenizer.decode(&tokens).unwrap(), &text);
            prop_assert_eq!(&streamed(tokenizer, &tokens), &text);
            Ok(())
        })?;
    }
}

/// A tokenizer with one part replaced by something hostile.
fn with(key: &str, part: Value) -> Result<Tokenizer, TrainError> {
    let mut json: Value = serde_json::from_slice(&synthetic::train_tokenizer("the fox", 280).unwrap()).unwrap();
    json[key] = part;
    Tokenizer::from_bytes(
        Path::new("hostile.json"),
        &serde_json::to_vec(&json).unwrap(),
        SpecialTokens::default(),
    )
}

#[test]
fn hostile_parts_give_errors_or_nonsense_but_no_panic() {
    use serde_json::json;
    let start = std::time::Instant::now();
    let huge = u64::MAX;
    let nested = (0..100).fold(
        json!({"type": "NFC"}),
        |inner, _| json!({"type": "Sequence", "normalizers": [inner]}),
    );
    let added = |id: u64| json!([{"id": id, "content": "x", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]);
    let text = "the fox ".repeat(50);
    for (key, part) in [
        ("added_tokens", added(4_294_967_295)),
        ("added_tokens", added(huge)),
        (
            "padding",
            json!({"strategy": {"Fixed": huge}, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": ""}),
        ),
        (
            "truncation",
            json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": huge}),
        ),
        ("normalizer", nested),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA////fwAAAAAAAAA="}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(?:"}, "content": ""}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "xx"}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "((t|th|the|e| )*)*z"}, "behavior": "Isolated", "invert": false}),
        ),
        ("pre_tokenizer", json!({"type": "Digits", "individual_digits": 7})),
        (
            "decoder",
            json!({"type": "Strip", "content": "t", "start": huge, "stop": huge}),
        ),
        (
            "decoder",
            json!({"type": "Strip", "content": "t", "start": 5, "stop": 5}),
        ),
        (
            "decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "absent", "type_id": 0}}], "pair": [], "special_tokens": {}}),
        ),
        ("model", json!({"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]]})),
        (
            "model",
            json!({"type": "Unigram", "unk_id": null, "vocab": [["a", 1e308], ["", -1e308]]}),
        ),
        (
            "model",
            json!({"type": "WordPiece", "unk_token": "absent", "continuing_subword_prefix": "", "max_input_chars_per_word": 3, "vocab": {"a": 0}}),
        ),
        (
            "model",
            json!({"type": "WordLevel", "unk_token": "absent", "vocab": {"a": 4_294_967_295u32}}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": [["a", "b"]]}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"t": 0, "h": 1, "th": 2}, "merges": [["t", "h"], ["t", "h"]], "dropout": 7.0}),
        ),
        ("model", json!({"type": "Nonsense"})),
    ] {
        let shown = part.to_string();
        let Ok(tokenizer) = with(key, part) else { continue };
        // Whatever comes back: it came back.
        if let Ok(tokens) = tokenizer.encode_document(&text) {
            let _ = tokenizer.decode(&tokens);
            let mut stream = tokenizer.decode_stream();
            let _ = tokens.iter().try_for_each(|&token| stream.push(token).map(drop));
        }
        assert!(start.elapsed().as_secs() < 20, "{key}: {shown}");
    }
}
