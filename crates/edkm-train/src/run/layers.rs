//! Settings of single layers: rules by name pattern, from a TOML file.
//!
//! ```toml
//! # Rules apply in order: each sets what it names for every weight matrix whose name matches; a later one has the last word.
//! [[layer]]
//! pattern = "*.mlp.down_proj.weight"
//! bits = 4
//! group = 16
//! ```

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::Path;

use dfdx_edkm::ChannelScale;
use edkm_cluster::{Bits, Grouping, KeepZero, VectorLen};
use edkm_llama::config::LlamaConfig;
use edkm_llama::names::{parameters, Parameter, Role};
use edkm_palette::PaletteDType;
use serde::{Deserialize, Deserializer};

use crate::{files, TrainError};

/// The largest file of rules that is read: rules for some thousand layers take a tenth of it.
const RULES_LIMIT: u64 = 1 << 20;

/// Characters of a message about them.
const MESSAGE_LIMIT: usize = 1000;

/// Rules in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerRules(pub Vec<LayerRule>);

/// What one rule says. What is `None` stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRule {
    /// Names that it applies to: `*` stands for any text, dots included, `?` for one byte.
    pub pattern: String,
    /// Whether the parameter is left as it is.
    pub skip: Option<bool>,
    /// Parameters of fewer weights are left as they are.
    pub min_size: Option<usize>,
    /// Bits of an index.
    #[serde(default, deserialize_with = "bits")]
    pub bits: Option<Bits>,
    /// Output channels that share a palette.
    #[serde(default, deserialize_with = "grouping")]
    pub group: Option<Grouping>,
    /// Weights of a row that share an index.
    #[serde(default, deserialize_with = "vector")]
    pub vector: Option<VectorLen>,
    /// Type of the palette's numbers.
    #[serde(default, deserialize_with = "palette_dtype")]
    pub palette_dtype: Option<PaletteDType>,
    /// Whether weights that are exactly zero stay so.
    pub keep_zero: Option<bool>,
    /// Whether rows are brought to one spread first.
    pub per_channel_scale: Option<bool>,
}

impl LayerRule {
    /// A rule that gives one parameter its bits.
    pub fn bits_of(name: &str, bits: Bits) -> Self {
        Self {
            pattern: name.to_owned(),
            bits: Some(bits),
            ..Self::default()
        }
    }

    /// Whether the rule applies to a name.
    pub fn matches(&self, name: &str) -> bool {
        glob(self.pattern.as_bytes(), name.as_bytes())
    }

    /// Whether rows are brought to one spread first, if the rule says so.
    pub(super) fn channel_scale(&self) -> Option<ChannelScale> {
        self.per_channel_scale.map(|scale| match scale {
            true => ChannelScale::RootMeanSquare,
            false => ChannelScale::None,
        })
    }

    /// What weights that are exactly zero become, if the rule says so.
    pub(super) fn zeros(&self) -> Option<KeepZero> {
        self.keep_zero.map(|keep| match keep {
            true => KeepZero::Exact,
            false => KeepZero::Free,
        })
    }
}

/// How palettes are stored where groups of channels make them many: as bytes, and as f16 where they are known to be of more than 4 bits, whose centroids
/// are nearer to each other than bytes tell apart.
pub(super) fn dtype_of_groups(bits: Option<Bits>) -> PaletteDType {
    match bits {
        Some(bits) if bits.get() > 4 => PaletteDType::F16,
        _ => PaletteDType::I8,
    }
}

