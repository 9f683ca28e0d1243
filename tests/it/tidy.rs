//! What this repository promises about itself: who imports whom, where `unsafe` stands, which rules have a test.
//!
//! Plain text checks, std only. They read code with comments and literals blanked out ([`code_of`]), so a word in a
//! comment never counts, and line numbers stay true.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    ops::Range,
    path::Path,
};

/// Which floor each module of the library stands on. A file imports from floors below its own, and from its own module.
const FLOORS: [(&str, u8); 14] = [
    ("mutant", 0),
    ("prim", 0),
    ("raw", 0),
    ("park", 1),
    ("value", 1),
    ("cancel", 2),
    ("error", 3),
    ("pool", 4),
    ("wait", 5),
    ("scope", 6),
    ("observe", 7),
    ("testing", 8),
    ("docs", 9),
    ("lib", 9),
];

/// Modules of one floor of which the first may import the second.
const SAME_FLOOR: [(&str, &str); 1] = [("raw", "prim")];

/// The module of the models: tests of everything, on no floor.
const MODELS: &str = "model";

/// Where mistakes that can be built in are explained; `.ci/mutants` lists them.
const MUTANTS: &str = "src/mutant.rs";

/// Rules of the contract: `S1` to `S75` and `D1` to `D26`. So far, tests are due for [`DUE`] of the former.
const RULES: [(char, u32); 2] = [('S', 75), ('D', 26)];
const DUE: [(char, u32); 2] = [('S', 63), ('D', 26)];

const COMMANDS: [&str; 2] = ["cargo run --release --example sleeper", "cargo test"];

#[test]
fn files_import_only_from_lower_floors() {
    let mut problems = Vec::new();
    for file in sources("src").iter().filter(|file| file.module() != MODELS && !file.path.ends_with("/tests.rs")) {
        let Some(floor) = floor(file.module()) else {
            problems.push(format!("{}: `{}` has no floor", file.path, file.module()));
            continue;
        };
        let code = without_tests(&code_of(&file.text));
        for (at, name) in imports(&code, &file.module_path()) {
            let place = file.place(at);
            match self::floor(&name) {
                _ if name == file.module() || SAME_FLOOR.contains(&(file.module(), name.as_str())) => {}
                None => problems.push(format!("{place}: `{name}` is no module: import it from where it stands")),
                Some(other) if other < floor => {}
                Some(other) => problems.push(format!("{place}: floor {floor} imports `{name}` from floor {other}")),
            }
        }
    }
    none(&problems);
}

#[test]
fn unsafe_stands_only_in_raw() {
    let mut files = sources("src");
    files.retain(|file| file.module() != "raw");
    none(&found_in_code(&files, &["unsafe"], ""));
}

#[test]
fn the_front_page_has_no_code() {
    let mut files = sources("src");
    files.retain(|file| file.path == "src/lib.rs");
    none(&found_in_code(&files, &["fn", "impl", "macro_rules"], ""));
}

#[test]
fn the_library_prints_nothing_and_leaves_nothing_undone() {
    let macros = ["print", "println", "eprint", "eprintln", "dbg", "todo", "unimplemented"];
    none(&found_in_code(&sources("src"), &macros, "!"));
}

#[test]
fn every_source_file_opens_with_what_it_is() {
    let opens = |file: &Source| file.text.starts_with("//!") || file.text.starts_with("#![doc = include_str!(");
    let files = sources("src");
    none(&files.iter().filter(|file| !opens(file)).map(|file| format!("{}: no `//!`", file.path)).collect::<Vec<_>>());
}

#[test]
fn every_rule_has_a_test_or_a_reason() {
    let mut problems = Vec::new();
    let tested = tested_rules(&mut problems);
    let excused = excused_rules(&mut problems);
    for rule in DUE.iter().flat_map(|&(letter, last)| (1..=last).map(move |n| format!("{letter}{n}"))) {
        match (tested.get(&rule), excused.get(&rule)) {
            (Some(_), None | Some(Excuse::Partly)) | (None, Some(Excuse::Whole)) => {}
            (None, None) => problems.push(format!("{rule}: no test has `// {rule}:` above it, and no reason is given")),
            (None, Some(Excuse::Partly)) => problems.push(format!("{rule}: said to be tested partly, but has no test")),
            (Some(place), Some(Excuse::Whole)) => {
                problems.push(format!("{rule}: has a test ({place}): remove its line, or say `{rule} partly: …`"));
            }
        }
    }
    none(&problems);
}

