//! The scopes that stand below no other: where a picture of everything alive begins.
//!
//! Each thread that opens such scopes has a list of its own, entered once in the list of lists; so opening one touches
//! nothing that other threads write.
//!
//! # Does not know
//!
//! What is below a scope: the tree does.

use crate::{prim::Mutex, raw::Tally, scope::core::Core};
use slab::Slab;
use std::{
    fmt,
    sync::{Arc, LazyLock, Weak},
};

type List = Mutex<Slab<Weak<Tally<Core>>>>;

static LISTS: LazyLock<Mutex<Vec<Weak<List>>>> = LazyLock::new(Mutex::default);

fn new_list() -> Arc<List> {
    let list = Arc::new(List::default());
    let mut lists = LISTS.lock();
    lists.retain(|list| list.strong_count() > 0); // those of threads that are gone
    lists.push(Arc::downgrade(&list));
    list
}

thread_local! {
    static MINE: Arc<List> = new_list();
}

/// A root scope, for as long as it is open.
pub(crate) struct Listed {
    list: Arc<List>,
    key: usize,
}

impl Listed {
    pub(crate) fn new(core: &Arc<Tally<Core>>) -> Self {
        // In the destructor of a thread-local the thread's own is gone.
        let list = MINE.try_with(Arc::clone).unwrap_or_else(|_| new_list());
        let key = list.lock().insert(Arc::downgrade(core));
        Listed { list, key }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let gone = self.list.lock().try_remove(self.key);
        drop(gone);
    }
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listed").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Returns the root scopes that are open now, in the order of opening.
pub(crate) fn all() -> Vec<Arc<Tally<Core>>> {
    let lists: Vec<_> = LISTS.lock().iter().filter_map(Weak::upgrade).collect();
    let mut roots = Vec::new();
    for list in lists {
        let listed: Vec<_> = list.lock().iter().map(|(_, core)| Weak::clone(core)).collect();
        roots.extend(listed.iter().filter_map(Weak::upgrade));
    }
    roots.sort_by_key(|core| core.id);
    roots
}
