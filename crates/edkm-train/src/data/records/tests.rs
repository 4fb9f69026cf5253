use std::path::Path;

use super::*;
use crate::data::alpaca::prompt;

fn array(json: &str) -> Result<Vec<Record>, TrainError> {
    let mut records = Vec::new();
    read_array(Path::new("alpaca.json"), json.as_bytes(), |record, _| {
        records.push(record);
        Ok(())
    })?;
    Ok(records)
}

fn lines(json: &str) -> Result<Vec<Record>, TrainError> {
    let mut records = Vec::new();
    read_lines(Path::new("alpaca.jsonl"), json.as_bytes(), |record, _| {
        records.push(record);
        Ok(())
    })?;
    Ok(records)
}

fn record(instruction: &str, input: &str, output: &str) -> Record {
    Record::Alpaca(AlpacaRecord {
        instruction: instruction.into(),
        input: input.into(),
        output: output.into(),
    })
}

#[test]
fn the_prompts_are_those_of_stanford_alpaca() {
    // Copied from the published train.py, PROMPT_DICT, with the fields filled in.
    assert_eq!(
        prompt("Add the numbers.", "2 and 3"),
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd the numbers.\n\n### Input:\n2 and 3\n\n### Response:"
    );
    assert_eq!(
        prompt("Say hello.", ""),
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nSay hello.\n\n### Response:"
    );
}

#[test]
fn both_file_kinds_give_the_same_records() {
    let one = r#"{"instruction": "A", "input": "B", "output": "C"}"#;
    let two = r#"{"output": "é\n", "text": ["é"], "extra": {"deep": [1, {"x": null}]}, "instruction": "D"}"#;
    let three = r#"{"instruction": "E", "input": null, "output": ""}"#;
    let expected = vec![record("A", "B", "C"), record("D", "", "é\n"), record("E", "", "")];
    assert_eq!(array(&format!(" [{one},\n{two} , {three}] \n")).unwrap(), expected);
    assert_eq!(lines(&format!("{one}\n\n{two}\r\n  \n{three}")).unwrap(), expected);
    assert!(array("[]").unwrap().is_empty());
    assert!(lines("").unwrap().is_empty());
}