#[test]
fn every_integration_test_is_guarded_against_hangs() {
    let mut problems = Vec::new();
    for file in sources("tests/it").iter().filter(|file| file.path != "tests/it/tidy.rs") {
        let code = code_of(&file.text);
        for at in words(&code, "test").filter(|&at| code[..at].ends_with("#[") && code[at..].starts_with("test]")) {
            let body = code[at..].find('{').map_or("", |open| &code[block(&code, at + open)]);
            let guards = ["guarded", "guarded_for", "virtually", "child_side"];
            if !guards.iter().any(|guard| words(body, guard).next().is_some()) {
                problems.push(format!("{}: a test without any of {guards:?}", file.place(at)));
            }
        }
    }
    none(&problems);
}

#[test]
fn every_integration_test_file_is_in_the_binary() {
    let main = code_of(&read("tests/it/main.rs"));
    let listed = |file: &Source| file.path.matches('/').count() > 2 || main.contains(&format!("mod {};", file.stem()));
    let files = sources("tests/it");
    let missing = files.iter().filter(|file| file.stem() != "main" && !listed(file));
    none(&missing.map(|file| format!("{}: no `mod` in main.rs", file.path)).collect::<Vec<_>>());
}

#[test]
fn every_mutant_stands_where_its_line_says_and_has_a_witness() {
    let mut problems = Vec::new();
    let mut files = sources("src");
    files.extend(sources("tests"));
    let mut mutants = BTreeMap::new();
    for file in files.iter().filter(|file| file.path != MUTANTS && file.path.starts_with("src/")) {
        for (at, _) in file.text.match_indices("mutant!(\"") {
            let name = file.text[at..].split('"').nth(1).unwrap_or_default();
            if mutants.insert(name, file.path.as_str()).is_some() {
                problems.push(format!("{}: `{name}` is there twice", file.place(at)));
            }
        }
        let by_hand = words(&file.text, "tassel_mutant").map(|at| format!("{}: use `mutant!`", file.place(at)));
        problems.extend(by_hand);
    }
    let script = read(".ci/mutants");
    let table = script.lines().skip_while(|line| !line.ends_with("<<'TABLE'")).skip(1);
    for line in table.take_while(|line| *line != "TABLE") {
        let [name, path, _, witness, place] = line.split(" | ").collect::<Vec<_>>()[..] else {
            problems.push(format!(".ci/mutants: not five columns: {line}"));
            continue;
        };
        if mutants.remove(name) != Some(path) {
            problems.push(format!(".ci/mutants: `{name}` is not in {path}, or has two lines"));
        }
        let (path, test) = witness.rsplit_once("::").unwrap_or_default();
        let path = path.trim_end_matches("::tests").replace("::", "/");
        let path = if place == "it" { format!("tests/it/{path}") } else { format!("src/{path}") };
        let holds = |file: &Source| file.path == format!("{path}.rs") || file.path == format!("{path}/tests.rs");
        let is_there = |file: &Source| holds(file) && file.text.contains(&format!("fn {test}() {{"));
        if !files.iter().any(is_there) {
            problems.push(format!(".ci/mutants: `{name}` has a witness that is not in {path}: {test}"));
        }
    }
    problems.extend(mutants.iter().map(|(name, path)| format!("{path}: `{name}` has no line in .ci/mutants")));
    none(&problems);
}

#[test]
fn the_changelog_is_kept() {
    let changelog = read("CHANGELOG.md");
    let headings: Vec<_> = changelog.lines().filter_map(|line| line.strip_prefix("## [")?.split(']').next()).collect();
    assert_eq!(headings.first(), Some(&"Unreleased"), "CHANGELOG.md begins with what is unreleased");
    if let Some(&newest) = headings.get(1) {
        assert_eq!(newest, env!("CARGO_PKG_VERSION"), "the newest release in CHANGELOG.md is the crate's version");
    }
}

