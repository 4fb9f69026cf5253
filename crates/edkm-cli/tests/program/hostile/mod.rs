//! Files that mean harm, or were harmed, given to the program: each must end in an error that names the file, at once and in little memory.
//!
//! Model folders alone have a corpus of their own beside the library that reads them (`models/llama/tests/hostile`).

mod models;
mod runs;
mod tasks;
mod texts;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::Workshop;

/// Seconds of processor time that the program may take, all its threads together. The clock on the wall says nothing on a busy machine.
const SECONDS: u32 = 1;

/// KiB of address space that it may take: memory, code and stacks.
const KIBIBYTES: u32 = 200 << 10;

/// Makes an input in a workshop and gives the arguments of the program.
type Make = dyn Fn(&Workshop) -> Vec<String> + Send + Sync;

/// One hostile input.
pub(super) struct Case {
    name: String,
    /// What the message must say: the file, and what is wrong with it.
    says: Vec<&'static str>,
    make: Box<Make>,
}

impl Case {
    pub(super) fn new(
        name: impl Into<String>,
        says: &[&'static str],
        make: impl Fn(&Workshop) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            says: says.to_vec(),
            make: Box::new(make),
        }
    }

    /// What is wrong with the outcome, if anything is.
    fn complaint(&self, shop: &Workshop, output: &Output) -> Option<String> {
        let message = String::from_utf8_lossy(&output.stderr);
        let beginning: String = message.chars().take(2000).collect();
        let wrong = if output.status.code() != Some(1) {
            format!("ended with {}", output.status)
        } else if message.contains("panicked") {
            "panicked".to_owned()
        } else if let Some(part) = self.says.iter().find(|part| !message.contains(**part)) {
            format!("does not say `{part}`")
        } else if message.len() > 4096 {
            format!("a message of {} bytes", message.len())
        } else if shop.out().exists() {
            "wrote a result".to_owned()
        } else {
            return None;
        };
        Some(format!("{}: {wrong}: {beginning}", self.name))
    }
}

/// The program under the limits. A limit that is met ends it by a signal, or in a failed allocation.
fn limited(arguments: &[String]) -> Output {
    let script = format!("ulimit -v {KIBIBYTES}; ulimit -t {SECONDS}; exec \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_edkm")])
        .args(arguments)
        .env_remove("RUST_LOG")
        // as many stacks and arenas as the test's machine has processors are address space, and no memory
        .env("RAYON_NUM_THREADS", "2")
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap()
}

#[test]
fn every_hostile_input_is_refused_quickly_and_in_little_memory() {
    let cases: Vec<Case> = [texts::cases(), tasks::cases(), models::cases(), runs::cases()]
        .into_iter()
        .flatten()
        .collect();
    assert!(cases.len() >= 100, "{} cases", cases.len());

    // the limits are wide enough for what is not harmed
    let shop = Workshop::new();
    let output = limited(&texts::eval(&shop, &shop.text()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let next = AtomicUsize::new(0);
    let work = || {
        let mut complaints = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let shop = Workshop::new();
            let arguments = (case.make)(&shop);
            complaints.extend(case.complaint(&shop, &limited(&arguments)));
        }
        complaints
    };
    let complaints: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(
        complaints.is_empty(),
        "{} of {}:\n{}",
        complaints.len(),
        cases.len(),
        complaints.join("\n")
    );
    println!("{} inputs", cases.len());
}

/// A file of this length that takes no room; its bytes are zero.
fn sparse(path: &Path, length: u64) {
    std::fs::File::create(path).unwrap().set_len(length).unwrap();
}

/// `open` nested `depth` times, closed again.
fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|&part| part.to_owned()).collect()
}

fn text_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
