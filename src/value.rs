//! Values that code gets from those who called it, and jobs from where their scope was opened: [`Key`], [`with`].
//!
//! For what many functions need and few should pass on: the number of a request, a user, settings of a test. A value is
//! bound to a key while a closure runs; whoever is called meanwhile, however deep, can read it. It is never changed, only
//! bound anew further in.
//!
//! A job sees what was bound *where its scope was opened*, as the scope belongs there: not what is bound around the `spawn`,
//! in the body or in another job, and not what the thread that happens to run it has bound. So to give something to jobs,
//! bind it around the scope:
//!
//! ```
//! use tassel::{scope, value::{self, Key}};
//! static REQUEST: Key<u64> = Key::new();
//!
//! fn log(text: &str) -> String {
//!     format!("{}: {text}", REQUEST.get().unwrap_or(0))
//! }
//!
//! let line = value::with(&REQUEST, 7, || {
//!     scope(|s| {
//!         let job = s.spawn(|| Ok(log("from a job")));
//!         value::with(&REQUEST, 8, || Ok(job.join()?)) // too late for the job
//!     })
//! })?;
//! assert_eq!(line, "7: from a job");
//! assert_eq!(REQUEST.get(), None);
//! # Ok::<(), tassel::ErrorGroup>(())
//! ```
//!
//! [`CancelToken::bind`](crate::CancelToken::bind) takes the values along to a thread that is not the library's;
//! [`CancelToken::enter`](crate::CancelToken::enter) does not. Callbacks of a cancel have none.

// Promises:
//
// 1. A thread keeps nothing: what is bound, or inherited, is gone from it when the closure, or the job, ends. Unwinding
//    does that, too.
// 2. A value is dropped at the end of the `with` that bound it, unless a bound closure holds it; of a scope that is over
//    nothing holds it.
// 3. Where nothing is bound, a scope or a job costs a look at a thread-local, and nothing else.
// 4. Iterative, to read and to drop.
//
// A list of bindings, the innermost first; each `with` puts one in front of what was there. So a scope keeps all that its
// jobs inherit by its first. The thread's stack has the lists that are in force, each for as long as a closure runs.
//
// Does not know what a scope, a job or a token is.

use crate::{
    prim::Mutex,
    raw::{Layer, Stack},
};
use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    mem, ptr,
    sync::{Arc, atomic::AtomicU8},
};

/// Names a value of type `T` that can be bound by [`with`]. To be a `static`.
///
/// # Examples
///
/// ```
/// use tassel::value::{self, Key};
/// static USER: Key<String> = Key::new();
/// let length = value::with(&USER, "ada".to_owned(), || USER.map(|user| user.len()));
/// assert_eq!(length, Some(3));
/// ```
pub struct Key<T> {
    /// A key is told from others by its address. With an atomic no two statics share one, and a `const` is refused by the
    /// compiler, where it would be another key at each use.
    _place: AtomicU8,
    _value: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Key<T> {
    /// Makes a key, for a `static`.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default would not do for a static")]
    pub const fn new() -> Self {
        Key { _place: AtomicU8::new(0), _value: PhantomData }
    }

    /// Returns the value that is bound here, or `None`. Never blocks.
    #[must_use]
    pub fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.map(T::clone)
    }

    /// Returns what `look` makes of the value that is bound here, or `None` if none is. Never blocks.
    ///
    /// It takes as long as there are bindings around this code, of any key, that are nearer.
    pub fn map<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        VALUES.with(|values| {
            values.top(|first| {
                let mut next = first.copied().flatten();
                while let Some(here) = next {
                    if here.key == self.address() {
                        return here.value.downcast_ref().map(look);
                    }
                    next = here.below.as_ref();
                }
                None
            })
        })
    }

    fn address(&self) -> usize {
        ptr::from_ref(self).addr()
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// Binds `value` to `key` while `f` runs, for the code of `f` and for scopes that it opens.
///
/// Around that, and after it, the key has what it had before. See the [module](self) for what jobs see. The value is dropped
/// when `f` has returned, unless a closure that was [bound](crate::CancelToken::bind) in it holds it still.
///
/// # Panics
///
/// A panic of `f` passes through.
///
/// # Examples
///
/// ```
/// use tassel::value::{self, Key};
/// static DEPTH: Key<u32> = Key::new();
/// let inner = value::with(&DEPTH, 1, || {
///     let inner = value::with(&DEPTH, 2, || DEPTH.get());
///     assert_eq!(DEPTH.get(), Some(1));
///     inner
/// });
/// assert_eq!(inner, Some(2));
/// ```
pub fn with<T: Send + Sync + 'static, R>(key: &'static Key<T>, value: T, f: impl FnOnce() -> R) -> R {
    let binding = Arc::new(Binding { key: key.address(), value: Box::new(value), below: here() });
    Stack::push(&VALUES, Some(&binding), f)
}

