//! Chat templates: programs in Jinja that model folders bring, for transformers and others.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{context, Environment, Error, ErrorKind, Value as JinjaValue};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use super::python_json::tojson;
use super::Message;
use crate::data::records::Conversation;
use crate::data::Document;
use crate::files::read_capped;
use crate::tokenizer::special;
use crate::TrainError;

#[cfg(test)]
mod tests;

/// The largest file with a template that is read.
const LIMIT: u64 = 8 << 20;

/// What a template may do for one conversation: instructions, and numbers of what it makes. Those of published models run some hundreds of instructions a message,
/// and the longest record that is read takes a quarter of this.
const FUEL: u64 = 1 << 24;

/// How deep its macros may call each other.
const DEEPEST: usize = 50;

const NAME: &str = "chat_template";

/// What transformers gives every template, and as nothing where there is nothing.
const NONE: [&str; 2] = ["tools", "documents"];

/// The files that may have one, the first that there is. That of transformers' order.
const FILES: [&str; 3] = ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"];

/// A chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    /// What transformers gives a template by these names: `bos_token`, `eos_token` and others, and what it is given besides.
    given: Map<String, Value>,
    /// Or why there is none.
    source: Result<String, String>,
    /// Made when it is used first: a model can be measured on text without.
    environment: OnceLock<Result<Environment<'static>, String>>,
}

/// What comes behind the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// The beginning of a response.
    On,
    /// Nothing.
    NoFurther,
}

impl ChatTemplate {
    /// The template of a model folder, if it has one. One that is damaged is an error when it is used: a model can be measured on text without.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of_folder(dir: &Path) -> Result<Option<Self>, TrainError> {
        for name in FILES {
            let path = dir.join(name);
            let bytes = match read_capped(&path, LIMIT) {
                Ok(bytes) => bytes,
                Err(TrainError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(other) => return Err(other),
            };
            let source = match path.extension().is_some_and(|ending| ending == "json") {
                false => String::from_utf8(bytes).map(Some).map_err(|why| why.to_string()),
                true => serde_json::from_slice(&bytes)
                    .map_err(|why| why.to_string())
                    .and_then(|values| source_in(&values)),
            };
            if let Some(source) = source.transpose() {
                return Ok(Some(Self {
                    path,
                    given: special::texts(dir)?,
                    source,
                    environment: OnceLock::new(),
                }));
            }
        }
        Ok(None)
    }

    /// The template with this text; `path` is what messages call it, `given` the texts of special tokens by name.
    pub fn new(path: &Path, source: &str, given: Map<String, Value>) -> Self {
        Self {
            path: path.to_owned(),
            given,
            source: Ok(source.to_owned()),
            environment: OnceLock::new(),
        }
    }

    /// The same, given these values too by their names, which a template of its own kind may ask for: Qwen 3's for `enable_thinking`.
    pub fn with_arguments(&self, arguments: Map<String, Value>) -> Self {
        Self {
            path: self.path.clone(),
            given: self.given.clone().into_iter().chain(arguments).collect(),
            source: self.source.clone(),
            environment: OnceLock::new(),
        }
    }

    /// The file that it is of.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A conversation as text.
    ///
    /// # Errors
    /// A template that is none; what it says of a conversation that it does not take.
    pub fn write(&self, messages: &[Message], goes: Goes) -> Result<String, TrainError> {
        self.write_given(messages, goes, &Map::new())
    }

    /// [`Self::write`] with what this conversation gives a template besides.
    fn write_given(
        &self,
        messages: &[Message],
        goes: Goes,
        besides: &Map<String, Value>,
    ) -> Result<String, TrainError> {
        let made = || match &self.source {
            Ok(source) => environment(source).map_err(|why| described(&why)),
            Err(why) => Err(why.clone()),
        };
        let environment = self.environment.get_or_init(made).as_ref();
        let environment = environment.map_err(|why| error(&self.path, why))?;
        // what there is none of is none, which is not the same as a name that is not known
        let mut given: Map<String, Value> = NONE.map(|name| (name.to_owned(), Value::Null)).into_iter().collect();
        for (name, value) in self.given.iter().chain(besides) {
            given.insert(name.clone(), value.clone());
        }
        let written = environment.get_template(NAME).and_then(|template| {
            template.render(context! {
                messages => Serde(messages),
                add_generation_prompt => goes == Goes::On,
                ..JinjaValue::from(Serde(&given))
            })
        });
        written.map_err(|why| error(&self.path, described(&why)))
    }

