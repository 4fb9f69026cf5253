//! From a trained network to a file of palettes and packed indices, and back.
//!
//!     cargo run -p edkm-examples --example 09_packed_file

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::ClusteredLinear;
use dfdx_edkm::nn::IntoPacked;
use dfdx_edkm::optim::{AdamW, AdamWConfig};
use dfdx_edkm::{backward, count_parameters, packed_file, set_temperatures, PaletteDType, StoreTape, Temperature};
use edkm_palette::PaletteFile;
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

    let path = std::env::temp_dir().join(format!("edkm-09-{}.safetensors", std::process::id()));
    packed_file(&mut model, PaletteDType::F16)?.save(&path)?;
    let size = std::fs::metadata(&path)?.len();
    println!("{} numbers in a file of {size} bytes", count_parameters(&mut model));

    // what a program without dfdx does
    let file = PaletteFile::open(&path)?;
    std::fs::remove_file(&path)?;
    let mut values = x.as_vec();
    for layer in [0, 2, 4] {
        let packed = &file.matrices[&format!("{layer}.weight")];
        let bias = &file.plain[&format!("{layer}.bias")].numbers;
        let mut products = vec![0.0; 256 * packed.rows()];
        packed.matmul(&values, 256, &mut products)?;
        for (product, bias) in products.iter_mut().zip(bias.iter().cycle()) {
            *product += bias;
            if layer < 4 {
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
