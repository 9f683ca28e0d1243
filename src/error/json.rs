//! Failures as data for other programs, in the form that is described at [`ErrorGroup`].
//!
//! # Promises
//!
//! 1. The form is flat: nodes name each other by index, so neither who writes nor who reads it recurses.
//! 2. All leaves are in it, however many.
//! 3. An error whose `Display` or `source` panics is shown as such.
//!
//! # Does not know
//!
//! Any format: serde does.

use std::error::Error;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{
    group::{Child, ErrorGroup, SubGroup},
    leaf::{Cause, Leaf, Origin, Role},
    panic::shown,
    render::links,
};
use crate::cancel::reason::{Reason, ReasonKind};

impl Serialize for ErrorGroup {
    /// Writes the whole tree as a flat list.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut form = serializer.serialize_struct("ErrorGroup", 2)?;
        form.serialize_field("text", &self.to_string())?;
        form.serialize_field("nodes", &Node::list(self))?;
        form.end()
    }
}

impl Serialize for Leaf {
    /// Writes the leaf as a node of a group is written, but for its place in the tree.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut form = serializer.serialize_struct("Leaf", 7)?;
        leaf_fields(&mut form, self)?;
        form.end()
    }
}

/// One entry of the list.
struct Node<'g> {
    parent: Option<usize>,
    children: Vec<usize>,
    what: What<'g>,
}

#[derive(Clone, Copy)]
enum What<'g> {
    Top(&'g ErrorGroup),
    Inner(&'g SubGroup),
    Leaf(&'g Leaf),
}

impl<'g> Node<'g> {
    fn list(top: &'g ErrorGroup) -> Vec<Node<'g>> {
        let mut nodes = vec![Node { parent: None, children: Vec::new(), what: What::Top(top) }];
        let mut levels = vec![(0, top.iter())];
        while let Some((parent, level)) = levels.last_mut() {
            let Some(child) = level.next() else {
                levels.pop();
                continue;
            };
            let (at, parent) = (nodes.len(), *parent);
            nodes[parent].children.push(at);
            let what = match child {
                Child::Leaf(leaf) => What::Leaf(leaf),
                Child::Group(sub) => {
                    levels.push((at, sub.group().iter()));
                    What::Inner(sub)
                }
            };
            nodes.push(Node { parent: Some(parent), children: Vec::new(), what });
        }
        nodes
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut form = serializer.serialize_struct("Node", 8)?;
        form.serialize_field("parent", &self.parent)?;
        let (job, during, group) = match self.what {
            What::Leaf(leaf) => {
                leaf_fields(&mut form, leaf)?;
                return form.end();
            }
            What::Inner(sub) => (Some(Job(sub.origin())), sub.during_cancellation(), sub.group()),
            What::Top(group) => (None, false, group),
        };
        form.serialize_field("kind", "group")?;
        form.serialize_field("text", &group.to_string())?;
        form.serialize_field("notes", group.notes())?;
        form.serialize_field("job", &job)?;
        form.serialize_field("during_cancellation", &during)?;
        form.serialize_field("children", &self.children)?;
        form.serialize_field("scope", &Scope(group))?;
        form.end()
    }
}

fn leaf_fields<S: SerializeStruct>(form: &mut S, leaf: &Leaf) -> Result<(), S::Error> {
    let kind = match leaf.cause() {
        Cause::Error(_) | Cause::Gone => "error",
        Cause::Panic(_) => "panic",
        Cause::Stopped(_) => "stop",
        Cause::TimedOut { .. } => "timeout",
    };
    form.serialize_field("kind", kind)?;
    form.serialize_field("text", &leaf.to_string())?;
    form.serialize_field("notes", leaf.notes())?;
    form.serialize_field("job", &Job(leaf.origin()))?;
    form.serialize_field("during_cancellation", &leaf.during_cancellation())?;
    form.serialize_field("causes", &links(leaf.source()).map(shown).collect::<Vec<_>>())?;
    form.serialize_field("primary", &leaf.is_primary())
}

struct Job<'g>(&'g Origin);

impl Serialize for Job<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let origin = self.0;
        let role = match origin.role {
            Role::Job => "job",
            Role::Body => "body",
            Role::Handler => "handler",
        };
        let mut form = serializer.serialize_struct("Job", 8)?;
        form.serialize_field("id", &origin.id.get())?;
        form.serialize_field("role", role)?;
        form.serialize_field("name", &origin.name())?;
        form.serialize_field("path", &*origin.path)?;
        form.serialize_field("place", &origin.place.to_string())?;
        form.serialize_field("thread", &*origin.thread)?;
        form.serialize_field("offset", &origin.offset.as_secs_f64())?;
        form.serialize_field("took", &origin.took.as_secs_f64())?;
        form.end()
    }
}

struct Scope<'g>(&'g ErrorGroup);

impl Serialize for Scope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let group = self.0;
        let mut form = serializer.serialize_struct("Scope", 6)?;
        form.serialize_field("name", &group.name())?;
        form.serialize_field("place", &group.place().to_string())?;
        form.serialize_field("jobs", &group.info().jobs)?;
        form.serialize_field("dropped", &group.dropped())?;
        form.serialize_field("stopped", &group.stopped())?;
        form.serialize_field("reason", &group.reason().map(Why))?;
        form.end()
    }
}

struct Why<'g>(&'g Reason);

impl Serialize for Why<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = match self.0.kind() {
            ReasonKind::Explicit => "explicit",
            ReasonKind::Deadline => "deadline",
            ReasonKind::Failure => "failure",
            ReasonKind::Signal => "signal",
            ReasonKind::Closed => "closed",
            ReasonKind::Starved => "starved",
            ReasonKind::Shutdown => "shutdown",
            ReasonKind::Deadlock => "deadlock",
        };
        let mut form = serializer.serialize_struct("Reason", 3)?;
        form.serialize_field("kind", kind)?;
        form.serialize_field("text", &self.0.to_string())?;
        form.serialize_field("who", &self.0.who())?;
        form.end()
    }
}
