//! Perplexity on a GPU, with weights unpacked to f32.

use dfdx_edkm::{count_parameters, EdkmDevice};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_train::evaluate::perplexity;
use edkm_train::Tokenizer;

use super::{stream, Measured, Measures};
use crate::args::EvalArgs;
use crate::commands::Failure;
use crate::device::OnDevice;
use crate::hub;
use crate::progress::Counter;

/// Every model on every text, on the device of the arguments.
pub(super) fn measure(args: &EvalArgs) -> Result<Vec<Measured>, Failure> {
    if let Some(task) = args.tasks.0.iter().find_map(|request| request.task.task()) {
        return Err(format!(
            "--task {}: a GPU measures perplexity alone; tasks are answered by packed models on the CPU (--device cpu)",
            task.name()
        )
        .into());
    }
    args.device.run(OnGpu { args })
}

struct OnGpu<'a> {
    args: &'a EvalArgs,
}

impl OnDevice for OnGpu<'_> {
    type Output = Vec<Measured>;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<Vec<Measured>, Failure> {
        let args = self.args;
        let mut results = Vec::new();
        for dir in std::iter::once(&args.model_dir).chain(&args.compare) {
            let folder = hub::folder(dir)?;
            let config = LlamaConfig::read(&folder)?;
            let tokenizer = Tokenizer::from_dir(&folder)?;
            tokenizer.check_vocabulary(config.vocab_size)?;
            let mut model = DynamicLlama::open(&folder, device)?;
            for request in &args.tasks.0 {
                let stream = stream(request, args, &tokenizer, config.max_position_embeddings)?;
                let counter = Counter::new(&format!("{} perplexity", dir.display()), stream.len());
                let done = |share| counter.set((share * stream.len() as f64) as usize);
                let measured = perplexity(&model, &stream, args.seq, done)?;
                drop(counter);
                results.push(Measured {
                    model: dir.display().to_string(),
                    weight_bytes: count_parameters(&mut model) * size_of::<f32>(),
                    task: "perplexity",
                    data: request.data.clone(),
                    measures: Measures::Text {
                        perplexity: measured.perplexity,
                        tokens: measured.tokens,
                    },
                });
            }
        }
        Ok(results)
    }
}
