//! HTML as a browser reads it (WHATWG): order of attributes and of classes, white space that is not
//! shown, comments and how tags are written mean nothing.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use scraper::ElementRef;
use scraper::node::{Element as Tag, Node};

use super::markup::{DEPTH_MAX, Element, text};
use super::page::page;
use crate::json::Json;

/// Elements of a page, by CSS.
#[derive(Debug, Clone)]
pub(crate) struct Selector(scraper::Selector);

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Selector {}

impl Selector {
    /// # Errors
    /// Says why the text is no selector.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parsed = scraper::Selector::parse(text);
        parsed.map(Self).map_err(|error| error.to_string())
    }
}

/// Elements that a rule leaves out, and the pages in which it has.
pub(crate) type LeftOut<'a> = (&'a Selector, &'a AtomicU64);

/// Elements within a line; white space beside others is not shown.
const INLINE: [&str; 34] = [
    "a", "abbr", "b", "bdi", "bdo", "button", "cite", "code", "data", "dfn", "em", "i", "img",
    "input", "kbd", "label", "mark", "meter", "output", "picture", "progress", "q", "s", "samp",
    "select", "small", "span", "strong", "sub", "sup", "time", "u", "var", "wbr",
];

/// In these each space counts.
const AS_WRITTEN: [&str; 4] = ["pre", "textarea", "script", "style"];

type NodeRef<'a> = ego_tree::NodeRef<'a, Node>;

/// A page without the elements that are left out. `None` where it is nested too deeply, or
/// would cost too much to read.
pub(super) fn html(text: &str, left_out: &[LeftOut<'_>]) -> Option<Json> {
    let page = page(text)?;
    let mut gone = HashSet::new();
    for (selector, pages) in left_out {
        let before = gone.len();
        gone.extend(page.select(&selector.0).map(|element| element.id()));
        pages.fetch_add(u64::from(gone.len() > before), Relaxed);
    }
    let mut walk = Walk { gone };
    let root = page.root_element();
    let mut document = Element::default();
    document.child(root.value().name(), walk.element(&root, false, DEPTH_MAX)?);
    Some(first_only(document.finish()))
}

/// The root is one.
fn first_only(document: Json) -> Json {
    let Json::Object(members) = document else {
        return document;
    };
    let only = |value| match value {
        Json::Array(mut all) if all.len() == 1 => all.pop().unwrap_or(Json::Null),
        other => other,
    };
    Json::Object(
        members
            .into_iter()
            .map(|(name, value)| (name, only(value)))
            .collect(),
    )
}

struct Walk {
    gone: HashSet<ego_tree::NodeId>,
}

impl Walk {
    fn element(
        &mut self,
        element: &ElementRef<'_>,
        as_written: bool,
        depth: usize,
    ) -> Option<Json> {
        let depth = depth.checked_sub(1)?;
        let tag = element.value();
        let as_written = as_written || AS_WRITTEN.contains(&tag.name());
        let mut found = Element::default();
        for (name, value) in tag.attrs() {
            found.attribute(name, attribute(name, value));
        }
        let shown: Vec<NodeRef<'_>> = element
            .children()
            .filter(|child| !self.gone.contains(&child.id()))
            .filter(|child| matches!(child.value(), Node::Element(_) | Node::Text(_)))
            .collect();
        for (at, child) in shown.iter().enumerate() {
            match child.value() {
                Node::Text(words) if as_written => found.text(words),
                Node::Text(words) => {
                    let before = at.checked_sub(1).and_then(|at| shown.get(at));
                    let after = shown.get(at + 1);
                    found.text(&spaced(words, ends_line(before), ends_line(after)));
                }
                Node::Element(tag) => {
                    if let Some(inner) = ElementRef::wrap(*child) {
                        let value = self.element(&inner, as_written, depth)?;
                        found.child(tag.name(), value);
                    }
                }
                _ => {}
            }
        }
        Some(found.finish())
    }
}

/// Whether no space is shown beside this.
fn ends_line(neighbour: Option<&NodeRef<'_>>) -> bool {
    let is_inline = |tag: &Tag| INLINE.contains(&tag.name());
    match neighbour.map(|node| node.value()) {
        None => true,
        Some(Node::Element(tag)) => !is_inline(tag),
        Some(_) => false,
    }
}

/// With runs of white space as one space, and none where a line begins or ends.
fn spaced(words: &str, starts: bool, ends: bool) -> String {
    let mut out = words.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let blank = |c: Option<char>| c.is_some_and(|c| c.is_ascii_whitespace());
    if out.is_empty() {
        return match starts || ends || words.is_empty() {
            true => out,
            false => " ".to_owned(),
        };
    }
    if !starts && blank(words.chars().next()) {
        out.insert(0, ' ');
    }
    if !ends && blank(words.chars().next_back()) {
        out.push(' ');
    }
    out
}

/// Classes are a set.
fn attribute(name: &str, value: &str) -> Json {
    if name != "class" {
        return text(value);
    }
    let names: std::collections::BTreeSet<&str> = value.split_ascii_whitespace().collect();
    let all = names
        .into_iter()
        .map(|name| (name.to_owned(), Json::Bool(true)));
    Json::object(all.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_show_the_same_are_equal() {
        let (selector, pages) = (
            Selector::parse(".csrf, [data-build]").unwrap(),
            AtomicU64::new(0),
        );
        let left_out = [(&selector, &pages)];
        for (a, b, equal) in [
            (
                "<p id=a class='x y'>hi</p>",
                "<P CLASS=\"y  x\" id='a'>hi</P>",
                true,
            ),
            ("<p>a  b\n</p> <p>c</p>", "<p>a b</p><p>c</p>", true),
            ("<p>a <b>b</b></p>", "<p>a<b>b</b></p>", false),
            ("<p>a</p><!-- x -->", "<p>a</p>", true),
            ("<pre>a  b</pre>", "<pre>a b</pre>", false),
            ("<p>a</p><p>b</p>", "<p>b</p><p>a</p>", false),
            ("<p>a</p><div>b</div>", "<div>b</div><p>a</p>", false),
            ("<ul><li>a<li>b</ul>", "<ul><li>a</li><li>b</li></ul>", true),
            ("&eacute;&amp;", "é&amp;", true),
            ("<input disabled>", "<input disabled=''/>", true),
            (
                "<p>a</p><input class=csrf value=1><i data-build=7></i>",
                "<p>a</p><input class=csrf value=2>",
                true,
            ),
        ] {
            let (one, other) = (html(a, &left_out), html(b, &left_out));
            assert!(one.is_some(), "{a}");
            assert_eq!(one == other, equal, "{a} | {b}\n{one:?}\n{other:?}");
        }
        assert!(Selector::parse("p[").is_err());
        assert_eq!(pages.load(Relaxed), 2);
        assert_eq!(html(&"<div>".repeat(200), &[]), None);
    }
}
