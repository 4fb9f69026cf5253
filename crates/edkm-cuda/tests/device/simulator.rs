//! A [`Runtime`] on the host: the crate's kernels compiled by the system's C++ compiler, in a process of their own.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;

use edkm_cuda::product::{Operands, Operation, Product};
use edkm_cuda::{source, Argument, Array, Runtime};
use tempfile::TempDir;

use crate::Never;

/// The device of these tests.
pub(crate) type Device = Simulator;

/// The process.
#[derive(Clone)]
pub(crate) struct Simulator(Rc<RefCell<Pipes>>);

struct Pipes {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Memory of the process.
pub(crate) struct Memory {
    address: u64,
    simulator: Simulator,
}

/// The compiled program, or why there is none.
static PROGRAM: OnceLock<Option<TempDir>> = OnceLock::new();

/// A fresh simulator; none, with a line that says so, where no C++ compiler is.
pub(crate) fn device() -> Option<Device> {
    let program = PROGRAM.get_or_init(compile).as_ref()?.path().join("simulator");
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the simulator does not start");
    let commands = child.stdin.take();
    let answers = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
    Some(Simulator(Rc::new(RefCell::new(Pipes {
        child,
        commands,
        answers,
    }))))
}

fn compile() -> Option<TempDir> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        edkm_testkit::skipped(format_args!(
            "no C++ compiler `{compiler}` to run the CUDA kernels on the host with"
        ));
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/device");
    let entries: String = source::kernels().map(|name| format!("EDKM_ENTRY({name})\n")).collect();
    std::fs::write(folder.path().join("kernels.h"), source::translation_unit()).expect("kernels.h");
    std::fs::write(folder.path().join("entries.h"), entries).expect("entries.h");
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-ffp-contract=off", "-I"])
        .arg(folder.path())
        .arg("-I")
        .arg(&here)
        .arg(here.join("main.cpp"))
        .arg("-o")
        .arg(folder.path().join("simulator"))
        .output()
        .expect("the C++ compiler does not start");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
}

impl Simulator {
    fn send(&self, line: &str, bytes: &[u8]) {
        let mut pipes = self.0.borrow_mut();
        let commands = pipes.commands.as_mut().expect("the simulator is running");
        commands
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| commands.write_all(bytes))
            .and_then(|()| commands.flush())
            .expect("the simulator stopped");
    }

    fn answer(&self, bytes: &mut [u8]) {
        let mut pipes = self.0.borrow_mut();
        pipes.answers.read_exact(bytes).expect("the simulator stopped");
    }

    /// Numbers in its memory.
    pub(crate) fn array<T: bytemuck::Pod>(&self, numbers: &[T]) -> Array<Self, T> {
        let Ok(array) = Array::from_host(self, numbers);
        array
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // the end of its input is the end of the simulator
        self.commands = None;
        let status = self.child.wait();
        if !std::thread::panicking() {
            assert!(status.is_ok_and(|status| status.success()), "the simulator failed");
        }
    }
}

impl Simulator {
    fn memory(&self, command: char, bytes: usize) -> Memory {
        self.send(&format!("{command} {bytes}"), &[]);
        let mut line = String::new();
        self.0
            .borrow_mut()
            .answers
            .read_line(&mut line)
            .expect("the simulator stopped");
        Memory {
            address: line.trim().parse().expect("an address"),
            simulator: self.clone(),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.simulator.send(&format!("f {}", self.address), &[]);
        }
    }
}

#[allow(unsafe_code)]
impl Runtime for Simulator {
    type Error = Never;
    type Memory = Memory;

    fn allocate(&self, bytes: usize) -> Result<Memory, Self::Error> {
        Ok(self.memory('a', bytes))
    }

    fn allocate_unset(&self, bytes: usize) -> Result<Memory, Self::Error> {
        Ok(self.memory('u', bytes))
    }

    fn address(memory: &Memory) -> u64 {
        memory.address
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Self::Error> {
        self.send(&format!("w {to} {}", bytes.len()), bytes);
        Ok(())
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.send(&format!("r {from} {}", bytes.len()), &[]);
        self.answer(bytes);
        Ok(())
    }

    unsafe fn launch(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), Self::Error> {
        let bytes: Vec<u8> = arguments
            .iter()
            .flat_map(|argument| argument.bits().to_le_bytes())
            .collect();
        self.send(&format!("l {kernel} {blocks} {}", arguments.len()), &bytes);
        Ok(())
    }

    unsafe fn multiply(&self, p: &Product) -> Result<(), Self::Error> {
        let transposed = |operation| usize::from(operation == Operation::Transpose);
        let (ta, tb) = (transposed(p.op_a), transposed(p.op_b));
        let (kind, scales, beta) = match p.operands {
            Operands::F32 { beta } => (0, 0, beta),
            Operands::Tf32 { beta } => (1, 0, beta),
            Operands::F16 { scales } => (2, scales, 0.0),
        };
        let line = format!(
            "p {kind} {ta} {tb} {} {} {} {} {} {} {} {scales} {beta} {} {}",
            p.m, p.n, p.k, p.a, p.lda, p.b, p.ldb, p.c, p.ldc
        );
        self.send(&line, &[]);
        Ok(())
    }
}
