//! How servers may read the path of a request: routes, and with them filters and writers, go by what a
//! path means, and it goes on as it was written.
//!
//! `/%61pi` is `/api` to everybody (RFC 3986 section 6.2.2). Beyond that servers differ: some resolve
//! `..`, before or behind decoding, some merge slashes, take `;x` off, decode `%2F`, or decode twice. So an
//! odd path has several readings, and all are looked at. Most paths are not odd, and cost one look.

/// A longer one that has several readings is refused: to read it in every way is work.
const ODD_MAX: usize = 8 * 1_024;

/// Nobody honest is odd in more ways at once, and each doubles the readings or worse.
const WAYS_MAX: usize = 3;

/// How often escapes are decoded. What is escaped more often is too odd.
const DEPTH: usize = 3;

/// Whether there is one way to read it. Without a branch in the loop: every request is looked at.
pub(crate) fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let odd =
        |byte: u8| (byte == b'%') | (byte == b';') | (byte == b'\\') | !byte.is_ascii_graphic();
    let alone = bytes.iter().fold(false, |seen, byte| seen | odd(*byte));
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    let pair = |(one, two): (&u8, &u8)| (*one == b'/') & ((*two == b'/') | (*two == b'.'));
    !pairs.fold(alone, |seen, both| seen | pair(both))
}

/// When a server does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Never,
    First,
    Last,
    /// Last, and no slash is left at the end.
    Bare,
}

/// A way to read a path.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Escapes are decoded again and again.
    deep: bool,
    /// Also of what parts a path: `/`, `\` and `;`.
    parts: bool,
    /// `\` is a slash.
    backslash: bool,
    /// `;x` is taken off segments.
    parameters: bool,
    /// `//` is one slash.
    merges: When,
    /// `.` and `..` are resolved.
    dots: When,
}

const EXACT: Way = Way {
    deep: false,
    parts: false,
    backslash: false,
    parameters: false,
    merges: When::Never,
    dots: When::Never,
};

/// One thing that a server does otherwise.
type Change = fn(&mut Way);

/// In the spelling that all have who mean the same by it: escapes where they are needed, in upper case.
pub(crate) fn spelled(path: &str) -> String {
    read(path, EXACT)
}

/// All readings of a path, the exact one first; `None` where it is too odd to look at them all.
pub(crate) fn all(path: &str) -> Option<Vec<String>> {
    let loose = |deep, parts| Way {
        deep,
        parts,
        ..EXACT
    };
    let most = read(path, loose(true, true));
    if decoded(&most, loose(true, true)) != most {
        return None;
    }
    let open = read(
        path,
        Way {
            backslash: true,
            parameters: true,
            ..loose(true, true)
        },
    );
    let dot = |segment: &str| matches!(segment, "." | "..");
    let odd: [(bool, &[Change]); 6] = [
        (
            most != read(path, loose(false, true)),
            &[|way| way.deep = true],
        ),
        (
            most != read(path, loose(true, false)),
            &[|way| way.parts = true],
        ),
        (most.contains('\\'), &[|way| way.backslash = true]),
        (most.contains(';'), &[|way| way.parameters = true]),
        (
            open.contains("//"),
            &[
                |way| way.merges = When::First,
                |way| way.merges = When::Last,
            ],
        ),
        (
            open.split('/').any(dot),
            &[
                |way| way.dots = When::First,
                |way| way.dots = When::Last,
                |way| way.dots = When::Bare,
            ],
        ),
    ];
    let several = odd.iter().filter(|(is_so, _)| *is_so).count();
    if several > WAYS_MAX || several > 0 && path.len() > ODD_MAX {
        return None;
    }
    let mut ways = vec![EXACT];
    for (_, changes) in odd.iter().filter(|(is_so, _)| *is_so) {
        for at in 0..ways.len() {
            for change in *changes {
                let mut way = ways[at];
                change(&mut way);
                ways.push(way);
            }
        }
    }
    let mut found: Vec<String> = Vec::new();
    for way in ways {
        let reading = read(path, way);
        if !found.contains(&reading) {
            found.push(reading);
        }
    }
    Some(found)
}

