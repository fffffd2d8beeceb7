//! The import graph: no circle among files, nor among folders, and each folder imports only what
//! its layer may.
//!
//! Read from the paths that begin with `crate::` or `super::`. A parent may name its children in
//! its own way (`mod`, `use child::…`); that is no import. Does not read what macros make.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{root, sources};

/// A file as its crate knows it: `engine::reads`.
type Module = Vec<String>;
type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// The module of a source file, relative to its crate; empty for the crate's own.
fn module_of(path: &Path) -> Module {
    let text = path.with_extension("").display().to_string();
    let parts = text.split('/').map(ToOwned::to_owned);
    parts.filter(|part| part != "lib" && part != "main").collect()
}

/// Source without comments, and without the tests at its end.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that code names, from `crate` or `super` on, each without what follows a brace.
fn paths_of(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            paths.extend(unfold(&code[at..]));
        }
    }
    paths
}

/// The paths of one import: `a::{b, c::d}` are two.
fn unfold(code: &str) -> Vec<Vec<String>> {
    let is_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = code.find(|c| !is_of_path(c)).unwrap_or(code.len());
    let head = code[..end].split("::").filter(|part| !part.is_empty()).map(ToOwned::to_owned);
    let head: Vec<String> = head.collect();
    if !code[end..].starts_with('{') {
        return vec![head];
    }
    let mut depth = 0;
    let (mut paths, mut from) = (Vec::new(), end + 1);
    for (at, c) in code[end..].char_indices().map(|(at, c)| (end + at, c)) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if (c == ',' && depth == 1) || depth == 0 {
            let tails = unfold(code[from..at].trim());
            paths.extend(tails.into_iter().map(|tail| [head.clone(), tail].concat()));
            from = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    paths
}

/// Returns the imports among the modules of a crate, given the source of each.
fn imports_of(modules: &BTreeMap<Module, String>) -> Imports {
    let mut imports = Imports::new();
    for (module, text) in modules {
        for path in paths_of(&code_of(text)) {
            let mut rest = path.as_slice();
            let mut at = match rest.split_first() {
                Some((first, more)) if first == "crate" => {
                    rest = more;
                    Module::new()
                }
                _ => module.clone(),
            };
            while rest.first().is_some_and(|first| first == "super") {
                at.pop();
                rest = &rest[1..];
            }
            for part in rest {
                at.push(part.clone());
                if !modules.contains_key(&at) {
                    at.pop();
                    break;
                }
            }
            if at != *module && !at.is_empty() {
                imports.entry(module.clone()).or_default().insert(at);
            }
        }
    }
    imports
}

/// The same among the folders at the top of a crate.
fn of_folders(imports: &Imports) -> Imports {
    let mut folders = Imports::new();
    let top = |module: &Module| module.first().cloned().into_iter().collect::<Module>();
    for (module, others) in imports {
        let others = others.iter().map(top).filter(|other| *other != top(module));
        folders.entry(top(module)).or_default().extend(others);
    }
    folders
}

/// A circle, if there is one: each imports the next, and the last the first.
fn circle_in(imports: &Imports) -> Option<Vec<Module>> {
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| walk(imports, module, &mut Vec::new(), &mut done))
}

fn walk(
    imports: &Imports,
    module: &Module,
    way: &mut Vec<Module>,
    done: &mut BTreeSet<Module>,
) -> Option<Vec<Module>> {
    if let Some(from) = way.iter().position(|earlier| earlier == module) {
        return Some(way[from..].to_vec());
    }
    if !done.insert(module.clone()) {
        return None;
    }
    way.push(module.clone());
    let mut others = imports.get(module).into_iter().flatten();
    let circle = others.find_map(|other| walk(imports, other, way, done));
    way.pop();
    circle
}

fn modules_in(folder: &Path) -> BTreeMap<Module, String> {
    let mut files = Vec::new();
    sources(folder, &mut files);
    let module = |path: &Path| module_of(path.strip_prefix(folder).unwrap());
    // A file of tests may import anything, as the tests at the end of a file may.
    files.retain(|path| path.file_stem().is_some_and(|name| name != "tests"));
    files.iter().map(|path| (module(path), fs::read_to_string(path).unwrap())).collect()
}

