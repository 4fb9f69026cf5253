//! `edkm eval` on tasks.

use std::process::Command;

use crate::common::{assert_refused, edkm, json, Workshop};

const PIQA: &str = r#"{"goal": "Lily wants to play.", "sol1": "She had a red ball.", "sol2": "x q z"}
{"goal": "Tom is sad.", "sol1": "zz zz", "sol2": "He ran to the park."}
{"goal": "The dog", "sol1": "was happy.", "sol2": "k"}
"#;

const ARC: &str = r#"{"question": {"stem": "Who is happy?", "choices": [{"text": "the dog", "label": "A"}, {"text": "qqq", "label": "B"}]}, "answerKey": "A"}
"#;

/// `edkm eval MODEL --task piqa` with these records and labels.
fn piqa(shop: &Workshop, records: &str, labels: &str) -> Command {
    std::fs::write(shop.path("valid.jsonl"), records).unwrap();
    std::fs::write(shop.path("labels.lst"), labels).unwrap();
    let mut command = edkm();
    command.arg("eval").arg(shop.model()).args(["--task", "piqa", "--data"]);
    command
        .arg(shop.path("valid.jsonl"))
        .arg("--labels")
        .arg(shop.path("labels.lst"));
    command
}

#[test]
fn several_tasks_and_models_in_one_run() {
    let shop = Workshop::new();
    std::fs::write(shop.path("arc.jsonl"), ARC).unwrap();
    let mut compress = edkm();
    compress
        .arg("compress")
        .arg(shop.model())
        .args(["--method", "kmeans", "--bits", "4", "--json"]);
    json(&compress.arg("--out").arg(shop.out()).output().unwrap());

    let mut command = piqa(&shop, PIQA, "0\n1\n0\n");
    command
        .args(["--task", "arc-easy", "--data"])
        .arg(shop.path("arc.jsonl"));
    command
        .args(["--task", "perplexity", "--seq", "32", "--data"])
        .arg(shop.text());
    command.arg("--compare").arg(shop.out());
    command
        .args(["--json", "--log-samples"])
        .arg(shop.path("samples.jsonl"));
    let figures = json(&command.output().unwrap());
    let results = figures["results"].as_array().unwrap();
    let tasks: Vec<_> = results.iter().map(|r| r["task"].as_str().unwrap()).collect();
    assert_eq!(
        tasks,
        ["piqa", "arc_easy", "perplexity", "piqa", "arc_easy", "perplexity"]
    );
    assert_eq!(results[0]["items"], 3);
    assert!(results[0]["acc_norm"].is_number() && results[0]["acc_stderr"].is_number());
    assert!(results[2]["perplexity"].as_f64().unwrap() > 1.0);
    let (tokens, bits) = (
        results[2]["tokens"].as_f64().unwrap(),
        results[2]["bits_per_byte"].as_f64().unwrap(),
    );
    let bytes = tokens * results[2]["perplexity"].as_f64().unwrap().log2() / bits;
    // blank lines part the documents, and what joins their texts is the tokenizer's
    let text = std::fs::read_to_string(shop.text()).unwrap().replace("\n\n", "");
    assert!((bytes / text.len() as f64 - 1.0).abs() < 0.02, "{bytes} {}", text.len());
    // the compressed model is another one, and smaller
    assert!(results[3]["weight_bytes"].as_u64().unwrap() < results[0]["weight_bytes"].as_u64().unwrap());
    assert_ne!(results[2]["perplexity"], results[5]["perplexity"]);
    let number = |result: usize, key: &str| results[result][key].as_f64().unwrap();
    assert!((number(3, "acc_difference") - (number(3, "acc") - number(0, "acc"))).abs() < 1e-12);
    assert!(number(3, "acc_norm_difference_stderr") >= 0.0 && results[4]["acc_difference_stderr"].is_null());
    assert!(results[0].get("acc_difference").is_none() && results[5].get("acc_difference").is_none());

    // the accuracies follow from the log likelihoods in the other file
    let samples = std::fs::read_to_string(shop.path("samples.jsonl")).unwrap();
    let samples: Vec<serde_json::Value> = samples
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(samples.len(), 2 * (3 + 1));
    let right = samples[..3].iter().filter(|sample| {
        let [a, b] = [0, 1].map(|i| sample["log_likelihoods"][i].as_f64().unwrap());
        assert!(a < 0.0 && b < 0.0);
        u64::from(b > a) == sample["gold"].as_u64().unwrap()
    });
    assert_eq!(right.count() as f64 / 3.0, results[0]["acc"].as_f64().unwrap());
}

