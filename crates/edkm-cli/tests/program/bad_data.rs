//! Text and records that cannot be trained on: the message names the file, the line and the key.

use crate::common::{assert_refused, edkm, Workshop};

#[test]
fn an_empty_data_file() {
    let shop = Workshop::new();
    std::fs::write(shop.text(), "\n  \n").unwrap();
    assert_refused(&shop.finetune(&[]), &["text.txt", "no text"], &shop.out());
}

#[test]
fn a_data_file_that_is_not_utf8() {
    let shop = Workshop::new();
    std::fs::write(shop.text(), b"Once upon a time \xff\xfe").unwrap();
    assert_refused(&shop.finetune(&[]), &["text.txt", "UTF-8", "17"], &shop.out());
}

#[test]
fn a_data_file_of_an_unknown_kind() {
    let shop = Workshop::new();
    let csv = shop.path("text.csv");
    std::fs::write(&csv, "a,b").unwrap();
    let output = shop.finetune(&["--valid", csv.to_str().unwrap()]);
    assert_refused(&output, &["text.csv", ".jsonl"], &shop.out());
    let other = shop.path("other.txt");
    std::fs::copy(shop.text(), &other).unwrap();
    for order in [[&csv, &other], [&other, &csv]] {
        let [first, second] = order.map(|path| path.to_str().unwrap());
        let output = shop.finetune(&["--valid", first, "--valid", second]);
        assert_refused(&output, &["text.csv", ".jsonl"], &shop.out());
    }
}

/// It would wait for a writer for ever.
#[cfg(unix)]
#[test]
fn a_pipe_is_refused_where_its_text_is_read_again() {
    let shop = Workshop::new();
    let pipe = shop.path("pipe.txt");
    assert!(std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap()
        .success());
    let pipe = pipe.to_str().unwrap();
    let words = ["pipe.txt", "a pipe", "write it to a file"];
    let mut finetune = crate::common::edkm();
    finetune
        .arg("finetune")
        .arg(shop.model())
        .args(["--data", pipe, "--epochs", "1"]);
    let output = finetune.arg("--out").arg(shop.out()).output().unwrap();
    assert_refused(&output, &words, &shop.out());
    let mut compare = crate::common::edkm();
    compare
        .arg("compare")
        .arg(shop.model())
        .args(["--data", pipe, "--valid"])
        .arg(shop.text());
    let output = compare.arg("--out").arg(shop.out()).output().unwrap();
    assert_refused(&output, &words, &shop.out());
}

#[test]
fn fewer_tokens_than_one_window() {
    let shop = Workshop::new();
    std::fs::write(shop.text(), "Once upon a time.").unwrap();
    assert_refused(&shop.finetune(&[]), &["tokens", "33"], &shop.out());
}

#[test]
fn a_text_that_is_too_short_is_named() {
    let shop = Workshop::new();
    let short = shop.path("short.txt");
    std::fs::write(&short, "Hi.").unwrap();
    let output = shop.finetune(&["--valid", short.to_str().unwrap()]);
    assert_refused(
        &output,
        &["the validation text, ", "short.txt, has", "one window takes 33"],
        &shop.out(),
    );
    std::fs::copy(&short, shop.text()).unwrap();
    assert_refused(&shop.finetune(&[]), &["the training text, ", ".txt, has"], &shop.out());
    let mut eval = edkm();
    eval.arg("eval")
        .arg(shop.model())
        .args(["--seq", "32", "--data"])
        .arg(&short);
    assert_refused(
        &eval.output().unwrap(),
        &["short.txt has", "one window takes 33"],
        &shop.out(),
    );
}

