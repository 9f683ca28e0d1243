//! Which locks each thread reads: [`Reads`], for the thread itself, and [`readers`], for others.
//!
//! A thread keeps a table, to which only it writes: so a read lock costs two stores for it, and no line of memory that other
//! readers write. The tables are listed, are never freed, and serve another thread when theirs ends.
//!
//! # Promises
//!
//! 1. A thread knows what it reads, as long as it has at most [`SEEN`] guards at once.
//! 2. Others see it too: what they see was so a moment ago, and is exact once they have acquired a lock which the thread has
//!    released since.
//! 3. In a forked child nobody reads but who begins to.
//!
//! # Does not know
//!
//! What a lock is: it goes by its address, which is not looked at.

use crate::{
    cancel::current,
    prim::{AtomicU64, AtomicUsize, Ordering},
};
use std::ptr;

/// Of more guards at once than these, a thread does not know what it reads.
const SEEN: usize = 16;

/// One lock that is read.
struct Entry {
    /// Its address.
    lock: AtomicUsize,
    /// The line of code that does.
    line: AtomicU64,
}

// All accesses are relaxed: nothing is reached through what stands here. See the second promise.
impl Entry {
    fn lock(&self) -> usize {
        self.lock.load(Ordering::Relaxed)
    }

    fn line(&self) -> u64 {
        self.line.load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, lock: usize, line: u64) {
        self.line.store(line, Ordering::Relaxed);
        self.lock.store(lock, Ordering::Relaxed);
    }
}

/// What a thread reads: the latest last, one entry for each guard.
struct Table {
    thread: AtomicU64,
    guards: AtomicUsize,
    entries: [Entry; SEEN],
}

impl Table {
    fn new() -> Self {
        let entry = |_| Entry { lock: AtomicUsize::new(0), line: AtomicU64::new(0) };
        Table { thread: AtomicU64::new(0), guards: AtomicUsize::new(0), entries: [0; SEEN].map(entry) }
    }

    fn guards(&self) -> usize {
        self.guards.load(Ordering::Relaxed)
    }

    fn used(&self) -> &[Entry] {
        &self.entries[..self.guards().min(SEEN)]
    }

    /// The line of code here that reads it. The latest, if several do.
    fn line(&self, lock: usize) -> Option<u64> {
        self.used().iter().rev().find(|entry| entry.lock() == lock).map(Entry::line)
    }

    #[inline]
    fn add(&self, lock: usize) {
        let guards = self.guards();
        if let Some(free) = self.entries.get(guards) {
            free.set(lock, current::line());
        }
        self.guards.store(guards + 1, Ordering::Relaxed);
    }

    #[inline]
    fn remove(&self, lock: usize) {
        let (used, left) = (self.used(), self.guards() - 1);
        if let Some(entry) = used.iter().rev().find(|entry| entry.lock() == lock) {
            // The last takes its place; where there are more than are known, nobody.
            match used.get(left) {
                Some(last) => entry.set(last.lock(), last.line()),
                None => entry.set(0, 0),
            }
        }
        self.guards.store(left, Ordering::Relaxed);
    }
}

#[cfg(not(any(tassel_loom, tassel_shuttle)))]
mod listed {
    use super::{Ordering, Table, current};
    use crate::{prim::Mutex, raw::PerProcess};
    use std::cell::Cell;

    #[derive(Default)]
    struct Tables {
        all: Vec<&'static Table>,
        free: Vec<&'static Table>,
    }

    static TABLES: PerProcess<Mutex<Tables>> = PerProcess::new(Mutex::default);

    thread_local! {
        // Without a destructor, so it can be had until the end of the thread, and costs little.
        static MINE: Cell<Option<&'static Table>> = const { Cell::new(None) };
        static GIVES_BACK: GivesBack = const { GivesBack };
    }

    /// At the end of a thread, has its table serve another; unless the thread has guards that outlive it.
    struct GivesBack;