fn read(path: &str, way: Way) -> String {
    let mut text = match way.dots {
        When::First => resolved(path, false),
        When::Never | When::Last | When::Bare => path.to_owned(),
    };
    for _ in 0..if way.deep { DEPTH } else { 1 } {
        text = decoded(&text, way);
    }
    if way.backslash {
        text = text.replace('\\', "/");
    }
    if way.parameters {
        let bare = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
        text = text.split('/').map(bare).collect::<Vec<_>>().join("/");
    }
    if way.merges == When::First {
        text = merged(&text);
    }
    if matches!(way.dots, When::Last | When::Bare) {
        text = resolved(&text, way.dots == When::Bare);
    }
    if way.merges == When::Last {
        text = merged(&text);
    }
    text
}

/// Escapes decoded as far as the way wants that; those that stay, and bytes that need them, in one form.
fn decoded(text: &str, way: Way) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = text.as_bytes();
    let digit = |at: usize| {
        let digit = bytes
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16));
        digit.and_then(|digit| u8::try_from(digit).ok())
    };
    let mut made = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = digit(at + 1).zip(digit(at + 2)).filter(|_| byte == b'%');
        let (meant, length) = match escape {
            Some((high, low)) => (high << 4 | low, 3),
            None => (byte, 1),
        };
        at += length;
        let stays = match meant {
            b'/' | b'\\' | b';' => escape.is_some() && !way.parts,
            b'%' => escape.is_some() && !way.deep,
            other => !other.is_ascii_graphic(),
        };
        if stays {
            made.push('%');
            for half in [meant >> 4, meant & 15] {
                made.push(char::from(DIGITS[usize::from(half)]));
            }
        } else {
            made.push(char::from(meant));
        }
    }
    made
}

fn merged(path: &str) -> String {
    let mut made = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !made.ends_with('/') {
            made.push(letter);
        }
    }
    made
}

/// Without `.` and `..` (RFC 3986 section 5.2.4).
fn resolved(path: &str, bare: bool) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends = false;
    for segment in path.split('/').skip(1) {
        ends = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    if ends && !bare {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_path_has_one_reading() {
        for plain in ["/", "/api/items", "/a.b/c-d_e~f!$&'()*+,=:@/", "*"] {
            assert!(is_plain(plain), "{plain}");
        }
        for odd in [
            "/%61",
            "/a;b",
            "/a\\b",
            "//a",
            "/a//b",
            "/./a",
            "/a/..",
            "/.well-known/x",
            "/\u{e9}",
        ] {
            assert!(!is_plain(odd), "{odd}");
        }
    }

    #[test]
    fn the_same_has_one_spelling() {
        for (path, same) in [
            ("/%61pi", "/api"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%3Ab", "/a:b"),
            ("/a%20b", "/a%20b"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/a%2561", "/a%2561"),
            ("/a%3bb%5c", "/a%3Bb%5C"),
        ] {
            assert_eq!(spelled(path), same, "{path}");
        }
    }

    #[test]
    fn an_odd_path_is_read_as_servers_do() {
        for (path, reading) in [
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/..%2fadmin", "/admin"),
            ("/public/..;x/admin", "/admin"),
            ("/public\\..\\admin", "/admin"),
            ("/public//..%2Fadmin", "/admin"),
            ("/public//..%2Fadmin", "/public/admin"),
            ("//admin", "/admin"),
            ("/admin;x=1/y", "/admin/y"),
            ("/%2561dmin", "/admin"),
            ("/%252e%252e/admin", "/admin"),
            ("/admin/x/..", "/admin"),
            ("/admin/x/..", "/admin/"),
            ("/x/../admin/%2e%2e/y", "/admin/../y"),
        ] {
            let found = all(path).unwrap();
            assert_eq!(found[0], spelled(path), "{path}");
            assert!(found.iter().any(|one| one == reading), "{path}: {found:?}");
        }
        assert_eq!(all("/caf%c3%a9/%20x").unwrap().len(), 1);
        assert_eq!(all("/.well-known/x").unwrap().len(), 1);
        assert_eq!(all("/a;b/..//c%2Fd"), None, "in too many ways");
        assert_eq!(all("/%25252561"), None, "escaped four times");
        let long = "x".repeat(ODD_MAX);
        assert_eq!(all(&format!("/%61{long}")).unwrap().len(), 1);
        assert_eq!(all(&format!("//{long}")), None);
    }
}
