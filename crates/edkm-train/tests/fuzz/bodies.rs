//! What the fuzz targets check. The targets in `fuzz` call it with what the fuzzer finds, the tests here with damaged seeds. Files are written
//! into `folder`.

use std::fs;
use std::path::{Path, PathBuf};

use dfdx::prelude::Cpu;
use edkm_train::data::records::Record;
use edkm_train::data::{records, text, Document};
use edkm_train::run::checkpoint::{run_folder, OptimizerState, RunFolder};
use edkm_train::run::LayerRules;
use edkm_train::tasks::Task;
use edkm_train::template::{ChatTemplate, Goes, Message, Template};

fn file(folder: &Path, name: &str, input: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, input).expect("a file");
    path
}

/// Text is refused, or its documents are text with something in it.
pub(crate) fn plain_text(folder: &Path, input: &[u8]) {
    let path = file(folder, "text.txt", input);
    let _ = text::for_each(&path, |document| {
        assert!(!document.trim().is_empty());
        Ok(())
    });
}

/// An array of Alpaca records is refused, or its records are prompts with responses.
pub(crate) fn alpaca_array(folder: &Path, input: &[u8]) {
    let path = file(folder, "alpaca.json", input);
    let _ = records::for_each_in_array(&path, |record, _| {
        // a conversation that begins with a response is refused
        let _ = Template::Alpaca.documents(record);
        Ok(())
    });
}

/// Lines of Alpaca records.
pub(crate) fn alpaca_lines(folder: &Path, input: &[u8]) {
    let path = file(folder, "alpaca.jsonl", input);
    let _ = records::for_each_line(&path, |record, _| {
        // a conversation that begins with a response is refused
        let _ = Template::Alpaca.documents(record);
        Ok(())
    });
}

/// A chat template is refused, or writes a conversation, or says why not: in bounded time and memory.
pub(crate) fn chat_template(_folder: &Path, input: &[u8]) {
    let Ok(source) = std::str::from_utf8(input) else {
        return;
    };
    let template = ChatTemplate::new(Path::new("chat_template.jinja"), source, serde_json::Map::new());
    let conversation = [Message::system("a"), Message::user("b"), Message::response("c")];
    let _ = template.write(&conversation, Goes::On);
    let conversation = Record::Conversation(conversation.to_vec().into());
    for document in Template::Chat(template.into())
        .documents(conversation)
        .into_iter()
        .flatten()
    {
        if let Document::Marked { text, counted } = document {
            assert!(
                counted.iter().all(|range| text.get(range.clone()).is_some()),
                "{counted:?} of {text:?}"
            );
        }
    }
}

/// A file of a task is refused, or the right answer of each question is one of its answers.
pub(crate) fn tasks(folder: &Path, input: &[u8]) {
    let path = file(folder, "task_test.csv", input);
    for task in [Task::Piqa, Task::HellaSwag, Task::Winogrande, Task::ArcEasy, Task::Mmlu] {
        for question in task.read(&path, None).into_iter().flatten() {
            assert!(question.gold < question.choices.len());
        }
    }
}

/// The answers of a task in a file of their own.
pub(crate) fn labels(folder: &Path, input: &[u8]) {
    let question = "{\"goal\":\"a\",\"sol1\":\"b\",\"sol2\":\"c\"}\n";
    let data = file(folder, "piqa.jsonl", question.repeat(2).as_bytes());
    let labels = file(folder, "piqa.lst", input);
    for question in Task::Piqa.read(&data, Some(&labels)).into_iter().flatten() {
        assert!(question.gold < 2);
    }
}

/// Rules for single layers are refused, or what they say is written and read back.
pub(crate) fn layer_rules(_folder: &Path, input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(rules) = LayerRules::from_toml(text) {
        assert_eq!(
            LayerRules::from_toml(&rules.to_toml()).expect("what was written"),
            rules
        );
    }
}

/// The state of a run, with a checksum that fits, is refused or read. The parameters beside it are one number.
pub(crate) fn run_state(folder: &Path, input: &[u8]) {
    let out = folder.join("out");
    let checkpoint = run_folder(&out).join("checkpoints/step-000000000001");
    fs::create_dir_all(&checkpoint).expect("a folder");
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let parameters = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let moments = [&2u64.to_le_bytes()[..], b"{}"].concat();
    for (name, bytes) in [
        ("parameters.safetensors", &parameters[..]),
        ("moments.safetensors", &moments),
        ("state.bin", input),
    ] {
        fs::write(checkpoint.join(name), bytes).expect("a file");
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    fs::write(checkpoint.join("xxh3"), format!("{:032x}", hash.digest128())).expect("a file");
    let _ = RunFolder::open(&out).newest();
}

/// The moments of an optimizer are refused, or read and written again.
pub(crate) fn moments(folder: &Path, input: &[u8]) {
    let path = file(folder, "moments.safetensors", input);
    let folder = path.parent().expect("a folder");
    if let Ok(optimizer) = RunFolder::optimizer(folder, &OptimizerState::default(), &Cpu::default()) {
        optimizer.state().expect("copies");
    }
}
