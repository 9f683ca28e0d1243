//! How a scope is left: what the body's end means, and the result.
//!
//! # Promises
//!
//! 1. The result follows D2 and D17, decided at the exit from the state of the nodes (S33).
//! 2. The body's failure is one like any other (S2).
//!
//! # Does not know
//!
//! Who waits for the jobs, and how.

use crate::{
    cancel::reason::{Cancelled, ReasonKind, TimedOut},
    error::{
        ErrorGroup, Failure, JobId, Leaf, Origin, Role, ScopeInfo, around_stop, drop_guarded, stop_in, thread_name,
    },
    raw::Tally,
    scope::core::{Core, keep_room},
};
use std::thread;

/// How a body ended.
#[derive(Debug)]
pub(crate) enum Body<T> {
    Value(T),
    /// With a stop that is to be judged at the exit.
    Stopped,
    /// The failure is in the log.
    Failed,
}

impl Tally<Core> {
    pub(super) fn body_origin(&self) -> Origin {
        let took = self.node.clock().now().saturating_duration_since(self.opened);
        Origin {
            id: JobId::new(self.body.id),
            name: None,
            role: Role::Body,
            place: self.label().place,
            number: 0,
            path: self.body.path(),
            offset: took,
            took,
            thread: thread_name(),
        }
    }

    /// Takes note of how the body ended; a failure of it is one like any other (S2).
    pub(crate) fn body_ended<T>(&self, result: thread::Result<anyhow::Result<T>>) -> Body<T> {
        self.node.expire();
        let failure = match result {
            Ok(Ok(value)) => return Body::Value(value),
            Ok(Err(error)) => match stop_in(&error) {
                Some(_) if self.node.is_stopping() => {
                    let notes = around_stop(&error);
                    drop_guarded(error);
                    self.lock().body_notes = notes;
                    return Body::Stopped;
                }
                _ => Failure::Error(error),
            },
            Err(payload) => Failure::Panic(payload),
        };
        let origin = self.body_origin();
        let tells = origin.tells(&failure);
        self.record(origin, failure, Vec::new(), false);
        // Also when failures cancel nobody: the body is the manager (S65).
        self.fail_siblings(&self.body.label, tells);
        Body::Failed
    }

    /// Gives the scope's result and closes its node. The count is zero.
    pub(crate) fn result<T>(&self, body: Body<T>) -> Result<T, ErrorGroup> {
        self.node.expire();
        let (outside, own) = (self.node.outside(), self.node.own());
        let reason = self.node.reason();
        self.node.close();
        let mut jobs = self.lock();
        debug_assert!(jobs.queue.is_empty(), "an entry holds the count up");
        let room = jobs.take_room();
        let mut log = std::mem::take(&mut jobs.log);
        let (cut, cut_alone) = (jobs.cut, jobs.cut_alone.take());
        let mut notes = std::mem::take(&mut jobs.body_notes);
        notes.append(&mut jobs.job_notes);
        drop(jobs);
        keep_room(room);
        let mut info = ScopeInfo {
            name: self.label().name.clone(),
            place: self.label().place,
            jobs: self.spawned(),
            reason,
            stopped: false,
        };
        if !log.is_empty() {
            if let Body::Value(value) = body {
                drop_guarded(value);
            }
            return Err(log.into_group(info));
        }
        let body = match body {
            Body::Value(value) if !cut && cut_alone.is_none() => return Ok(value),
            body => body,
        };
        // Something was stopped, and nothing failed: D17's table, unless it was a job alone.
        let alone = cut_alone.filter(|_| !cut && matches!(body, Body::Value(_)));
        let failure = match (alone.or(outside), own) {
            (Some(other), _) => Failure::Stopped(Cancelled::new(other)),
            (None, Some(own)) if own.reason.kind() == ReasonKind::Deadline => {
                Failure::TimedOut(TimedOut::new(own.reason))
            }
            (None, Some(own)) => {
                info.stopped = matches!(own.reason.kind(), ReasonKind::Explicit | ReasonKind::Signal);
                Failure::Stopped(Cancelled::new(own.reason))
            }
            (None, None) => match body {
                Body::Value(value) => return Ok(value),
                // Not reached: a stop is judged one only while the node is stopping, which is for good.
                _ => Failure::Error(anyhow::anyhow!("the scope ended without a value and without a cause")),
            },
        };
        if let Body::Value(value) = body {
            drop_guarded(value);
        }
        log.put(Leaf::new(self.body_origin(), failure, false).with_notes(notes));
        Err(log.into_group(info))
    }
}
