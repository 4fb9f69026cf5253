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
    assert!(said.contains("text.txt"), "{said}");
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
