//! Readable scenarios: each file of `tests/scripts` is a list of commands, and under each its
//! results, a line for every message, sync, decision and answer.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --release -p kvorum-replica --test simulation scripts` rewrites
//! them; review the changes before they are committed.

mod actions;
mod command;
mod telling;
mod words;
mod world;

use std::error::Error;
use std::path::PathBuf;

use goldenscript::{Context, Runner};

use super::quietly;
use command::Command;
use world::World;

/// A runner of the commands of one script.
#[derive(Default)]
struct Script {
    world: World,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let done = command.run(&mut self.world);
        let said = self.world.take_lines();
        done.map(|()| said).map_err(Into::into)
    }
}

/// Returns the scripts, in the order in which a newcomer reads them.
fn scripts() -> Vec<PathBuf> {
    let files = std::fs::read_dir("tests/scripts").expect("the scripts are beside the simulation");
    let mut paths: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

#[test]
fn scripts_read_as_they_are_kept() {
    let scripts = scripts();
    assert!(!scripts.is_empty());
    let run = |path: &PathBuf| {
        let run = || goldenscript::run(&mut Script::default(), path).map_err(|why| why.to_string());
        quietly(run).err().map(|why| format!("{}: {why}", path.display()))
    };
    let failures: Vec<_> = scripts.iter().filter_map(run).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A script opens with a sentence that says what it teaches.
#[test]
fn scripts_say_what_they_teach() {
    for path in scripts() {
        let text = std::fs::read_to_string(&path).unwrap();
        let head: Vec<_> = text.lines().take_while(|line| line.starts_with('#')).collect();
        let sentence = head.join(" ");
        assert!(sentence.len() > 40 && sentence.ends_with('.'), "{}: {head:?}", path.display());
    }
}
