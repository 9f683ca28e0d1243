//! Which locks each thread reads: [`Reads`], for the thread itself, and [`readers`], for others.
//!
//! A thread keeps a table, to which only it writes: so a read lock costs a few stores for it, and no line of memory that other
//! readers write. The tables are listed, are never freed, and serve another thread when theirs ends.
//!
//! # Promises
//!
//! 1. A thread knows what it reads. Of guards beyond [`SEEN`] at once it knows nothing, until they are gone.
//! 2. Others see it too: what they see was so a moment ago, and is exact once they have acquired a lock which the thread has
//!    released since.
//! 3. In a forked child there is one thread that reads, if it did before.
//! 4. As many tables are kept as threads have read at once.
//!
//! # Does not know
//!
//! What a lock is: it goes by a number.

use crate::{
    cancel::current,
    prim::{AtomicU64, AtomicUsize, Ordering},
    wait::cycle::Has,
};

/// Of more guards at once than these, a thread does not know what it reads.
const SEEN: usize = 16;

/// One lock that is read.
struct Entry {
    lock: AtomicU64,
    /// The line of code that does.
    line: AtomicU64,
}

/// What a thread reads: the latest last, one entry for each guard.
///
/// All accesses are relaxed: nothing is reached through what stands here. See the second promise.
struct Table {
    thread: AtomicU64,
    /// How many entries are in use.
    seen: AtomicUsize,
    /// How many guards have no entry.
    unseen: AtomicUsize,
    entries: [Entry; SEEN],
}

impl Table {
    fn new() -> Self {
        let entry = |_| Entry { lock: AtomicU64::new(0), line: AtomicU64::new(0) };
        let (thread, seen, unseen) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Table { thread, seen, unseen, entries: [0; SEEN].map(entry) }
    }

    fn used(&self) -> &[Entry] {
        &self.entries[..self.seen.load(Ordering::Relaxed).min(SEEN)]
    }

    #[cfg(not(any(tassel_loom, tassel_shuttle)))]
    fn is_empty(&self) -> bool {
        self.seen.load(Ordering::Relaxed) == 0 && self.unseen.load(Ordering::Relaxed) == 0
    }

    fn at(&self, lock: u64) -> Option<usize> {
        self.used().iter().rposition(|entry| entry.lock.load(Ordering::Relaxed) == lock)
    }

    /// The line of code here that reads it. The latest, if several do.
    fn line(&self, lock: u64) -> Option<u64> {
        self.at(lock).map(|at| self.entries[at].line.load(Ordering::Relaxed))
    }

    #[inline]
    fn add(&self, lock: u64) {
        let seen = self.seen.load(Ordering::Relaxed);
        match self.entries.get(seen) {
            Some(free) => {
                free.line.store(current::line(), Ordering::Relaxed);
                free.lock.store(lock, Ordering::Relaxed);
                self.seen.store(seen + 1, Ordering::Relaxed);
            }
            None => self.unseen.store(self.unseen.load(Ordering::Relaxed) + 1, Ordering::Relaxed),
        }
    }

