//! Holds the module table of `docs/ARCHITECTURE.md` against the source text: who may import whom, and who may name what.

use onnx_unlearn::ops;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Every module and those of its siblings that it may name. A module may always name itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("graph", &["tensor", "kernel"]),
    ("kernel", &[]),
    ("onnx", &["tensor", "graph"]),
    ("ops", &["tensor", "graph", "kernel"]),
    ("autodiff", &["tensor", "graph", "ops"]),
    ("runtime", &["tensor", "graph", "onnx", "kernel"]),
    ("train", &["tensor", "graph", "onnx", "ops", "autodiff", "runtime"]),
    ("data", &["tensor"]),
    // `runtime` for its errors.
    ("unlearn", &["tensor", "data", "train", "runtime", "evaluate"]),
    ("evaluate", &["tensor", "data", "runtime"]),
    ("audit", &["tensor", "data", "train", "runtime", "unlearn", "evaluate"]),
    ("check", &["tensor", "data"]),
    ("provenance", &["tensor", "onnx"]),
    (
        "report",
        &[
            "tensor",
            "graph",
            "onnx",
            "ops",
            "autodiff",
            "runtime",
            "train",
            "data",
            "unlearn",
            "evaluate",
            "check",
            "provenance",
        ],
    ),
    (
        "cli",
        &[
            "tensor",
            "graph",
            "onnx",
            "ops",
            "autodiff",
            "runtime",
            "train",
            "data",
            "unlearn",
            "evaluate",
            "audit",
            "check",
            "provenance",
            "report",
        ],
    ),
];

/// What only one module may name: crates, and ways to print or to end the process.
const ONLY: &[(&str, &[&str])] = &[
    ("onnx", &["prost::"]),
    ("runtime", &["ort::"]),
    ("check", &["tract_onnx::", "tract_ndarray::"]),
    ("provenance", &["p256::", "p384::", "hmac::", "getrandom::"]),
    ("report", &["maud::", "plotters::"]),
    (
        "cli",
        &[
            "clap::",
            "anyhow::",
            "anyhow!",
            "indicatif::",
            "ctrlc::",
            "println!",
            "print!",
            "eprintln!",
            "eprint!",
            "dbg!",
            "io::stdout",
            "io::stderr",
            "process::exit",
            "process::abort",
            "ExitCode",
            "env::args",
        ],
    ),
];

/// One source file: the module it belongs to and its text without comments and texts.
struct Source {
    path: PathBuf,
    module: String,
    /// Number of modules this file lies below the crate's root.
    depth: usize,
    code: String,
    /// The same with the texts in quotation marks.
    quoted: String,
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(Path::new("src"), &mut found);
    assert!(found.len() > 50, "{} files under src", found.len());
    found.into_iter().filter_map(source).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// `None` for the roots of the crate and of the program, which only list modules.
fn source(path: PathBuf) -> Option<Source> {
    let below = path.strip_prefix("src").expect("under src").with_extension("");
    let mut names: Vec<String> = below.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    let module = names.first()?.clone();
    if ["lib", "main"].contains(&module.as_str()) {
        return None;
    }
    let text = fs::read_to_string(&path).expect("readable");
    let (code, quoted) = (strip(&text, false), strip(&text, true));
    Some(Source { path, module, depth: names.len(), code, quoted })
}

/// Takes comments out of Rust source, and texts in quotation marks unless `keep_texts`.
fn strip(text: &str, keep_texts: bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            3 + usize::from(rest.starts_with("'\\"))
        } else if let Some(end) = raw_end(rest) {
            end
        } else if c == '"' {
            quoted_end(rest)
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        if keep_texts && !rest.starts_with('/') {
            out.push_str(&rest[..skip]);
        } else {
            out.push(' ');
        }
        rest = &rest[skip..];
    }
    out
}

/// The length of a raw text that begins here.
fn raw_end(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?.chars().take_while(|&c| c == '#').count();
    let start = 1 + hashes;
    text[start..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    text[start + 1..].find(&close).map(|end| start + 1 + end + close.len())
}

/// The length of a text that begins here.
fn quoted_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Places where `word` stands and does not merely end another word.
fn places<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_'))
}

/// Modules of the crate that the code names after `crate::`, alone or in a group.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for at in places(code, "crate::") {
        let after = code[at + "crate::".len()..].trim_start();
        match after.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => found.extend([word(after)]),
        }
    }
    found
}

/// The first word of every entry of a group, up to the brace that closes it.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut heads = vec![word(group)];
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(word(&group[i + 1..])),
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn the_table_lists_every_module() {
    let listed: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    let sources = sources();
    let found: BTreeSet<&str> = sources.iter().map(|s| s.module.as_str()).collect();
    assert_eq!(found, listed);
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let allowed = table.get(source.module.as_str()).copied().unwrap_or_default();
        for name in imports(&source.code) {
            if name != source.module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: {} may not import {name}", source.path.display(), source.module));
            }
        }
        // Another way to the root, unless it starts inside the module of unit tests at the end of the file.
        let code = source.code.split("mod tests {").next().unwrap_or_default();
        if places(code, &"super::".repeat(source.depth)).next().is_some() {
            wrong.push(format!("{}: reaches the crate's root through super", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn names_that_belong_to_one_module_stay_there() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (owner, names) in ONLY.iter().filter(|(owner, _)| *owner != source.module) {
            for name in names.iter().filter(|name| places(&source.code, name).next().is_some()) {
                wrong.push(format!("{}: only {owner} may name {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_backward_walker_names_no_operator() {
    let operators: BTreeSet<&str> = ops::records().map(|op| op.name).collect();
    assert!(operators.len() > 60, "{} operators", operators.len());
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.module == "autodiff") {
        for name in operators.iter().filter(|name| source.quoted.contains(&format!("\"{name}\""))) {
            wrong.push(format!("{}: names {name}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The tools above see what they are for: each line would go unnoticed if one of them were blind.
#[test]
fn the_reader_of_source_text_sees() {
    let code = strip(
        "use crate::{\n    graph::{Attr, Value},\n    tensor::Tensor, // crate::cli\n};\nlet a = crate::onnx::read; /* crate::ops */\n\
         let s = \"crate::data\"; let r = r#\"crate::train \" \"#; let q = '\"'; pub(crate) fn f() { x(\"\\\"crate::check\") }",
        false,
    );
    assert_eq!(imports(&code), ["graph", "onnx", "tensor"].map(str::to_owned).into());
    assert!(places("use ort::session;", "ort::").next().is_some());
    assert!(places("use super::sort::x; export::y", "ort::").next().is_none());
    assert!(places("std::println!(\"a\")", "println!").next().is_some());
    assert!(places("eprintln!(\"a\")", "println!").next().is_none());
    assert!(strip("b.op(\"Add\", x) // \"Mul\"", true).contains("\"Add\""));
    assert!(!strip("b.op(\"Add\", x) // \"Mul\"", true).contains("\"Mul\""));
}
