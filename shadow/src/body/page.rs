//! Pages read with a bound. Parsers of HTML do what the standard says, and that is quadratic for
//! some pages: elements that are never closed, formatting that is opened anew in each paragraph,
//! tags with thousands of attributes. A page that goes too far is given up while it is read.

use std::borrow::Cow;
use std::cell::{Cell, Ref};

use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::{StrTendril, TendrilSink};
use html5ever::{Attribute, ParseOpts, QualName, parse_document};
use scraper::{Html, HtmlTreeSink};

use super::markup::DEPTH_MAX;

type Id = <HtmlTreeSink as TreeSink>::Handle;

/// Elements within each other while a page is read; those of a page that is compared are fewer.
const OPEN_MAX: usize = 2 * DEPTH_MAX;

/// Pairs of attributes of one tag, each of which the parser compares: of a short page, and more for
/// each byte.
const PAIRS_MIN: usize = 16_000_000;
const PAIRS_BYTE: usize = 20;

/// Bytes between two looks at what has become of them.
const STEP: usize = 512;

/// Elements of a short page.
const ELEMENTS_MIN: usize = 1_000;

/// `None` for a page that is nested too deeply, has more elements than its tags, or a tag with too
/// many attributes.
pub(super) fn page(text: &str) -> Option<Html> {
    let sink = Sink {
        inner: HtmlTreeSink::new(Html::new_document()),
        elements: Cell::new(0),
        nodes: Cell::new(0),
        deepest: Cell::new(0),
    };
    let elements_max = text.len() / 2 + ELEMENTS_MIN;
    let pairs_max = text.len() * PAIRS_BYTE + PAIRS_MIN;
    let mut parser = parse_document(sink, ParseOpts::default());
    let (mut rest, mut parts, mut nodes) = (text, 0_usize, 0);
    let mut pairs = 0;
    while !rest.is_empty() {
        let (step, after) = rest.split_at(rest.floor_char_boundary(STEP));
        parser.process(StrTendril::from(step));
        rest = after;
        let sink = &parser.tokenizer.sink.sink;
        if sink.deepest.get() > OPEN_MAX || sink.elements.get() > elements_max {
            return None;
        }
        // Without anything new a tag goes on, or a comment. What its attributes are is not known;
        // none is without one of these signs.
        let may_part = |byte: &&u8| byte.is_ascii_whitespace() || b"/\"'".contains(byte);
        let more = step.as_bytes().iter().filter(may_part).count();
        if nodes == sink.nodes.get() {
            pairs += more * (parts + more / 2);
            parts += more;
        } else {
            (nodes, parts) = (sink.nodes.get(), more);
        }
        if pairs > pairs_max {
            return None;
        }
    }
    Some(parser.finish())
}

/// Builds the tree, and counts.
struct Sink {
    inner: HtmlTreeSink,
    elements: Cell<usize>,
    /// Of all kinds, texts that become part of another one included.
    nodes: Cell<usize>,
    deepest: Cell<usize>,
}

impl Sink {
    fn place(&self, child: NodeOrText<Id>, put: impl FnOnce(NodeOrText<Id>)) {
        self.nodes.set(self.nodes.get() + 1);
        let id = match &child {
            NodeOrText::AppendNode(id) => Some(*id),
            NodeOrText::AppendText(_) => None,
        };
        put(child);
        let page = self.inner.0.borrow();
        if let Some(node) = id.and_then(|id| page.tree.get(id)) {
            let depth = node.ancestors().take(OPEN_MAX + 1).count();
            self.deepest.set(self.deepest.get().max(depth));
        }
    }
}

impl TreeSink for Sink {
    type Handle = Id;
    type Output = Html;
    type ElemName<'a> = Ref<'a, QualName>;

    fn finish(self) -> Html {
        self.inner.finish()
    }

    fn parse_error(&self, what: Cow<'static, str>) {
        self.inner.parse_error(what);
    }

    fn get_document(&self) -> Id {
        self.inner.get_document()
    }

    fn elem_name<'a>(&'a self, target: &'a Id) -> Ref<'a, QualName> {
        self.inner.elem_name(target)
    }

    fn create_element(&self, name: QualName, with: Vec<Attribute>, flags: ElementFlags) -> Id {
        self.elements.set(self.elements.get() + 1);
        self.inner.create_element(name, with, flags)
    }

    fn create_comment(&self, text: StrTendril) -> Id {
        self.inner.create_comment(text)
    }

    fn create_pi(&self, target: StrTendril, data: StrTendril) -> Id {
        self.inner.create_pi(target, data)
    }

    fn append(&self, parent: &Id, child: NodeOrText<Id>) {
        self.place(child, |child| self.inner.append(parent, child));
    }

    fn append_based_on_parent_node(&self, element: &Id, before: &Id, child: NodeOrText<Id>) {
        self.place(child, |child| {
            self.inner
                .append_based_on_parent_node(element, before, child);
        });
    }

    fn append_before_sibling(&self, sibling: &Id, child: NodeOrText<Id>) {
        self.place(child, |child| {
            self.inner.append_before_sibling(sibling, child);
        });
    }

    fn append_doctype_to_document(&self, name: StrTendril, public: StrTendril, system: StrTendril) {
        self.inner.append_doctype_to_document(name, public, system);
    }

    fn get_template_contents(&self, target: &Id) -> Id {
        self.inner.get_template_contents(target)
    }

    fn same_node(&self, x: &Id, y: &Id) -> bool {
        self.inner.same_node(x, y)
    }

    fn set_quirks_mode(&self, mode: QuirksMode) {
        self.inner.set_quirks_mode(mode);
    }

    fn add_attrs_if_missing(&self, target: &Id, attributes: Vec<Attribute>) {
        self.inner.add_attrs_if_missing(target, attributes);
    }

    fn remove_from_parent(&self, target: &Id) {
        self.inner.remove_from_parent(target);
    }

    fn reparent_children(&self, node: &Id, new_parent: &Id) {
        self.inner.reparent_children(node, new_parent);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECES: [&str; 16] = [
        "<p>",
        "</p>",
        "<b a='1'>",
        "</b>",
        "x",
        "é",
        " \r\n",
        "&amp",
        ";",
        "&eacute;",
        "<!--",
        "-->",
        "<script>",
        "</script>",
        "<td>",
        "<table>",
    ];

    proptest! {
        #[test]
        fn pages_are_what_they_are_when_read_at_once(pieces in prop::collection::vec(0..PIECES.len(), 0..600)) {
            let text: String = pieces.into_iter().map(|at| PIECES[at]).collect();
            if let Some(page) = page(&text) {
                prop_assert_eq!(page.html(), Html::parse_document(&text).html());
            }
        }
    }
}
