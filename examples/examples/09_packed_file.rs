//! From a trained network to a file of palettes and packed indices, and back.
//!
//!     cargo run -p edkm-examples --example 09_packed_file

// dfdx's prelude has a module of this name
use ::safetensors::{serialize, SafeTensors};
use dfdx::prelude::*;
use dfdx_edkm::nn::builders::ClusteredLinear;
use dfdx_edkm::nn::IntoPacked;
use dfdx_edkm::optim::{AdamW, AdamWConfig};
use dfdx_edkm::{backward, set_temperatures, visit_clustered, PaletteDType, PalettizeError, StoreTape, Temperature};
use edkm_palette::{read, Entry, EntryBytes, EntryView, FormatMetadata, PalettizedMatrix};
use edkm_store::Store;

type Model = (
    ClusteredLinear<2, 64>,
    Tanh,
    ClusteredLinear<64, 64>,
    Tanh,
    ClusteredLinear<64, 1>,
);

const STEPS: i32 = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dev = Cpu::default();
    let mut model = dev.build_module::<Model, f32>();
    let mut adamw = AdamW::new(dev.clone(), AdamWConfig::default());
    // the product of two numbers
    let x: Tensor<Rank2<256, 2>, f32, _> = dev.sample_normal();
    let y: Vec<f32> = x.as_vec().chunks(2).map(|pair| pair[0] * pair[1]).collect();
    let y: Tensor<Rank2<256, 1>, f32, _> = dev.tensor_from_vec(y, (Const, Const));
    for step in 0..STEPS {
        // soft assignments at first, nearly hard ones at the end
        let temperature = 0.15 * 0.01f64.powf(f64::from(step) / f64::from(STEPS));
        set_temperatures(&mut model, Temperature::Relative(temperature));
        let tape = StoreTape::new(Store::marshaling(), model.alloc_grads());
        let loss = mse_loss(model.forward(x.clone().put_tape(tape)), y.clone());
        adamw.step(&mut model, &mut backward(loss)?, 5e-3, 1.0)?;
    }
    println!(
        "loss in training {:.4}",
        mse_loss(model.forward(x.clone()), y.clone()).array()
    );

    let (mut format, mut matrices) = (FormatMetadata::new(), Vec::new());
    visit_clustered(&mut model, |matrix| {
        let packed = matrix
            .clustering
            .palettize(&matrix.weight(), matrix.shape, PaletteDType::F16)?;
        format.insert(matrix.name, &packed);
        matrices.push((matrix.name.to_owned(), packed));
        Ok::<_, PalettizeError>(())
    })?;
    let entries: Vec<Entry<'_>> = matrices
        .iter()
        .flat_map(|(name, packed)| packed.to_entries(name))
        .collect();
    let named = entries.iter().map(|entry| (&entry.name, entry));
    let file = serialize(named, Some(format.to_map()?))?;
    let weights: usize = matrices.iter().map(|(_, packed)| packed.rows() * packed.cols()).sum();
    println!("{weights} weights of {} bytes in a file of {}", 4 * weights, file.len());

    // what a program without dfdx does
    let layers = read_all(&file)?;
    let biases = [model.0.bias.as_vec(), model.2.bias.as_vec(), model.4.bias.as_vec()];
    let mut values = x.as_vec();
    for (number, (packed, bias)) in layers.iter().zip(&biases).enumerate() {
        let mut products = vec![0.0; 256 * packed.rows()];
        packed.matmul(&values, 256, &mut products)?;
        for (product, bias) in products.iter_mut().zip(bias.iter().cycle()) {
            *product += bias;
            if number + 1 < layers.len() {
                *product = product.tanh();
            }
        }
        values = products;
    }
    let packed_y: Tensor<Rank2<256, 1>, f32, _> = dev.tensor_from_vec(values, (Const, Const));
    println!("loss from the file {:.4}", mse_loss(packed_y, y.clone()).array());

    // the same within dfdx
    let packed = model.into_packed(PaletteDType::F16)?;
    println!("loss of packed layers {:.4}", mse_loss(packed.forward(x), y).array());
    Ok(())
}

/// The matrices of a file, by name.
fn read_all(file: &[u8]) -> Result<Vec<PalettizedMatrix>, Box<dyn std::error::Error>> {
    let (_, header) = SafeTensors::read_metadata(file)?;
    let format = FormatMetadata::from_map(header.metadata().as_ref().ok_or("no metadata")?)?;
    let tensors = SafeTensors::deserialize(file)?;
    let entry = |name: &str| {
        let view = tensors.tensor(name).ok()?;
        Some(EntryView {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: EntryBytes::Copied(view.data()),
        })
    };
    let matrices = format.tensors().map(|(name, _)| read(name, &format, entry));
    Ok(matrices.collect::<Result<_, _>>()?)
}
