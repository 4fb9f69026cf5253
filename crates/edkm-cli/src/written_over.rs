//! Files that a command may write over: those that it wrote itself. A slip must not cost a model or a text.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use edkm_train::report;
use serde_json::Value;

use crate::commands::Failure;

/// What is read of a file to see what it is.
const BEGINNING: u64 = 1 << 16;

/// What is written to a file that the user names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// A trace, which is put in the place of the file.
    Trace,
    /// A page with weights.
    Page,
    /// Log likelihoods of answers.
    Samples,
}

impl Written {
    fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Page => "page of weights",
            Self::Samples => "file of log likelihoods",
        }
    }

    /// Whether a file that begins so is one.
    fn begins(self, beginning: &[u8]) -> bool {
        match self {
            Self::Trace => begins_a_trace(beginning),
            Self::Page => report::begins_an_inspection(beginning),
            Self::Samples => first_object(beginning).is_some_and(|sample| {
                ["model", "task", "item", "gold", "log_likelihoods"]
                    .iter()
                    .all(|key| sample.get(key).is_some())
            }),
        }
    }

    /// Refuses to write over anything but an empty file and what was written by the same means before; and over one of `inputs`, whatever it holds.
    ///
    /// # Errors
    /// A path that is there and is neither; a file that cannot be read.
    pub fn check(self, path: &Path, inputs: &[&Path]) -> Result<(), Failure> {
        let shown = path.display();
        if let Ok(found) = path.canonicalize() {
            if inputs
                .iter()
                .any(|input| input.canonicalize().is_ok_and(|input| input == found))
            {
                return Err(format!("{shown} is read by this command; name another file to write").into());
            }
        }
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            // nothing is there; what else may be wrong shows when it is written
            Err(_) => return Ok(()),
        };
        if metadata.is_dir() {
            return Err(format!("{shown} is a folder; name a file to write").into());
        }
        if !metadata.is_file() {
            return match self {
                // a device would be replaced
                Self::Trace => Err(format!("{shown} is not a file that could be replaced; name another").into()),
                // a pipe takes what comes
                Self::Page | Self::Samples => Ok(()),
            };
        }
        let mut beginning = Vec::new();
        File::open(path)
            .and_then(|file| file.take(BEGINNING).read_to_end(&mut beginning))
            .map_err(|why| format!("{shown} is there and cannot be read: {why}; name another file to write"))?;
        match beginning.is_empty() || self.begins(&beginning) {
            true => Ok(()),
            false => Err(format!(
                "{shown} is there and is no {} that edkm wrote; it is left alone, name another file or remove it",
                self.name()
            )
            .into()),
        }
    }
}

/// An array with an event a line, as `tracing-chrome` writes it.
fn begins_a_trace(beginning: &[u8]) -> bool {
    let Some(events) = beginning.strip_prefix(b"[\n") else {
        return false;
    };
    // no event at all
    if events == b"\n]" {
        return true;
    }
    first_object(events).is_some_and(|event| {
        event["pid"] == 1 && event["ph"].is_string() && event["name"].is_string() && event["tid"].is_u64()
    })
}

/// The first line as a JSON object, without a comma behind it.
fn first_object(text: &[u8]) -> Option<Value> {
    let line = text.split(|&byte| byte == b'\n').next()?;
    let line = line.strip_suffix(b",").unwrap_or(line);
    serde_json::from_slice(line).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_told_from_what_edkm_wrote() {
        for trace in [
            &b"[\n\n]"[..],
            b"[\n{\"ph\":\"B\",\"pid\":1,\"ts\":1.5,\"name\":\"step\",\"cat\":\"edkm\",\"tid\":0},\n{",
            b"[\n{\"args\":{\"name\":\"main\"},\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":0}\n]",
        ] {
            assert!(Written::Trace.begins(trace));
        }
        for other in [
            &b"{\"hidden_size\": 64}"[..],
            b"[\n{\"instruction\":\"Sing.\",\"output\":\"La.\"},\n",
            b"[]",
            b"[\n",
            b"[{\"ph\":\"B\",\"pid\":1,\"name\":\"step\",\"tid\":0}]",
        ] {
            assert!(!Written::Trace.begins(other));
        }
        let sample =
            b"{\"model\":\"m\",\"task\":\"piqa\",\"item\":0,\"gold\":1,\"log_likelihoods\":[-1.0],\"acc\":true}\n";
        assert!(Written::Samples.begins(sample));
        assert!(!Written::Samples.begins(b"{\"goal\":\"Bake.\",\"sol1\":\"a\",\"sol2\":\"b\"}\n"));
        assert!(!Written::Page.begins(b"<!doctype html>\n<title>Home</title>"));
    }
}
