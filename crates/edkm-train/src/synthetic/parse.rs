//! Reads the grammar from its text form, which `words.txt` and `plots.txt` explain. Names are resolved here, so that a template
//! which speaks of something that is not there is found when the grammar is read, not when a document happens to need it.

use super::grammar::{
    Article, Case, Filler, Grammar, Number, Piece, Plot, Presence, Question, Role, Slot, Stage, Table, Template,
};

/// The grammar of several texts, of which later ones may use what earlier ones define. The error names the line.
pub(super) fn grammar(texts: &[&'static str]) -> Result<Grammar, String> {
    let mut grammar = Grammar::default();
    let mut plots = Vec::new();
    for text in texts {
        // The table whose rows are being read.
        let mut table: Option<Table> = None;
        for line in text.lines().chain([""]) {
            let line = line.trim_end();
            if line.is_empty() {
                grammar.tables.extend(table.take());
            } else if let Some(table) = &mut table {
                table.add_row(line)?;
            } else if let Some(rest) = line.strip_prefix("table ") {
                table = Some(Table::header(rest)?);
            } else if !line.starts_with('#') {
                statement(&mut grammar, &mut plots, line).map_err(|why| match plots.last() {
                    Some(plot) => format!("plot {}, {line:?}: {why}", plot.name),
                    None => format!("{line:?}: {why}"),
                })?;
            }
        }
    }
    (grammar.quizzes, grammar.stories) = plots.into_iter().partition(|plot: &Plot| plot.stages.is_empty());
    Ok(grammar)
}

impl Table {
    fn header(line: &'static str) -> Result<Self, String> {
        let (name, columns) = split(line, ": ")?;
        Ok(Self {
            name,
            columns: columns.split(" | ").collect(),
            rows: Vec::new(),
        })
    }

    fn add_row(&mut self, line: &'static str) -> Result<(), String> {
        let row: Vec<_> = line.split(" | ").collect();
        if row.len() != self.columns.len() {
            return Err(format!(
                "{line:?}: table {} has {} columns",
                self.name,
                self.columns.len()
            ));
        }
        self.rows.push(row);
        Ok(())
    }
}

/// One line that is not part of a table.
fn statement(grammar: &mut Grammar, plots: &mut Vec<Plot>, line: &'static str) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("role ") {
        let (name, table) = split(rest, " = ")?;
        let table = grammar
            .tables
            .iter()
            .position(|known| known.name == table)
            .ok_or("unknown table")?;
        grammar.roles.push(Role { name, table });
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("let ") {
        let (name, text) = split(rest, " = ")?;
        let text = template(grammar, text)?;
        grammar.fixed.push((name, text));
        return Ok(());
    }
    if let Some(name) = line.strip_prefix("plot ") {
        plots.push(Plot {
            name,
            ..Plot::default()
        });
        return Ok(());
    }
    let plot = plots.last_mut().ok_or("stands before the first plot")?;
    let (mark, rest) = split(line, " ")?;
    match mark {
        "!" => plot.title = template(grammar, rest)?,
        "-" | "~" => {
            let presence = if mark == "-" {
                Presence::Always
            } else {
                Presence::Sometimes
            };
            plot.stages.push(Stage {
                presence,
                tellings: vec![template(grammar, rest)?],
            });
        }
        "/" => plot
            .stages
            .last_mut()
            .ok_or("another telling of nothing")?
            .tellings
            .push(template(grammar, rest)?),
        "?" => {
            let (asked, answer) = split(rest, " => ")?;
            plot.questions.push(Question {
                asked: template(grammar, asked)?,
                answer: template(grammar, answer)?,
            });
        }
        _ => return Err("unknown kind of line".to_owned()),
    }
    Ok(())
}

fn template(grammar: &Grammar, text: &'static str) -> Result<Template, String> {
    let mut rest = text;
    let template = sequence(grammar, &mut rest)?;
    match rest {
        "" => Ok(template),
        _ => Err(format!("a choice begins or ends twice before {rest:?}")),
    }
}

/// Pieces up to the end of the text or of the option that they stand in.
fn sequence(grammar: &Grammar, rest: &mut &'static str) -> Result<Template, String> {
    let mut pieces = Template::new();
    loop {
        let end = rest.find(['{', '[', '|', ']']).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(end);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        *rest = tail;
        if let Some(tail) = rest.strip_prefix('{') {
            let (name, tail) = split(tail, "}")?;
            pieces.push(Piece::Slot(slot(grammar, name)?));
            *rest = tail;
        } else if rest.starts_with('[') {
            pieces.push(Piece::Choice(choice(grammar, rest)?));
        } else {
            return Ok(pieces);
        }
    }
}

/// `[one|another]`, from its opening to behind its closing bracket.
fn choice(grammar: &Grammar, rest: &mut &'static str) -> Result<Vec<Template>, String> {
    let mut options = Vec::new();
    loop {
        // Behind "[" or "|".
        *rest = &rest[1..];
        options.push(sequence(grammar, rest)?);
        if let Some(tail) = rest.strip_prefix(']') {
            *rest = tail;
            return Ok(options);
        }
        if rest.is_empty() {
            return Err("a choice has no end".to_owned());
        }
    }
}

fn slot(grammar: &Grammar, text: &'static str) -> Result<Slot, String> {
    let (article, name) = match text.strip_prefix("a ").or(text.strip_prefix("A ")) {
        Some(name) => (Article::Indefinite, name),
        None => (Article::None, text),
    };
    let case = if text.starts_with(char::is_uppercase) {
        Case::Capital
    } else {
        Case::AsIs
    };
    let filler = filler(grammar, &name.to_lowercase()).ok_or_else(|| format!("nothing fills {{{text}}}"))?;
    Ok(Slot { filler, article, case })
}

fn filler(grammar: &Grammar, name: &str) -> Option<Filler> {
    let number = match name {
        "n" => Some(Number::Larger),
        "m" => Some(Number::Smaller),
        "n+m" => Some(Number::Sum),
        "n-m" => Some(Number::Difference),
        _ => None,
    };
    if let Some(number) = number {
        return Some(Filler::Number(number));
    }
    if let Some(index) = grammar.fixed.iter().position(|(known, _)| *known == name) {
        return Some(Filler::Fixed(index));
    }
    let (role, column) = name.split_once('.').unwrap_or((name, "name"));
    let role = grammar.roles.iter().position(|known| known.name == role)?;
    let table = &grammar.tables[grammar.roles[role].table];
    let column = table.columns.iter().position(|known| *known == column)?;
    Some(Filler::Column { role, column })
}

fn split(text: &'static str, separator: &str) -> Result<(&'static str, &'static str), String> {
    text.split_once(separator)
        .ok_or_else(|| format!("no {separator:?} in {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str =
        "table pet: name | sound\ncat | meow\n\nrole pet = pet\nlet call = {pet} [says|cries] {pet.sound}\n";

    fn error(text: &'static str) -> String {
        grammar(&[WORDS, text]).unwrap_err()
    }

    #[test]
    fn the_embedded_grammar_is_sound() {
        let grammar = grammar(&[include_str!("words.txt"), include_str!("plots.txt")]).unwrap();
        assert!(grammar.stories.len() >= 20 && grammar.quizzes.len() >= 3);
        for plot in &grammar.stories {
            assert!(
                !plot.title.is_empty() && plot.stages.len() >= 3 && plot.questions.len() >= 3,
                "plot {}",
                plot.name
            );
        }
        for table in &grammar.tables {
            let names: std::collections::BTreeSet<_> = table.rows.iter().map(|row| &row[..2.min(row.len())]).collect();
            assert_eq!(
                names.len(),
                table.rows.len(),
                "a row of table {} stands there twice",
                table.name
            );
            let roles = grammar
                .roles
                .iter()
                .filter(|role| grammar.tables[role.table].name == table.name)
                .count();
            assert!(
                roles < table.rows.len(),
                "table {} has too few rows for its roles",
                table.name
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(grammar(&[WORDS, "plot x\n- {call} and {Pet.sound} {a pet} {N-m}.\n"]).is_ok());
        assert!(error("plot x\n- {dog}\n").contains("nothing fills {dog}"));
        assert!(error("plot x\n- {pet.color}\n").contains("nothing fills {pet.color}"));
        assert!(error("plot x\n- {pet\n").contains("no \"}\""));
        assert!(error("plot x\n- [a|b\n").contains("no end"));
        assert!(error("plot x\n- a]b\n").contains("twice"));
        assert!(error("plot x\n? what\n").contains("=>"));
        assert!(error("- a\n").contains("before the first plot"));
        assert!(error("table t: a | b\nx\n").contains("2 columns"));
        assert!(error("role x = absent\n").contains("unknown table"));
    }
}
