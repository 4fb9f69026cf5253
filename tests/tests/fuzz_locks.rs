//! The fuzz targets are workspaces of their own, which no build of this one looks at: their lock files follow what the crates stand on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use edkm_testkit::golden::workspace_root;
use toml::Table;

fn read(path: &Path) -> Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    text.parse().unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn text(value: &toml::Value) -> &str {
    value.as_str().expect("a string")
}

fn packages(lock: &Table) -> impl Iterator<Item = &Table> {
    lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package.as_table().unwrap())
}

/// Where the crates of this workspace are, by name.
fn members(root: &Path) -> BTreeMap<String, PathBuf> {
    let members = ["crates", "models", "plugins"].into_iter().flat_map(|folder| {
        let folder = root.join(folder).read_dir().unwrap();
        folder
            .map(|entry| entry.unwrap().path().join("Cargo.toml"))
            .filter(|path| path.exists())
    });
    members
        .map(|path| (text(&read(&path)["package"]["name"]).to_owned(), path))
        .collect()
}

/// What a crate stands on: what it always does, and what it may.
fn dependencies(manifest: &Table) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut always, mut all) = (BTreeSet::new(), BTreeSet::new());
    let of_targets = manifest
        .get("target")
        .and_then(|targets| targets.as_table())
        .into_iter();
    let of_targets = of_targets
        .flat_map(|targets| targets.values())
        .filter_map(|target| target.as_table());
    for table in std::iter::once(manifest).chain(of_targets) {
        let Some(dependencies) = table.get("dependencies").and_then(|it| it.as_table()) else {
            continue;
        };
        for (name, how) in dependencies {
            all.insert(name.clone());
            if how.get("optional").and_then(toml::Value::as_bool) != Some(true) {
                always.insert(name.clone());
            }
        }
    }
    (always, all)
}

#[test]
fn lock_files_of_fuzz_targets_are_those_of_the_program() {
    let root = workspace_root();
    let members = members(&root);
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages(&read(&root.join("Cargo.lock"))) {
        let versions = versions.entry(text(&package["name"]).to_owned()).or_default();
        versions.insert(text(&package["version"]).to_owned());
    }
    let locks: Vec<_> = members
        .values()
        .map(|path| path.with_file_name("fuzz").join("Cargo.lock"))
        .collect();
    let locks: Vec<_> = locks.into_iter().filter(|path| path.exists()).collect();
    assert!(locks.len() >= 4, "{locks:?}");
    for path in locks {
        let again = format!("{}: cargo metadata in its folder makes it anew", path.display());
        for package in packages(&read(&path)) {
            let (name, version) = (text(&package["name"]), text(&package["version"]));
            if let Some(ours) = versions.get(name) {
                assert!(
                    ours.contains(version),
                    "{again}, and cargo update --precise gives {name} {version} one of {ours:?}"
                );
            }
            let Some(member) = members.get(name) else { continue };
            let locked = package["dependencies"].as_array().unwrap().iter();
            let locked: BTreeSet<_> = locked
                .map(|it| text(it).split(' ').next().unwrap().to_owned())
                .collect();
            let (always, all) = dependencies(&read(member));
            assert!(
                locked.is_superset(&always) && locked.is_subset(&all),
                "{again} ({name})"
            );
        }
    }
}
