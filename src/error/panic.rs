//! Panics: their payloads, and guards around code of others that may panic.
//!
//! Errors and payloads belong to the user, and so do their `Display`, `source` and `Drop`. Each of these may panic,
//! inside a scope's exit, where nothing may unwind.
//!
//! # Promises
//!
//! 1. What is called through this file never unwinds into its caller, also when a panic's payload panics as it is
//!    dropped (rust-lang/rust#157969).
//! 2. A [`Payload`] can be shared between threads although what was thrown need not be: it is given out by value, by
//!    `&mut`, or as `&P` for a `P` that is itself `Sync`.
//!
//! # Why a payload is in two places
//!
//! A lock makes the payload `Sync`, but no reference can leave a lock. So the first who asks for `&P` moves the payload,
//! then known to be `Send + Sync`, out of the lock into a cell that is written once. It is always in exactly one of them.
//!
//! # Does not know
//!
//! Groups and leaves.

use std::{
    any::Any,
    error::Error,
    fmt::{self, Write as _},
    mem,
    panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// How many payloads of panicking drops are dropped in turn before the next is leaked. One is a careless type; a chain
/// of more has been made on purpose.
const DROPS: usize = 16;

/// How many links of an error's chain are looked at. Real chains have a handful; `source` may also return itself.
pub(super) const CHAIN: usize = 1000;

/// Returns the text of a payload: that of `panic!`, or what std says of payloads of any other type.
///
/// Subtle: give it `&*payload`; a `&Box<dyn Any + Send>` is a `dyn Any` too, of the box.
pub(crate) fn payload_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "Box<dyn Any>"
    }
}

/// Drops a value.
///
/// # Errors
///
/// Returns the payload if the drop panicked.
fn try_drop<T>(value: T) -> Result<(), Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(move || drop(value)))
}

/// Drops a value, and what its drop throws, and never unwinds.
pub(crate) fn drop_guarded<T>(value: T) {
    let mut dropped = try_drop(value);
    for _ in 0..DROPS {
        match dropped {
            Ok(()) => return,
            Err(payload) => dropped = try_drop(payload),
        }
    }
    mem::forget(dropped);
}

/// Renders somebody's error, whatever its `Display` does.
///
/// Generic, as an `&dyn Error` becomes an `&dyn Display` only since Rust 1.86.
pub(super) fn shown(error: &(impl fmt::Display + ?Sized)) -> String {
    let mut text = String::new();
    match catch_unwind(AssertUnwindSafe(|| write!(text, "{error}"))) {
        Ok(Ok(())) => text,
        Ok(Err(fmt::Error)) => "<the error's Display failed>".to_owned(),
        Err(payload) => {
            drop_guarded(payload);
            "<the error's Display panicked>".to_owned()
        }
    }
}

/// Returns the next link of an error's chain.
pub(super) fn source_of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    catch_unwind(AssertUnwindSafe(|| error.source())).unwrap_or_else(|payload| {
        drop_guarded(payload);
        None
    })
}

/// What was thrown, and its text.
pub(crate) struct Payload {
    text: PanicText,
    alone: Mutex<Option<Box<dyn Any + Send>>>,
    shared: OnceLock<Box<dyn Any + Send + Sync>>,
}

// A reference only ever leads to a `P` that its user asserts to be shareable, and no code of others runs under the lock.
impl UnwindSafe for Payload {}
impl RefUnwindSafe for Payload {}

impl Payload {
    pub(super) fn new(payload: Box<dyn Any + Send>) -> Self {
        Payload {
            text: PanicText(payload_text(&*payload).into()),
            alone: Mutex::new(Some(payload)),
            shared: OnceLock::new(),
        }
    }

    pub(super) fn text(&self) -> &PanicText {
        &self.text
    }

