//! Training and validation text: plain, Alpaca records, and the rules for single layers.

use std::path::Path;

use super::{nested, sparse, strings, text_of, Case};
use crate::common::Workshop;

pub(super) fn finetune(shop: &Workshop, data: &Path) -> Vec<String> {
    let mut arguments = strings(&["finetune", &text_of(&shop.model()), "--data", &text_of(data)]);
    arguments.extend(strings(&["--out", &text_of(&shop.out())]));
    arguments.extend(strings(&["--steps", "2", "--seq", "32", "--batch", "2"]));
    arguments
}

pub(super) fn eval(shop: &Workshop, data: &Path) -> Vec<String> {
    strings(&["eval", &text_of(&shop.model()), "--data", &text_of(data), "--seq", "32"])
}

/// A data file with these bytes, for training and for evaluation by turns.
fn data(file: &'static str, name: &str, says: &[&'static str], bytes: fn() -> Vec<u8>) -> Case {
    let says: Vec<_> = [&[file], says].concat();
    let trained = name.len().is_multiple_of(2);
    Case::new(format!("{file}: {name}"), &says, move |shop| {
        let path = shop.path(file);
        std::fs::write(&path, bytes()).unwrap();
        match trained {
            true => finetune(shop, &path),
            false => eval(shop, &path),
        }
    })
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = plain();
    cases.extend(alpaca());
    cases.extend(layers());
    cases
}

