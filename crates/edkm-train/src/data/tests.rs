use edkm_testkit::golden::Folder;

use super::alpaca::AlpacaRecord;
use super::*;
use crate::synthetic;

/// A tokenizer of few tokens.
pub(super) fn tokenizer() -> Tokenizer {
    let text = format!(
        "{}\n\nThe fox found a red kite. The bear was glad.",
        alpaca::prompt("Add.", "1")
    );
    let bytes = synthetic::train_tokenizer(&text, 400).unwrap();
    Tokenizer::from_bytes(Path::new("t.json"), &bytes, synthetic::special_tokens()).unwrap()
}

fn files(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| dir.path().join(name)).collect();
    paths
        .iter()
        .zip(files)
        .for_each(|(path, (_, text))| std::fs::write(path, text).unwrap());
    (dir, paths)
}

#[test]
fn documents_are_joined_each_with_the_begin_token() {
    let tokenizer = tokenizer();
    let (_dir, paths) = files(&[("a.txt", "The fox.\n\nThe bear."), ("b.TXT", "Glad.")]);
    let stream = TokenStream::from_files(&paths, &tokenizer).unwrap();
    let expected: Vec<u32> = ["The fox.", "The bear.", "Glad."]
        .iter()
        .flat_map(|text| tokenizer.encode_document(text).unwrap())
        .collect();
    assert_eq!(stream.tokens(), expected);
    assert_eq!(
        stream
            .tokens()
            .iter()
            .filter(|&&token| Some(token) == tokenizer.begin_token())
            .count(),
        3
    );
    // that a file begins is nothing to predict
    let counts = (0..stream.len()).filter(|&position| stream.counts(position)).count();
    assert_eq!(counts, stream.len() - 2);
    let text = TokenStream::from_text("The fox.\n\nThe bear.\n\n\nGlad.\n", &tokenizer).unwrap();
    assert_eq!(text.tokens(), stream.tokens());
}

