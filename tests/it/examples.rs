//! The examples: what each prints in virtual time, to the byte, and how it ends. `sleeper.rs` has more of the sleeper.

use crate::{finish, guarded};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

/// The binary of an example, beside this test's own.
pub(crate) fn example(name: &str) -> Command {
    static BUILT: Once = Once::new();
    let mut folder = env::current_exe().unwrap();
    folder.pop();
    folder.pop();
    let binary = |name: &str| folder.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    // `cargo test` builds the examples; `cargo test --test it` does not.
    BUILT.call_once(|| {
        if !names().iter().all(|name| binary(name).exists()) {
            let release = if cfg!(debug_assertions) { None } else { Some("--release") };
            let mut cargo = Command::new(env!("CARGO"));
            assert!(cargo.args(["build", "--examples"]).args(release).status().unwrap().success());
        }
    });
    let mut command = Command::new(binary(name));
    command.env("RUST_BACKTRACE", "0");
    command
}

/// The names of all examples, in order.
fn names() -> Vec<String> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().path()).map(|path| stem(&path)).collect();
    names.sort();
    names
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn run(name: &str, arguments: &str) -> Ran {
    let output = finish(example(name).args(arguments.split_whitespace()));
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of the library, without what std's panic hook says of a panic with this message.
pub(crate) fn without_the_hook(err: &str, message: &str) -> String {
    let hook = ["thread '", message, "note: run with"];
    let lines = err.lines().filter(|line| !line.is_empty() && !hook.iter().any(|start| line.starts_with(start)));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn in_virtual_time_each_prints_its_golden_files_and_ends_with_one_if_anything_failed() {
    guarded(|| {
        for name in names() {
            let ran = run(&name, "--virtual");
            assert_eq!(ran.out, golden(&format!("{name}.txt")), "{name}");
            let err = without_the_hook(&ran.err, "there is a page");
            let failed = ["cancellation", "failures", "graceful_shutdown", "pipeline"].contains(&name.as_str());
            let expected = if failed { golden(&format!("{name}-err.txt")) } else { String::new() };
            assert_eq!((err, ran.code), (expected, Some(failed.into())), "{name}");
        }
    });
}
