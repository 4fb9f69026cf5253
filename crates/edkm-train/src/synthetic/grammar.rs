//! The grammar as it stands after parsing: tables of words, roles, and plots whose templates speak of the roles.

use std::sync::LazyLock;

use super::parse;

/// The words and plots that this crate carries.
pub(super) static EMBEDDED: LazyLock<Grammar> = LazyLock::new(|| {
    parse::grammar(&[include_str!("words.txt"), include_str!("plots.txt")])
        .unwrap_or_else(|why| unreachable!("the embedded grammar, which a test parses: {why}"))
});

#[derive(Debug, Default)]
pub(super) struct Grammar {
    pub(super) tables: Vec<Table>,
    pub(super) roles: Vec<Role>,
    /// Texts chosen once for a document; a template may use those before it.
    pub(super) fixed: Vec<(&'static str, Template)>,
    pub(super) stories: Vec<Plot>,
    /// Plots without stages: their questions stand for themselves.
    pub(super) quizzes: Vec<Plot>,
}

/// Things of one kind: the first column names the thing, the others are what belongs to it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<&'static str>>,
}

/// A part in a document that one row of a table plays.
#[derive(Debug)]
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) table: usize,
}

#[derive(Debug, Default)]
pub(super) struct Plot {
    pub(super) name: &'static str,
    pub(super) title: Template,
    pub(super) stages: Vec<Stage>,
    pub(super) questions: Vec<Question>,
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) presence: Presence,
    /// Ways to tell it.
    pub(super) tellings: Vec<Template>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    Sometimes,
}

#[derive(Debug)]
pub(super) struct Question {
    pub(super) asked: Template,
    pub(super) answer: Template,
}

/// Text with gaps and choices.
pub(super) type Template = Vec<Piece>;

#[derive(Debug)]
pub(super) enum Piece {
    Text(&'static str),
    Slot(Slot),
    Choice(Vec<Template>),
}

/// A gap: what fills it, and how that is written.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) filler: Filler,
    pub(super) article: Article,
    pub(super) case: Case,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Filler {
    /// A column of the row that plays a role.
    Column { role: usize, column: usize },
    /// One of [`Grammar::fixed`].
    Fixed(usize),
    /// A number, in words.
    Number(Number),
}

/// The numbers of a document: the larger one, the smaller one, and what follows from them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Larger,
    Smaller,
    Sum,
    Difference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Article {
    None,
    /// "a", or "an" before a vowel.
    Indefinite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    AsIs,
    Capital,
}