/// `*` is any text, `?` one byte.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // where to go on if a match fails: behind the last star, one byte further in the name
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                back = Some((p, n));
            }
            Some(&c) if c == b'?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match back {
                Some((star, from)) => {
                    (p, n) = (star, from + 1);
                    back = Some((star, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

impl LayerRules {
    /// The same, where a rule that groups channels and names no type of numbers has the type for [many palettes](dtype_of_groups) of the bits that it names.
    pub(super) fn with_dtypes_of_groups(mut self) -> Self {
        for rule in &mut self.0 {
            if matches!(rule.group, Some(Grouping::PerChannels(_))) {
                rule.palette_dtype.get_or_insert(dtype_of_groups(rule.bits));
            }
        }
        self
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, an unknown key, a value out of range: the file, the line and the key are named.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let fail = |reason| TrainError::Layers {
            path: path.to_path_buf(),
            reason,
        };
        let text = String::from_utf8(files::read_capped(path, RULES_LIMIT)?)
            .map_err(|why| fail(format!("not UTF-8 at byte {}", why.utf8_error().valid_up_to())))?;
        Self::from_toml(&text).map_err(fail)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            layer: Vec<LayerRule>,
        }
        // the message shows the line at fault, however long that is
        let short = |error: toml::de::Error| error.to_string().chars().take(MESSAGE_LIMIT).collect::<String>();
        let file: File = toml::from_str(text).map_err(|error| short(error).trim_end().to_owned())?;
        Ok(Self(file.layer))
    }

    /// The text of a file that says the same.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for rule in &self.0 {
            // writing to a string cannot fail
            // a string in JSON is one in TOML
            let _ = writeln!(
                text,
                "[[layer]]\npattern = {}",
                serde_json::Value::from(rule.pattern.as_str())
            );
            let mut line = |key: &str, value: Option<String>| {
                if let Some(value) = value {
                    let _ = writeln!(text, "{key} = {value}");
                }
            };
            line("skip", rule.skip.map(|skip| skip.to_string()));
            line("min_size", rule.min_size.map(|size| size.to_string()));
            line("bits", rule.bits.map(|bits| bits.get().to_string()));
            line(
                "group",
                rule.group.map(|group| match group {
                    Grouping::PerTensor => "\"tensor\"".to_owned(),
                    Grouping::PerChannels(channels) => channels.to_string(),
                }),
            );
            line("vector", rule.vector.map(|vector| vector.get().to_string()));
            line("palette_dtype", rule.palette_dtype.map(|dtype| format!("\"{dtype}\"")));
            line("keep_zero", rule.keep_zero.map(|keep| keep.to_string()));
            line(
                "per_channel_scale",
                rule.per_channel_scale.map(|scale| scale.to_string()),
            );
            text.push('\n');
        }
        text
    }

    /// The rules that apply to a parameter, in order.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a LayerRule> {
        self.0.iter().filter(move |rule| rule.matches(name))
    }

    /// Whether a rule gives the parameter its bits.
    pub(super) fn sets_bits_of(&self, name: &str) -> bool {
        self.of(name).any(|rule| rule.bits.is_some())
    }

    /// Checks that each pattern matches a weight matrix of the model.
    ///
    /// # Errors
    /// [`TrainError::Pattern`] with the first that does not.
    pub fn check(&self, config: &LlamaConfig) -> Result<(), TrainError> {
        let matrices: Vec<Parameter> = parameters(config).filter(is_matrix).collect();
        match self
            .0
            .iter()
            .find(|rule| !matrices.iter().any(|m| rule.matches(&m.name)))
        {
            None => Ok(()),
            Some(rule) => Err(TrainError::Pattern {
                pattern: rule.pattern.clone(),
                example: matrices.last().map_or_else(String::new, |m| m.name.clone()),
            }),
        }
    }
}

/// Whether a parameter can be clustered.
pub(super) fn is_matrix(parameter: &Parameter) -> bool {
    matches!(parameter.role, Role::Linear | Role::Embedding | Role::Head)
}