#[test]
fn subjects_stand_below_what_they_come_to_and_models_beside_the_first() {
    let shop = Workshop::new();
    std::fs::create_dir(shop.path("test")).unwrap();
    std::fs::write(
        shop.path("test/anatomy_test.csv"),
        "Where?,1,2,3,4,A\nWhen?,1,2,3,4,C\n",
    )
    .unwrap();
    std::fs::write(shop.path("test/world_history_test.csv"), "Who?,a,b,c,d,B\n").unwrap();
    let mut command = edkm();
    command.arg("eval").arg(shop.model()).args(["--task", "mmlu", "--data"]);
    command.arg(shop.path("test")).arg("--compare").arg(shop.model());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        (lines[1][0], lines[2][0], lines[3][0]),
        ("mmlu", "anatomy", "world"),
        "{text}"
    );
    // of three questions, two are of the first subject
    let counts = [1, 2, 3].map(|line: usize| lines[line].iter().find_map(|cell| cell.parse::<u64>().ok()));
    assert_eq!(counts, [Some(3), Some(2), Some(1)], "{text}");
    assert!(text.contains("question by question: acc +0.0000 ± 0.0000\n"), "{text}");
}

#[test]
fn examples_in_front_change_the_likelihoods_and_limits_hold() {
    let shop = Workshop::new();
    let first = |more: &[&str]| {
        let mut command = piqa(&shop, PIQA, "0\n1\n0\n");
        command
            .args(more)
            .arg("--log-samples")
            .arg(shop.path("samples.jsonl"))
            .arg("--json");
        let figures = json(&command.output().unwrap());
        let samples = std::fs::read_to_string(shop.path("samples.jsonl")).unwrap();
        assert_eq!(samples.lines().count() as u64, figures["items"].as_u64().unwrap());
        let sample: serde_json::Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
        assert_eq!(sample["data"], shop.path("valid.jsonl").to_str().unwrap());
        samples.lines().next().unwrap().to_owned()
    };
    let plain = first(&[]);
    assert_eq!(first(&["--limit", "1"]), plain);
    assert_ne!(first(&["--few-shot", "1", "--limit", "2"]), plain);
}

#[test]
fn what_is_wrong_with_a_tasks_files_is_said() {
    let shop = Workshop::new();
    std::fs::write(shop.path("valid.jsonl"), PIQA).unwrap();
    std::fs::write(shop.path("labels.lst"), "0\n1\n").unwrap();
    let eval = |labels: bool| {
        let mut command = edkm();
        command.arg("eval").arg(shop.model()).args(["--task", "piqa", "--data"]);
        command.arg(shop.path("valid.jsonl"));
        if labels {
            command.arg("--labels").arg(shop.path("labels.lst"));
        }
        command.output().unwrap()
    };
    assert_refused(
        &eval(true),
        &["labels.lst: 2 labels", "do not belong together"],
        &shop.out(),
    );
    assert_refused(
        &eval(false),
        &["valid.jsonl: line 1", "\"label\" is missing"],
        &shop.out(),
    );
}

#[test]
fn options_that_nothing_would_heed_are_refused() {
    let shop = Workshop::new();
    let text = shop.text();
    let text = text.to_str().unwrap();
    for (arguments, part) in [
        (&["--data", text, "--labels", "nosuch.lst"][..], "nosuch.lst"),
        (&["--data", text, "--few-shot", "5"], "--few-shot is for tasks"),
        (&["--data", text, "--limit", "3"], "--limit is for tasks"),
        (
            &["--data", text, "--log-samples", "q.jsonl"],
            "--log-samples is for tasks",
        ),
    ] {
        let output = edkm().arg("eval").arg(shop.model()).args(arguments).output().unwrap();
        assert_refused(&output, &[part], &shop.path("q.jsonl"));
    }
    let output = piqa(&shop, PIQA, "0\n1\n0\n")
        .args(["--max-tokens", "10"])
        .output()
        .unwrap();
    assert_refused(&output, &["--max-tokens is for perplexity"], &shop.out());
    let output = piqa(&shop, PIQA, "0\n1\n0\n")
        .arg("--few-shot-data")
        .arg(shop.path("valid.jsonl"))
        .output()
        .unwrap();
    assert_refused(&output, &["say how many with --few-shot N"], &shop.out());
    // the mark that some programs put in front of UTF-8 is none of the file's
    json(
        &piqa(&shop, &format!("\u{feff}{PIQA}"), "\u{feff}0\n1\n0\n")
            .arg("--json")
            .output()
            .unwrap(),
    );
}

#[test]
fn questions_longer_than_the_context_are_counted() {
    let shop = Workshop::new();
    let long = format!(
        "{{\"goal\": \"{}\", \"sol1\": \"a ball.\", \"sol2\": \"k\"}}\n",
        "Lily ran. ".repeat(2000)
    );
    let mut command = piqa(&shop, &(PIQA.to_owned() + &long), "0\n1\n0\n0\n");
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(
        text.contains("1 of 4 questions are longer than the model's context"),
        "{text}"
    );
    assert_eq!(json(&command.arg("--json").output().unwrap())["shortened"], 1);
}
