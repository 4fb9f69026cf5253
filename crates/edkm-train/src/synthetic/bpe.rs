//! A small byte-level BPE tokenizer trained on a text, in the form of Hugging Face's `tokenizer.json`.

use tokenizers::models::bpe::{BpeTrainerBuilder, BPE};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::tokenizer::SpecialTokens;
use crate::TrainError;

const UNKNOWN: &str = "<unk>";
const BEGIN: &str = "<s>";
const END: &str = "</s>";

/// The special tokens of every tokenizer made by [`train_tokenizer`]: `<unk>` is token 0, `<s>` 1, `</s>` 2.
pub fn special_tokens() -> SpecialTokens {
    SpecialTokens {
        begin: Some(1),
        end: vec![2],
    }
}

/// Trains a byte-level BPE tokenizer of at most `vocabulary` tokens and gives the bytes of its `tokenizer.json`.
///
/// The first 259 tokens are the special ones and all bytes, so any text can be encoded; the rest are merges, most frequent
/// first, and there are fewer of them if the text has no more pairs that occur twice. The same text gives the same bytes.
///
/// # Errors
/// [`TrainError::Setting`] for a vocabulary below 259.
pub fn train_tokenizer(text: &str, vocabulary: usize) -> Result<Vec<u8>, TrainError> {
    if vocabulary < 259 {
        let (value, expected) = (
            vocabulary.to_string(),
            "at least 259: 256 bytes and three special tokens",
        );
        return Err(TrainError::Setting {
            setting: "vocabulary",
            value,
            expected,
        });
    }
    train(text, vocabulary).map_err(|why| TrainError::Tokenizer {
        path: "tokenizer.json".into(),
        reason: format!("cannot be trained: {why}"),
    })
}

fn train(text: &str, vocabulary: usize) -> tokenizers::Result<Vec<u8>> {
    let special = [UNKNOWN, BEGIN, END].map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocabulary)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let bytes = ByteLevel::new(false, true, true);
    let template = TemplateProcessing::builder()
        .try_single(format!("{BEGIN} $A"))?
        .try_pair(format!("{BEGIN} $A {BEGIN} $B"))?
        .special_tokens(vec![(BEGIN, 1)])
        .build()?;
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, _, _, _>::new()
        .with_model(BPE::builder().unk_token(UNKNOWN.to_owned()).build()?)
        .with_normalizer(None)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(Some(template))
        .with_decoder(Some(bytes))
        .build()?;
    tokenizer.train(&mut trainer, text.lines())?;
    Ok(tokenizer.to_string(false)?.into_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Tokenizer;

    fn trained(text: &str, vocabulary: usize) -> Tokenizer {
        let bytes = train_tokenizer(text, vocabulary).unwrap();
        Tokenizer::from_bytes(Path::new("trained.json"), &bytes, special_tokens()).unwrap()
    }

    #[test]
    fn frequent_words_become_tokens() {
        let tokenizer = trained(&"the fox and the bear\n".repeat(30), 300);
        assert_eq!(tokenizer.encode(" fox and the bear").unwrap().len(), 4);
        assert_eq!(tokenizer.decode(&[1, 2]).unwrap(), "");
    }

    #[test]
    fn any_bytes_can_be_encoded() {
        let tokenizer = trained("", 512);
        assert_eq!(tokenizer.vocabulary_size(), 259);
        let text = "Ünseen 日本 \u{1f98a}\u{0}\t\r\n  </s";
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        assert!(!tokens.contains(&0), "nothing is unknown");
    }

    #[test]
    fn a_vocabulary_without_room_for_all_bytes_is_refused() {
        assert!(train_tokenizer("text", 258).unwrap_err().to_string().contains("259"));
    }
}