/// One value, and what was bound around it.
pub(crate) struct Binding {
    key: usize,
    value: Box<dyn Any + Send + Sync>,
    below: Option<Arc<Binding>>,
}

impl Drop for Binding {
    fn drop(&mut self) {
        // The innermost first.
        drop(mem::replace(&mut self.value, Box::new(())));
        let mut below = self.below.take();
        while let Some(mut last) = below.and_then(Arc::into_inner) {
            below = last.below.take();
        }
    }
}

struct Values;

impl Layer for Values {
    /// The list that is in force.
    type Of<'a> = Option<&'a Arc<Binding>>;
}

#[cfg(not(tassel_loom))]
crate::prim::thread_local! {
    static VALUES: Stack<Values> = const { Stack::new() };
}

#[cfg(tassel_loom)]
loom::thread_local! {
    static VALUES: Stack<Values> = Stack::new();
}

/// Returns all that is bound here.
pub(crate) fn here() -> Option<Arc<Binding>> {
    VALUES.with(|values| values.top(|first| first.copied().flatten().cloned()))
}

#[inline]
fn is_bare() -> bool {
    VALUES.with(|values| values.top(|first| first.is_none_or(Option::is_none)))
}

/// Runs `f` with what was bound elsewhere in place of what is bound here.
#[inline]
pub(crate) fn instead<R>(values: Option<&Arc<Binding>>, f: impl FnOnce() -> R) -> R {
    if values.is_none() && is_bare() { f() } else { replaced(values, f) }
}

#[cold]
#[inline(never)]
fn replaced<R>(values: Option<&Arc<Binding>>, f: impl FnOnce() -> R) -> R {
    Stack::push(&VALUES, values, f)
}

/// What the jobs of a scope inherit. A word, where that is nothing.
pub(crate) struct Inherited(Option<Box<Mutex<Option<Arc<Binding>>>>>);

impl Inherited {
    /// All that is bound here.
    #[inline]
    pub(crate) fn new() -> Self {
        Inherited(if is_bare() { None } else { Some(Box::new(Mutex::new(here()))) })
    }

    /// Runs a job.
    #[inline]
    pub(crate) fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.0 {
            None => instead(None, f),
            Some(values) => {
                let values = values.lock().clone();
                replaced(values.as_ref(), f)
            }
        }
    }

    /// No job runs any more: whoever still holds the scope holds no values.
    pub(crate) fn end(&self) {
        if let Some(values) = &self.0 {
            let gone = values.lock().take();
            drop(gone);
        }
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::{scope::open::scope, wait::given::soon};

    // S70:
    #[test]
    fn a_scope_that_is_over_holds_no_values_whoever_holds_it() {
        static ALIVE: Key<Arc<()>> = Key::new();
        soon(|| {
            let alive = Arc::new(());
            let mut late = None;
            let done = with(&ALIVE, Arc::clone(&alive), || {
                scope(|s| {
                    // As a worker does, or a picture, that comes for it too late.
                    late = Some(Arc::clone(s.core()));
                    Ok(s.spawn(|| Ok(ALIVE.get().is_some())).join()?)
                })
            });
            assert!(matches!(done, Ok(true)) && late.is_some());
            assert_eq!(Arc::strong_count(&alive), 1);
        });
    }
}
