//! `runs.jsonl`: what is done.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::evaluate::perplexity_in_words;
use crate::files::read_capped;
use crate::TrainError;

const FILE: &str = "runs.jsonl";

/// Some hundred thousand runs.
const LIMIT: u64 = 1 << 27;

/// The figures of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// The method's name.
    pub method: String,
    /// Bits that were asked for; none for a model that is not compressed.
    #[serde(rename = "bits")]
    pub width: Option<f64>,
    /// None for a method that looks at weights alone.
    pub seed: Option<u64>,
    /// Perplexity of the written model on the validation text. One that is not finite is `null` in JSON.
    #[serde(deserialize_with = "null_as_nan")]
    pub perplexity: f64,
    /// Bits a compressed weight, palettes, padding and factors counted.
    pub bits_per_weight: Option<f64>,
    /// Bytes of the written weights.
    pub size_bytes: u64,
    /// Wall time of compression or training, without loading text and measuring.
    pub seconds: f64,
    /// Perplexity of the model as it came.
    pub(super) original_perplexity: Option<f64>,
}

fn null_as_nan<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(f64::NAN))
}

impl RunFigures {
    /// In one line.
    pub(super) fn in_words(&self) -> String {
        let width = self.width.map_or(String::new(), |width| format!(" {width} bits"));
        let seed = self.seed.map_or(String::new(), |seed| format!(" seed {seed}"));
        let perplexity = perplexity_in_words(self.perplexity);
        format!("{}{width}{seed}: perplexity {perplexity}", self.method)
    }
}

/// The runs that are done; what a crash left of a line is not one.
pub(super) fn read(out: &Path) -> Result<Vec<RunFigures>, TrainError> {
    let path = out.join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = read_capped(&path, LIMIT)?;
    let lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let whole = lines.filter(|line| line.ends_with(b"\n"));
    whole
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_slice(line).map_err(|why| TrainError::OtherComparison {
                out: out.to_path_buf(),
                difference: format!("line {} of {FILE}: {why}", index + 1),
            })
        })
        .collect()
}

/// Adds a run, durably, in place of what a crash left of a line.
pub(super) fn append(out: &Path, run: &RunFigures) -> Result<(), TrainError> {
    let path = out.join(FILE);
    let failed = |why| TrainError::io("write", &path)(why);
    let mut line = serde_json::to_vec(run).map_err(|why| failed(why.into()))?;
    line.push(b'\n');
    let whole = match path.exists() {
        false => 0,
        true => {
            let bytes = read_capped(&path, LIMIT)?;
            bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1)
        }
    };
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    file.set_len(whole as u64).map_err(failed)?;
    file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.write_all(&line).map_err(failed)?;
    file.sync_data().map_err(failed)
}

/// Removes what a comparison wrote, and nothing else.
pub(super) fn clear(out: &Path) -> Result<(), TrainError> {
    let gone = |path: PathBuf, result: std::io::Result<()>| match result {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io("remove", &path)(why)),
        _ => Ok(()),
    };
    for name in [FILE, "table.md", "compare.json", "compare.svg"] {
        let path = out.join(name);
        let result = std::fs::remove_file(&path);
        gone(path, result)?;
    }
    let running = out.join("running");
    let result = std::fs::remove_dir_all(&running);
    gone(running, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_dropped_and_written_over() {
        let out = tempfile::tempdir().unwrap();
        let run = |seed| RunFigures {
            method: "dkm".into(),
            width: Some(3.0),
            seed: Some(seed),
            perplexity: 3.25,
            bits_per_weight: Some(3.1),
            size_bytes: 10,
            seconds: 0.5,
            original_perplexity: None,
        };
        assert_eq!(read(out.path()).unwrap(), []);
        append(out.path(), &run(0)).unwrap();
        let path = out.path().join(FILE);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"method\":\"dk").unwrap();
        assert_eq!(read(out.path()).unwrap(), [run(0)]);
        append(out.path(), &run(1)).unwrap();
        assert_eq!(read(out.path()).unwrap(), [run(0), run(1)]);
        // a run that diverged is one
        let diverged = RunFigures {
            perplexity: f64::NAN,
            ..run(2)
        };
        append(out.path(), &diverged).unwrap();
        let runs = read(out.path()).unwrap();
        assert!(runs.len() == 3 && runs[2].perplexity.is_nan() && runs[2].seed == Some(2));
        std::fs::write(&path, "{}\n").unwrap();
        assert!(read(out.path()).unwrap_err().to_string().contains("line 1"));
    }
}