    pub(super) fn get<P: Any + Send + Sync>(&self) -> Option<&P> {
        if self.shared.get().is_none() {
            let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
            match alone.take().map(<Box<dyn Any + Send>>::downcast::<P>) {
                Some(Ok(payload)) => {
                    self.shared.get_or_init(|| payload);
                }
                Some(Err(payload)) => *alone = Some(payload),
                // Another thread moved it since the look above.
                None => {}
            }
        }
        self.shared.get().and_then(|payload| (**payload).downcast_ref::<P>())
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut (dyn Any + Send)> {
        let Payload { alone, shared, .. } = self;
        match shared.get_mut() {
            Some(payload) => Some(&mut **payload),
            None => alone.get_mut().unwrap_or_else(PoisonError::into_inner).as_deref_mut(),
        }
    }

    pub(super) fn take(&mut self) -> Option<Box<dyn Any + Send>> {
        match self.shared.take() {
            Some(payload) => Some(payload),
            None => self.alone.get_mut().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

/// The text of a panic, as a link of an error's chain.
#[derive(Debug)]
pub(super) struct PanicText(Arc<str>);

impl PanicText {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PanicText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for PanicText {}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        panic::{panic_any, resume_unwind},
    };

    use super::*;

    struct ThrowsAsDropped<F: Fn() -> Box<dyn Any + Send>>(F);

    impl<F: Fn() -> Box<dyn Any + Send>> Drop for ThrowsAsDropped<F> {
        fn drop(&mut self) {
            resume_unwind((self.0)());
        }
    }

    struct Endless;

    impl Drop for Endless {
        fn drop(&mut self) {
            resume_unwind(Box::new(Endless));
        }
    }

    struct Unshowable;

    impl fmt::Display for Unshowable {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            resume_unwind(Box::new(Endless))
        }
    }

    #[test]
    fn the_text_of_a_payload_is_that_of_the_panic() {
        assert_eq!(payload_text(&"slice"), "slice");
        assert_eq!(payload_text(&"string".to_owned()), "string");
        assert_eq!(payload_text(&7), "Box<dyn Any>");
        let formatted = catch_unwind(|| panic_any(format!("{} left", 2))).unwrap_err();
        assert_eq!(payload_text(&*formatted), "2 left");
    }

    #[test]
    fn a_drop_that_panics_goes_no_further_whatever_it_throws() {
        drop_guarded(ThrowsAsDropped(|| Box::new("first")));
        drop_guarded(ThrowsAsDropped(|| Box::new(ThrowsAsDropped(|| Box::new("second")))));
        drop_guarded(Endless);
        assert_eq!(payload_text(&*try_drop(ThrowsAsDropped(|| Box::new("told"))).unwrap_err()), "told");
        assert!(try_drop(7).is_ok());
    }

    #[test]
    fn a_display_that_panics_is_shown_as_such() {
        assert_eq!(shown(&Unshowable), "<the error's Display panicked>");
        assert_eq!(shown(&7), "7");
    }

    #[test]
    fn a_payload_that_can_be_shared_is_lent_and_still_had_by_value() {
        let mut payload = Payload::new(Box::new(String::from("text")));
        assert_eq!(payload.get::<u32>(), None);
        let (one, two) = (payload.get::<String>(), payload.get::<String>());
        assert_eq!((one.map(String::as_str), two.map(String::as_str)), (Some("text"), Some("text")));
        assert_eq!(payload.get::<u32>(), None);
        payload.get_mut().unwrap().downcast_mut::<String>().unwrap().push('s');
        assert_eq!(*payload.take().unwrap().downcast::<String>().unwrap(), "texts");
    }

    #[test]
    fn a_payload_that_cannot_be_shared_is_had_by_value_and_by_mut() {
        let mut payload = Payload::new(Box::new(Cell::new(1)));
        payload.get_mut().unwrap().downcast_mut::<Cell<i32>>().unwrap().set(2);
        assert_eq!(payload.take().unwrap().downcast::<Cell<i32>>().unwrap().get(), 2);
    }

    #[test]
    fn threads_that_ask_for_a_payload_at_once_all_get_it() {
        let payload = Payload::new(Box::new(7_u32));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| assert_eq!(payload.get::<u32>(), Some(&7)));
            }
        });
    }
}
