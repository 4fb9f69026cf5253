//! What a run reads: the model and the texts.

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::{Checkpoint, FloatDtype};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;

use super::float_dtype::float_dtype;
use super::other_teacher::OtherTeacher;
use super::texts::{measured_on, texts};
use super::{FinetuneSettings, Observer, Stage, TrainingText};
use crate::data::TokenStream;
use crate::{Tokenizer, TrainError};

/// What a run reads.
pub(super) struct Inputs<D: EdkmDevice> {
    pub(super) config: LlamaConfig,
    pub(super) model: DynamicLlama<D>,
    /// A model of another folder to learn from.
    pub(super) teacher: Option<OtherTeacher<D>>,
    /// Bytes of the model's files.
    pub(super) size_bytes: u64,
    /// The type of what is not clustered, in them and in the result.
    pub(super) dtype: FloatDtype,
    pub(super) tokenizer: Tokenizer,
    pub(super) training: TokenStream,
    /// The figures of that text.
    pub(super) text: TrainingText,
    pub(super) validation: TokenStream,
}

impl<D: EdkmDevice> Inputs<D> {
    /// Reads them.
    ///
    /// # Errors
    /// Input that cannot be used.
    pub(super) fn read(
        settings: &FinetuneSettings,
        device: &D,
        observer: &mut impl Observer,
    ) -> Result<Self, TrainError> {
        observer.stage(Stage::LoadModel);
        let config = LlamaConfig::read(&settings.model_dir)?;
        let tokenizer = Tokenizer::from_dir(&settings.model_dir)?;
        tokenizer.check_vocabulary(config.vocab_size)?;
        let teacher = OtherTeacher::read(settings, &tokenizer, config.vocab_size, device)?;
        let checkpoint = Checkpoint::open(&settings.model_dir)?;
        let mut model = DynamicLlama::from_checkpoint(&checkpoint, &config, device)?;
        model.recompute = settings.recompute;
        let (size_bytes, dtype) = (checkpoint.file_bytes(), float_dtype(&checkpoint));
        drop(checkpoint);

        observer.stage(Stage::LoadData);
        let (training, validation) = texts(settings, &tokenizer, &mut |share| observer.advance(share))?;
        if training.is_in_template() {
            observer.result(&format!("records are written {}", tokenizer.template().in_words()));
        }
        let text = TrainingText::of(&training, settings);
        observer.result(&text.line(settings));
        observer.result(&measured_on(settings, &validation));
        Ok(Self {
            config,
            model,
            teacher,
            size_bytes,
            dtype,
            tokenizer,
            training,
            text,
            validation,
        })
    }
}
