//! Runs the program on copies of the embedded model.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A folder with a model to spoil, some text, and a place for output.
pub(crate) struct Workshop {
    dir: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workshop = Self { dir };
        std::fs::create_dir(workshop.model()).unwrap();
        for entry in Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("assets/tiny-llama")
            .read_dir()
            .unwrap()
        {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), workshop.model().join(entry.file_name())).unwrap();
        }
        let story = "Once upon a time there was a girl named Lily. She had a red ball and a small dog.\n\n";
        std::fs::write(workshop.text(), story.repeat(60)).unwrap();
        workshop
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.path("model")
    }

    pub(crate) fn weights(&self) -> PathBuf {
        self.model().join("model.safetensors")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.model().join("config.json")
    }

    pub(crate) fn text(&self) -> PathBuf {
        self.path("text.txt")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// Has the text to train on in a tongue that makes the model forget the one it knows, which is in the file that is given: what it learns makes it worse there.
    pub(crate) fn forgetful(&self) -> PathBuf {
        let known = self.path("known.txt");
        std::fs::rename(self.text(), &known).unwrap();
        std::fs::write(self.text(), "qq zvx kkj wqz xxy\n\n".repeat(200)).unwrap();
        known
    }

    /// `edkm finetune MODEL --data TEXT --out OUT`, small, with more arguments behind.
    pub(crate) fn finetune(&self, more: &[&str]) -> Output {
        self.finetune_command(more).output().unwrap()
    }

    /// [`finetune`](Self::finetune), not run yet.
    pub(crate) fn finetune_command(&self, more: &[&str]) -> Command {
        let mut command = edkm();
        command
            .arg("finetune")
            .arg(self.model())
            .arg("--data")
            .arg(self.text())
            .arg("--out")
            .arg(self.out());
        command.args(["--steps", "2", "--seq", "32", "--batch", "2"]).args(more);
        command
    }

    /// `edkm compress MODEL --method METHOD --data TEXT`, with more arguments behind; the folder to write is left to the caller.
    pub(crate) fn compress(&self, method: &str, more: &[&str]) -> Command {
        let mut command = edkm();
        command
            .arg("compress")
            .arg(self.model())
            .args(["--method", method])
            .arg("--data")
            .arg(self.text())
            .args(more);
        command
    }

    /// Changes the weights' file: header and data are given, and taken back.
    pub(crate) fn edit_weights(&self, edit: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>)) {
        let file = std::fs::read(self.weights()).unwrap();
        let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let mut header: serde_json::Value = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
        let mut data = file[8 + header_len..].to_vec();
        edit(&mut header, &mut data);
        let mut header = serde_json::to_vec(&header).unwrap();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(data);
        std::fs::write(self.weights(), file).unwrap();
    }
}

pub(crate) fn edkm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edkm"));
    command.env_remove("RUST_LOG");
    command
}

/// The last line of standard output as JSON.
pub(crate) fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().expect("a line")).unwrap()
}

/// The program must end with code 1 (not a panic's 101), name every one of `parts` in its message, and leave nothing at `out`.
pub(crate) fn assert_refused(output: &Output, parts: &[&str], out: &Path) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    let left = out.read_dir().map_or(0, Iterator::count);
    assert_eq!(left, 0, "something was written to {}", out.display());
}

/// Waits until the run that writes `out` has written so many lines of figures, or has ended.
pub(crate) fn wait_for_step(shop: &Workshop, child: &mut Child, lines: usize) {
    let start = Instant::now();
    loop {
        let written = std::fs::read_to_string(shop.path("out.run").join("metrics.jsonl")).unwrap_or_default();
        if written.lines().count() >= lines || child.try_wait().unwrap().is_some() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "no step in two minutes");
        std::thread::sleep(Duration::from_millis(1));
    }
}
