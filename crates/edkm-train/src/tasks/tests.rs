//! Prompts to the letter, what is wrong with a file, and the figures of the golden file where it is at hand.

use std::fmt::Write;
use std::path::PathBuf;

use edkm_llama::inference::InferenceModel;
use edkm_testkit::golden::Folder;
use tempfile::TempDir;

use super::*;

/// A folder with one file.
fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

/// Contexts and continuations of a question.
fn pairs(question: &Question) -> Vec<(&str, &str)> {
    question
        .choices
        .iter()
        .map(|choice| (choice.context.as_str(), choice.continuation.as_str()))
        .collect()
}

#[test]
fn piqa_prompts() {
    let (_dir, data) = file(
        "valid.jsonl",
        "{\"goal\": \"g\", \"sol1\": \"one \", \"sol2\": \"zwö\"}\n",
    );
    let (_other, labels) = file("valid-labels.lst", "1\n");
    let read = Task::Piqa.read(&data, Some(&labels)).unwrap();
    assert_eq!(
        pairs(&read[0]),
        [("Question: g\nAnswer:", " one "), ("Question: g\nAnswer:", " zwö")]
    );
    assert_eq!(read[0].gold, 1);
    // the space at the end counts, bytes do not
    assert_eq!(read[0].choices.iter().map(|c| c.characters).collect::<Vec<_>>(), [4, 3]);
}

#[test]
fn hellaswag_prompts() {
    let record = r#"{"activity_label": "Cleaning", "ctx_a": "[header] How to [title] Wash. ", "ctx_b": "the Cat", "endings": ["goes  home [substeps] now.", "b", "c", "d"], "label": 3}"#;
    let (_dir, data) = file("hellaswag_val.jsonl", record);
    let read = Task::HellaSwag.read(&data, None).unwrap();
    assert_eq!(
        read[0].choices[0].context,
        "Cleaning:  How to. Wash. The cat".replace("  ", " ")
    );
    assert_eq!(read[0].choices[0].continuation, " goes home now.");
    assert_eq!(read[0].gold, 3);
    assert_eq!(
        hellaswag::cleaned("a [b\nc] [d] e ["),
        "a [b\nc]  e [".replace("  ", " ")
    );
}

#[test]
fn winogrande_prompts() {
    let record = r#"{"sentence": "Ann told Sue that _ had won .", "option1": "Ann", "option2": "Sue", "answer": "2"}"#;
    let (_dir, data) = file("dev.jsonl", record);
    let read = Task::Winogrande.read(&data, None).unwrap();
    assert_eq!(
        pairs(&read[0]),
        [
            ("Ann told Sue that Ann", " had won ."),
            ("Ann told Sue that Sue", " had won .")
        ]
    );
    assert_eq!(read[0].gold, 1);
}

#[test]
fn arc_prompts() {
    let record = r#"{"id": "x", "question": {"stem": "Why?", "choices": [{"text": "so", "label": "1"}, {"text": "not", "label": "2"}]}, "answerKey": "2"}"#;
    let (_dir, data) = file("ARC-Easy-Test.jsonl", record);
    let read = Task::ArcEasy.read(&data, None).unwrap();
    assert_eq!(
        pairs(&read[0]),
        [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " not")]
    );
    assert_eq!(read[0].gold, 1);
}

