use dfdx::prelude::Cpu;
use dfdx_edkm::optim::AdamWConfig;
use edkm_llama::checkpoint::Overwrite;

use super::*;
use crate::data::sampler::Position;
use crate::init::random_weights;
use crate::run::checkpoint::OptimizerState;

fn model(rope_theta: f64) -> DynamicLlama<Cpu> {
    let config = format!(
        r#"{{"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 8, "rope_theta": {rope_theta}}}"#
    );
    let config = LlamaConfig::from_json(Path::new("config.json"), &config).unwrap();
    DynamicLlama::from_weights(&config, &Cpu::default(), &mut random_weights(0, 1, 0.02)).unwrap()
}

/// A checkpoint of the first steps.
fn checkpoint(folder: &RunFolder, step: u64) -> PathBuf {
    let optimizer = AdamW::new(Cpu::default(), AdamWConfig::default());
    let staged = folder.stage(&mut model(1e4), &optimizer).unwrap();
    let state = RunState {
        settings: BTreeMap::new(),
        step,
        optimizer: OptimizerState {
            config: *optimizer.config(),
            step: 0,
        },
        clusterings: BTreeMap::new(),
        layer_rules: String::new(),
        bits_chosen: Vec::new(),
        position: Position {
            seed: 0,
            epoch: 0,
            used: 0,
            sequence: 1,
            data: 0,
        },
        model: 0,
        validation: 0,
        teacher: None,
        perplexity_before: 1.0,
        baselines: Vec::new(),
        non_finite: Default::default(),
        saved_bytes: Default::default(),
        training_seconds: 0.0,
        seconds: 0.0,
    };
    staged.finish(state, 2).unwrap()
}

#[test]
fn a_claimed_folder_is_for_one_process_and_goes_if_the_run_does_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    let (out, run) = (dir.path().join("out"), dir.path().join("out.run"));
    let claimed = RunFolder::claim(&out, Overwrite::Refuse).unwrap();
    let second = RunFolder::claim(&out, Overwrite::Replace);
    assert!(matches!(second, Err(TrainError::Running { .. })), "{second:?}");
    drop(second);
    assert!(run.is_dir(), "a refused claim leaves the other's folder");
    drop(claimed);
    assert!(!run.exists());

    let begun = RunFolder::claim(&out, Overwrite::Refuse).unwrap().begin("a").unwrap();
    let step = checkpoint(&begun, 3);
    drop(begun);
    let refused = RunFolder::claim(&out, Overwrite::Refuse);
    assert!(matches!(refused, Err(TrainError::Unfinished { .. })), "{refused:?}");
    // what may be overwritten is there until the run begins
    drop(RunFolder::claim(&out, Overwrite::Replace).unwrap());
    assert!(step.is_dir());
    let begun = RunFolder::claim(&out, Overwrite::Replace).unwrap().begin("b").unwrap();
    assert!(!step.exists());
    assert_eq!(begun.arguments().unwrap(), "b");
    // nor is the best model of a run that has no checkpoint
    let best = begun.path().join("best");
    fs::create_dir(&best).unwrap();
    fs::write(best.join("measured.json"), "{\"steps\":4,\"perplexity\":2.0}").unwrap();
    drop(begun);
    let refused = RunFolder::claim(&out, Overwrite::Refuse);
    assert!(matches!(refused, Err(TrainError::Unfinished { .. })), "{refused:?}");
    let begun = RunFolder::claim(&out, Overwrite::Replace).unwrap().begin("c").unwrap();
    assert!(!best.exists());
    begun.remove().unwrap();
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn what_is_of_no_run_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (out, run) = (dir.path().join("out"), dir.path().join("out.run"));
    fs::create_dir(&run).unwrap();
    fs::write(run.join("train.txt"), "text").unwrap();
    for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
        let error = RunFolder::claim(&out, overwrite).unwrap_err().to_string();
        assert!(error.contains("out.run") && error.contains("train.txt"), "{error}");
    }
    assert!(matches!(
        RunFolder::open_locked(&out),
        Err(TrainError::NoCheckpoint { .. })
    ));
    assert_eq!(run.read_dir().unwrap().count(), 1, "nothing is left in it");

    // put there while a run goes on
    fs::remove_file(run.join("train.txt")).unwrap();
    let begun = RunFolder::claim(&out, Overwrite::Refuse).unwrap().begin("").unwrap();
    fs::write(run.join("notes"), "mine").unwrap();
    checkpoint(&begun, 1);
    begun.remove().unwrap();
    let left: Vec<_> = run
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["notes"]);
}

