//! A thread's stack of values that live on its call stack: [`Stack`].
//!
//! A value is pushed for as long as a closure runs, and whoever is called meanwhile, however deep, can look at it. Nothing
//! is allocated or counted, so a push costs two stores.
//!
//! # Promises
//!
//! 1. A value can be looked at only while its push runs; unwinding pops it, too.
//! 2. What is shown may borrow for as short as it likes: a look accepts any lifetime, so it keeps nothing.
//! 3. A stack has no drop glue. As a thread-local it is there until the thread's very end.
//!
//! # Does not know
//!
//! What is on it.

use crate::prim::LocalKey;
use std::{cell::Cell, ptr};

/// Names a family of types, one for each lifetime.
pub(crate) trait Layer: 'static {
    /// What is pushed.
    type Of<'a>;
}

/// One value on the call stack, and what was pushed before it.
struct Link<'a, L: Layer> {
    value: L::Of<'a>,
    below: *const Self,
}

/// A stack of values. For a `thread_local!`.
pub(crate) struct Stack<L: Layer> {
    /// Null, or the link of the innermost [`push`](Stack::push) on this thread that has not returned.
    top: Cell<*const Link<'static, L>>,
}

/// Puts the top back when dropped.
struct Reset<L: Layer> {
    stack: &'static LocalKey<Stack<L>>,
    before: *const Link<'static, L>,
}

impl<L: Layer> Drop for Reset<L> {
    fn drop(&mut self) {
        self.stack.with(|stack| stack.top.set(self.before));
    }
}

impl<L: Layer> Stack<L> {
    pub(crate) const fn new() -> Self {
        Stack { top: Cell::new(ptr::null()) }
    }

    /// Calls `f` with `value` on top of this thread's stack.
    ///
    /// Not through the key's `with`, and always inlined: nested scopes should cost little stack, in debug builds as well.
    #[expect(clippy::inline_always, reason = "as said")]
    #[inline(always)]
    pub(crate) fn push<R>(stack: &'static LocalKey<Self>, value: L::Of<'_>, f: impl FnOnce() -> R) -> R {
        let before = stack.with(|stack| stack.top.get());
        let link = Link::<'_, L> { value, below: before.cast() };
        // Subtle: dropped before `link`, as it stands after it.
        let _reset = Reset { stack, before };
        stack.with(|stack| stack.top.set(ptr::from_ref(&link).cast()));
        f()
    }

    /// Looks at the innermost value.
    #[inline]
    pub(crate) fn top<R>(&self, look: impl for<'a> FnOnce(Option<&'a L::Of<'a>>) -> R) -> R {
        let top = self.top.get();
        // SAFETY:
        // * `top` is null or the link of a `push` on this thread that has not returned: each puts back what was there before
        //   it when it returns or unwinds, before its link is gone, and a stack belongs to one thread (it is not `Sync`).
        //   This call returns before that `push` does. Nothing changes a link.
        // * The lifetime inside is not `'static`, but `look` accepts any, that of the link too.
        look(unsafe { top.as_ref() }.map(|link| &link.value))
    }

    /// Looks at the values, the innermost first, until a look finds something.
    pub(crate) fn find<R>(&self, mut look: impl for<'a> FnMut(&'a L::Of<'a>) -> Option<R>) -> Option<R> {
        let mut next = self.top.get();
        // SAFETY: as in `top`; what is below a link was pushed by a call around its own, which has not returned either.
        while let Some(link) = unsafe { next.as_ref() } {
            if let Some(found) = look(&link.value) {
                return Some(found);
            }
            next = link.below;
        }
        None
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    struct Words;

    impl Layer for Words {
        type Of<'a> = &'a str;
    }

    thread_local! {
        static WORDS: Stack<Words> = const { Stack::new() };
    }

    fn seen() -> Vec<String> {
        WORDS.with(|words| {
            let mut seen = Vec::new();
            let none = words.find(|word| {
                seen.push((*word).to_owned());
                None::<()>
            });
            assert!(none.is_none() && words.find(|word| Some(word.len())) == seen.first().map(String::len));
            let top = words.top(|word| word.map(|word| (*word).to_owned()));
            assert_eq!(seen.first().cloned(), top);
            seen
        })
    }

    #[test]
    fn the_innermost_is_on_top_and_gone_after_its_call() {
        let outer = "outer".to_owned();
        Stack::push(&WORDS, outer.as_str(), || {
            let inner = "inner".to_owned();
            Stack::push(&WORDS, inner.as_str(), || assert_eq!(seen(), ["inner", "outer"]));
            assert_eq!(seen(), ["outer"]);
        });
        assert!(seen().is_empty());
    }

    #[test]
    fn unwinding_pops() {
        Stack::push(&WORDS, "outer", || {
            let unwound = catch_unwind(AssertUnwindSafe(|| Stack::push(&WORDS, "inner", || panic!("on purpose"))));
            assert!(unwound.is_err());
            assert_eq!(seen(), ["outer"]);
        });
    }
}