/// As Hugging Face's data sets have them, the questions are the same.
#[test]
fn records_of_data_sets_are_questions_too() {
    let arc =
        r#"{"id": "x", "question": "Why?", "choices": {"text": ["so", "not"], "label": ["1", "2"]}, "answerKey": "2"}"#;
    let (_dir, data) = file("test.jsonl", arc);
    let read = Task::ArcEasy.read(&data, None).unwrap();
    assert_eq!(
        pairs(&read[0]),
        [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " not")]
    );
    assert_eq!(read[0].gold, 1);
    let (_other, data) = file("uneven.jsonl", &arc.replace("\"so\", ", ""));
    let error = Task::ArcEasy.read(&data, None).unwrap_err().to_string();
    assert!(error.contains("\"choices\" has 2 labels and 1 texts"), "{error}");

    let mmlu = |subject: &str, answer: &str| {
        format!(
            r#"{{"question": "Is it? ", "subject": "{subject}", "choices": ["w", "x", "y", "z"], "answer": {answer}}}"#
        )
    };
    let lines = [
        mmlu("world_history", "3"),
        mmlu("anatomy", "0"),
        mmlu("world_history", "1"),
    ]
    .join("\n");
    let (_dir, data) = file("mmlu.jsonl", &lines);
    let set = TaskSet::new(Task::Mmlu.read(&data, None).unwrap(), None, 0, None);
    assert_eq!((set.subjects(), set.questions()[1].gold), (&[1, 2][..], 3));
    assert_eq!(
        set.questions()[1].choices[0].context,
        "The following are multiple choice questions (with answers) about world history.\n\n\
         Is it?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    );
    let (_dir, data) = file("mmlu.jsonl", &mmlu("anatomy", "4"));
    let error = Task::Mmlu.read(&data, None).unwrap_err().to_string();
    assert!(error.contains("\"answer\" is 4; the answers are 0 to 3"), "{error}");
}

#[test]
fn mmlu_prompts_with_examples_of_the_subject() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("test")).unwrap();
    std::fs::create_dir(dir.path().join("dev")).unwrap();
    write(
        "test/abstract_algebra_test.csv",
        "\"Is it, \"\"really\"\"? \",w,x,y,z,D\n",
    );
    write("test/anatomy_test.csv", "Where?,1,2,3,4,A\nWhen?,1,2,3,4,C\n");
    write("dev/abstract_algebra_dev.csv", "Old?,a,b,c,d,B\nOlder?,a,b,c,d,C\n");
    write("dev/anatomy_dev.csv", "Who?,a,b,c,d,B\n");
    let questions = Task::Mmlu.read(&dir.path().join("test"), None).unwrap();
    let examples = Task::Mmlu.read(&dir.path().join("dev"), None).unwrap();
    let set = TaskSet::new(questions, None, 1, Some(&examples));
    assert_eq!(set.subjects(), [1, 2]);
    let first = &set.questions()[0];
    assert_eq!(
        first.choices[3].context,
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n\
         Old?\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\n\
         Is it, \"really\"?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    );
    assert_eq!((first.choices[3].continuation.as_str(), first.gold), (" D", 3));
    assert!(set.questions()[1].choices[0].context.contains("about anatomy.\n\nWho?"));
    // D, A and A: the first is right, of the others one
    let answers: Vec<_> = [
        [-4.0, -3.0, -2.0, -1.0],
        [-1.0, -2.0, -3.0, -4.0],
        [-1.0, -2.0, -3.0, -4.0],
    ]
    .map(|log_likelihoods| Answered {
        log_likelihoods: log_likelihoods.to_vec(),
        shortened: false,
    })
    .into();
    let subjects = Scores::by_subject(&set, &answers);
    let accuracies = subjects
        .iter()
        .map(|(name, scores)| (name.as_str(), scores.items, scores.accuracy.value));
    assert_eq!(
        accuracies.collect::<Vec<_>>(),
        [("abstract algebra", 1, 1.0), ("anatomy", 2, 0.5)]
    );
}

#[test]
fn without_a_file_of_examples_they_are_the_other_questions() {
    let lines: String = (0..4).fold(String::new(), |mut text, i| {
        writeln!(
            text,
            r#"{{"goal": "g{i}", "sol1": "a", "sol2": "b", "label": {}}}"#,
            i % 2
        )
        .unwrap();
        text
    });
    let (_dir, data) = file("valid.jsonl", &lines);
    let set = TaskSet::new(Task::Piqa.read(&data, None).unwrap(), Some(2), 2, None);
    let contexts: Vec<_> = set.questions().iter().map(|q| q.choices[0].context.as_str()).collect();
    let example = |i: usize, answer| format!("Question: g{i}\nAnswer: {answer}\n\n");
    assert_eq!(
        contexts,
        [
            example(1, "b") + &example(2, "a") + "Question: g0\nAnswer:",
            example(0, "a") + &example(2, "a") + "Question: g1\nAnswer:",
        ]
    );
}