    /// A conversation to learn from: of each response counts what it makes the template write.
    pub(super) fn documents(&self, conversation: &Conversation) -> Result<Vec<Document>, TrainError> {
        let Conversation { messages, given } = conversation;
        let mut documents = Vec::new();
        let (mut text, mut counted) = (String::new(), Vec::<Range<usize>>::new());
        let responses = messages.iter().enumerate().filter(|(_, message)| message.is_learned());
        for (at, response) in responses {
            let prompt = match at {
                0 => String::new(),
                _ => self.write_given(&messages[..at], Goes::On, given)?,
            };
            let whole = self.write_given(&messages[..=at], Goes::NoFurther, given)?;
            if !whole.starts_with(&text) {
                // what was said before is written otherwise now: what a reasoning model thought, say
                documents.push(Document::Marked {
                    text: std::mem::take(&mut text),
                    counted: std::mem::take(&mut counted),
                });
            }
            let end = whole.trim_end().len();
            let alike = shared(&prompt, &whole);
            let start = match alike == prompt.len() && at > 0 {
                true => alike,
                // what asks for a response is written otherwise once there is one
                false => whole[alike..]
                    .find(response.content.trim())
                    .map_or(alike, |at| alike + at),
            };
            counted.push(start.min(end)..end);
            text = whole;
        }
        if !counted.is_empty() {
            documents.push(Document::Marked { text, counted });
        }
        Ok(documents)
    }

    /// What is written behind a response, up to what the user says next, in a conversation that begins with `system`.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn behind_response(&self, system: Option<&Message>) -> Result<String, TrainError> {
        let response = "edkm";
        let mut messages: Vec<Message> = system.cloned().into_iter().collect();
        messages.extend([Message::user(response), Message::response(response)]);
        let text = self.write(&messages, Goes::NoFurther)?;
        Ok(text
            .rsplit_once(response)
            .map_or("", |(_, behind)| behind.trim())
            .to_owned())
    }
}

/// Bytes that both begin with, in whole characters.
fn shared(a: &str, b: &str) -> usize {
    let pairs = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    pairs.map(|(a, _)| a.len_utf8()).sum()
}

fn error(path: &Path, why: impl ToString) -> TrainError {
    TrainError::Template {
        path: path.to_owned(),
        reason: why.to_string(),
    }
}

/// What templates expect of transformers.
fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEEPEST);
    environment.set_unknown_method_callback(unknown_method_callback);
    let raise = |what: String| Err::<JinjaValue, _>(Error::new(ErrorKind::InvalidOperation, what));
    environment.add_function("raise_exception", raise);
    environment.add_filter("tojson", tojson);
    environment.add_template_owned(NAME, without_generation_marks(source))?;
    Ok(environment)
}

/// `{% generation %}` and `{% endgeneration %}` mark what is learned, for transformers; a block that always runs writes the same.
fn without_generation_marks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, behind) = tag.split_at(end);
        let word = tag
            .trim_start_matches(['{', '%', '-', '+'])
            .trim_end_matches(['}', '%', '-', '+']);
        match word.trim() {
            name @ ("generation" | "endgeneration") => {
                let plain = if name == "generation" { "if true" } else { "endif" };
                text.push_str(&tag.replacen(name, plain, 1));
            }
            _ => text.push_str(tag),
        }
        rest = behind;
    }
    text.push_str(rest);
    text
}

/// What went wrong, and the line.
fn described(why: &Error) -> String {
    let what = why.detail().map_or_else(|| why.kind().to_string(), ToOwned::to_owned);
    match why.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// The template in a JSON file: one, or several by name.
fn source_in(values: &Map<String, Value>) -> Result<Option<String>, String> {
    match values.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(source.clone())),
        Some(Value::Array(all)) => {
            let named = all.iter().find(|one| one["name"] == "default");
            let source = named.and_then(|one| one["template"].as_str());
            source
                .map(|source| Some(source.to_owned()))
                .ok_or_else(|| "none is named \"default\"".to_owned())
        }
        Some(other) => Err(format!("it is {other}, not a text")),
    }
}