#[test]
fn the_readme_has_both_commands_once_and_names_the_docs() {
    let readme = read("README.md");
    for command in COMMANDS {
        assert_eq!(readme.matches(command).count(), 1, "`{command}` stands once in README.md");
    }
    assert!(readme.contains("docs.rs/tassel"), "README.md links the documentation");
    for chapter in files("docs").iter().filter(|path| has_extension(path, "md")) {
        assert!(readme.contains(chapter.as_str()), "README.md names {chapter}");
    }
}

#[test]
fn no_file_names_a_machine() {
    let needles = ["work", "root", "home", "Users"].map(|top| format!("/{top}/"));
    let folders = ["src", "tests", "docs", "examples", "benches", ".ci", ".github"];
    let mut paths: Vec<_> = folders.iter().flat_map(|folder| files(folder)).collect();
    paths.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Cargo.toml"].map(String::from));
    let mut problems = Vec::new();
    for path in paths {
        for (number, line) in (1..).zip(read(&path).lines()) {
            if needles.iter().any(|needle| line.contains(needle)) {
                problems.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    none(&problems);
}

// What the checks stand on.

#[test]
fn code_is_told_from_comments_and_literals() {
    let blanked = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("x\"y", z)"#, "f(      , z)"),
        ("r#\"x\"y\"# + br\"\\\" + r#type", "         +       + r#type"),
        ("'x' + '\\'' + b'\"' + '\\u{e9}' 'a: loop", "    +      + b    +          'a: loop"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ("\"é\" x", "     x"),
    ];
    for (text, code) in blanked {
        assert_eq!(code_of(text), code, "{text}");
    }
}

#[test]
fn imports_are_seen_in_every_form() {
    let seen = |text, path: &[&str]| imports(text, path).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    assert_eq!(seen("use crate::{a::{b, c}, d, prim::e as f};", &["park"]), ["a", "d", "prim"]);
    assert_eq!(seen("fn f() { crate::pool::go(); }", &["park"]), ["pool"]);
    assert_eq!(seen("use super::{node::Node, token};", &["cancel", "reason"]), ["cancel", "cancel"]);
    assert_eq!(seen("use super::super::pool;", &["cancel", "reason"]), ["pool"]);
    assert_eq!(seen("use super::pool;", &["context"]), ["pool"]);
    assert_eq!(seen("mod inline { use super::x; }", &["context"]), ["context"]);
    assert_eq!(seen("pub(super) fn f() {}", &["cancel", "reason"]), [""; 0]);
}

#[test]
fn test_code_is_left_out_of_the_floors() {
    let code = "a #[cfg(test)] mod t { b { c } } d #[cfg(all(test, x))] use e; f #[cfg(not(test))] g;";
    let kept = without_tests(code);
    assert_eq!(kept.len(), code.len());
    assert_eq!(kept.split_whitespace().collect::<Vec<_>>(), ["a", "d", "f", "#[cfg(not(test))]", "g;"]);
}

#[test]
fn rules_are_read_from_the_lines_around_a_test() {
    assert_eq!(rules_in("// S33, D17: the outer absorbs"), ["S33", "D17"]);
    for other in ["// S33 says: no", "// see S33:", "/// S33: doc", "// So: no", "let x = 1; // S33: no"] {
        assert_eq!(rules_in(other), [""; 0], "{other}");
    }
    let lines =
        ["// S1: far away", "", "// S2: above", "#[cfg(unix)]", "#[test]", "// S3: below", "fn f() {}", "// S4: no"];
    let around = lines[around(&lines, 4)].iter().flat_map(|line| rules_in(line)).collect::<Vec<_>>();
    assert_eq!(around, ["S2", "S3"]);
}

/// A Rust file, by its path from the package's root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The modules that lead to the file: `src/park/seat.rs` is `park`, `seat`.
    fn module_path(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        path.trim_end_matches("/mod").split('/').collect()
    }

    /// The top-level module of the file.
    fn module(&self) -> &str {
        self.module_path()[0]
    }

    fn stem(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path, 1 + self.text[..at].matches('\n').count())
    }
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The top-level modules that code at `path` takes something from, and where.
fn imports(code: &str, path: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        if let Some(rest) = code[at..].strip_prefix("crate::") {
            found.extend(heads(rest).into_iter().map(|name| (at, name)));
        }
    }
    for at in words(code, "super").filter(|&at| !code[..at].ends_with("super::")) {
        let mut rest = &code[at..];
        let mut above = path.len() + inline_modules(code, at);
        while let Some(shorter) = rest.strip_prefix("super::") {
            rest = shorter;
            above = above.saturating_sub(1);
        }
        let plain = rest.len() == code[at..].len(); // `pub(super)`, which imports nothing
        match path.first() {
            Some(own) if above > 0 && !plain => found.extend(heads(rest).iter().map(|_| (at, (*own).to_owned()))),
            _ if !plain => found.extend(heads(rest).into_iter().map(|name| (at, name))),
            _ => {}
        }
    }
    found
}

/// The first names of what follows `crate::`: one, or those of a list in braces.
fn heads(rest: &str) -> Vec<String> {
    let head = |text: &str| text.trim_start().chars().take_while(|&c| is_word(c)).collect::<String>();
    if !rest.starts_with('{') {
        return vec![head(rest)];
    }
    let list = &rest[block(rest, 0)];
    let mut depth = 0;
    let parts = list[1..].split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    parts.map(head).filter(|name| !name.is_empty()).collect()
}

/// How many `mod name { … }` of this file stand around a place in it.
fn inline_modules(code: &str, at: usize) -> usize {
    let around = |start: usize| {
        let open = start + code[start..].find(['{', ';']).unwrap_or(0);
        code[open..].starts_with('{') && block(code, open).contains(&at)
    };
    words(&code[..at], "mod").filter(|&start| around(start)).count()
}

/// The code with all items blanked out that exist in tests only.
fn without_tests(code: &str) -> String {
    let mut kept = code.to_owned();
    for (at, _) in code.match_indices("#[cfg(").filter(|&(at, _)| is_test_only(&code[at..])) {
        let Some(end) = code[at..].find(['{', ';']).map(|end| at + end) else { continue };
        let end = if code[end..].starts_with('{') { block(code, end).end } else { end + 1 };
        kept.replace_range(at..end, &blank(&code[at..end]));
    }
    kept
}

fn is_test_only(attribute: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(all(test,"].iter().any(|form| attribute.starts_with(form))
}

/// The bytes from an opening brace to its closing one, both included.
fn block(code: &str, open: usize) -> Range<usize> {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        if depth == 0 {
            return open..at + 1;
        }
    }
    open..code.len()
}

/// Where a word stands in code, alone: `unsafe` is not in `unsafe_code`.
fn words<'code>(code: &'code str, word: &'code str) -> impl Iterator<Item = usize> + 'code {
    let alone = move |at: usize| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word);
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| alone(at))
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// One line for each place where a file's code has one of the words, with `tail` right behind it.
fn found_in_code(files: &[Source], list: &[&str], tail: &str) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let code = code_of(&file.text);
        for word in list {
            let places = words(&code, word).filter(|&at| code[at + word.len()..].starts_with(tail));
            found.extend(places.map(|at| format!("{}: `{word}{tail}`", file.place(at))));
        }
    }
    found
}