/// Standard errors from the definition, for one subject and for two.
#[test]
fn scores_of_known_answers() {
    let question = |description: &str, gold| Question {
        description: description.to_owned(),
        ..Question::new("q", &["a", "bbbb"], gold)
    };
    let answered = |a: f64, b: f64| Answered {
        log_likelihoods: vec![a, b],
        shortened: false,
    };
    let one = TaskSet::new(
        vec![question("", 0), question("", 1), question("", 1), question("", 0)],
        None,
        0,
        None,
    );
    // equal likelihoods go to the first; by length -4 of "bbbb" is -1
    let answers = [
        answered(-3.0, -3.0),
        answered(-3.0, -4.0),
        answered(-3.0, -2.0),
        answered(-0.5, -4.0),
    ];
    let scores = Scores::new(&one, &answers);
    assert_eq!((scores.items, scores.accuracy.value), (4, 0.75));
    // sample variance 3/4 * 1/4 * 4/3 = 1/4, over 4
    assert_eq!(scores.accuracy.standard_error, Some(0.25));
    assert_eq!(scores.normalized_accuracy.value, 0.75);

    let two = TaskSet::new(
        vec![question("x", 0), question("x", 1), question("y", 1), question("y", 1)],
        None,
        0,
        None,
    );
    let scores = Scores::new(
        &two,
        &[
            answered(-1.0, -2.0),
            answered(-1.0, -2.0),
            answered(-2.0, -1.0),
            answered(-2.0, -1.0),
        ],
    );
    // variances 1/2 and 0, pooled with one degree of freedom each: 1/4, over 4
    assert_eq!(scores.accuracy.standard_error, Some(0.25));
    // from one that is right once in each: by 1, 0, 1, 0, of variance 1/2 in each, pooled 1/2, over 4
    let first = [
        answered(-2.0, -1.0),
        answered(-2.0, -1.0),
        answered(-1.0, -2.0),
        answered(-2.0, -1.0),
    ];
    let second = [
        answered(-1.0, -2.0),
        answered(-2.0, -1.0),
        answered(-2.0, -1.0),
        answered(-2.0, -1.0),
    ];
    let difference = Scores::difference(&two, &second, &first).accuracy;
    assert_eq!(
        (difference.value, difference.standard_error),
        (0.5, Some(0.125f64.sqrt()))
    );
    let same = Scores::difference(&two, &first, &first).accuracy;
    assert_eq!((same.value, same.standard_error), (0.0, Some(0.0)));
    let single = TaskSet::new(vec![question("", 0)], None, 0, None);
    assert_eq!(Scores::new(&single, &answers[..1]).accuracy.standard_error, None);
}

