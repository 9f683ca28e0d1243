//! The scopes that stand below no other, by their nodes: where a picture of everything alive begins.
//!
//! Each thread that opens such scopes has a list of its own, entered once in the list of lists; so opening one touches
//! nothing that other threads write. A forked child begins with no list: what is open on threads of its parent is not
//! there.
//!
//! # Does not know
//!
//! What a scope is, and what is below it.

use crate::{
    cancel::node::Node,
    prim::{Mutex, thread_local},
    raw::{PerProcess, generation},
};
use slab::Slab;
use std::{
    cell::RefCell,
    fmt,
    sync::{Arc, Weak},
};

type List = Mutex<Slab<(u64, Weak<Node>)>>;

static LISTS: PerProcess<Mutex<Vec<Weak<List>>>> = PerProcess::new(Mutex::default);

fn new_list() -> Arc<List> {
    let list = Arc::new(List::default());
    let mut lists = LISTS.get().lock();
    lists.retain(|list| list.strong_count() > 0); // those of threads that are gone
    lists.push(Arc::downgrade(&list));
    list
}

thread_local! {
    /// This thread's list, and of which process it is.
    static MINE: RefCell<(u64, Arc<List>)> = RefCell::new((generation(), new_list()));
}

fn my_list(mine: &RefCell<(u64, Arc<List>)>) -> Arc<List> {
    let mut mine = mine.borrow_mut();
    if mine.0 != generation() {
        *mine = (generation(), new_list());
    }
    Arc::clone(&mine.1)
}

/// A root scope, for as long as it is open.
pub(crate) struct Listed {
    list: Arc<List>,
    key: usize,
}

impl Listed {
    /// Lists a scope that was opened as the `nth` of the process.
    pub(crate) fn new(nth: u64, node: &Arc<Node>) -> Self {
        // In the destructor of a thread-local the thread's own is gone.
        let list = MINE.try_with(my_list).unwrap_or_else(|_| new_list());
        let key = list.lock().insert((nth, Arc::downgrade(node)));
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
pub(crate) fn all() -> Vec<Arc<Node>> {
    let lists: Vec<_> = LISTS.get().lock().iter().filter_map(Weak::upgrade).collect();
    let mut roots = Vec::new();
    for list in lists {
        let listed: Vec<_> = list.lock().iter().map(|(_, root)| root.clone()).collect();
        roots.extend(listed.iter().filter_map(|(nth, root)| Some((*nth, root.upgrade()?))));
    }
    roots.sort_by_key(|(nth, _)| *nth);
    roots.into_iter().map(|(_, root)| root).collect()
}
