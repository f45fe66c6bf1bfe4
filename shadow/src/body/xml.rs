//! XML by what it says: order of attributes, prefixes of names, white space between elements,
//! comments and CDATA mean nothing. Entities of a document's own are not followed.

use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;

use super::COPIES_MAX;
use super::markup::{DEPTH_MAX, Element, text};
use crate::json::Json;

/// Of one element. Each is looked for among those before.
const ATTRIBUTES_MAX: usize = 500;

/// Prefixes of namespaces that hold at one place. Each name is looked for among them.
const PREFIXES_MAX: usize = 500;

/// An element that is not closed yet.
struct Open {
    name: String,
    element: Element,
    /// Text since the last child.
    words: String,
    /// Namespaces that it declares.
    prefixes: usize,
}

impl Open {
    /// Between elements white space means nothing.
    fn flush(&mut self) {
        let words = std::mem::take(&mut self.words);
        if !words.trim().is_empty() {
            self.element.text(&words);
        }
    }
}

/// `None` for what is not well-formed, is nested too deeply, has entities of its own, or would cost
/// too much to read.
pub(super) fn xml(document: &str) -> Option<Json> {
    let mut reader = NsReader::from_str(document);
    let mut room = document.len().saturating_mul(COPIES_MAX);
    let mut prefixes = 0;
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                if open.len() >= DEPTH_MAX || root.is_some() {
                    return None;
                }
                let opened = opened(&reader, &start, &mut room)?;
                prefixes += opened.prefixes;
                if prefixes > PREFIXES_MAX {
                    return None;
                }
                open.push(opened);
            }
            Event::Empty(start) => {
                let closed = opened(&reader, &start, &mut room)?;
                close(closed, &mut open, &mut root)?;
            }
            Event::End(_) => {
                let closed = open.pop()?;
                prefixes -= closed.prefixes;
                close(closed, &mut open, &mut root)?;
            }
            Event::Text(words) => match open.last_mut() {
                Some(open) => open.words.push_str(&words.xml_content().ok()?),
                None => words.iter().all(u8::is_ascii_whitespace).then_some(())?,
            },
            Event::CData(words) => open.last_mut()?.words.push_str(&words.xml_content().ok()?),
            Event::GeneralRef(name) => {
                let words = &mut open.last_mut()?.words;
                match name.resolve_char_ref().ok()? {
                    Some(c) => words.push(c),
                    None => {
                        let name = name.decode().ok()?;
                        words.push_str(quick_xml::escape::resolve_xml_entity(&name)?);
                    }
                }
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            Event::Eof => break,
        }
    }
    match open.is_empty() {
        true => root,
        false => None,
    }
}

/// Into the element around it, or as the root.
fn close(mut closed: Open, open: &mut [Open], root: &mut Option<Json>) -> Option<()> {
    closed.flush();
    let value = closed.element.finish();
    match open.last_mut() {
        Some(around) => {
            around.flush();
            around.element.child(&closed.name, value);
        }
        None if root.is_some() => return None,
        None => *root = Some(Json::object(vec![(closed.name, value)])),
    }
    Some(())
}

/// `room` is what may be copied of names of namespaces: they stand once in a document, and at each
/// element in its tree.
fn opened(reader: &NsReader<&[u8]>, start: &BytesStart<'_>, room: &mut usize) -> Option<Open> {
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let mut copied = |space: &[u8]| {
        *room = room.checked_sub(space.len())?;
        utf8(space)
    };
    let mut prefixes = 0;
    let mut element = Element::default();
    let (space, name) = reader.resolve_element(start.name());
    match space {
        ResolveResult::Bound(space) => element.member("#ns", text(&copied(space.as_ref())?)),
        ResolveResult::Unbound => {}
        ResolveResult::Unknown(_) => return None,
    }
    for (at, attribute) in start.attributes().enumerate() {
        let attribute = attribute.ok().filter(|_| at < ATTRIBUTES_MAX)?;
        if attribute.key.as_namespace_binding().is_some() {
            prefixes += 1;
            continue;
        }
        let (space, name) = reader.resolve_attribute(attribute.key);
        let name = utf8(name.as_ref())?;
        let name = match space {
            ResolveResult::Bound(space) => format!("{{{}}}{name}", copied(space.as_ref())?),
            ResolveResult::Unbound => name,
            ResolveResult::Unknown(_) => return None,
        };
        let value = attribute.unescape_value().ok()?;
        element.attribute(&name, text(&value));
    }
    Some(Open {
        name: utf8(name.as_ref())?,
        element,
        words: String::new(),
        prefixes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_that_say_the_same_are_equal() {
        for (a, b, equal) in [
            (
                "<a x='1' y='2'/>",
                "<?xml version='1.0'?><a y=\"2\" x=\"1\"></a>",
                true,
            ),
            ("<a>\n <b>1</b>\n</a>", "<a><b>1</b></a>", true),
            ("<a> 1</a>", "<a>1</a>", false),
            ("<a>&lt;&#65;<![CDATA[<]]></a>", "<a>&lt;A&lt;</a>", true),
            ("<p:a xmlns:p='u'/>", "<a xmlns='u'/>", true),
            ("<p:a xmlns:p='u'/>", "<a xmlns='v'/>", false),
            ("<a><b/><c/></a>", "<a><c/><b/></a>", false),
            ("<a><!-- x --><b/></a>", "<a><b/></a>", true),
        ] {
            let (one, other) = (xml(a), xml(b));
            assert!(
                one.is_some() && other.is_some(),
                "{a} {one:?} | {b} {other:?}"
            );
            assert_eq!(one == other, equal, "{a} | {b}\n{one:?}\n{other:?}");
        }
    }

    #[test]
    fn what_is_no_xml_or_brings_entities_is_not_read() {
        let deep = format!("{}{}", "<a>".repeat(200), "</a>".repeat(200));
        for bad in [
            "",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>x",
            "<a x='1' x='2'/>",
            "<p:a/>",
            "<!DOCTYPE a [<!ENTITY e 'eee'>]><a>&e;</a>",
            &deep,
        ] {
            assert_eq!(xml(bad), None, "{bad}");
        }
    }
}