fn bits<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Bits>, D::Error> {
    Bits::new(u8::deserialize(value)?)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

fn vector<'de, D: Deserializer<'de>>(value: D) -> Result<Option<VectorLen>, D::Error> {
    VectorLen::new(usize::deserialize(value)?)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

fn grouping<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Grouping>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Group {
        Channels(NonZeroUsize),
        Word(String),
    }
    match Group::deserialize(value) {
        Ok(Group::Channels(channels)) => Ok(Some(Grouping::PerChannels(channels))),
        Ok(Group::Word(word)) if word == "tensor" => Ok(Some(Grouping::PerTensor)),
        _ => Err(serde::de::Error::custom(
            "group: expected a number of output channels, at least 1, or \"tensor\"",
        )),
    }
}

fn palette_dtype<'de, D: Deserializer<'de>>(value: D) -> Result<Option<PaletteDType>, D::Error> {
    let word = String::deserialize(value)?;
    match word.as_str() {
        "f32" => Ok(Some(PaletteDType::F32)),
        "f16" => Ok(Some(PaletteDType::F16)),
        "bf16" => Ok(Some(PaletteDType::Bf16)),
        "i8" | "int8" => Ok(Some(PaletteDType::I8)),
        _ => Err(serde::de::Error::custom(format!(
            "palette_dtype `{word}`: expected f32, f16, bf16 or int8"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        let name = b"model.layers.11.mlp.down_proj.weight";
        for pattern in [
            "*",
            "model.layers.11.mlp.down_proj.weight",
            "*down_proj*",
            "model.layers.*.mlp.*",
            "model.layers.1?.*weight",
            "**weight",
            "*.weight*",
        ] {
            assert!(glob(pattern.as_bytes(), name), "{pattern}");
        }
        for pattern in ["", "model", "*up_proj*", "model.layers.?.mlp.*", "*weight?", "*bias"] {
            assert!(!glob(pattern.as_bytes(), name), "{pattern}");
        }
        // no pattern takes long: a hundred stars and no match
        assert!(!glob("*a".repeat(100).as_bytes(), "a".repeat(99).as_bytes()));
    }

    #[test]
    fn a_file_is_read_and_written() {
        let text =
            "[[layer]]\npattern = \"*.down_proj.*\"\nskip = true\nmin_size = 100\nbits = 4\ngroup = 16\nvector = 2\n\
                    palette_dtype = \"f16\"\nkeep_zero = false\nper_channel_scale = true\n\n[[layer]]\npattern = \"*\"\ngroup = \"tensor\"\n\n";
        let rules = LayerRules::from_toml(text).unwrap();
        assert_eq!(rules.0.len(), 2);
        assert_eq!(rules.to_toml(), text);
        assert_eq!(LayerRules::from_toml("").unwrap(), LayerRules::default());
    }

    #[test]
    fn groups_of_more_than_4_bits_are_not_stored_as_bytes() {
        let dtype = |rule: &str| {
            let rules = LayerRules::from_toml(&format!("[[layer]]\npattern = \"*\"\n{rule}")).unwrap();
            rules.with_dtypes_of_groups().0[0].palette_dtype
        };
        assert_eq!(dtype("group = 16"), Some(PaletteDType::I8));
        assert_eq!(dtype("group = 16\nbits = 4"), Some(PaletteDType::I8));
        assert_eq!(dtype("group = 16\nbits = 6"), Some(PaletteDType::F16));
        assert_eq!(
            dtype("group = 16\nbits = 6\npalette_dtype = \"int8\""),
            Some(PaletteDType::I8)
        );
        assert_eq!(dtype("bits = 6"), None);
    }

    #[test]
    fn what_a_file_cannot_say_is_named() {
        for (line, parts) in [
            ("bit = 3", &["bit", "bits"][..]),
            ("bits = 9", &["bits", "9"]),
            ("bits = \"three\"", &["bits"]),
            ("group = 0", &["group", "at least 1"]),
            ("group = \"rows\"", &["group", "tensor"]),
            ("vector = 3", &["vector", "3"]),
            ("palette_dtype = \"f8\"", &["palette_dtype", "f8"]),
            ("skip = 1", &["skip"]),
            ("min_size = -1", &["min_size"]),
        ] {
            let error = LayerRules::from_toml(&format!("[[layer]]\npattern = \"*\"\n{line}\n")).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "no `{part}` in: {error}");
            }
            assert!(error.contains("line 3"), "{error}");
        }
        assert!(LayerRules::from_toml("[[layer]]\nbits = 3")
            .unwrap_err()
            .contains("pattern"));
        assert!(LayerRules::from_toml("[[layers]]\n").unwrap_err().contains("layers"));
    }
}