#[test]
fn a_checkpoint_that_was_moved_aside_for_another_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let begun = RunFolder::claim(&out, Overwrite::Refuse).unwrap().begin("").unwrap();
    let step = checkpoint(&begun, 7);
    drop(begun);
    // as a process leaves it that is killed where folders cannot be exchanged
    let parent = step.parent().unwrap();
    fs::rename(&step, parent.join(".partial-x-old")).unwrap();
    fs::create_dir(parent.join(".partial-y-old")).unwrap();
    let folder = RunFolder::open_locked(&out).unwrap();
    assert_eq!(folder.newest().unwrap().0, step);
    assert_eq!(parent.read_dir().unwrap().count(), 1);
}

/// A run that goes on from an older checkpoint, since later ones are damaged, leaves none but its own.
#[test]
fn damaged_checkpoints_of_later_steps_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let folder = RunFolder::claim(&dir.path().join("out"), Overwrite::Refuse)
        .unwrap()
        .begin("")
        .unwrap();
    let first = checkpoint(&folder, 3);
    for later in [8, 9] {
        fs::create_dir(folder.checkpoint_path(later)).unwrap();
    }
    let second = checkpoint(&folder, 5);
    assert_eq!(folder.checkpoints().unwrap(), [first, second.clone()]);
    // what cannot be removed does no harm to what is written
    fs::write(folder.checkpoint_path(4), "").unwrap();
    let third = checkpoint(&folder, 7);
    assert_eq!(
        folder.checkpoints().unwrap(),
        [folder.checkpoint_path(4), second, third.clone()]
    );
    assert_eq!(folder.newest().unwrap().0, third);
}

#[test]
fn a_model_is_another_one_with_another_configuration() {
    assert_eq!(model_fingerprint(&mut model(1e4)), model_fingerprint(&mut model(1e4)));
    assert_ne!(model_fingerprint(&mut model(1e4)), model_fingerprint(&mut model(5e5)));
}

#[test]
fn only_what_this_run_was_building_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let begun = RunFolder::claim(&out, Overwrite::Refuse).unwrap().begin("").unwrap();
    for (name, is_removed) in [(".out.partial-1", true), (".other.partial-1", false), ("mine", false)] {
        let built = canonical(dir.path()).unwrap().join(name);
        fs::create_dir(&built).unwrap();
        begun.note_staging(&built).unwrap();
        begun.remove_staging(&out).unwrap();
        assert_eq!(!built.exists(), is_removed, "{name}");
    }
}

#[test]
fn what_was_moved_aside_for_the_result_of_a_run_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let begun = RunFolder::claim(&out, Overwrite::Refuse).unwrap().begin("").unwrap();
    // as a process leaves it that is killed where folders cannot be exchanged: before the result is in its place, and behind that
    for (is_there, kept) in [(false, "before"), (true, "result")] {
        let folder = canonical(dir.path()).unwrap();
        let (built, aside) = (folder.join(".out.partial-1"), folder.join(".out.partial-1-old"));
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("before"), "").unwrap();
        match is_there {
            true => {
                fs::create_dir(&out).unwrap();
                fs::write(out.join("result"), "").unwrap();
            }
            false => fs::create_dir(&built).unwrap(),
        }
        begun.note_staging(&built).unwrap();
        begun.remove_staging(&out).unwrap();
        assert!(out.join(kept).exists(), "{kept}");
        assert!(!built.exists() && !aside.exists());
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn of_several_checkpoints_those_after_a_step_can_be_passed_over_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = RunFolder::claim(&dir.path().join("out"), Overwrite::Refuse).unwrap();
    let folder = folder.begin("").unwrap();
    let [three, five] = [3, 5].map(|step| checkpoint(&folder, step));
    assert_eq!(folder.newest_step(), Some(5));
    assert_eq!(folder.newest_before(5).unwrap().0, three);
    assert!(folder.newest_before(3).is_err());
    folder.remove_after(3).unwrap();
    assert!(three.is_dir() && !five.exists());
}