    #[inline]
    fn remove(&self, lock: u64) {
        let Some(at) = self.at(lock) else {
            self.unseen.store(self.unseen.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
            return;
        };
        let last = self.used().len() - 1;
        if at != last {
            let (to, from) = (&self.entries[at], &self.entries[last]);
            to.line.store(from.line.load(Ordering::Relaxed), Ordering::Relaxed);
            to.lock.store(from.lock.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.seen.store(last, Ordering::Relaxed);
    }
}

#[cfg(not(any(tassel_loom, tassel_shuttle)))]
mod listed {
    use super::{Ordering, Table, current};
    use crate::{
        prim::{AtomicU64, Mutex},
        raw::{PerProcess, generation},
    };
    use std::cell::Cell;

    /// A table, and the process in which it is listed: a forked child has that of the thread it was forked by.
    struct Own {
        table: Table,
        generation: AtomicU64,
    }

    #[derive(Default)]
    struct Tables {
        all: Vec<&'static Own>,
        free: Vec<&'static Own>,
    }

    static TABLES: PerProcess<Mutex<Tables>> = PerProcess::new(Mutex::default);

    thread_local! {
        // Without destructors, so they can be had until the end of the thread, and cost little.
        static MINE: Cell<Option<&'static Own>> = const { Cell::new(None) };
        /// The thread is about to end: it keeps its table for as long as it has guards.
        static ENDS: Cell<bool> = const { Cell::new(false) };
        static AT_END: AtEnd = const { AtEnd };
    }

    struct AtEnd;

    impl Drop for AtEnd {
        fn drop(&mut self) {
            ENDS.set(true);
            give_back();
        }
    }

    /// Has the table of a thread that ends serve another, unless it has guards.
    #[cold]
    fn give_back() {
        if let Some(own) = MINE.get().filter(|own| own.table.is_empty()) {
            MINE.set(None);
            TABLES.get().lock().free.push(own);
        }
    }

    #[inline]
    fn own() -> &'static Own {
        match MINE.get() {
            // Ordered by the fork, if there was one: this thread has made it.
            Some(own) if own.generation.load(Ordering::Relaxed) == generation() => own,
            other => get(other),
        }
    }

    /// This thread's.
    #[inline]
    pub(super) fn with<R>(look: impl FnOnce(&Table) -> R) -> R {
        look(&own().table)
    }

    /// The same; after it, the thread may end.
    #[inline]
    pub(super) fn leave(look: impl FnOnce(&Table)) {
        look(&own().table);
        if ENDS.get() {
            give_back();
        }
    }

    #[cold]
    fn get(before: Option<&'static Own>) -> &'static Own {
        let mut tables = TABLES.get().lock();
        let own = before
            .or_else(|| tables.free.pop())
            .unwrap_or_else(|| Box::leak(Box::new(Own { table: Table::new(), generation: AtomicU64::new(u64::MAX) })));
        if own.generation.swap(generation(), Ordering::Relaxed) != generation() {
            tables.all.push(own);
        }
        drop(tables);
        own.table.thread.store(current::thread(), Ordering::Relaxed);
        MINE.set(Some(own));
        if AT_END.try_with(|_| ()).is_err() {
            ENDS.set(true);
        }
        own
    }

    /// Looks at all that are listed. Nobody's lock is taken meanwhile.
    pub(super) fn each(mut look: impl FnMut(&Table)) {
        if MINE.get().is_some() {
            own(); // in a forked child it may not be listed yet
        }
        for own in &TABLES.get().lock().all {
            look(&own.table);
        }
    }
}

/// In a model each thread has its own, and nobody else looks.
#[cfg(any(tassel_loom, tassel_shuttle))]
mod listed {
    use super::Table;

    #[cfg(tassel_loom)]
    use loom::thread_local;
    #[cfg(tassel_shuttle)]
    use shuttle::thread_local;

    thread_local! {
        static MINE: Table = Table::new();
    }

    pub(super) fn with<R>(look: impl FnOnce(&Table) -> R) -> R {
        MINE.with(look)
    }

    pub(super) fn leave(look: impl FnOnce(&Table)) {
        MINE.with(look);
    }

    pub(super) fn each(_: impl FnMut(&Table)) {}
}

/// The threads that read that lock, each with the line of code that does: as far as they know.
pub(crate) fn readers(lock: u64) -> Vec<(u64, u64)> {
    let mut readers = Vec::new();
    listed::each(|table| {
        readers.extend(table.line(lock).map(|line| (table.thread.load(Ordering::Relaxed), line)));
    });
    readers
}

/// The line of code on this thread that reads that lock.
pub(crate) fn here(lock: u64) -> Option<u64> {
    listed::with(|table| table.line(lock))
}

/// This thread reads that lock, until this is dropped: there, too.
pub(crate) struct Reads {
    lock: u64,
    _has: Has,
}

impl Reads {
    #[inline]
    pub(crate) fn new(lock: u64) -> Self {
        listed::with(|table| table.add(lock));
        Reads { lock, _has: Has::new() }
    }
}

impl Drop for Reads {
    #[inline]
    fn drop(&mut self) {
        listed::leave(|table| table.remove(self.lock));
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::wait::given::soon;
    use std::{cell::RefCell, collections::BTreeSet, thread};

    // Numbers that no lock of another test has.
    const A: u64 = u64::MAX - 1;
    const B: u64 = u64::MAX - 2;

    #[test]
    fn a_thread_knows_what_it_reads_in_whatever_order_it_stops() {
        let reads = || (here(A).is_some(), here(B).is_some());
        let [first, second, third] = [Reads::new(A), Reads::new(B), Reads::new(A)];
        assert_eq!(reads(), (true, true));
        drop(first);
        assert_eq!(reads(), (true, true));
        drop(second);
        assert_eq!(reads(), (true, false));
        drop(third);
        assert_eq!(reads(), (false, false));
    }

    #[test]
    fn a_thread_with_more_guards_than_it_knows_of_knows_the_others_and_recovers() {
        const MANY: u64 = u64::MAX - 3;
        let mut guards: Vec<_> = (0..SEEN).map(|_| Reads::new(MANY)).collect();
        let unseen = Reads::new(MANY - 1);
        assert_eq!((here(MANY).is_some(), here(MANY - 1)), (true, None));
        drop(guards.remove(0));
        drop(unseen);
        guards.truncate(1);
        assert!(here(MANY).is_some(), "of one guard");
        let again = Reads::new(MANY - 1);
        assert_eq!((readers(MANY).len(), readers(MANY - 1).len()), (1, 1));
        drop((guards, again));
        assert_eq!((here(MANY), here(MANY - 1)), (None, None));
    }

    #[test]
    fn others_see_who_reads_also_at_the_end_of_its_thread_and_a_table_serves_the_next() {
        const LOCK: u64 = u64::MAX - 5;
        thread_local! {
            static LAST: RefCell<Option<Late>> = const { RefCell::new(None) };
        }
        /// Reads as its thread ends, when what gives the table back is gone.
        struct Late(Option<Reads>);
        impl Drop for Late {
            fn drop(&mut self) {
                assert!(readers(LOCK).iter().any(|(thread, _)| *thread == current::thread()));
                self.0 = None;
                drop(Reads::new(LOCK));
            }
        }
        soon(|| {
            let tables = || {
                let mut tables = BTreeSet::new();
                listed::each(|table| {
                    tables.insert(std::ptr::from_ref(table).addr());
                });
                tables.len()
            };
            let read = || {
                thread::scope(|s| {
                    s.spawn(|| {
                        LAST.set(Some(Late(None)));
                        LAST.with_borrow_mut(|late| late.as_mut().map(|late| late.0 = Some(Reads::new(LOCK))));
                        assert_eq!(readers(LOCK), [(current::thread(), 0)]);
                    });
                });
                // The thread may still be in its destructors.
                while !readers(LOCK).is_empty() {
                    thread::yield_now();
                }
            };
            read();
            let before = tables();
            for _ in 0..100 {
                read();
            }
            // Tests beside this one have threads that read.
            assert!(tables() < before + 50, "{before}, then {}", tables());
        });
    }
}
