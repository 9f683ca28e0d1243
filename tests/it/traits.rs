//! Auto traits and sizes of public types, and what a level of nesting costs.

use crate::guarded;
use std::{fmt::Debug, hint::black_box, panic::UnwindSafe};
use tassel::{
    CancelReceiver, CancelToken, Cancelled, ErrorGroup, JobHandle, JobId, JoinError, Leaf, OnCancel, OnFailure,
    OnPanic, Reason, ReasonKind, Scope, ScopeOptions, abandon,
    pool::{BuildError, Pool, PoolBuilder, PoolStats, ShutdownError},
    region::TimedOut,
    scope,
    snapshot::{Entry, Kind, Snapshot, State},
    sync::{Barrier, Condvar, Event, LockError, Mutex, OnceCell, Permit, RwLock, Semaphore},
    testing::Deadlock,
    value,
};

fn shared<T: Send + Sync + Debug>() {}
fn send<T: Send + Debug>() {}
fn unwind_safe<T: UnwindSafe>() {}
fn error<T: std::error::Error + Send + Sync + 'static>() {}

#[test]
fn public_types_are_shared_between_threads() {
    guarded(|| {
        shared::<CancelToken>();
        shared::<Reason>();
        shared::<ReasonKind>();
        shared::<JobId>();
        shared::<ScopeOptions>();
        shared::<OnFailure>();
        shared::<OnPanic>();
        shared::<Pool>();
        shared::<PoolBuilder>();
        shared::<PoolStats>();
        shared::<Barrier>();
        shared::<Event>();
        shared::<Semaphore>();
        shared::<Mutex<u8>>();
        shared::<RwLock<u8>>();
        shared::<Condvar>();
        shared::<OnceCell<u8>>();
        shared::<LockError>();
        shared::<Permit>();
        shared::<abandon::Limit>();
        shared::<abandon::Options>();
        shared::<abandon::Stats>();
        shared::<value::Key<std::cell::RefCell<u8>>>();
        shared::<Leaf>();
        shared::<Snapshot>();
        shared::<Entry>();
        shared::<Kind>();
        shared::<State>();
        shared::<Scope<'_, '_>>();
        // `OnCancel` and receivers go to another thread; whether they are shared is not promised.
        send::<OnCancel>();
        send::<CancelReceiver>();
        // A handle is as good as the value it brings.
        send::<JobHandle<'_, u8>>();
        error::<ErrorGroup>();
        error::<Cancelled>();
        error::<TimedOut>();
        error::<JoinError>();
        error::<BuildError>();
        error::<ShutdownError>();
        error::<Deadlock>();
        unwind_safe::<Cancelled>();
        unwind_safe::<Reason>();
    });
}

#[test]
fn errors_that_travel_are_one_pointer() {
    guarded(|| {
        assert_eq!(size_of::<ErrorGroup>(), size_of::<usize>());
        assert_eq!(size_of::<Cancelled>(), size_of::<usize>());
        assert_eq!(size_of::<Result<(), ErrorGroup>>(), size_of::<usize>());
    });
}

fn addresses(left: usize, seen: &mut Vec<usize>) -> Result<(), ErrorGroup> {
    scope(|_| {
        let here = 0_u8;
        seen.push(std::ptr::from_ref(black_box(&here)).addr());
        if left > 0 {
            addresses(left - 1, seen)?;
        }
        Ok(())
    })
}

// S23:
#[test]
fn nesting_costs_little_stack() {
    guarded(|| {
        let mut seen = Vec::new();
        addresses(900, &mut seen).unwrap();
        let limit = if cfg!(debug_assertions) { 2048 } else { 1024 };
        let most = seen.windows(2).map(|pair| pair[0].abs_diff(pair[1])).max().unwrap();
        assert!(most <= limit, "a level takes {most} bytes of stack, more than {limit}");
    });
}