fn plain() -> Vec<Case> {
    let text = |name, says: &[&'static str], bytes| data("story.txt", name, says, bytes);
    let file = |name: &str, says: &[&'static str], make: fn(&Path)| {
        Case::new(
            format!("story.txt: {name}"),
            &[&["story.txt"], says].concat(),
            move |shop| {
                let path = shop.path("story.txt");
                make(&path);
                finetune(shop, &path)
            },
        )
    };
    vec![
        text("no bytes", &["no text"], Vec::new),
        text("blank", &["no text"], || b" \n\n\t\r\n".repeat(1000)),
        text("not UTF-8 at the beginning", &["UTF-8 at byte 0"], || {
            b"\xff\xfeO\0n\0c\0e\0".to_vec()
        }),
        text("not UTF-8 in the middle", &["UTF-8 at byte 45000"], || {
            [&b"a b c\n\nd "[..].repeat(5000)[..], b"\x80"].concat()
        }),
        text("cut off in a letter", &["UTF-8 at byte 5"], || {
            b"Once \xe2\x82".to_vec()
        }),
        text("half a surrogate", &["UTF-8"], || b"Once \xed\xa0\x80 upon".to_vec()),
        text("a letter in too many bytes", &["UTF-8"], || b"\xc0\xaf".to_vec()),
        text(
            "one document of 17 MiB",
            &["the document at byte 0", "16 MiB", "blank lines"],
            || vec![b'a'; 17 << 20],
        ),
        // refused for its size, before it is read; the next one when it is read
        file("a terabyte of zeros", &[], |path| sparse(path, 1 << 40)),
        Case::new(
            "story.txt: a terabyte to measure on",
            &["story.txt", "the document at byte 0"],
            |shop| {
                sparse(&shop.path("story.txt"), 1 << 40);
                eval(shop, &shop.path("story.txt"))
            },
        ),
        file("is not there", &["cannot read"], |_| {}),
        file("is an empty folder", &["a folder with no"], |path| {
            std::fs::create_dir(path).unwrap()
        }),
        #[cfg(unix)]
        file("is an endless device", &["not a file"], |path| {
            std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        }),
        #[cfg(unix)]
        file("is a link to itself", &["cannot read"], |path| {
            std::os::unix::fs::symlink(path, path).unwrap();
        }),
        Case::new("a kind that is not known", &["story.pkl", ".jsonl"], |shop| {
            std::fs::write(shop.path("story.pkl"), b"\x80\x04\x95").unwrap();
            finetune(shop, &shop.path("story.pkl"))
        }),
        Case::new("the second of two files", &["second.txt", "UTF-8 at byte 3"], |shop| {
            std::fs::write(shop.path("second.txt"), b"abc\xff").unwrap();
            let mut arguments = finetune(shop, &shop.text());
            arguments.extend(strings(&["--data", &text_of(&shop.path("second.txt"))]));
            arguments
        }),
        Case::new("the text to measure on", &["valid.txt", "UTF-8 at byte 3"], |shop| {
            std::fs::write(shop.path("valid.txt"), b"abc\xff").unwrap();
            let mut arguments = finetune(shop, &shop.text());
            arguments.extend(strings(&["--valid", &text_of(&shop.path("valid.txt"))]));
            arguments
        }),
    ]
}

fn alpaca() -> Vec<Case> {
    let array = |name, says: &[&'static str], bytes| data("alpaca.json", name, says, bytes);
    let lines = |name, says: &[&'static str], bytes| data("alpaca.jsonl", name, says, bytes);
    const GOOD: &str = r#"{"instruction":"Say a word.","input":"","output":"Ball."}"#;
    vec![
        array("no bytes", &["line 1", "EOF"], Vec::new),
        array("an object", &["array"], || b"{}".to_vec()),
        array("no records", &["no text"], || b"[]".to_vec()),
        array("cut off", &["record 2", "EOF"], || {
            format!("[{GOOD},{}", &GOOD[..20]).into()
        }),
        array("a list in the list", &["record 1"], || b"[[]]".to_vec()),
        array("numbers", &["record 1"], || b"[1, 2]".to_vec()),
        array("instruction is a number", &["record 1", "instruction"], || {
            br#"[{"instruction":7,"output":"x"}]"#.to_vec()
        }),
        array("output is a list", &["record 2", "output"], || {
            format!(r#"[{GOOD},{{"instruction":"a","output":["x"]}}]"#).into()
        }),
        array("input is null", &["record 1", "input"], || {
            br#"[{"instruction":"a","input":{},"output":"x"}]"#.to_vec()
        }),
        array("no output", &["record 1", "output"], || {
            br#"[{"instruction":"a"}]"#.to_vec()
        }),
        array("a key twice", &["record 1", "output"], || {
            br#"[{"instruction":"a","output":"x","output":"y"}]"#.to_vec()
        }),
        array("a deep prompt", &["record 1"], || {
            format!(r#"[{{"prompt":{}"#, nested(1_000_000)).into()
        }),
        array("an array with a name, cut off", &["record 2", "EOF"], || {
            format!(r#"{{"data":[{GOOD},{}"#, &GOOD[..20]).into()
        }),
        array("a name without an array", &["line 1", "array"], || {
            format!(r#"{{"data":{GOOD}}}"#).into()
        }),
        array("17 MiB beside an array", &["more than"], || {
            format!(r#"{{"a":"{}","data":[{GOOD}]}}"#, "a".repeat(17 << 20)).into()
        }),
        array("something behind", &["trailing"], || format!("[{GOOD}] {{").into()),
        array("not UTF-8", &["record 1"], || {
            b"[{\"instruction\":\"\xff\",\"output\":\"x\"}]".to_vec()
        }),
        array("half a surrogate", &["record 1"], || {
            br#"[{"instruction":"\ud800","output":"x"}]"#.to_vec()
        }),
        array("a number beyond all", &["record 1"], || {
            br#"[{"instruction":1e999999,"output":"x"}]"#.to_vec()
        }),
        array("deep", &["record 1"], || nested(1_000_000).into()),
        array("deep in a key that is passed over", &["record 1"], || {
            format!(r#"[{{"meta":{}}}]"#, nested(1_000_000)).into()
        }),
        array("deep objects", &["record 1"], || {
            format!(r#"[{}"#, r#"{"a":"#.repeat(500_000)).into()
        }),
        array("a record of 17 MiB", &["record 1", "16 MiB", "several records"], || {
            format!(r#"[{{"instruction":"{}"}}]"#, "a".repeat(17 << 20)).into()
        }),
        array("a number of 17 MiB", &["record 1", "more than"], || {
            format!(r#"[{{"instruction":{}}}]"#, "1".repeat(17 << 20)).into()
        }),
        lines("an array", &["line 1"], || format!("[{GOOD}]").into()),
        lines("a line that is text", &["line 2"], || {
            format!("{GOOD}\nOnce upon a time\n").into()
        }),
        lines("cut off in the last line", &["line 2", "EOF"], || {
            format!("{GOOD}\n{}", &GOOD[..30]).into()
        }),
        lines("two records a line", &["line 1", "trailing"], || {
            format!("{GOOD}{GOOD}\n").into()
        }),
        lines("a line of 17 MiB", &["line 1", "more than"], || vec![b'['; 17 << 20]),
        lines("a million values", &["line 1", "instruction"], || {
            format!(r#"{{"instruction":[{}0]}}"#, "0,".repeat(1 << 20)).into()
        }),
        lines(
            "a prompt of a million values",
            &["line 1", "\"completion\" is missing"],
            || format!(r#"{{"prompt":[{}0]}}"#, "0,".repeat(1 << 20)).into(),
        ),
        lines("a key of 15 MiB", &["line 1", "more characters"], || {
            format!(r#"{{"{}":0}}"#, "a".repeat(15 << 20)).into()
        }),
        lines(
            "a text of 15 MiB in place of a record",
            &["line 1", "more characters"],
            || format!(r#""{}""#, "\u{e9}".repeat(15 << 19)).into(),
        ),
        lines("blank lines", &["no text"], || b"\n \r\n".repeat(1000)),
        Case::new("alpaca.json: a terabyte of zeros", &["alpaca.json"], |shop| {
            sparse(&shop.path("alpaca.json"), 1 << 40);
            finetune(shop, &shop.path("alpaca.json"))
        }),
        Case::new(
            "alpaca.jsonl: a terabyte of zeros",
            &["alpaca.jsonl", "line 1"],
            |shop| {
                sparse(&shop.path("alpaca.jsonl"), 1 << 40);
                eval(shop, &shop.path("alpaca.jsonl"))
            },
        ),
    ]
}

fn layers() -> Vec<Case> {
    let with = |shop: &Workshop| {
        let mut arguments = finetune(shop, &shop.text());
        arguments.extend(strings(&["--layers", &text_of(&shop.path("layers.toml"))]));
        arguments
    };
    let rules = |name: &str, says: &[&'static str], text: fn() -> Vec<u8>| {
        Case::new(
            format!("layers.toml: {name}"),
            &[&["layers.toml"], says].concat(),
            move |shop| {
                std::fs::write(shop.path("layers.toml"), text()).unwrap();
                with(shop)
            },
        )
    };
    vec![
        rules("not UTF-8", &["UTF-8"], || b"[[layer]]\npattern = \"\xff\"\n".to_vec()),
        rules("a table that is open", &["line 1"], || b"[[layer".to_vec()),
        rules("a text that is open", &["line 2"], || {
            b"[[layer]]\npattern = \"*\n".to_vec()
        }),
        rules("no pattern", &["pattern"], || b"[[layer]]\nbits = 3\n".to_vec()),
        rules("bits that are text", &["line 3"], || {
            b"[[layer]]\npattern = \"*\"\nbits = \"3\"\n".to_vec()
        }),
        rules("bits beyond all", &["line 3"], || {
            b"[[layer]]\npattern = \"*\"\nbits = 99999999999999999999\n".to_vec()
        }),
        rules("a group of none", &["line 3"], || {
            b"[[layer]]\npattern = \"*\"\ngroup = 0\n".to_vec()
        }),
        rules("vectors of three", &["line 3"], || {
            b"[[layer]]\npattern = \"*\"\nvector = 3\n".to_vec()
        }),
        rules("a key twice", &["line 4"], || {
            b"[[layer]]\npattern = \"*\"\nbits = 3\nbits = 4\n".to_vec()
        }),
        rules("deep", &["layers.toml"], || format!("a = {}", nested(100_000)).into()),
        rules("deep keys", &["layers.toml"], || {
            format!("[{}a]\n", "a.".repeat(100_000)).into()
        }),
        rules("full of tables", &["more than"], || {
            "[[layer]]\npattern = \"*\"\n".repeat(200_000).into()
        }),
        Case::new(
            "layers.toml: a terabyte of zeros",
            &["layers.toml", "more than"],
            move |shop| {
                sparse(&shop.path("layers.toml"), 1 << 40);
                with(shop)
            },
        ),
        #[cfg(unix)]
        Case::new(
            "layers.toml: an endless device",
            &["layers.toml", "not a file"],
            move |shop| {
                std::os::unix::fs::symlink("/dev/zero", shop.path("layers.toml")).unwrap();
                with(shop)
            },
        ),
    ]
}