#[test]
fn a_text_on_both_sides_is_pointed_out() {
    let shop = Workshop::new();
    let output = shop.finetune(&["--valid", shop.text().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("text.txt is trained on and measured on"), "{said}");
}

/// The fault of a data file, without what the program says before it.
fn fault(shop: &Workshop, name: &str, text: &str) -> String {
    let data = shop.path(name);
    std::fs::write(&data, text).unwrap();
    let output = shop.finetune(&["--valid", data.to_str().unwrap()]);
    assert_refused(&output, &[name], &shop.out());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines()
        .find(|line| line.contains(name))
        .expect("the file's name")
        .to_owned()
}

#[test]
fn a_value_in_a_message_is_short() {
    let shop = Workshop::new();
    let long = "long \\\"words\\\" ".repeat(20_000);
    for (name, text) in [
        ("a.jsonl", format!("\"{long}\"")),
        ("b.jsonl", format!(r#"{{"messages": "{long}"}}"#)),
        ("c.jsonl", format!(r#"{{"messages": ["{long}"]}}"#)),
        ("d.json", format!(r#"[{{"messages": ["{long}"]}}]"#)),
        ("e.json", format!("\"{long}\"")),
        ("f.jsonl", format!(r#"{{"{long}": 1}}"#)),
        (
            "g.jsonl",
            format!(r#"{{"instruction": "a", "output": {{"{long}": 1}}}}"#),
        ),
        (
            "h.jsonl",
            format!(r#"{{"messages": [{{"role": "assistant", "content": {{"a": "{long}"}}}}]}}"#),
        ),
    ] {
        let said = fault(&shop, name, &text);
        assert!(said.len() < 600, "{} bytes: {}", said.len(), &said[..600]);
        if name.as_bytes()[0] < b'f' {
            assert!(said.contains("long ") && said.contains("more characters"), "{said}");
        }
    }
}

#[test]
fn a_fault_has_its_place_in_the_file() {
    let shop = Workshop::new();
    let good = r#"{"instruction": "a", "output": "b"}"#;
    let more = format!("{good}\n\n{good}\n \n\n");
    for (name, text, place) in [
        (
            "a.jsonl",
            format!("{more}{{\"instruction\": \"a\"}}\n"),
            "a.jsonl: line 6: ",
        ),
        (
            "b.jsonl",
            format!("{more}{{\"output\": \"é\", \"instruction\": 7}}\n"),
            "b.jsonl: line 6, column 32: ",
        ),
        (
            "c.jsonl",
            format!("{more}{{\"output\": \"é\"\n"),
            "c.jsonl: line 6, column 14: ",
        ),
        (
            "d.json",
            format!("[\n  {good},\n  {{\n    \"instruction\": \"a\"\n  }}\n]\n"),
            "d.json: record 2 (line 3): ",
        ),
        (
            "e.json",
            format!("[\n  {good},\n  {{\n    \"é\": \"é\", \"instruction\": 7\n  }}\n]\n"),
            "e.json: record 2 (line 4, column 30): ",
        ),
        ("f.json", String::new(), "f.json: line 1: EOF"),
        (
            "g.json",
            format!("[{good}\n] x\n"),
            "g.json: line 2, column 3: trailing",
        ),
        (
            "h.json",
            format!("[{good}\n{good}]"),
            "h.json: line 2, column 1: expected `,`",
        ),
        ("i.json", format!("[{good},\n"), "i.json: line 1, column 37: EOF"),
    ] {
        let said = fault(&shop, name, &text);
        assert!(said.contains(place), "no `{place}` in {said}");
        assert!(!said.contains("record 0") && !said.contains("column 0"), "{said}");
    }
}

#[test]
fn a_record_of_no_known_shape_is_named_by_its_keys() {
    let shop = Workshop::new();
    for (name, record, parts) in [
        ("a.jsonl", r#"{"text": 5}"#, &["\"text\" is a number, not a text"][..]),
        (
            "b.jsonl",
            r#"{"question": "a", "answer": "b"}"#,
            &["\"question\", \"answer\""],
        ),
        ("c.jsonl", r#"{"content": "a"}"#, &["\"content\"", "\"messages\""]),
        (
            "d.jsonl",
            r#"{"Instruction": "a", "Output": "b"}"#,
            &["\"Instruction\""],
        ),
        ("e.jsonl", "{}", &["no keys"]),
        ("f.jsonl", r#"{"text": null, "a": 1}"#, &["\"text\" is null"]),
        (
            "g.jsonl",
            r#"{"instruction": "a", "answer": "b"}"#,
            &["\"output\" is missing", "\"instruction\", \"answer\""],
        ),
        (
            "h.jsonl",
            r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1}"#,
            &["\"f\" and 2 more"],
        ),
    ] {
        let said = fault(&shop, name, record);
        for part in parts {
            assert!(said.contains(part), "no `{part}` in {said}");
        }
    }
}

#[test]
fn records_without_anything_to_learn_are_passed_over_and_counted() {
    let shop = Workshop::new();
    let data = shop.path("some.jsonl");
    let empty = r#"{"text": ""}"#;
    let record = r#"{"instruction": "Say a word.", "output": "Ball."}"#;
    std::fs::write(
        &data,
        format!("{empty}\n{record}\n{{\"instruction\": \"a\", \"output\": \" \"}}\n"),
    )
    .unwrap();
    let output = shop.finetune(&["--data", data.to_str().unwrap(), "--eval-tokens", "100"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("some.jsonl: 2 of its records have no text or no response"),
        "{said}"
    );
    assert_eq!(said.matches("passed over").count(), 1, "{said}");
    std::fs::remove_dir_all(shop.out()).unwrap();
    std::fs::write(&data, empty).unwrap();
    let output = shop.finetune(&["--valid", data.to_str().unwrap()]);
    assert_refused(&output, &["some.jsonl: 1 of its records", "no text in"], &shop.out());
}

#[test]
fn a_role_that_no_template_knows_is_pointed_out_once() {
    let shop = Workshop::new();
    let data = shop.path("some.jsonl");
    let record = |role: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "{role}", "content": "b"}}, {{"role": "assistant", "content": "c"}}]}}"#
        )
    };
    let known = ["system", "developer", "tool", "ipython", "human", "gpt"]
        .map(record)
        .join("\n");
    std::fs::write(&data, &known).unwrap();
    let arguments = ["--data", data.to_str().unwrap(), "--eval-tokens", "100", "--overwrite"];
    let said = |output: std::process::Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let quiet = said(shop.finetune(&arguments));
    assert!(!quiet.contains("is not known"), "{quiet}");
    std::fs::write(&data, format!("{known}\n{}\n{}", record("Bard"), record("bard"))).unwrap();
    let warned = said(shop.finetune(&arguments));
    assert!(
        warned.contains("some.jsonl: line 7: the role \"bard\" is not known"),
        "{warned}"
    );
    assert_eq!(warned.matches("is not known").count(), 1, "{warned}");
}