/// The text with comments and literals blanked out: as long as before, with the same lines.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hidden = hidden(rest, code.ends_with(is_word));
        if hidden == 0 {
            code.push(first);
        } else {
            code.push_str(&blank(&rest[..hidden]));
        }
        rest = &rest[hidden.max(first.len_utf8())..];
    }
    code
}

/// The length of the comment or literal that the text begins with, or 0.
fn hidden(text: &str, within_word: bool) -> usize {
    match text.as_bytes() {
        [b'/', b'/', ..] => text.find('\n').unwrap_or(text.len()),
        [b'/', b'*', ..] => block_comment(text),
        [b'"', ..] => string(text),
        [b'\'', ..] => character(text),
        [b'r' | b'b' | b'c', ..] if !within_word => raw_string(text),
        _ => 0,
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    let closes = |(_, byte): &(usize, u8)| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    };
    text.bytes().enumerate().skip(1).find(closes).map_or(text.len(), |(at, _)| at + 1)
}

/// A character is closed by a quote, which a lifetime is not.
fn character(text: &str) -> usize {
    let inner = &text[1..];
    let first = inner.chars().next().map_or(0, char::len_utf8);
    match inner.strip_prefix('\\') {
        Some(escape) => escape.char_indices().skip(1).find(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 3),
        None if inner[first..].starts_with('\'') => first + 2,
        None => 0,
    }
}

