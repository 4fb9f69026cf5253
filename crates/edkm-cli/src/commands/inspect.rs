//! `edkm inspect`

use std::path::Path;

use edkm_llama::checkpoint::{Access, Checkpoint};
use edkm_llama::config::{LlamaConfig, CONFIG_FILE};
use edkm_train::report;
use serde::Serialize;

use super::Failure;
use crate::args::InspectArgs;
use crate::console::{bytes, note, Output};
use crate::hub;
use crate::written_over::Written;

/// What a checkpoint holds.
#[derive(Serialize)]
struct Contents {
    path: String,
    size_bytes: u64,
    parameters: u64,
    config: Option<serde_json::Value>,
    /// Why it is no model that can be run here, if it has a configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    bits_per_weight: Option<f64>,
    tensors: Vec<Tensor>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    palette: Option<Palette>,
}

#[derive(Serialize)]
struct Palette {
    bits: u8,
    palettes: usize,
    /// Output channels that share one; `null`: all.
    group: Option<usize>,
    vector: usize,
    /// Type of their numbers.
    dtype: String,
    /// Whether each row has a factor.
    row_scales: bool,
    bits_per_weight: f64,
    /// The first palette, one list of numbers.
    first: Vec<f32>,
}

pub fn run(args: InspectArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    if let Some(page) = &args.html {
        Written::Page.check(page, &[&args.path])?;
    }
    let path = match args.path.is_file() {
        true => args.path.clone(),
        false => hub::folder(&args.path)?,
    };
    let checkpoint = open(&path)?;
    let contents = read(&path, &checkpoint)?;
    show(output, &contents);
    if let Some(problem) = &contents.problem {
        note(format_args!("not a model that edkm runs: {problem}"));
    }
    if let Some(page) = &args.html {
        let name = path.canonicalize().unwrap_or(path.clone());
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        report::write_inspection(page, &report::inspection(&checkpoint, &name)?)?;
        output.line(format!("wrote {}", page.display()));
    }
    output.json(&contents)?;
    Ok(())
}

fn open(path: &Path) -> Result<Checkpoint, Failure> {
    Ok(match path.is_dir() {
        true => Checkpoint::open(path)?,
        false => Checkpoint::open_file(path, Access::Map)?,
    })
}

fn read(path: &Path, checkpoint: &Checkpoint) -> Result<Contents, Failure> {
    let config = match path.is_dir() && path.join(CONFIG_FILE).exists() {
        true => {
            let read = LlamaConfig::read(path).and_then(|config| checkpoint.verify(&config).map(|()| config));
            Some(read.map_err(|why| why.to_string()))
        }
        false => None,
    };
    let (config, problem) = match config {
        Some(Ok(config)) => (Some(serde_json::to_value(&config)?), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let mut tensors = Vec::new();
    let (mut palette_bits, mut palette_weights) = (0.0, 0.0);
    for name in checkpoint.weight_names() {
        let shape = checkpoint.weight_shape(name).unwrap_or_default();
        let weights = shape.iter().product::<usize>() as f64;
        if checkpoint.is_palettized(name) {
            let matrix = checkpoint.palettized(name)?;
            palette_bits += matrix.bits_per_weight() * weights;
            palette_weights += weights;
            tensors.push(Tensor {
                name: name.to_owned(),
                shape,
                dtype: format!("{} bits", matrix.spec().bits),
                bytes: matrix.size_bytes() as u64,
                palette: Some(Palette {
                    bits: matrix.spec().bits,
                    palettes: matrix.groups(),
                    group: matrix.spec().group_rows.map(Into::into),
                    vector: matrix.spec().vector,
                    dtype: matrix.spec().palette_dtype.to_string(),
                    row_scales: matrix.row_scales().is_some(),
                    bits_per_weight: matrix.bits_per_weight(),
                    first: matrix.palette(0).to_vec(),
                }),
            });
        } else if let Some(info) = checkpoint.info(name) {
            tensors.push(Tensor {
                name: name.to_owned(),
                shape,
                dtype: format!("{:?}", info.dtype).to_lowercase(),
                bytes: info.bytes(),
                palette: None,
            });
        }
    }
    Ok(Contents {
        path: path.display().to_string(),
        size_bytes: checkpoint.file_bytes(),
        parameters: tensors.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum(),
        config,
        problem,
        bits_per_weight: (palette_weights > 0.0).then(|| palette_bits / palette_weights),
        tensors,
    })
}

fn show(output: Output, contents: &Contents) {
    let width = contents.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    for tensor in &contents.tensors {
        let shape = format!("{:?}", tensor.shape);
        let mut line = format!(
            "{:width$}  {shape:16} {:>7}  {:>10}",
            tensor.name,
            tensor.dtype,
            bytes(tensor.bytes)
        );
        if let Some(palette) = &tensor.palette {
            let plural = if palette.palettes == 1 { "palette" } else { "palettes" };
            line += &format!("  {} {plural} of {}", palette.palettes, palette.dtype);
            if palette.vector > 1 {
                line += &format!(", vectors of {}", palette.vector);
            }
            if palette.row_scales {
                line += ", a factor a row";
            }
            line += &format!(", {:.3} bits a weight", palette.bits_per_weight);
            if palette.bits <= 3 && palette.palettes == 1 && palette.vector == 1 {
                line += &format!(
                    "  {}",
                    palette
                        .first
                        .iter()
                        .map(|c| format!("{c:.4}"))
                        .collect::<Vec<_>>()
                        .join(" ")
                );
            }
        }
        output.line(line);
    }
    output.line(format!(
        "{} tensors, {} parameters, {} in files",
        contents.tensors.len(),
        contents.parameters,
        bytes(contents.size_bytes)
    ));
    if let Some(bits) = contents.bits_per_weight {
        output.line(format!("{bits:.3} bits a clustered weight, palettes counted"));
    }
}
