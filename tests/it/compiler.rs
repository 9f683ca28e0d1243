//! What the compiler says to whoever returns the wrong thing from a job.
//!
//! Only the lines that the library writes are pinned; the rest is rustc's, and changes. `tests/compile_fail.md` has what
//! must not compile at all. Here rustc is called by hand, with the library that this binary was linked with: that takes a
//! fraction of a second, where a package of its own would build everything once more.

use crate::{finish, guarded};
use std::{
    cmp::Reverse,
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The compiled libraries beneath a folder.
fn libraries(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rlib") {
                found.push(path);
            }
        }
    }
    found
}

/// What rustc says to a program that uses the library.
fn complaint(program: &str) -> String {
    // Cargo keeps the libraries beside this binary, or in folders of their own further up.
    let binary = env::current_exe().unwrap();
    let ours = |library: &&PathBuf| library.file_name().unwrap().to_string_lossy().starts_with("libtassel-");
    let all = binary.ancestors().skip(1).take(5).map(libraries).find(|all| all.iter().any(|path| ours(&path))).unwrap();
    let folders: BTreeSet<_> = all.iter().filter_map(|library| library.parent()).collect();
    let mut tassel: Vec<_> = all.iter().filter(ours).collect();
    tassel.sort_by_key(|path| Reverse(fs::metadata(path).and_then(|data| data.modified()).ok()));

    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = scratch.join(format!("complaint-{}.rs", std::process::id())); // two runs of the tests at once
    fs::write(&source, program).unwrap();
    let rustc = Path::new(env!("CARGO")).with_file_name(format!("rustc{}", env::consts::EXE_SUFFIX));
    let mut said = Vec::new();
    // Older ones are of other features, or of another compiler, which rustc refuses.
    for library in tassel {
        let mut command = Command::new(if rustc.exists() { &rustc } else { Path::new("rustc") });
        command.args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--color=never", "--out-dir"]);
        command.arg(scratch).arg(&source).arg("--extern").arg(with("tassel=", library));
        command.args(folders.iter().flat_map(|folder| ["-L".into(), with("dependency=", folder)]));
        let output = finish(&mut command);
        assert!(!output.status.success(), "it compiles");
        said.push(String::from_utf8(output.stderr).unwrap());
        if said.last().is_some_and(|said| said.contains("error[E0277]")) {
            return said.pop().unwrap();
        }
    }
    panic!("no library fits:\n{}", said.join("\n"));
}

fn with(key: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(key);
    argument.push(path);
    argument
}

// D4:
#[test]
fn a_job_or_body_that_returns_the_wrong_type_is_told_what_to_write() {
    guarded(|| {
        let said = complaint(
            "pub fn job() { let _ = tassel::scope(|s| { s.spawn(|| 7_u8); }); }\n\
             pub fn body() { let _ = tassel::scope(|_| Some(7_u8)); }\n\
             pub fn other_error() { let _ = tassel::scope(|_| Err::<u8, ()>(())); }\n",
        );
        for returned in ["u8", "Option<u8>", "Result<u8, ()>"] {
            let line = format!(
                "error[E0277]: a job or a scope's body returns `tassel::Result<T>` or `()`, not `{returned}`\n"
            );
            assert_eq!(said.matches(&line).count(), 1, "`{returned}`:\n{said}");
        }
        for note in [
            "= note: end the closure with `Ok(value)`, and use `?` for errors: a call with an error type of its own is \
             `Ok(call()?)`\n",
            "= note: where nothing fixes the type, as in a loop that only `?` leaves, write `|| -> tassel::Result<()> \
             { .. }`\n",
        ] {
            assert_eq!(said.matches(note).count(), 3, "{note}{said}");
        }
        assert!(!said.contains("Output>"), "it offers the type of `!`, which nobody can name:\n{said}");
    });
}
