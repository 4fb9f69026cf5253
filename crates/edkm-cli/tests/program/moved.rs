//! Runs that go on where what they read lies elsewhere by now.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{edkm, json, wait_for_step, Workshop};

const SETTINGS: [&str; 9] = [
    "--steps",
    "24",
    "--seq",
    "32",
    "--batch=2",
    "--eval-tokens=100",
    "--checkpoint-every",
    "2",
    "--json",
];

/// A run that writes `shop.out()`, in this folder.
fn run(shop: &Workshop, folder: &Path) -> Command {
    let mut command = edkm();
    command
        .current_dir(folder)
        .args(["finetune", "model", "--data", "text.txt"]);
    command.arg("--out").arg(shop.out()).args(SETTINGS);
    command
}

fn resume(shop: &Workshop, folder: &Path) -> Command {
    let mut command = edkm();
    command
        .current_dir(folder)
        .args(["finetune", "--resume"])
        .arg(shop.out());
    command
}

fn killed_at(shop: &Workshop, command: &mut Command, steps: usize) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_step(shop, &mut child, steps);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_goes_on_where_its_folder_was_moved_and_where_it_is_told_that_its_text_was() {
    let undisturbed = Workshop::new();
    let model = |shop: &Workshop| std::fs::read(shop.out().join("model.safetensors")).unwrap();
    json(&run(&undisturbed, &undisturbed.path("")).output().unwrap());

    let shop = Workshop::new();
    let (before, after) = (shop.path("before"), shop.path("after"));
    std::fs::create_dir(&before).unwrap();
    std::fs::rename(shop.model(), before.join("model")).unwrap();
    std::fs::rename(shop.text(), before.join("text.txt")).unwrap();
    killed_at(&shop, &mut run(&shop, &before), 4);
    std::fs::rename(&before, &after).unwrap();
    killed_at(&shop, &mut resume(&shop, &after), 9);
    assert!(!shop.out().exists(), "the run is done before it is interrupted");

    // the folder is known by now: paths begin there, wherever it goes on from
    std::fs::rename(after.join("text.txt"), shop.path("elsewhere.txt")).unwrap();
    let output = resume(&shop, &shop.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("text.txt") && said.contains("--data"), "{said}");
    let told = |text: &str| resume(&shop, &shop.path("")).args(["--data", text]).output().unwrap();
    std::fs::write(shop.path("other.txt"), "Another text.\n\n".repeat(200)).unwrap();
    let output = told("other.txt");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("training text"), "{said}");
    // what was refused is not kept
    std::fs::rename(shop.path("elsewhere.txt"), after.join("text.txt")).unwrap();
    killed_at(&shop, &mut resume(&shop, &shop.path("")), 14);
    std::fs::rename(after.join("text.txt"), shop.path("elsewhere.txt")).unwrap();
    killed_at(
        &shop,
        resume(&shop, &shop.path("")).args(["--data", "elsewhere.txt"]),
        18,
    );
    assert!(!shop.out().exists(), "the run is done before it is interrupted");
    // what was taken is, from whatever folder
    let figures = json(&resume(&shop, &after).output().unwrap());
    // of what was not told the record is what the run was started with
    assert_eq!(figures["settings"]["model_dir"], "model");
    assert!(model(&shop) == model(&undisturbed));
}

/// Everything that a run reads is somewhere else: each is told, and nothing that it does not read.
#[test]
fn a_run_is_told_where_model_texts_and_teacher_are() {
    let started = |shop: &Workshop| {
        let mut command = run(shop, &shop.path("work"));
        command.args(["--valid", "valid.txt", "--teacher", "teacher"]);
        command
    };
    let shop = || {
        let shop = Workshop::new();
        let work = shop.path("work");
        std::fs::create_dir(&work).unwrap();
        std::fs::copy(shop.text(), work.join("valid.txt")).unwrap();
        std::fs::rename(shop.text(), work.join("text.txt")).unwrap();
        std::fs::create_dir(work.join("teacher")).unwrap();
        for entry in shop.model().read_dir().unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, work.join("teacher").join(path.file_name().unwrap())).unwrap();
        }
        std::fs::rename(shop.model(), work.join("model")).unwrap();
        shop
    };
    let undisturbed = shop();
    json(&started(&undisturbed).output().unwrap());

    let shop = shop();
    killed_at(&shop, &mut started(&shop), 4);
    let elsewhere = shop.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let mut told = Vec::new();
    for (option, name) in [
        ("", "model"),
        ("--data", "text.txt"),
        ("--valid", "valid.txt"),
        ("--teacher", "teacher"),
    ] {
        let output = resume(&shop, &elsewhere).args(&told).arg("--dry-run").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::rename(shop.path("work").join(name), elsewhere.join(name)).unwrap();
        let output = resume(&shop, &elsewhere).args(&told).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let named = if option.is_empty() { "MODEL_DIR" } else { option };
        assert!(
            output.status.code() == Some(1) && said.contains(name) && said.contains(named),
            "{said}"
        );
        told.extend([option, name].into_iter().filter(|argument| !argument.is_empty()));
    }
    let model = |shop: &Workshop| std::fs::read(shop.out().join("model.safetensors")).unwrap();
    killed_at(&shop, resume(&shop, &elsewhere).args(&told), 9);
    assert!(!shop.out().exists(), "the run is done before it is interrupted");
    // it is kept with the run, and the folder where that was started may go
    std::fs::remove_dir(shop.path("work")).unwrap();
    json(&resume(&shop, &shop.path("")).output().unwrap());
    assert!(model(&shop) == model(&undisturbed));
}

#[test]
fn a_run_is_not_told_where_something_is_that_it_does_not_read() {
    let shop = Workshop::new();
    let mut command = edkm();
    command.current_dir(shop.path("")).args(["finetune", "--out"]);
    command.arg(shop.out()).args([
        "--steps",
        "400",
        "--seq=16",
        "--batch=1",
        "--eval-tokens=100",
        "--checkpoint-every",
        "1",
    ]);
    killed_at(&shop, &mut command, 2);
    let (model, text) = (shop.model(), shop.text());
    for (told, option) in [
        (vec![model.as_os_str()], "MODEL_DIR"),
        (vec!["--data".as_ref(), text.as_os_str()], "--data"),
        (vec!["--valid".as_ref(), text.as_os_str()], "--valid"),
        (vec!["--teacher".as_ref(), model.as_os_str()], "--teacher"),
    ] {
        let output = resume(&shop, &shop.path("")).args(told).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{option} beside --resume")), "{said}");
    }
}

/// A path that is kept with the run is text.
#[cfg(target_os = "linux")]
#[test]
fn a_told_path_that_is_not_unicode_is_refused_by_name() {
    use std::os::unix::ffi::OsStrExt;

    let shop = Workshop::new();
    let folder = shop.path("");
    killed_at(&shop, &mut run(&shop, &folder), 2);
    let text = folder.join(std::ffi::OsStr::from_bytes(b"t\xff.txt"));
    std::fs::copy(folder.join("text.txt"), &text).unwrap();
    let output = resume(&shop, &folder).arg("--data").arg(&text).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("t\u{fffd}.txt") && said.contains("not Unicode"), "{said}");
}
