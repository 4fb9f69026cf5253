//! Published files of multiple-choice tasks, and their answers.

use std::path::Path;

use super::{nested, sparse, strings, text_of, Case};
use crate::common::Workshop;

const PIQA: &str = r#"{"goal":"Hit a ball.","sol1":"With a bat.","sol2":"With a cat."}"#;

fn asked(shop: &Workshop, task: &str, data: &Path) -> Vec<String> {
    strings(&[
        "eval",
        &text_of(&shop.model()),
        "--task",
        task,
        "--data",
        &text_of(data),
    ])
}

/// A task's file.
fn file(task: &'static str, name: &str, says: &[&'static str], bytes: fn() -> Vec<u8>) -> Case {
    Case::new(
        format!("{task}: {name}"),
        &[&["asked.jsonl"], says].concat(),
        move |shop| {
            std::fs::write(shop.path("asked.jsonl"), bytes()).unwrap();
            asked(shop, task, &shop.path("asked.jsonl"))
        },
    )
}

/// The answers of two questions of PIQA.
fn labels(name: &str, says: &[&'static str], bytes: fn() -> Vec<u8>) -> Case {
    Case::new(
        format!("labels: {name}"),
        &[&["answers.lst"], says].concat(),
        move |shop| {
            std::fs::write(shop.path("asked.jsonl"), format!("{PIQA}\n{PIQA}\n")).unwrap();
            std::fs::write(shop.path("answers.lst"), bytes()).unwrap();
            let mut arguments = asked(shop, "piqa", &shop.path("asked.jsonl"));
            arguments.extend(strings(&["--labels", &text_of(&shop.path("answers.lst"))]));
            arguments
        },
    )
}

fn csv(name: &str, says: &[&'static str], bytes: fn() -> Vec<u8>) -> Case {
    Case::new(
        format!("mmlu: {name}"),
        &[&["anatomy_test.csv"], says].concat(),
        move |shop| {
            std::fs::write(shop.path("anatomy_test.csv"), bytes()).unwrap();
            asked(shop, "mmlu", &shop.path("anatomy_test.csv"))
        },
    )
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        file("piqa", "no bytes", &["no question"], Vec::new),
        file("piqa", "an array", &["line 1"], || b"[]".to_vec()),
        file("piqa", "no answers anywhere", &["line 1", "\"label\""], || PIQA.into()),
        file("piqa", "a goal that is a number", &["line 1", "\"goal\""], || {
            br#"{"goal":1,"sol1":"a","sol2":"b","label":0}"#.to_vec()
        }),
        file("piqa", "a label beyond the answers", &["line 1", "\"label\""], || {
            br#"{"goal":"a","sol1":"a","sol2":"b","label":2}"#.to_vec()
        }),
        file("piqa", "a label below all", &["line 1", "\"label\""], || {
            br#"{"goal":"a","sol1":"a","sol2":"b","label":-1}"#.to_vec()
        }),
        file("piqa", "a label of twenty digits", &["line 1", "\"label\""], || {
            br#"{"goal":"a","sol1":"a","sol2":"b","label":"99999999999999999999"}"#.to_vec()
        }),
        file("piqa", "not UTF-8", &["line 2", "UTF-8"], || {
            b"\n{\"goal\":\"\xff\"}\n".to_vec()
        }),
        file("piqa", "cut off", &["line 1"], || PIQA.as_bytes()[..30].to_vec()),
        file("piqa", "deep", &["line 1"], || {
            format!(r#"{{"goal":{}}}"#, nested(400_000)).into()
        }),
        file("piqa", "a line of 17 MiB", &["line 1", "more than"], || {
            vec![b' '; 17 << 20]
        }),
        file("piqa", "a line of millions of values", &["line 1", "more than"], || {
            format!(r#"{{"goal":[{}0]}}"#, "0,".repeat(8_000_000)).into()
        }),
        file("hellaswag", "no endings", &["line 1", "\"endings\""], || {
            br#"{"ctx_a":"a","ctx_b":"b","activity_label":"c","endings":[],"label":0}"#.to_vec()
        }),
        file("hellaswag", "endings of numbers", &["line 1", "\"endings\""], || {
            br#"{"ctx_a":"a","ctx_b":"b","activity_label":"c","endings":[1],"label":0}"#.to_vec()
        }),
        file("winogrande", "no gap", &["line 1", "\"sentence\""], || {
            br#"{"sentence":"a b","option1":"a","option2":"b","answer":"1"}"#.to_vec()
        }),
        file("winogrande", "an answer of nought", &["line 1", "\"answer\""], || {
            br#"{"sentence":"a _","option1":"a","option2":"b","answer":"0"}"#.to_vec()
        }),
        file(
            "arc-easy",
            "a question that is a list",
            &["line 1", "\"question\""],
            || br#"{"question":[],"answerKey":"A"}"#.to_vec(),
        ),
        file("arc-easy", "choices that are text", &["line 1", "choices"], || {
            br#"{"question":{"stem":"a","choices":["A"]},"answerKey":"A"}"#.to_vec()
        }),
        file(
            "arc-challenge",
            "a key that no choice has",
            &["line 1", "\"answerKey\""],
            || br#"{"question":{"stem":"a","choices":[{"label":"A","text":"x"}]},"answerKey":"E"}"#.to_vec(),
        ),
        labels("too few", &["1 labels"], || b"0\n".to_vec()),
        labels("too many", &["3 labels"], || b"0\n1\n0\n".to_vec()),
        labels("words", &["line 1"], || b"zero\n".to_vec()),
        labels("beyond the answers", &["line 2"], || b"0\n7\n".to_vec()),
        labels("not UTF-8", &["line 1", "UTF-8"], || b"\xff\n".to_vec()),
        csv("no bytes", &["no question"], Vec::new),
        csv("five columns", &["line 1", "\"answer\""], || b"q,a,b,c,d\n".to_vec()),
        csv("seven columns", &["line 1", "7 columns"], || {
            b"q,a,b,c,d,A,x\n".to_vec()
        }),
        csv("a letter that is no answer", &["line 2", "\"answer\""], || {
            b"q,a,b,c,d,A\nq,a,b,c,d,E\n".to_vec()
        }),
        csv("a quote that is never closed", &["line 3"], || {
            b"\"q,a,b,c,d,A\n".repeat(3)
        }),
        csv("not UTF-8", &["line 1", "UTF-8"], || b"\xff,a,b,c,d,A\n".to_vec()),
        csv("three million columns", &["line 1", "columns"], || {
            vec![b','; 3_000_000]
        }),
        csv("seventeen million columns", &["more than"], || vec![b','; 17 << 20]),
        Case::new(
            "mmlu: a terabyte of zeros",
            &["anatomy_test.csv", "more than"],
            |shop| {
                sparse(&shop.path("anatomy_test.csv"), 1 << 40);
                asked(shop, "mmlu", &shop.path("anatomy_test.csv"))
            },
        ),
        Case::new("mmlu: a folder of nothing", &["empty", "no question"], |shop| {
            std::fs::create_dir(shop.path("empty")).unwrap();
            asked(shop, "mmlu", &shop.path("empty"))
        }),
        Case::new("labels: a terabyte of zeros", &["answers.lst", "more than"], |shop| {
            std::fs::write(shop.path("asked.jsonl"), PIQA).unwrap();
            sparse(&shop.path("answers.lst"), 1 << 40);
            let mut arguments = asked(shop, "piqa", &shop.path("asked.jsonl"));
            arguments.extend(strings(&["--labels", &text_of(&shop.path("answers.lst"))]));
            arguments
        }),
    ]
}
