//! The house rules that the compiler does not check, kept by a test.
//!
//! Each rule is a plain function from the text of files to a list of complaints, so each is
//! tested on a text that breaks it (`mod broken`) before it is trusted with the repository.

#![allow(clippy::panic)] // A rule that cannot read a file has failed.

mod broken;
mod manifests;
mod repository;
mod rust;
mod sources;
mod texts;

use repository::Repository;

fn check(rule: fn(&Repository) -> Vec<String>) {
    let complaints = rule(&Repository::here());
    assert!(
        complaints.is_empty(),
        "{} complaint(s):\n  {}",
        complaints.len(),
        complaints.join("\n  ")
    );
}

#[test]
fn crates_import_only_what_the_design_allows() {
    check(manifests::imports);
}

#[test]
fn the_examples_know_nothing_of_the_toolkit() {
    check(manifests::examples_stand_alone);
}

#[test]
fn versions_are_in_the_root_manifest_only() {
    check(manifests::versions_in_root);
}

#[test]
fn libraries_are_built_once() {
    let packages = |edges: &str, features: &[&str]| {
        let listed = std::process::Command::new(env!("CARGO"))
            .args(["tree", "--workspace", "--locked", "--prefix", "none"])
            .args(["--format", "{p} {f}", "--edges", edges])
            .args(features)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .expect("cargo can be run");
        let said = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert!(listed.status.success(), "{said}");
        String::from_utf8_lossy(&listed.stdout).into_owned()
    };
    let default = packages("normal,build", &[]);
    let tests = packages("normal,build,dev", &["--features", "outgrow-cli/nats"]);
    let complaints = manifests::built_once(&default, &tests);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn rollout_is_pure() {
    check(sources::rollout_is_pure);
}

#[test]
fn time_in_the_proxy_passes_by_a_steady_clock() {
    check(sources::time_passes_by_a_steady_clock);
}

#[test]
fn only_the_cli_prints_exits_and_reads_the_environment() {
    check(sources::only_the_cli_speaks);
}

#[test]
fn files_stay_small() {
    check(sources::small_files);
}

#[test]
fn every_module_says_what_it_owns() {
    check(sources::modules_open_with_docs);
}

#[test]
fn nothing_is_left_undone() {
    check(sources::nothing_undone);
}

#[test]
fn tests_wait_for_values_not_for_time() {
    check(sources::tests_do_not_sleep);
}

#[test]
fn every_queue_has_a_bound() {
    check(sources::queues_are_bounded);
}

#[test]
fn no_path_of_one_machine() {
    check(texts::no_machine_paths);
}

#[test]
fn the_readme_names_the_entry_points() {
    check(texts::readme_names_entry_points);
}

#[test]
fn links_between_documents_lead_somewhere() {
    check(texts::links_resolve);
}

#[test]
fn scripts_run_from_anywhere() {
    check(texts::scripts_are_sound);
}