fn raw_string(text: &str) -> usize {
    let Some(fence) = text.trim_start_matches(['b', 'c']).strip_prefix('r') else { return 0 };
    let inner = fence.trim_start_matches('#');
    let close = format!("\"{}", &fence[..fence.len() - inner.len()]);
    match inner.strip_prefix('"') {
        Some(body) => text.len() - body.len() + body.find(&close).map_or(body.len(), |at| at + close.len()),
        None => 0,
    }
}

fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Whether `not_covered.txt` says that a rule has no test at all, or only some of those it needs.
enum Excuse {
    Whole,
    Partly,
}

/// Every rule with a test, and the place of one.
fn tested_rules(problems: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut tested = BTreeMap::new();
    let files = ["tests", "src"].map(sources);
    for file in files.iter().flatten().filter(|file| file.path != "tests/it/tidy.rs") {
        let lines: Vec<_> = file.text.lines().collect();
        for test in (0..lines.len()).filter(|&line| lines[line].trim() == "#[test]") {
            for line in around(&lines, test) {
                for rule in rules_in(lines[line]) {
                    let place = format!("{}:{}", file.path, line + 1);
                    if !is_rule(&rule) {
                        problems.push(format!("{place}: there is no rule {rule}"));
                    }
                    tested.insert(rule, place);
                }
            }
        }
    }
    tested
}

/// What `not_covered.txt` holds: lines `S20: why` and `S22 partly: what is missing`.
fn excused_rules(problems: &mut Vec<String>) -> BTreeMap<String, Excuse> {
    let mut excused = BTreeMap::new();
    let text = read("tests/not_covered.txt");
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (rule, reason) = line.split_once(':').unwrap_or((line, ""));
        let (rule, excuse) = rule.strip_suffix(" partly").map_or((rule, Excuse::Whole), |rule| (rule, Excuse::Partly));
        if !is_rule(rule) || reason.trim().is_empty() || excused.insert(rule.to_owned(), excuse).is_some() {
            problems.push(format!("tests/not_covered.txt: no rule, no reason, or twice: {line}"));
        }
    }
    excused
}

fn is_rule(text: &str) -> bool {
    let number = |letter| text.strip_prefix(letter).and_then(|number| number.parse().ok());
    RULES.iter().any(|&(letter, last)| number(letter).is_some_and(|number: u32| (1..=last).contains(&number)))
}

/// The comment and attribute lines that a line stands among.
fn around(lines: &[&str], line: usize) -> Range<usize> {
    let belongs = |line: &&str| line.trim().starts_with("//") || line.trim().starts_with("#[");
    let above = lines[..line].iter().rev().take_while(|line| belongs(line)).count();
    let below = lines[line..].iter().take_while(|line| belongs(line)).count();
    line - above..line + below
}

/// The rules that a line `// S33, D17: …` names.
fn rules_in(line: &str) -> Vec<String> {
    let Some((list, _)) = line.trim().strip_prefix("// ").and_then(|text| text.split_once(':')) else {
        return Vec::new();
    };
    let names: Vec<_> = list.split(", ").map(String::from).collect();
    let looks_right = |name: &String| {
        let number = name.strip_prefix(['S', 'D']).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    if names.iter().all(looks_right) { names } else { Vec::new() }
}

fn sources(folder: &str) -> Vec<Source> {
    let rust = files(folder).into_iter().filter(|path| has_extension(path, "rs"));
    rust.map(|path| Source { text: read(&path), path }).collect()
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// All files below a folder of the package, in order, with `/` between the names.
fn files(folder: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).into_iter().flatten().flatten() {
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                folders.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    found
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    text.unwrap_or_else(|error| panic!("{path} is a text file: {error}"))
}

#[track_caller]
fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