#[test]
fn a_bad_record_is_named_with_its_line_and_field() {
    let piqa = r#"{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}"#;
    let arc = r#"{"question": {"stem": "s", "choices": [{"text": "t", "label": "A"}]}, "answerKey": "B"}"#;
    for (task, name, content, parts) in [
        (
            Task::Piqa,
            "v.jsonl",
            format!("{piqa}\n\n{{\"goal\": 1}}"),
            &["v.jsonl: line 3", "\"goal\" is not a text"][..],
        ),
        (
            Task::Piqa,
            "v.jsonl",
            piqa.replace("sol2", "sol3"),
            &["line 1", "\"sol2\" is missing"],
        ),
        (
            Task::Piqa,
            "v.jsonl",
            piqa.replace(": 0", ": 2"),
            &["\"label\" is 2", "0 to 1"],
        ),
        (
            Task::Piqa,
            "v.jsonl",
            piqa.replace(", \"label\": 0", ""),
            &["\"label\" is missing", "labels"],
        ),
        (Task::Piqa, "v.jsonl", "[1]".into(), &["line 1", "JSON object"]),
        (Task::Piqa, "v.jsonl", "\n".into(), &["v.jsonl", "no question"]),
        (
            Task::HellaSwag,
            "v.jsonl",
            r#"{"activity_label":"a","ctx_a":"","ctx_b":"","endings":[]}"#.into(),
            &["\"endings\" is empty"],
        ),
        (
            Task::Winogrande,
            "v.jsonl",
            r#"{"sentence": "no gap"}"#.into(),
            &["\"sentence\" has no gap"],
        ),
        (
            Task::ArcEasy,
            "v.jsonl",
            arc.into(),
            &["\"answerKey\" is \"B\"", "are A"],
        ),
        (
            Task::ArcEasy,
            "v.jsonl",
            arc.replace("stem", "stern"),
            &["\"question.stem\" is missing"],
        ),
        (
            Task::Mmlu,
            "v.csv",
            "q,a,b,c,d,A\nq,a,b,c\n".into(),
            &["v.csv: line 2", "\"D\" is missing"],
        ),
        (Task::Mmlu, "v.csv", "q,a,b,c,d,E".into(), &["\"answer\" is \"E\""]),
        (Task::Mmlu, "v.csv", "q,a,b,c,d,A,B".into(), &["7 columns"]),
    ] {
        let (_dir, data) = file(name, &content);
        let message = task.read(&data, None).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    }
    let (_dir, data) = file("v.jsonl", piqa);
    let (_other, labels) = file("v.lst", "0\n1\n");
    let message = Task::Piqa.read(&data, Some(&labels)).unwrap_err().to_string();
    assert!(
        message.contains("v.lst: 2 labels") && message.contains("1 records"),
        "{message}"
    );
    std::fs::write(&labels, "x").unwrap();
    let message = Task::Piqa.read(&data, Some(&labels)).unwrap_err().to_string();
    assert!(message.contains("v.lst: line 1"), "{message}");
    assert!(Task::ArcEasy.read(&data, Some(&labels)).is_err());
}

/// All of PIQA with a real model, against figures from another program.
#[test]
fn piqa_agrees_with_the_golden_file() {
    let golden = Folder::Golden.locate_in("piqa_stories260k.json");
    let [data, labels] = ["piqa_valid.jsonl", "piqa_valid.lst"].map(|name| Folder::Data.locate_in(name));
    let model_dir = Folder::Models.locate_in("stories260k");
    let (Some(golden), Some(data), Some(labels), Some(model_dir)) = (golden, data, labels, model_dir) else {
        return;
    };
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let questions = Task::Piqa.read(&data, Some(&labels)).unwrap();
    let set = TaskSet::new(questions, None, 0, None);
    let model = InferenceModel::open(&model_dir).unwrap();
    let answered = evaluate(&model, &crate::Tokenizer::from_dir(&model_dir).unwrap(), &set, |_| {}).unwrap();
    for (answered, golden) in answered
        .iter()
        .zip(golden["loglikelihood_first_10"].as_array().unwrap())
    {
        for (got, want) in answered.log_likelihoods.iter().zip(golden.as_array().unwrap()) {
            let want = want.as_f64().unwrap();
            // sums over a hundred tokens, in f32 there and here
            assert!((got - want).abs() <= 1e-2, "{got} {want}");
        }
    }
    let scores = Scores::new(&set, &answered);
    assert_eq!(scores.items as u64, golden["items"].as_u64().unwrap());
    assert_eq!(Some(scores.accuracy.value), golden["acc"].as_f64());
    assert_eq!(Some(scores.normalized_accuracy.value), golden["acc_norm"].as_f64());
}
