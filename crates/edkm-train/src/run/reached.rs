//! What a run has reached: measured on its way, and kept where it is the best.

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::Sharding;

use super::checkpoint::Measured;
use super::finetune::Run;
use super::{count, KeptModel, Observer};
use crate::compress::as_written;
use crate::evaluate::{perplexity, perplexity_in_words};
use crate::trainer::Trainer;
use crate::TrainError;

impl<D: EdkmDevice> Run<'_, D> {
    /// The perplexity that the model would have if it were written now, if it is to be measured after this step. Training goes on as if it had not been. The
    /// best of a run that [keeps it](KeptModel::Best) is written into the run's folder.
    ///
    /// Memory: 4 bytes a clustered weight beside the model, and where weights are written in 16 bits as much for the others.
    pub(super) fn reached(
        &self,
        trainer: &Trainer<D>,
        observer: &mut impl Observer,
    ) -> Result<Option<f64>, TrainError> {
        let (settings, done) = (self.settings, trainer.step_count());
        let due = settings
            .evaluate_every
            .is_some_and(|every| done > 0 && done % every == 0);
        if !due || done == settings.steps {
            return Ok(None);
        }
        let _span = tracing::trace_span!("evaluation").entered();
        // the clusterings of a copy go their own way
        let mut model = trainer.model.clone();
        let palettes = match &settings.clustering {
            Some(clustering) => {
                if done <= clustering.from_step {
                    // not clustered yet
                    model.set_clustering(clustering);
                }
                model.palettize_by_name(&|name| clustering.palette_dtype_of(name))?
            }
            None => Vec::new(),
        };
        let compressed = as_written(&model, &palettes, self.dtype)?;
        let measured = match perplexity(&compressed, self.validation, settings.sequence, &mut |_| {
            observer.go_on()
        }) {
            Ok(measured) => Measured {
                steps: done,
                perplexity: measured.perplexity,
            },
            // the step that was made is kept
            Err(TrainError::Stopped) => return Ok(None),
            Err(error) => return Err(error),
        };
        drop(compressed);
        let is_best = settings.kept_model == KeptModel::Best && measured.is_better_than(self.folder.best());
        if is_best {
            let kept = self.folder.keep_best(measured, |dir| {
                self.config.write(dir)?;
                self.folder.copy_companions(dir)?;
                model.write_weights(dir, &palettes, self.dtype, Sharding::Single)?;
                Ok(())
            });
            if let Err(why) = kept {
                // the training is worth more
                tracing::warn!("{why}; the model after {} is not kept", count(done, "step"));
            }
        }
        observer.meanwhile(&format!(
            "perplexity {} after {}{}",
            perplexity_in_words(measured.perplexity),
            count(done, "step"),
            if is_best { ", the best so far" } else { "" }
        ));
        Ok(Some(measured.perplexity))
    }
}
