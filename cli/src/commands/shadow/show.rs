//! `outgrow shadow show`: one stored pair, what differs first, then both answers, then how to ask again.

use serde_json::Value;

use crate::output::{generic, indent, table};

/// A pair as people read it. What this does not know, as of a newer server, is shown as it is.
pub(super) fn shown(pair: &Value) -> String {
    let text = |name: &str| pair[name].as_str().unwrap_or("-");
    let (Some(differences), Some(_)) = (pair["differences"].as_array(), pair["request"].as_str())
    else {
        return generic(pair);
    };
    let mut out = format!(
        "{}  {}\nroute {}, the client had the answer of {}\n\n",
        text("id"),
        text("request"),
        text("route"),
        text("primary")
    );
    let rows = differences.iter().map(difference).collect();
    out.push_str(&table(&["WHERE", "KIND", "LEGACY", "EXTRACTED"], rows));
    for (name, title) in [("noisy", "excused as noise"), ("hidden", "hidden by rules")] {
        let all = pair[name].as_array().map_or(&[][..], Vec::as_slice);
        if !all.is_empty() {
            let all: Vec<&str> = all.iter().filter_map(place).collect();
            out.push_str(&format!("{title}: {}\n", all.join(", ")));
        }
    }
    for side in ["legacy", "extracted"] {
        out.push_str(&answer(pair, side));
    }
    out.push_str(&list("told apart by", &pair["features"], feature));
    out.push_str(&list("ask again", &pair["curl"], |line| {
        line.as_str().map(str::to_owned)
    }));
    out
}

fn difference(one: &Value) -> Vec<String> {
    ["at", "kind", "legacy", "extracted"]
        .map(|name| one[name].as_str().unwrap_or("-").to_owned())
        .into()
}

fn place(one: &Value) -> Option<&str> {
    one.as_str().or_else(|| one["at"].as_str())
}

/// The head as far as it is compared, and the body.
fn answer(pair: &Value, side: &str) -> String {
    let of = |what: &str| &pair[format!("{side}_{what}")];
    let status = of("status").as_u64();
    let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let mut out = format!("\n--- {side} {status}\n");
    for field in of("head")["headers"].as_array().into_iter().flatten() {
        let part = |n: usize| field[n].as_str().unwrap_or_default();
        out.push_str(&format!("{}: {}\n", part(0), part(1)));
    }
    let body = of("body").as_str().unwrap_or_default();
    if !body.is_empty() {
        out.push_str(&format!("\n{}\n", body.trim_end_matches('\n')));
    }
    out
}

fn feature(one: &Value) -> Option<String> {
    let part = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
    let words = [part("part"), part("name"), part("value")];
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    Some(words.join(" "))
}

fn list(title: &str, all: &Value, line: impl Fn(&Value) -> Option<String>) -> String {
    let all = all.as_array().map_or(&[][..], Vec::as_slice);
    let lines: String = all.iter().filter_map(line).map(|one| one + "\n").collect();
    match lines.is_empty() {
        true => lines,
        false => format!("\n{title}:\n{}", indent(&lines)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_comes_first_and_how_to_ask_again_last() {
        let pair = json!({
            "id": "shop:p1", "request": "GET /api/c/7", "route": "GET /api/c/{id}", "primary": "legacy",
            "differences": [{"at": "$.a", "path": "$.a", "kind": "value", "legacy": "1", "extracted": "2"}],
            "noisy": ["$.now"], "hidden": [{"at": "$.b", "rule": "$.b"}],
            "legacy_status": 200, "legacy_body": "{\"a\": 1}\n",
            "legacy_head": {"headers": [["etag", "\"x\""]]},
            "extracted_status": null, "extracted_body": "", "extracted_head": null,
            "features": [{"part": "path", "name": "id", "value": "7"}, {"part": "method", "name": "", "value": "GET"}],
            "curl": ["curl 'http://a/'"],
        });
        let expected = "\
shop:p1  GET /api/c/7
route GET /api/c/{id}, the client had the answer of legacy

WHERE  KIND   LEGACY  EXTRACTED
$.a    value  1       2
excused as noise: $.now
hidden by rules: $.b

--- legacy 200
etag: \"x\"

{\"a\": 1}

--- extracted no answer

told apart by:
  path id 7
  method GET

ask again:
  curl 'http://a/'
";
        assert_eq!(shown(&pair), expected);
        let other = json!({"error": "gone"});
        assert_eq!(shown(&other), generic(&other));
    }
}
