use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::data::text;

#[test]
fn the_text_of_a_seed_is_fixed() {
    let text = generate(Split::Train, 0, 20_000);
    assert_eq!(
        xxh3_64(&text.as_bytes()[..20_000]),
        18_012_837_536_271_629_927,
        "a changed text changes the embedded model"
    );
    assert_eq!(generate(Split::Train, 0, 20_000), text);
    assert!(
        generate(Split::Train, 0, 40_000).starts_with(&text),
        "more text begins with the same documents"
    );
    assert_ne!(generate(Split::Train, 1, 20_000)[..1000], text[..1000]);
}

#[test]
fn it_has_the_length_asked_for_and_whole_documents() {
    for bytes in [0, 1, 1000, 100_000] {
        let text = generate(Split::Train, 5, bytes);
        assert!(text.len() >= bytes && text.len() < bytes + 4096 && !text.ends_with('\n'));
    }
    let text = generate(Split::Train, 5, 200_000);
    let documents: Vec<String> = text::split(&text).collect();
    assert_eq!(documents.join("\n\n"), text, "a document has no blank line in it");
    assert!(documents.iter().all(|document| document.len() > 40));
}

#[test]
fn no_document_is_in_both_splits() {
    let documents = |split, seed| text::split(&generate(split, seed, 1 << 20)).collect::<BTreeSet<String>>();
    // The same seed for both: disjoint by the document, not by luck.
    let (train, validation) = (documents(Split::Train, 3), documents(Split::Validation, 3));
    assert_eq!(train.intersection(&validation).count(), 0);
    assert!(train.len() > 1000 && validation.len() > 1000);
}

#[test]
fn sentences_are_well_formed() {
    for document in text::split(&generate(Split::Train, 9, 1 << 20)) {
        for wrong in [
            "  ",
            " .",
            " ,",
            "..",
            "{",
            "}",
            "[",
            "]",
            "|",
            " a a",
            " a e",
            " a i",
            " a o",
            "\n ",
            " \n",
            " a honest",
        ] {
            assert!(!document.contains(wrong), "{wrong:?} in {document}");
        }
        assert!(
            document.is_ascii() && document.ends_with(['.', '!', '?', '"']),
            "{document}"
        );
        assert!(document.matches('"').count() % 2 == 0, "{document}");
        for sentence in document.split(['.', '!', '?', '\n']) {
            let first = sentence.trim_start_matches([' ', '"']).chars().next();
            // After direct speech a sentence goes on with a small letter: "Why?" asked the fox.
            let goes_on = sentence.starts_with("\" ");
            assert!(
                goes_on || first.is_none_or(|first| first.is_uppercase()),
                "{sentence:?} in {document}"
            );
        }
    }
}

#[test]
fn the_vocabulary_is_large_and_every_plot_is_told() {
    let text = generate(Split::Train, 2, 2 << 20);
    let mut words = BTreeMap::<String, usize>::new();
    for word in text
        .split(|character: char| !character.is_alphabetic())
        .filter(|word| !word.is_empty())
    {
        *words.entry(word.to_lowercase()).or_default() += 1;
    }
    let known = words.values().filter(|&&count| count >= 5).count();
    assert!(known > 800, "{known} words");
    let documents: BTreeSet<String> = text::split(&text).collect();
    assert!(documents.len() > 3000);
    let mut random = generator(0, 0);
    let titles: BTreeSet<String> = (0..2000)
        .map(|_| Document::story(&EMBEDDED, &mut random).title)
        .collect();
    assert!(titles.len() > 200, "{} titles", titles.len());
}

#[test]
fn instructions_are_fixed_and_whole() {
    let records = instructions(Split::Train, 0, 400);
    assert_eq!(records, instructions(Split::Train, 0, 400));
    assert!(records
        .iter()
        .all(|record| !record.instruction.is_empty() && !record.output.is_empty()));
    let with_input = records.iter().filter(|record| !record.input.is_empty()).count();
    assert!((100..350).contains(&with_input), "{with_input}");
    let validation = instructions(Split::Validation, 0, 100);
    assert!(validation.iter().all(|record| !records.contains(record)));
}

#[test]
fn the_tokenizer_of_a_text_is_fixed() {
    let text = generate(Split::Train, 0, 300_000);
    let bytes = train_tokenizer(&text, 768).unwrap();
    assert_eq!(
        xxh3_64(&bytes),
        7_346_873_936_361_903_017,
        "a changed tokenizer does not fit the embedded model"
    );
    assert!((0..3).all(|_| train_tokenizer(&text, 768).unwrap() == bytes));
}
