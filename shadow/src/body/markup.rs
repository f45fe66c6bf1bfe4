//! Elements as a tree that rules reach into: `$.html.body.ul[0].li[2].a[0]['@href']`.
//!
//! Attributes are members whose name begins with `@`; children are grouped by their names, so that
//! a path says what it means and not which of all children it is. `#order` keeps the order between
//! groups, so nothing is lost.

use crate::json::Json;

/// Deeper documents are compared as text; no recursion goes further.
pub(super) const DEPTH_MAX: usize = 100;

/// An element while it is read.
#[derive(Debug, Default)]
pub(super) struct Element {
    attributes: Vec<(String, Json)>,
    children: Vec<(String, Json)>,
}

pub(super) fn text(text: &str) -> Json {
    Json::String(text.to_owned())
}

impl Element {
    pub(super) fn attribute(&mut self, name: &str, value: Json) {
        self.attributes.push((format!("@{name}"), value));
    }

    /// A member that is neither attribute nor child.
    pub(super) fn member(&mut self, name: &str, value: Json) {
        self.attributes.push((name.to_owned(), value));
    }

    pub(super) fn text(&mut self, found: &str) {
        if !found.is_empty() {
            self.children.push(("#text".to_owned(), text(found)));
        }
    }

    pub(super) fn child(&mut self, name: &str, child: Json) {
        self.children.push((name.to_owned(), child));
    }

    /// An element with a single text only is that text.
    pub(super) fn finish(self) -> Json {
        let Self {
            attributes: mut members,
            mut children,
        } = self;
        if members.is_empty()
            && let [(name, Json::String(_))] = children.as_slice()
            && name == "#text"
            && let Some((_, only)) = children.pop()
        {
            return only;
        }
        let names: Vec<String> = children.iter().map(|(name, _)| name.clone()).collect();
        if names.iter().any(|name| *name != names[0]) {
            members.push(("#order".to_owned(), text(&names.join(" "))));
        }
        let mut groups: Vec<(String, Vec<Json>)> = Vec::new();
        // Sorted by name, stable within one.
        children.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, child) in children {
            match groups.last_mut() {
                Some((known, group)) if *known == name => group.push(child),
                _ => groups.push((name, vec![child])),
            }
        }
        let groups = groups
            .into_iter()
            .map(|(name, all)| (name, Json::Array(all)));
        members.extend(groups);
        Json::object(members)
    }
}
