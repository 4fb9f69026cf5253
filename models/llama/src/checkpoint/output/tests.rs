use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn build(target: &Path, overwrite: Overwrite, content: &str) -> Result<(), LlamaError> {
    let out = OutputDir::create(target, overwrite)?;
    fs::write(out.path().join(CONFIG_FILE), content).unwrap();
    fs::write(out.path().join("tokenizer.json"), content).unwrap();
    out.commit()
}

fn content(target: &Path) -> String {
    fs::read_to_string(target.join(CONFIG_FILE)).unwrap()
}

#[test]
fn a_folder_appears_whole_with_its_parents() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a/b/out");
    let out = OutputDir::create(&target, Overwrite::Refuse).unwrap();
    assert!(out.path() != out.target() && out.target().ends_with("a/b/out") && !target.exists());
    fs::write(out.path().join(CONFIG_FILE), "one").unwrap();
    out.commit().unwrap();
    assert_eq!(content(&target), "one");
    assert_eq!(names(&dir.path().join("a/b")), ["out"]);
}

#[test]
fn an_empty_folder_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    fs::create_dir(&target).unwrap();
    build(&target, Overwrite::Refuse, "one").unwrap();
    assert_eq!(content(&target), "one");
}

#[test]
fn a_folder_with_a_model_is_replaced_on_demand_only() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    build(&target, Overwrite::Refuse, "one").unwrap();
    fs::write(target.join("report.html"), "").unwrap();
    let refused = build(&target, Overwrite::Refuse, "two").unwrap_err();
    assert!(matches!(refused, LlamaError::OutputExists { .. }) && refused.to_string().contains("--overwrite"));
    assert_eq!(content(&target), "one");
    build(&target, Overwrite::Replace, "two").unwrap();
    assert_eq!(
        (content(&target), names(&target)),
        ("two".into(), vec![CONFIG_FILE.into(), "tokenizer.json".into()])
    );
    assert_eq!(names(dir.path()), ["out"]);
}

#[test]
fn without_a_commit_nothing_has_happened() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    build(&target, Overwrite::Refuse, "one").unwrap();
    let out = OutputDir::create(&target, Overwrite::Replace).unwrap();
    fs::write(out.path().join(CONFIG_FILE), "half").unwrap();
    assert_eq!(content(&target), "one");
    drop(out);
    assert_eq!(
        (content(&target), names(dir.path())),
        ("one".into(), vec!["out".into()])
    );
}

#[test]
fn what_cannot_be_put_in_its_place_can_be_kept_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("letter.md"), "Dear").unwrap();
    for name in ["out.unfinished", "out.unfinished-2"] {
        let mut out = OutputDir::stage(&target, Overwrite::Replace).unwrap();
        fs::write(out.path().join(CONFIG_FILE), name).unwrap();
        let refused = out.put().unwrap_err();
        assert!(matches!(refused, LlamaError::OutputForeign { .. }), "{refused}");
        assert_eq!(out.keep(), Some(target.with_file_name(name)));
        assert_eq!(content(&dir.path().join(name)), name);
    }
    assert_eq!(names(dir.path()), ["out", "out.unfinished", "out.unfinished-2"]);
    assert_eq!(names(&target), ["letter.md"]);
    // what is in its place is not moved away from there
    let mut out = OutputDir::stage(dir.path().join("new"), Overwrite::Refuse).unwrap();
    out.put().unwrap();
    assert_eq!(out.keep(), None);
    assert!(dir.path().join("new").exists());
}

#[test]
fn what_appears_meanwhile_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let out = OutputDir::create(&target, Overwrite::Refuse).unwrap();
    build(&target, Overwrite::Refuse, "other").unwrap();
    assert!(matches!(out.commit(), Err(LlamaError::OutputExists { .. })));
    assert_eq!(
        (content(&target), names(dir.path())),
        ("other".into(), vec!["out".into()])
    );
}

#[test]
fn a_folder_of_something_else_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("work");
    fs::create_dir_all(target.join(".git")).unwrap();
    fs::write(target.join("thesis.tex"), "").unwrap();
    fs::write(target.join(CONFIG_FILE), "").unwrap();
    // asked to replace it or not: that is not what would help
    for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
        let message = build(&target, overwrite, "x").unwrap_err().to_string();
        assert!(
            message.contains(".git, thesis.tex") && !message.contains("--overwrite"),
            "{message}"
        );
    }
    // a model, and something of its owner's
    let model = dir.path().join("model");
    for name in ["README.md", "train.txt", "weights.html", "checkpoints"] {
        build(&model, Overwrite::Replace, "x").unwrap();
        fs::write(model.join(name), "mine").unwrap();
        let message = build(&model, Overwrite::Replace, "x").unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
        fs::remove_file(model.join(name)).unwrap();
    }
    // Nothing strange in it, but no model either.
    let notes = dir.path().join("notes");
    fs::create_dir(&notes).unwrap();
    fs::write(notes.join("todo.txt"), "").unwrap();
    assert!(matches!(
        build(&notes, Overwrite::Replace, "x"),
        Err(LlamaError::OutputForeign { .. })
    ));
    assert_eq!(names(dir.path()), ["model", "notes", "work"]);
}

#[test]
fn files_roots_and_the_current_folder_are_no_targets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(
        build(&file, Overwrite::Replace, "x"),
        Err(LlamaError::OutputNoFolder { .. })
    ));
    for target in [".", "/", ".."] {
        assert!(matches!(
            build(Path::new(target), Overwrite::Replace, "x"),
            Err(LlamaError::OutputInUse { .. })
        ));
    }
    assert!(matches!(
        build(&file.join("below"), Overwrite::Replace, "x"),
        Err(LlamaError::Io { .. })
    ));
}

#[cfg(unix)]
#[test]
fn the_target_of_a_link_is_replaced_and_the_link_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("disk/real"), dir.path().join("link"));
    build(&real, Overwrite::Refuse, "one").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    build(&link, Overwrite::Replace, "two").unwrap();
    assert_eq!((content(&real), content(&link)), ("two".into(), "two".into()));
    assert!(link.is_symlink());
}

#[test]
fn the_exchange_without_help_of_the_system_is_one_too() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for (path, text) in [(&a, "new"), (&b, "old")] {
        fs::create_dir(path).unwrap();
        fs::write(path.join(CONFIG_FILE), text).unwrap();
    }
    files::exchange_by_renaming(&a, &b).unwrap();
    assert_eq!((content(&a), content(&b)), ("old".into(), "new".into()));
    // If the new one cannot take the place, the old one is back.
    fs::remove_dir_all(&a).unwrap();
    files::exchange_by_renaming(&a, &b).unwrap_err();
    assert_eq!((names(dir.path()), content(&b)), (vec!["b".into()], "new".into()));
}

#[test]
fn companions_are_copied_as_far_as_they_are_there() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["tokenizer.json", "merges.txt", "pytorch_model.bin", "notes.md"] {
        fs::write(from.path().join(name), name).unwrap();
    }
    copy_companions(from.path(), to.path()).unwrap();
    assert_eq!(names(to.path()), ["merges.txt", "tokenizer.json"]);
    assert_eq!(fs::read_to_string(to.path().join("merges.txt")).unwrap(), "merges.txt");
    fs::create_dir(from.path().join("tokenizer.model")).unwrap();
    assert!(matches!(
        copy_companions(from.path(), to.path()),
        Err(LlamaError::NotAFile { .. })
    ));
}