#[test]
fn that_records_are_apart_is_said_where_there_are_records() {
    let tokenizer = tokenizer();
    let (_dir, paths) = files(&[("a.txt", "The fox.\n\nThe bear."), ("b.jsonl", r#"{"text": "Glad."}"#)]);
    let text = TokenStream::from_files(&paths[..1], &tokenizer).unwrap();
    assert_eq!(text.windows_in_words(8), "in windows of 8 tokens");
    let documents = text.with_apart(Apart::Documents);
    assert_eq!(documents.windows_in_words(8), "in windows of 8 tokens, documents apart");
    let records = TokenStream::from_files(&paths, &tokenizer).unwrap();
    assert_eq!(records.windows_in_words(8), "in windows of 8 tokens, records apart");
}

#[test]
fn a_folder_stands_for_the_data_files_right_in_it() {
    let tokenizer = tokenizer();
    let (dir, paths) = files(&[
        ("b.txt", "The bear."),
        ("a.jsonl", r#"{"text": "The fox."}"#),
        ("c.txt", "Glad."),
        (".hidden.txt", "no"),
        ("notes.md", "no"),
    ]);
    std::fs::create_dir(dir.path().join("d.txt")).unwrap();
    std::fs::write(dir.path().join("d.txt/e.txt"), "no").unwrap();
    let of = |paths: &[PathBuf]| TokenStream::from_files(paths, &tokenizer).unwrap();
    let folder = dir.path().to_path_buf();
    let [b, a, c] = [0, 1, 2].map(|i| paths[i].clone());
    assert_eq!(
        of(std::slice::from_ref(&folder)),
        of(&[a.clone(), b.clone(), c.clone()])
    );
    assert_eq!(of(&[c.clone(), folder]), of(&[c.clone(), a, b, c]));

    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("notes.md"), "no").unwrap();
    let error = TokenStream::from_files(&[empty.path().to_path_buf()], &tokenizer).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("a folder with no .txt, .json or .jsonl files in it"),
        "{error}"
    );
}

#[test]
fn only_the_response_and_its_end_count() {
    let tokenizer = tokenizer();
    let record = AlpacaRecord {
        instruction: "Name it.".into(),
        input: String::new(),
        output: "A red kite.".into(),
    };
    let prompt = tokenizer.encode_document(&alpaca::prompt("Name it.", "")).unwrap();
    let mut stream = TokenStream::default();
    stream
        .append(
            &[Document::Plain("The fox.".into()), Document::Turns(vec![record.turn()])],
            &tokenizer,
        )
        .unwrap();
    let plain = tokenizer.encode_document("The fox.").unwrap().len();
    let counted: Vec<bool> = (0..stream.len()).map(|position| stream.counts(position)).collect();
    assert!(
        counted[..plain].iter().all(|&counts| counts),
        "plain text before a prompt still counts"
    );
    assert!(counted[plain..plain + prompt.len()].iter().all(|&counts| !counts));
    assert!(counted[plain + prompt.len()..].iter().all(|&counts| counts));
    let response = &stream.tokens()[plain + prompt.len()..];
    assert_eq!(tokenizer.decode(response).unwrap(), "A red kite.");
    assert_eq!(response.last().copied(), tokenizer.end_token());

    let batch = windows::evaluation_batches(&stream, stream.len() - 1, 1)
        .unwrap()
        .next()
        .unwrap();
    assert_eq!(batch.counted(), (plain - 1 + response.len()) as f64);
    assert_eq!(
        batch.weights.iter().map(|&weight| weight == 1.0).collect::<Vec<_>>(),
        counted[1..]
    );
}

#[test]
fn windows_of_prompts_only_are_left_out() {
    let tokenizer = tokenizer();
    let record = |output: &str| {
        let record = AlpacaRecord {
            instruction: "Name it. ".repeat(20),
            input: "x".into(),
            output: output.into(),
        };
        Document::Turns(vec![record.turn()])
    };
    let mut stream = TokenStream::default();
    stream
        .append(&[record("A kite."), record("A fox.")], &tokenizer)
        .unwrap();
    let mut sampler = sampler::WindowSampler::new(&stream, 8, 0).unwrap();
    for _ in 0..50 {
        assert!(sampler.next_batch(1).counted() > 0.0);
    }
    let prompts_only = (0..stream.len()).position(|position| stream.counts(position)).unwrap();
    stream.truncate(prompts_only);
    let error = sampler::WindowSampler::new(&stream, 8, 0).unwrap_err();
    assert!(matches!(error, TrainError::NothingToLearn { .. }), "{error}");
}

#[test]
fn empty_and_unknown_files_are_errors() {
    let tokenizer = tokenizer();
    let (_dir, paths) = files(&[("a.txt", "\n \n"), ("b.json", "[]"), ("c.jsonl", "")]);
    let error = TokenStream::from_files(&paths, &tokenizer).unwrap_err().to_string();
    assert!(
        error.contains("a.txt") && error.contains("b.json") && error.contains("c.jsonl"),
        "{error}"
    );
    let error = TokenStream::from_files(&[], &tokenizer).unwrap_err().to_string();
    assert!(error.contains("name at least one"), "{error}");
    for name in ["text", "text.csv", "text.txt.gz"] {
        let error = TokenStream::from_files(&[name.into()], &tokenizer).unwrap_err();
        assert!(matches!(error, TrainError::UnknownDataFormat { .. }), "{error}");
    }
}

#[test]
fn the_fingerprint_tells_tokens_and_weights_apart() {
    let tokenizer = tokenizer();
    let mut response = TokenStream::default();
    let document = Document::Turns(vec![Turn {
        prompt: "The fox".into(),
        response: " found".into(),
        learned: Learned::Response,
    }]);
    response.append(&[document], &tokenizer).unwrap();
    let plain = TokenStream::from_tokens(response.tokens().to_vec());
    assert_ne!(plain.fingerprint(), response.fingerprint());
    let mut shorter = plain.clone();
    shorter.truncate(plain.len() - 1);
    assert_ne!(plain.fingerprint(), shorter.fingerprint());
    assert_eq!(plain.fingerprint(), plain.clone().fingerprint());
}

#[test]
fn alpaca_files_of_both_kinds_give_the_same_stream() {
    let tokenizer = tokenizer();
    let record = r#"{"instruction": "Add.", "input": "1", "output": "The fox."}"#;
    let (_dir, paths) = files(&[("a.json", &format!("[{record}]")), ("b.jsonl", record)]);
    let [array, lines] = [0, 1].map(|file| TokenStream::from_files(&paths[file..=file], &tokenizer).unwrap());
    assert_eq!(array, lines);
}

/// What of a stream counts, a run of tokens after the other, as text.
fn learned(stream: &TokenStream, tokenizer: &Tokenizer) -> Vec<String> {
    let counts: Vec<(bool, u32)> = (0..stream.len())
        .map(|at| (stream.counts(at), stream.tokens()[at]))
        .collect();
    let runs = counts.chunk_by(|a, b| a.0 == b.0).filter(|run| run[0].0);
    runs.map(|run| {
        tokenizer
            .decode(&run.iter().map(|&(_, token)| token).collect::<Vec<_>>())
            .unwrap()
    })
    .collect()
}

const CONVERSATIONS: &str = r#"
    {"messages": [{"role": "system", "content": "Add."}, {"role": "user", "content": "1"}, {"role": "assistant", "content": "The fox."},
        {"role": "user", "content": [{"type": "text", "text": "found"}]}, {"role": "assistant", "content": "a kite", "name": null}]}
    {"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "glad"}]}
    {"instruction": "Add.", "input": "1", "output": "red"}
"#;

/// One record a line.
fn conversations() -> String {
    CONVERSATIONS.replace(",\n", ", ")
}

#[test]
fn conversations_are_written_in_alpacas_template_where_the_model_has_none() {
    let tokenizer = tokenizer();
    let (_dir, paths) = files(&[("a.jsonl", &conversations())]);
    let stream = TokenStream::from_files(&paths, &tokenizer).unwrap();
    assert_eq!(learned(&stream, &tokenizer), ["The fox.", "a kite", "glad", "red"]);
    let ends = stream
        .tokens()
        .iter()
        .filter(|&&token| Some(token) == tokenizer.end_token());
    assert_eq!(ends.count(), 4);
    let text = tokenizer.decode(stream.tokens()).unwrap();
    let first = alpaca::prompt("Add.\n\n1", "") + "The fox." + &alpaca::next_prompt("found") + "a kite";
    assert!(text.starts_with(&first), "{text}");
}

/// As in TRL. Documents of a text file begin where the one before ends, and have no end of their own.
#[test]
fn texts_that_stand_for_themselves_end_with_the_end_token_and_begin_as_the_model_has_it() {
    let bytes = synthetic::train_tokenizer("The fox found a red kite.", 300).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("tokenizer.json", &bytes);
    let (_dir, paths) = files(&[
        ("a.jsonl", "{\"text\": \"The fox.\"}\n{\"text\": \"The kite.</s>\"}\n{\"prompt\": \"The\", \"completion\": \" fox.\"}\n"),
        ("b.txt", "The fox.\n\nThe kite.\n"),
    ]);
    for (adds_begin, begins) in [("true", 5), ("false", 2)] {
        let config = format!(r#"{{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": {adds_begin}}}"#);
        write("tokenizer_config.json", config.as_bytes());
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let stream = TokenStream::from_files(&paths, &tokenizer).unwrap();
        let count = |special: Option<u32>| stream.tokens().iter().filter(|&&token| Some(token) == special).count();
        assert_eq!(
            (count(tokenizer.begin_token()), count(tokenizer.end_token())),
            (begins, 3)
        );
        let record = stream.parts().next().unwrap();
        assert_eq!(Some(stream.tokens()[record.end - 1]), tokenizer.end_token());
        assert!(stream.counts(record.end - 1) && stream.counts(1));
        // what was put there is learned and not measured, also of a piece of it
        let measured = stream.clone().to_measure();
        assert!(!measured.counts(record.end - 1) && measured.counted() == stream.counted() - 1);
        let mut rest = measured.clone();
        let mut last = rest.split_off_share(0.5);
        assert_eq!(rest.counted(), (0..rest.len()).filter(|&at| rest.counts(at)).count());
        assert_eq!(last.counted(), (0..last.len()).filter(|&at| last.counts(at)).count());
        let mut texts = TokenStream::from_files(&paths[..1], &tokenizer).unwrap().to_measure();
        // from the end token of the first on
        let rest = texts.len() + 1 - record.end;
        let behind = texts.split_off_share((rest as f64 + 0.5) / texts.len() as f64);
        assert_eq!(Some(behind.tokens()[0]), tokenizer.end_token());
        assert_eq!(
            behind.counted(),
            (0..behind.len()).filter(|&at| behind.counts(at)).count()
        );
        last.truncate(2);
        assert_eq!(last.counted(), (0..last.len()).filter(|&at| last.counts(at)).count());
    }
}

#[test]
fn records_are_written_in_the_chat_template_of_the_model() {
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ bos_token + '[' + m.content + '] ' }}{% endif %}{% endfor %}";
    let bytes = synthetic::train_tokenizer("The fox found a red kite. The bear was glad. [Add.] [1]", 300).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("tokenizer.json", &bytes);
    write("tokenizer_config.json", br#"{"bos_token": "<s>", "eos_token": "</s>"}"#);
    write("chat_template.jinja", template.as_bytes());
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let (_dir, paths) = files(&[("a.jsonl", &conversations())]);
    let stream = TokenStream::from_files(&paths, &tokenizer).unwrap();
    assert_eq!(learned(&stream, &tokenizer), ["The fox.", "a kite", "glad", "red"]);
    let text = tokenizer.decode(stream.tokens()).unwrap();
    assert_eq!(text, "[Add.] [1] The fox.[found] a kite[1] glad[Add.\n\n1] red");
    // the end of each response counts
    let ends = (0..stream.len()).filter(|&at| Some(stream.tokens()[at]) == tokenizer.end_token());
    assert_eq!(ends.map(|at| stream.counts(at)).collect::<Vec<_>>(), [true; 4]);

    write("chat_template.jinja", b"{{ raise_exception('no roles here') }}");
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let error = TokenStream::from_files(&paths, &tokenizer).unwrap_err().to_string();
    for part in ["a.jsonl", "line 2", "chat_template.jinja", "no roles here"] {
        assert!(error.contains(part), "{error}");
    }
    // text needs no template
    write("chat_template.jinja", b"{% if %}");
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    TokenStream::from_text("The fox.", &tokenizer).unwrap();
}

#[test]
fn real_files_give_the_tokens_that_the_reference_program_counts() {
    let Some(model) = Folder::Models.locate_in("stories260k") else {
        return;
    };
    let tokenizer = Tokenizer::from_dir(&model).unwrap();
    // Counted with the Python package tokenizers: `text.split("\n\n")`, and the prompt and loss rule of Stanford's train.py.
    if let Some(path) = Folder::Data.locate_in("stories_valid.txt") {
        assert_eq!(TokenStream::from_files(&[path], &tokenizer).unwrap().len(), 69_348);
    }
    if let Some(path) = Folder::Data.locate_in("alpaca_en_1k.json") {
        let stream = TokenStream::from_files(&[path], &tokenizer).unwrap();
        let counted = (0..stream.len()).filter(|&position| stream.counts(position)).count();
        assert_eq!((stream.len(), counted), (593_048, 429_461));
    }
}

#[test]
fn documents_and_what_counts_are_numbered() {
    let tokenizer = tokenizer();
    let record = r#"{"instruction": "Add.", "input": "1", "output": "The fox."}"#;
    let (_dir, paths) = files(&[("a.txt", "The fox.\n\nThe bear.\n\n\nGlad."), ("b.jsonl", record)]);
    let mut stream = TokenStream::from_files(&paths, &tokenizer).unwrap();
    assert_eq!(stream.documents(), 4);
    let counted = (0..stream.len()).filter(|&at| stream.counts(at)).count();
    assert!(stream.counted() == counted && counted < stream.len());
    // of the last document the end is held out, which begins none
    let mut last = TokenStream::from_files(&paths[1..], &tokenizer).unwrap();
    let held_out = last.split_off_share(1.5 / last.len() as f64);
    assert_eq!((held_out.len(), held_out.documents()), (1, 0));
    let plain = TokenStream::from_files(&paths[..1], &tokenizer).unwrap().len();
    stream.truncate(plain + 1);
    assert_eq!(stream.documents(), 4);
    stream.truncate(plain);
    assert_eq!((stream.documents(), stream.counted()), (3, plain));
}

#[test]
fn records_may_change_places_and_the_documents_of_a_text_may_not() {
    let tokenizer = tokenizer();
    let record = r#"{"text": "The fox."}"#;
    let (_dir, paths) = files(&[
        ("a.txt", "The fox.\n\nThe bear."),
        ("b.jsonl", &format!("{record}\n{record}")),
        ("c.txt", "Glad."),
    ]);
    let lengths = |stream: &TokenStream| stream.parts().map(|part| part.len()).collect::<Vec<_>>();
    let each = |paths: &[PathBuf]| TokenStream::from_files(paths, &tokenizer).unwrap();
    let [a, b, c] = [0, 1, 2].map(|at| each(&paths[at..=at]));
    assert_eq!(lengths(&a), [a.len()]);
    assert_eq!(lengths(&b), [b.len() / 2; 2]);
    let mut stream = each(&paths);
    assert_eq!(lengths(&stream), [a.len(), b.len() / 2, b.len() / 2, c.len()]);
    assert_ne!(
        each(&[paths[0].clone(), paths[2].clone()]).fingerprint(),
        a.fingerprint()
    );

    // a part that is cut is one on both sides
    let held_out = stream.split_off_share((c.len() + 1) as f64 / stream.len() as f64);
    assert_eq!(lengths(&held_out), [c.len()], "a short file as a whole");
    assert_eq!(lengths(&stream), [a.len(), b.len() / 2, b.len() / 2]);
    let mut records = b.clone();
    assert_eq!(lengths(&records.split_off_share(0.75)), [b.len() / 4, b.len() / 2]);
    assert_eq!(lengths(&records), [b.len() / 2 - b.len() / 4]);
    stream.truncate(a.len());
    assert_eq!(lengths(&stream), [a.len()]);
}

#[test]
fn of_each_file_as_much_is_taken_off_and_kept() {
    let tokenizer = tokenizer();
    let record = r#"{"instruction": "Add.", "input": "1", "output": "The fox."}"#;
    let (_dir, paths) = files(&[
        ("a.txt", &"The fox.\n\n".repeat(2000)),
        ("b.txt", ""),
        ("c.jsonl", &format!("{record}\n").repeat(100)),
    ]);
    let all = TokenStream::from_files(&paths, &tokenizer).unwrap();
    let [a, c] = [0, 2].map(|at| TokenStream::from_files(&paths[at..=at], &tokenizer).unwrap());
    let mut training = all.clone();
    let held_out = training.split_off_share(0.1);
    // both together, and each of both
    assert_eq!(training.len() + held_out.len(), all.len());
    assert_eq!(training.documents() + held_out.documents(), all.documents());
    // what is left begins anew: its first token is no longer predicted
    assert_eq!(training.counted() + held_out.counted() + 1, all.counted());
    let of_a = a.len() / 10;
    assert_eq!(held_out.tokens()[..of_a], a.tokens()[a.len() - of_a..]);
    assert_eq!(
        held_out.tokens()[of_a..],
        c.tokens()[c.len() - (held_out.len() - of_a)..]
    );
    assert!((1..of_a).all(|at| held_out.counts(at)) && !held_out.counts(0));
    assert!(!held_out.counts(held_out.len() - c.len() / 100));
    assert_eq!(training.tokens()[..a.len() - of_a], a.tokens()[..a.len() - of_a]);
    // a text is one part, records are many; each begins where it is cut
    assert_eq!(held_out.parts().next().unwrap().len(), of_a);
    assert!(held_out.parts().count() > 5);
    let mut shorter = held_out.clone();
    shorter.truncate_each(held_out.len() / 2);
    assert_eq!(shorter.len(), held_out.len() / 2);
    let kept = of_a * shorter.len() / held_out.len();
    assert_eq!(shorter.tokens()[..kept], held_out.tokens()[..kept]);
    assert_eq!(shorter.tokens()[kept], held_out.tokens()[of_a]);
    shorter.truncate_each(held_out.len());
    assert_eq!(shorter.len(), held_out.len() / 2);
}

/// As TRL has it: texts are joined as they are, in no template; only the completion counts, with the end token behind it.
#[test]
fn a_completion_stands_behind_its_prompt_as_it_is() {
    let tokenizer = tokenizer();
    let record = r#"{"prompt": "The fox found", "completion": " a red kite.", "id": 1}"#;
    let (_dir, paths) = files(&[("a.jsonl", record)]);
    let stream = TokenStream::from_files(&paths, &tokenizer).unwrap();
    assert_eq!(learned(&stream, &tokenizer), [" a red kite."]);
    let mut whole = tokenizer.encode_document("The fox found a red kite.").unwrap();
    whole.extend(tokenizer.end_token());
    assert_eq!(stream.tokens(), whole);
}

#[test]
fn of_messages_only_those_of_the_completion_count() {
    let tokenizer = tokenizer();
    let prompt = r#"[{"role": "user", "content": "Add."}, {"role": "assistant", "content": "glad"}, {"role": "user", "content": "1"}]"#;
    let record = format!(r#"{{"prompt": {prompt}, "completion": [{{"role": "assistant", "content": "The fox."}}]}}"#);
    let (_dir, paths) = files(&[("a.jsonl", &record)]);
    let stream = TokenStream::from_files(&paths, &tokenizer).unwrap();
    assert_eq!(learned(&stream, &tokenizer), ["The fox."]);
    let text = tokenizer.decode(stream.tokens()).unwrap();
    assert!(text.contains("glad\n\n### Instruction:\n1"), "{text}");
}

#[test]
fn dolly_has_other_names_for_the_same() {
    let tokenizer = tokenizer();
    let dolly = r#"{"instruction": "Add.", "context": "1", "response": "The fox.", "category": "sum"}"#;
    let alpaca = r#"{"instruction": "Add.", "input": "1", "output": "The fox."}"#;
    let (_dir, paths) = files(&[("a.jsonl", dolly), ("b.jsonl", alpaca)]);
    let [dolly, alpaca] = [0, 1].map(|file| TokenStream::from_files(&paths[file..=file], &tokenizer).unwrap());
    assert_eq!(dolly, alpaca);
}

#[test]
fn an_array_may_have_a_name() {
    let tokenizer = tokenizer();
    let record = r#"{"text": "The fox."}"#;
    let (_dir, paths) = files(&[
        ("a.json", &format!("[{record}]")),
        (
            "b.json",
            &format!(r#"{{"version": [1, {{}}], "data": [{record}], "test": [{{"text": "1"}}]}}"#),
        ),
        ("c.json", &format!(r#"{{"train": [{record}]}}"#)),
        ("d.json", &format!(r#"{{"train": [{record}], "data": []}}"#)),
        ("e.json", &format!(r#"{{"train": {record}}}"#)),
        ("f.json", &format!(r#"{{"rows": [{record}]}}"#)),
    ]);
    let read = |file: usize| TokenStream::from_files(&paths[file..=file], &tokenizer);
    let array = read(0).unwrap();
    assert_eq!((&read(1).unwrap(), &read(2).unwrap()), (&array, &array));
    for (file, about) in [
        (3, "\"data\" and \"train\" stand there both"),
        (4, "an array"),
        (5, "an array"),
    ] {
        let error = read(file).unwrap_err().to_string();
        assert!(error.contains(about) && error.contains("line 1"), "{error}");
    }
}

/// Records without anything to learn are passed over, and an empty response of a conversation is not taught.
#[test]
fn nothing_is_learned_of_what_is_empty() {
    let tokenizer = tokenizer();
    let good = r#"{"text": "The fox."}"#;
    let empty = r#"{"text": " \n"}
        {"instruction": "Add.", "output": ""}
        {"instruction": "Add.", "response": "\t"}
        {"prompt": "The fox", "completion": " "}
        {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": ""}]}"#;
    let answer = r#"{"role": "user", "content": "1"}, {"role": "assistant", "content": "red"}"#;
    let nothing = r#"{"role": "user", "content": "Add."}, {"role": "assistant", "content": ""}"#;
    let (_dir, paths) = files(&[
        ("a.jsonl", good),
        ("b.jsonl", &format!("{empty}\n{good}\n{empty}")),
        ("c.jsonl", empty),
        (
            "d.jsonl",
            &format!(r#"{{"messages": [{nothing}, {answer}, {nothing}]}}"#),
        ),
        ("e.jsonl", &format!(r#"{{"messages": [{nothing}, {answer}]}}"#)),
    ]);
    let read = |file: usize| TokenStream::from_files(&paths[file..=file], &tokenizer);
    assert_eq!(read(0).unwrap(), read(1).unwrap());
    let error = read(2).unwrap_err().to_string();
    assert!(error.contains("no text in") && error.contains("c.jsonl"), "{error}");
    let stream = read(3).unwrap();
    assert_eq!(learned(&stream, &tokenizer), ["red"]);
    assert_eq!(stream, read(4).unwrap());
}
