//! Files that are named for a trace, a page or log likelihoods: what edkm wrote there before is replaced, and nothing else.

use std::path::Path;
use std::process::Output;

use crate::common::{assert_refused, edkm, Workshop};

fn inspect(shop: &Workshop, page: &Path) -> Output {
    let mut command = edkm();
    command.arg("inspect").arg(shop.model()).arg("--html").arg(page);
    command.output().unwrap()
}

fn trace(arguments: &[&str], path: &Path) -> Output {
    let mut command = edkm();
    command.args(arguments).arg("--trace").arg(path);
    command.output().unwrap()
}

/// A question of PIQA, answered by the model.
fn log_samples(shop: &Workshop, path: &Path) -> Output {
    let question = "{\"goal\":\"Play.\",\"sol1\":\"Take the ball.\",\"sol2\":\"Eat the ball.\"}\n";
    std::fs::write(shop.path("valid.jsonl"), question).unwrap();
    std::fs::write(shop.path("labels.lst"), "0\n").unwrap();
    let mut command = edkm();
    command.arg("eval").arg(shop.model()).args(["--task", "piqa"]);
    command.arg("--data").arg(shop.path("valid.jsonl"));
    command.arg("--labels").arg(shop.path("labels.lst"));
    command.arg("--log-samples").arg(path).output().unwrap()
}

const BENCH: [&str; 10] = [
    "bench",
    "cluster",
    "--rows",
    "8",
    "--cols",
    "8",
    "--repeats",
    "1",
    "--bits",
    "2",
];

#[test]
fn a_model_or_a_text_is_not_written_over() {
    let shop = Workshop::new();
    let records = shop.path("records.json");
    std::fs::write(&records, "[\n{\"instruction\":\"Sing.\",\"output\":\"La.\"}\n]").unwrap();
    let tokenizer = shop.model().join("tokenizer.json");
    for path in [shop.config(), tokenizer, shop.weights(), shop.text(), records.clone()] {
        let before = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let refusals = [
            (inspect(&shop, &path), "no page of weights that edkm wrote"),
            (trace(&BENCH, &path), "no trace that edkm wrote"),
            (log_samples(&shop, &path), "no file of log likelihoods that edkm wrote"),
        ];
        for (output, part) in refusals {
            assert_refused(&output, &[name, part, "left alone"], &shop.out());
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    for (output, part) in [
        (trace(&BENCH, &shop.model()), "is a folder"),
        #[cfg(unix)]
        (trace(&BENCH, "/dev/null".as_ref()), "not a file"),
        (log_samples(&shop, &shop.path("labels.lst")), "is read by this command"),
        (
            shop.finetune(&["--trace", shop.text().to_str().unwrap()]),
            "is read by this command",
        ),
        (inspect(&shop, &shop.model()), "is read by this command"),
    ] {
        assert_refused(&output, &[part], &shop.out());
    }
}

#[test]
fn a_folder_that_has_the_name_of_a_runs_is_left_alone() {
    let shop = Workshop::new();
    let folder = shop.path("out.run");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(shop.text(), folder.join("mine.txt")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        assert_refused(&shop.finetune(more), &["out.run holds mine.txt", "--out"], &shop.out());
    }
    assert_eq!(folder.read_dir().unwrap().count(), 1);
}

#[test]
fn a_trace_in_the_folder_of_its_own_run() {
    let shop = Workshop::new();
    for folder in ["out", "out.run"] {
        let folder = shop.path(folder);
        std::fs::create_dir(&folder).unwrap();
        let trace = folder.join("trace.json");
        let output = shop.finetune(&["--trace", trace.to_str().unwrap()]);
        assert_refused(&output, &["trace.json", "name a file outside it"], &shop.out());
        std::fs::remove_dir(&folder).unwrap();
    }
}

#[test]
fn an_empty_file_and_what_was_written_before_is_replaced() {
    let shop = Workshop::new();
    let path = shop.path("written");
    type Write<'a> = &'a dyn Fn(&Path) -> Output;
    let ways: [(Write, &str); 3] = [
        (&|path| inspect(&shop, path), "<!doctype html>"),
        (&|path| trace(&BENCH, path), "[\n"),
        (&|path| log_samples(&shop, path), "{\"model\":"),
    ];
    for (write, beginning) in ways {
        std::fs::write(&path, "").unwrap();
        for _ in 0..2 {
            let output = write(&path);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(std::fs::read_to_string(&path).unwrap().starts_with(beginning));
        }
    }
    #[cfg(unix)]
    {
        // the file behind a link, which stays one
        let link = shop.path("link");
        std::os::unix::fs::symlink("written", &link).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(trace(&BENCH, &link).status.success());
        assert!(link.is_symlink() && std::fs::read_to_string(&path).unwrap().starts_with("[\n"));
        std::fs::write(&path, "").unwrap();
        assert!(inspect(&shop, &link).status.success());
        assert!(link.is_symlink() && std::fs::read_to_string(&path).unwrap().starts_with("<!doctype html>"));
    }
    // a page of a run is none of these
    let run = shop.finetune(&["--eval-tokens", "100"]);
    assert!(run.status.success());
    let report = shop.out().join("report.html");
    let before = std::fs::read(&report).unwrap();
    let output = inspect(&shop, &report);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read(&report).unwrap(), before);
}

/// What was measured before stays until all is measured, and goes nowhere but into the file that was named.
#[test]
fn log_likelihoods_take_their_place_at_the_end() {
    let shop = Workshop::new();
    let path = shop.path("samples.jsonl");
    assert!(log_samples(&shop, &path).status.success());
    let before = std::fs::read(&path).unwrap();
    let mut command = edkm();
    command.arg("eval").arg(shop.model()).args(["--task", "piqa", "--data"]);
    command
        .arg(shop.path("valid.jsonl"))
        .arg("--labels")
        .arg(shop.path("labels.lst"));
    // behind the questions, a text that is no text
    std::fs::write(shop.path("bad.txt"), b"\xff\xfe\xfd\n".repeat(200)).unwrap();
    command
        .args(["--task", "perplexity", "--seq", "32", "--data"])
        .arg(shop.path("bad.txt"));
    let output = command.arg("--log-samples").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(said.contains("the log likelihoods so far are in"), "{said}");
    #[cfg(target_os = "linux")]
    {
        let output = log_samples(&shop, "/dev/stdout".as_ref());
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("{\"model\":"),
            "{output:?}"
        );
    }
}