#[test]
fn a_record_may_be_a_text_and_a_file_begin_with_a_mark() {
    let want = vec![Record::Text("One.\n\nStill one.".into())];
    assert_eq!(lines(r#"{"text": "One.\n\nStill one.", "source": "x"}"#).unwrap(), want);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let record = r#"{"text": "One.\n\nStill one."}"#;
    let mut records = Vec::new();
    let mut each = |record, _| {
        records.push(record);
        Ok(())
    };
    for_each_line(&file("a.jsonl", &format!("\u{feff}{record}")), &mut each).unwrap();
    for_each_in_array(&file("a.json", &format!("\u{feff}[{record}]")), &mut each).unwrap();
    assert_eq!(records, [want.clone(), want].concat());
}

fn conversation(record: &str) -> Conversation {
    match lines(record).unwrap().remove(0) {
        Record::Conversation(conversation) => conversation,
        other => panic!("{other:?} is no conversation"),
    }
}

/// What stands beside messages and is not said by anyone is kept for the template, or belongs to the messages.
#[test]
fn tools_system_texts_and_weights_are_kept() {
    let said = r#""messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]"#;
    let given = |beside: &str| serde_json::to_string(&conversation(&format!("{{{said}, {beside}}}")).given).unwrap();
    let tools = r#"{"tools":[{"name":"f"}]}"#;
    assert_eq!(given(r#""tools": [{"name": "f"}]"#), tools);
    assert_eq!(
        given(r#""tools": "[{\"name\": \"f\"}]""#),
        tools,
        "as a text, as TRL takes it"
    );
    let nothing = [
        r#""tools": null"#,
        r#""tools": []"#,
        r#""tools": " ""#,
        r#""tools": "a hammer""#,
        r#""tools": {"a": 3}"#,
        r#""chat_template_kwargs": null"#,
    ];
    assert!(nothing.into_iter().all(|beside| given(beside) == "{}"));
    assert_eq!(given(r#""chat_template_kwargs": {"mode": 1}"#), r#"{"mode":1}"#);
    let error = lines(&format!(r#"{{{said}, "chat_template_kwargs": [1]}}"#))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"chat_template_kwargs\" is [1], not an object"),
        "{error}"
    );
    // beside a record of another kind they are anything
    assert_eq!(
        lines(r#"{"text": "A", "tools": 3, "system": [], "chat_template_kwargs": 1}"#).unwrap(),
        [Record::Text("A".into())]
    );
    let with_system = |record: &str| {
        let messages = conversation(record).messages;
        messages[0] == Message::system("S") && messages.iter().filter(|said| said.role == "system").count() == 1
    };
    assert!(with_system(&format!(r#"{{{said}, "system": "S"}}"#)));
    assert!(with_system(
        r#"{"system": "T", "conversations": [{"from": "system", "value": "S"}, {"from": "gpt", "value": "B"}]}"#
    ));
    let learned = r#"{"messages": [{"role": "assistant", "content": "A", "weight": 0}, {"role": "assistant", "content": "B", "weight": 1}]}"#;
    let learned: Vec<bool> = conversation(learned).messages.iter().map(Message::is_learned).collect();
    assert_eq!(learned, [false, true]);
}

/// What a template may know of a message is kept, and one that calls tools need not say anything.
#[test]
fn the_rest_of_a_message_is_kept() {
    let record = r#"{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "x"}]}]}"#;
    let messages = conversation(record).messages;
    assert_eq!(messages[1].content, "");
    assert_eq!(messages[1].more["tool_calls"][0]["id"], "x");
    // as it is in the record, for templates that ask
    assert!(messages[1].more["content"].is_null());
    // an empty list of calls is none
    let plain = record.replace("null", "\"B\"").replace(r#"[{"id": "x"}]"#, "[]");
    assert_eq!(
        conversation(&plain).messages,
        [Message::user("A"), Message::response("B")]
    );
    assert!(crate::data::alpaca::turns(&messages)
        .unwrap_err()
        .to_string()
        .contains("tools"));
}

#[test]
fn conversations_are_read_in_each_spelling() {
    let want = vec![Record::Conversation(
        vec![Message::user("A"), Message::response("B")].into(),
    )];
    for record in [
        r#"{"messages": [{"role": "user", "content": "A"}, {"content": "B", "role": "assistant"}], "id": 3}"#,
        r#"{"conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B", "weight": null}]}"#,
        r#"{"conversations": [{"from": "Human", "value": "A"}, {"from": "chatgpt", "value": "B"}], "instruction": ""}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "A"}]}, {"role": "assistant", "content": "B"}]}"#,
    ] {
        assert_eq!(lines(record).unwrap(), want, "{record}");
        assert_eq!(array(&format!("[{record}]")).unwrap(), want, "{record}");
    }
    for (bad, about) in [
        (r#"{"messages": "A"}"#, "\"messages\""),
        (r#"{"messages": [{"role": "assistant"}]}"#, "a message has no content"),
        (
            r#"{"messages": [{"role": "assistant", "content": null}]}"#,
            "a message has no content",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": 3}]}"#,
            "a message's content is a text",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]}"#,
            "parts with \"text\"",
        ),
        (r#"{"prompt": "A", "completion": null}"#, "\"completion\" is null"),
        (r#"{"prompt": "A"}"#, "\"completion\" is missing"),
        (r#"{"completion": "A", "b": 1}"#, "\"prompt\" is missing"),
        (
            r#"{"prompt": "A", "completion": [{"role": "assistant", "content": "B"}]}"#,
            "expected two texts, or two lists of messages",
        ),
        (r#"{"prompt": [], "completion": "A"}"#, "\"prompt\" is an empty list"),
        (
            r#"{"prompt": [{"role": "user"}], "completion": [{"role": "assistant", "content": "A"}]}"#,
            "\"prompt\": a message has no content",
        ),
        (
            r#"{"instruction": "A", "response": 3}"#,
            "\"response\" is a number, not a text",
        ),
        (
            r#"{"instruction": "A", "context": ["B"], "response": "C"}"#,
            "\"context\" is a list",
        ),
        (r#"{"messages": [], "conversations": []}"#, "stand there both"),
        (
            r#"{"instruction": "A", "output": "B", "messages": []}"#,
            "\"instruction\" stand there both",
        ),
    ] {
        let error = lines(bad).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains(about), "{error}");
    }
}

#[test]
fn where_the_assistant_says_nothing_there_is_nothing_to_learn() {
    for record in [
        r#"{"messages": [{"role": "user", "content": "A"}]}"#,
        r#"{"messages": []}"#,
        r#"{"prompt": [{"role": "user", "content": "A"}], "completion": [{"role": "user", "content": "A"}]}"#,
    ] {
        let records = lines(record).unwrap();
        assert!(records.iter().all(|record| !record.is_learned()), "{record}");
    }
}

#[test]
fn an_error_names_file_record_and_key() {
    let good = r#"{"instruction": "A", "output": "C"}"#;
    for (bad, number, about) in [
        (r#"{"instruction": "A"}"#, 2, "\"output\" is missing"),
        (r#"{"output": "A"}"#, 2, "\"instruction\" is missing"),
        (r#"{"instruction": null, "output": "A"}"#, 2, "\"instruction\" is null"),
        (
            r#"{"instruction": "A", "output": 7}"#,
            2,
            "\"output\": invalid type: integer `7`",
        ),
        (
            r#"{"instruction": "A", "input": ["x"], "output": "y"}"#,
            2,
            "\"input\": invalid type: sequence",
        ),
        (
            r#"{"instruction": "A", "output": "b", "output": "c"}"#,
            2,
            "\"output\" stands there twice",
        ),
        (r#"{"instruction": "A", "output": "\ud800"}"#, 2, "\"output\""),
        ("17", 2, "expected an object"),
        ("null", 2, "expected an object"),
        ("[]", 2, "expected an object"),
        (r#"{"instruction": "A", "output": "#, 2, "\"output\""),
    ] {
        for (error, record) in [
            (array(&format!("[{good},\n{bad}]")), Some(number)),
            (lines(&format!("{good}\n{bad}\n")), None),
        ] {
            let error = error.expect_err(bad);
            let is_there = |place: &Place| place.record == record && place.line == number;
            assert!(
                matches!(&error, TrainError::Record { place, .. } if is_there(place)),
                "{bad}: {error}"
            );
            let text = error.to_string();
            assert!(text.contains("alpaca.json") && text.contains(about), "{bad}: {text}");
        }
    }
}

#[test]
fn a_line_holds_one_record_and_nothing_else() {
    let error = lines(r#"{"instruction": "A", "output": "b"} trailing"#).unwrap_err();
    assert!(error.to_string().contains("line 1, column 37: trailing"), "{error}");
}

#[test]
fn what_is_not_an_array_is_refused() {
    for bad in [
        "",
        "{}",
        "17",
        "\"text\"",
        "[",
        "[1",
        "[] []",
        "\u{0}",
        r#"{"instruction": "A", "output": "C"}"#,
    ] {
        assert!(matches!(array(bad), Err(TrainError::Record { .. })), "{bad:?}");
    }
}

#[test]
fn deep_json_is_refused_or_passed_over_without_recursion() {
    let deep = "[".repeat(1_000_000);
    assert!(array(&deep).is_err());
    assert!(lines(&deep).is_err());
    assert!(array(&format!(r#"[{{"instruction": {deep}"#)).is_err());
    let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let unread_key = format!(r#"{{"other": {closed}, "instruction": "A", "output": "B"}}"#);
    // Either answer will do; what must not happen is a stack that overflows.
    let _ = lines(&unread_key);
    let _ = array(&format!("[{unread_key}]"));
}

#[test]
fn a_record_that_never_ends_is_refused_before_it_fills_memory() {
    let path = Path::new("alpaca.json");
    let endless = || BufReader::new(std::io::Cursor::new(br#"[{"instruction": ""#).chain(std::io::repeat(b'a')));
    let error = read_array(path, endless(), |_, _| Ok(())).unwrap_err();
    assert!(
        matches!(&error, TrainError::LargeDocument { what, .. } if what == "record 1 (line 1)"),
        "{error}"
    );
    let error = read_lines(path, endless(), |_, _| Ok(())).unwrap_err();
    assert!(
        matches!(&error, TrainError::LargeDocument { what, .. } if what == "line 1"),
        "{error}"
    );
}

#[test]
fn many_records_do_not_use_up_the_limit_of_one() {
    let filler = "x".repeat(1 << 20);
    let one = format!(r#"{{"instruction": "A", "output": "{filler}"}}"#);
    let json = format!("[{}]", vec![one; 20].join(","));
    assert_eq!(array(&json).unwrap().len(), 20);
}

#[test]
fn the_receivers_error_comes_back_as_it_is() {
    let stop = |_, _| Err(TrainError::NothingToLearn { tokens: 3 });
    let json = r#"[{"instruction": "A", "output": "C"}]"#;
    let error = read_array(Path::new("x"), json.as_bytes(), stop).unwrap_err();
    assert!(matches!(error, TrainError::NothingToLearn { tokens: 3 }));
}

/// What was read before has its meaning still, whatever else the record has.
#[test]
fn other_shapes_do_not_disturb() {
    let alpaca = record("A", "", "B");
    for (json, want) in [
        (
            r#"{"instruction": "A", "output": "B", "prompt": "C", "completion": "D", "response": 1, "context": 2}"#,
            alpaca.clone(),
        ),
        (
            r#"{"instruction": "A", "response": "B", "context": null, "prompt": ["C", {}]}"#,
            alpaca,
        ),
        (
            r#"{"text": "A", "prompt": {"B": [{}]}, "response": ["C"]}"#,
            Record::Text("A".into()),
        ),
        (
            r#"{"prompt": "A", "completion": "B", "messages": [{"role": "assistant", "content": "C"}]}"#,
            Record::Conversation(vec![Message::response("C")].into()),
        ),
    ] {
        assert_eq!(lines(json).unwrap(), [want], "{json}");
    }
}
