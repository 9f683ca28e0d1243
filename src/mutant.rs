//! Mistakes that can be made on purpose, to see that a test or a model finds them: `mutant!`.
//!
//! Each has a name, and one line at the place where somebody might make it. A build with `--cfg tassel_mutant` holds all
//! of them, and makes the one that the environment names in `TASSEL_MUTANT`. In any other build they are code after
//! `if false`, which is checked and left out. `.ci/mutants` lists them with their witnesses.
//!
//! # Does not know
//!
//! What is broken, and who sees it.

/// `mutant!("name" => code)` runs that code in place of what is right, if the mutant of that name is chosen.
/// `mutant!("name")` tells whether it is.
macro_rules! mutant {
    ($name:literal) => {
        (cfg!(tassel_mutant) && $crate::mutant::is_chosen($name))
    };
    ($name:literal => $($code:tt)+) => {
        if mutant!($name) {
            $($code)+
        }
    };
}

#[cfg(tassel_mutant)]
pub(crate) fn is_chosen(name: &str) -> bool {
    static CHOSEN: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("TASSEL_MUTANT").unwrap_or_default());
    *CHOSEN == name
}

#[cfg(not(tassel_mutant))]
pub(crate) const fn is_chosen(_: &str) -> bool {
    false
}