    impl Drop for GivesBack {
        fn drop(&mut self) {
            if let Some(table) = MINE.get().filter(|table| table.guards() == 0) {
                MINE.set(None);
                TABLES.get().lock().free.push(table);
            }
        }
    }

    /// This thread's.
    #[inline]
    pub(super) fn with<R>(look: impl FnOnce(&Table) -> R) -> R {
        look(MINE.get().unwrap_or_else(get))
    }

    #[cold]
    fn get() -> &'static Table {
        let mut tables = TABLES.get().lock();
        let table = tables.free.pop().unwrap_or_else(|| {
            let table: &'static Table = Box::leak(Box::new(Table::new()));
            tables.all.push(table);
            table
        });
        drop(tables);
        table.thread.store(current::thread(), Ordering::Relaxed);
        MINE.set(Some(table));
        let _ = GIVES_BACK.try_with(|_| ()); // too late: it serves nobody else
        table
    }

    pub(super) fn all() -> Vec<&'static Table> {
        TABLES.get().lock().all.clone()
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

    pub(super) fn all() -> Vec<&'static Table> {
        Vec::new()
    }
}

/// The threads that read that lock, each with the line of code that does: as far as they know.
pub(crate) fn readers<L>(lock: &L) -> Vec<(u64, u64)> {
    let address = address(lock);
    let reader = |table: &'static Table| Some((table.thread.load(Ordering::Relaxed), table.line(address)?));
    listed::all().into_iter().filter_map(reader).collect()
}

fn address<L>(lock: &L) -> usize {
    ptr::from_ref(lock).addr()
}

/// This thread reads that lock, until this is dropped: there, too.
pub(crate) struct Reads<'a, L>(&'a L);

impl<'a, L> Reads<'a, L> {
    #[inline]
    pub(crate) fn new(lock: &'a L) -> Self {
        listed::with(|table| table.add(address(lock)));
        Reads(lock)
    }

    /// The line of code on this thread that reads it.
    pub(crate) fn here(lock: &'a L) -> Option<u64> {
        listed::with(|table| table.line(address(lock)))
    }
}

impl<L> Drop for Reads<'_, L> {
    #[inline]
    fn drop(&mut self) {
        listed::with(|table| table.remove(address(self.0)));
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::wait::given::soon;
    use std::thread;

    #[test]
    fn a_thread_knows_what_it_reads_in_whatever_order_it_stops() {
        let (a, b) = (0, 1);
        let [first, second, third] = [Reads::new(&a), Reads::new(&b), Reads::new(&a)];
        let reads = || (Reads::here(&a).is_some(), Reads::here(&b).is_some());
        assert_eq!(reads(), (true, true));
        drop(first);
        assert_eq!(reads(), (true, true));
        drop(second);
        assert_eq!(reads(), (true, false));
        drop(third);
        assert_eq!(reads(), (false, false));
    }

    #[test]
    fn of_more_guards_than_a_thread_knows_of_none_is_made_up() {
        let (many, late) = (0, 1);
        let mut guards: Vec<_> = (0..SEEN).map(|_| Reads::new(&many)).collect();
        let unseen = Reads::new(&late);
        assert_eq!(readers(&late), []);
        guards.pop();
        assert_eq!(readers(&many).len(), 1, "once for a thread");
        drop(unseen);
        drop(guards);
        assert_eq!((readers(&many), readers(&late)), (vec![], vec![]));
    }

    #[test]
    fn others_see_who_reads_and_a_table_serves_the_next_thread() {
        soon(|| {
            let lock = 0;
            for _ in 0..3 {
                let other = thread::scope(|s| {
                    let reads = s.spawn(|| {
                        let _reads = Reads::new(&lock);
                        let me = current::thread();
                        assert_eq!(readers(&lock), [(me, 0)]);
                        me
                    });
                    reads.join().unwrap_or_else(|_| unreachable!("it does not panic"))
                });
                assert!(other != 0 && readers(&lock).is_empty());
            }
        });
    }
}
