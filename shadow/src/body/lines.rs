//! Documents of lines: NDJSON and event streams.

use crate::json::{Json, parse};

/// One JSON value a line; `None` where a line is none (RFC 7464 puts a record separator first).
pub(super) fn json_lines(text: &str) -> Option<Json> {
    let lines = text
        .lines()
        .map(|line| line.trim_matches(['\u{1e}', ' ', '\t']));
    let lines = lines.filter(|line| !line.is_empty());
    let all = lines.map(|line| parse(line.as_bytes()));
    Some(Json::Array(all.collect::<Option<_>>()?))
}

/// The events of a stream, as the HTML standard reads them. Comments keep a connection alive and
/// mean nothing; what comes after the last blank line is no event yet.
pub(super) fn events(text: &str) -> Json {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let mut fields: Vec<(String, Json)> = Vec::new();
    let mut data: Vec<&str> = Vec::new();
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end + 2]);
    for line in whole.split('\n') {
        if line.is_empty() {
            if !data.is_empty() {
                let joined = data.join("\n");
                let value = parse(joined.as_bytes()).unwrap_or(Json::String(joined));
                fields.push(("data".to_owned(), value));
            }
            data.clear();
            if !fields.is_empty() {
                events.push(Json::object(std::mem::take(&mut fields)));
            }
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => data.push(value),
            "event" | "id" | "retry" => {
                fields.retain(|(known, _)| known != name);
                fields.push((name.to_owned(), Json::String(value.to_owned())));
            }
            _ => {}
        }
    }
    Json::Array(events)
}