/// A folder (or a file that is none) at the top of a crate, and those that it may import.
type Layer = (&'static str, &'static [&'static str]);

/// The layers of the replica, from the lowest up.
const REPLICA: &[Layer] = &[
    ("planner", &[]),
    ("private", &[]),
    ("shares", &[]),
    ("limits", &["planner"]),
    ("state", &["limits"]),
    ("marker", &["state"]),
    ("storage", &["engine", "limits", "marker", "state"]),
    ("offline", &["engine", "marker", "state", "storage"]),
    ("engine", &["limits", "marker", "planner", "state"]),
    ("driver", &["engine", "limits", "marker", "shares", "state"]),
    ("transport", &["driver", "engine", "limits", "shares", "state"]),
    ("clients", &["driver", "engine", "limits", "shares", "state"]),
    ("orchestrator", &["driver", "engine", "marker", "planner", "storage", "transport"]),
    (
        "node",
        &[
            "clients",
            "driver",
            "engine",
            "limits",
            "marker",
            "orchestrator",
            "planner",
            "private",
            "shares",
            "state",
            "storage",
            "transport",
        ],
    ),
];

/// The layers of the console, of which a test enforces what a reader counts on: the model knows
/// neither who changes nor who draws it, and what changes it knows no cluster.
const CONSOLE: &[Layer] = &[
    ("exit", &[]),
    ("output", &[]),
    ("message", &["exit", "value"]),
    ("app", &["arguments", "exit", "keymap", "message", "output", "prompt"]),
    (
        "update",
        &[
            "app",
            "arguments",
            "exit",
            "keymap",
            "message",
            "node",
            "output",
            "page",
            "prompt",
            "target",
            "text",
            "value",
        ],
    ),
    (
        "view",
        &["app", "arguments", "exit", "keymap", "message", "output", "page", "prompt", "text"],
    ),
];

/// The imports that no layer allows, in words.
fn out_of_layer(imports: &Imports, layers: &[Layer]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (folder, others) in &of_folders(imports) {
        let folder = folder.join("::");
        let Some((_, may)) = layers.iter().find(|(name, _)| *name == folder) else { continue };
        let others = others.iter().map(|other| other.join("::"));
        let not = others.filter(|other| !may.contains(&other.as_str()));
        wrong.extend(not.map(|other| format!("{folder} imports {other}")));
    }
    wrong
}

#[test]
fn each_layer_imports_only_what_it_may() {
    for (source, layers, are_all) in
        [("replica/src", REPLICA, true), ("console/src", CONSOLE, false)]
    {
        let modules = modules_in(&root().join(source));
        assert_eq!(out_of_layer(&imports_of(&modules), layers), [""; 0], "{source}");
        let names: BTreeSet<_> = modules.keys().filter_map(|module| module.first()).collect();
        let known: BTreeSet<_> = layers.iter().map(|(name, _)| *name).collect();
        for name in names.iter().filter(|_| are_all) {
            assert!(known.contains(name.as_str()), "{name} of {source} has no layer");
        }
    }
}

#[test]
fn an_import_out_of_its_layer_is_found() {
    let files = [
        ("state", ""),
        ("state::a", "use crate::storage::b;"),
        ("storage", ""),
        ("storage::b", "use crate::state::a;"),
    ];
    let module = |name: &str| name.split("::").map(ToOwned::to_owned).collect::<Module>();
    let modules = files.map(|(name, text)| (module(name), text.to_owned())).into_iter().collect();
    assert_eq!(out_of_layer(&imports_of(&modules), REPLICA), ["state imports storage"]);
}

fn in_words(circle: Option<Vec<Module>>) -> String {
    let names = circle.into_iter().flatten().map(|module| module.join("::"));
    names.collect::<Vec<_>>().join(" → ")
}

#[test]
fn nobody_imports_in_a_circle() {
    for source in ["replica/src", "replica/protocol/src", "replica/checker/src", "console/src"] {
        let modules = modules_in(&root().join(source));
        let imports = imports_of(&modules);
        assert_eq!(in_words(circle_in(&imports)), "", "files of {source}");
        assert_eq!(in_words(circle_in(&of_folders(&imports))), "", "folders of {source}");
    }
}

#[test]
fn a_circle_is_found() {
    let cases = [
        (
            vec![("a", "use crate::b::B;"), ("b", "use crate::c;"), ("c", "use crate::{d, a::A};")],
            true,
        ),
        (vec![("a", "use crate::b::B;"), ("b", "// use crate::a;")], false),
        (vec![("a", "use crate::b::B;"), ("b", "#[cfg(test)]\nmod tests {\nuse crate::a;")], false),
        // Files without a circle in folders with one.
        (vec![("a::x", "use crate::b::x;"), ("b::y", "fn f(it: crate::a::y::It) {}")], true),
        (vec![("a::x", "use super::y;"), ("a::y", "use super::super::a::x::X;")], true),
        (vec![("a", "mod x;\nuse x::X;"), ("a::x", "use super::A;")], false),
    ];
    for (files, expected) in cases {
        let split = |name: &str| name.split("::").map(ToOwned::to_owned).collect::<Module>();
        let mut modules: BTreeMap<_, _> =
            files.iter().map(|(name, text)| (split(name), (*text).to_owned())).collect();
        for name in ["a", "b", "c", "d", "a::y", "b::x"] {
            modules.entry(split(name)).or_default();
        }
        let imports = imports_of(&modules);
        let circle = circle_in(&imports).or_else(|| circle_in(&of_folders(&imports)));
        assert_eq!(circle.is_some(), expected, "{files:?}: {}", in_words(circle));
    }
}
