//! The payload paths of a filter, as a tree.

use std::{borrow::Cow, sync::Arc};

use super::super::operand::DataPath;

/// What is at a path.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::filter) enum Found<'a> {
    /// This JSON.
    At(Cow<'a, [u8]>),
    /// The object that could have it has not.
    Missing,
    /// There is no object that could have it.
    NoParent,
}

/// Paths that share what they have in common. Node 0 is the root.
#[derive(Clone, Debug)]
pub(in crate::filter) struct Paths {
    nodes: Vec<Node>,
    slots: usize,
}

#[derive(Clone, Debug, Default)]
struct Node {
    slot: Option<usize>,
    children: Vec<(Arc<str>, usize)>,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            slots: 0,
        }
    }
}

impl Paths {
    pub(super) const ROOT: usize = 0;

    /// Adds a path, and gives it its slot.
    pub(in crate::filter) fn add(&mut self, path: &mut DataPath) {
        let mut at = Self::ROOT;
        for field in path.fields() {
            at = match self.child(at, field) {
                Some(child) => child,
                None => {
                    let new = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[at].children.push((field.clone(), new));
                    new
                }
            };
        }
        let slots = &mut self.slots;
        path.slot = *self.nodes[at].slot.get_or_insert_with(|| {
            *slots += 1;
            *slots - 1
        });
    }

    pub(super) fn child(&self, node: usize, field: &str) -> Option<usize> {
        let children = &self.nodes[node].children;
        let found = children.iter().find(|(name, _)| **name == *field);
        found.map(|(_, child)| *child)
    }

    pub(super) fn has_children(&self, node: usize) -> bool {
        !self.nodes[node].children.is_empty()
    }

    pub(super) fn slot(&self, node: usize) -> Option<usize> {
        self.nodes[node].slot
    }

    pub(super) fn none_found<'a>(&self) -> Vec<Found<'a>> {
        vec![Found::NoParent; self.slots]
    }

    /// Forgets what was found below a node, which has a new value: an object or
    /// none.
    pub(super) fn enter(&self, node: usize, object: bool, found: &mut [Found<'_>]) {
        for (_, child) in &self.nodes[node].children {
            if let Some(slot) = self.slot(*child) {
                found[slot] = if object {
                    Found::Missing
                } else {
                    Found::NoParent
                };
            }
            self.enter(*child, false, found);
        }
    }

    /// Finds the paths in a document.
    pub(super) fn find_in<'a>(&self, document: &serde_json::Value) -> Vec<Found<'a>> {
        let mut found = self.none_found();
        self.find_below(Self::ROOT, document, &mut found);
        found
    }

    fn find_below(&self, node: usize, value: &serde_json::Value, found: &mut [Found<'_>]) {
        if let Some(slot) = self.slot(node) {
            // A value that was read can be written.
            found[slot] = Found::At(Cow::Owned(serde_json::to_vec(value).unwrap_or_default()));
        }
        let object = value.as_object();
        self.enter(node, object.is_some(), found);
        for (name, child) in &self.nodes[node].children {
            if let Some(value) = object.and_then(|object| object.get(&**name)) {
                self.find_below(*child, value, found);
            }
        }
    }
}
