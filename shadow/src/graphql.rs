//! GraphQL over HTTP: which operation a request asks for, and whether it only reads.

use apollo_parser::Parser;
use apollo_parser::cst::{Definition, OperationDefinition};
use serde_json::Value;

use crate::tap::CapturedRequest;

/// Deeper or longer documents are no queries of an application.
const DEPTH_MAX: usize = 100;
const TOKENS_MAX: usize = 20_000;

/// Operations that are sent together, at the most.
const BATCH_MAX: usize = 50;

/// Longer names are generated, one for each request.
const NAME_MAX: usize = 80;

/// The names of the operations of a request that only reads, joined by `+`; empty for one without
/// a name.
///
/// # Errors
/// Why it is not mirrored.
pub(crate) fn query(request: &CapturedRequest) -> Result<String, &'static str> {
    let kind = request.headers.get(http::header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/graphql") && !kind.contains("json") {
        let text = std::str::from_utf8(&request.body).map_err(|_| "graphql-unreadable")?;
        return named(text, None);
    }
    let body: Value = serde_json::from_slice(&request.body).map_err(|_| "graphql-unreadable")?;
    let all = match &body {
        Value::Array(all) => all.as_slice(),
        one => std::slice::from_ref(one),
    };
    if all.is_empty() || all.len() > BATCH_MAX {
        return Err("graphql-unreadable");
    }
    let names = all.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let name = names.join("+");
    Ok(name.chars().take(NAME_MAX).collect())
}

fn one(asked: &Value) -> Result<String, &'static str> {
    // A hash of a text that only the server knows may stand for anything.
    let text = asked.get("query").and_then(Value::as_str);
    let text = text.ok_or("graphql-without-text")?;
    named(text, asked.get("operationName").and_then(Value::as_str))
}

/// The name of the operation that is asked for.
fn named(text: &str, wanted: Option<&str>) -> Result<String, &'static str> {
    let parser = Parser::new(text)
        .recursion_limit(DEPTH_MAX)
        .token_limit(TOKENS_MAX);
    let tree = parser.parse();
    if tree.errors().len() > 0 {
        return Err("graphql-unreadable");
    }
    let operation = |definition| match definition {
        Definition::OperationDefinition(operation) => Some(operation),
        _ => None,
    };
    let name = |operation: &OperationDefinition| {
        let name = operation.name()?;
        Some(name.text().to_string())
    };
    let mut all = tree.document().definitions().filter_map(operation);
    let found = match wanted {
        Some(wanted) => all.find(|one| name(one).as_deref() == Some(wanted)),
        None => all.next().filter(|_| all.next().is_none()),
    };
    let found = found.ok_or("graphql-unreadable")?;
    match found.operation_type() {
        // Without a word it is a query.
        None => {}
        Some(kind) if kind.query_token().is_some() => {}
        Some(kind) if kind.mutation_token().is_some() => return Err("graphql-mutation"),
        Some(_) => return Err("graphql-subscription"),
    }
    Ok(name(&found).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    fn asked(kind: &'static str, body: &str) -> Result<String, &'static str> {
        query(&CapturedRequest {
            method: Method::POST,
            target: "/graphql".parse().unwrap(),
            sides: crate::tap::SideTargets::default(),
            headers: HeaderMap::from_iter([(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static(kind),
            )]),
            body: body.to_owned().into(),
            whole: true,
        })
    }

    #[test]
    fn only_operations_that_read_are_queries() {
        let two = "query A { a } mutation B { b(x: \"} query\") }";
        for (name, text, expected) in [
            (None, "{ shop { name } }", Ok("")),
            (
                None,
                "query Shop($id: ID!) { shop(id: $id) { name } }",
                Ok("Shop"),
            ),
            (None, "fragment F on T { a } query Q { ...F }", Ok("Q")),
            (None, "mutation Buy { buy { id } }", Err("graphql-mutation")),
            (None, "subscription S { s }", Err("graphql-subscription")),
            (Some("A"), two, Ok("A")),
            (Some("B"), two, Err("graphql-mutation")),
            (Some("C"), two, Err("graphql-unreadable")),
            (None, two, Err("graphql-unreadable")),
            (None, "# query\nmutation { a }", Err("graphql-mutation")),
            (None, "query {", Err("graphql-unreadable")),
            (None, "", Err("graphql-unreadable")),
        ] {
            let body = serde_json::json!({"query": text, "operationName": name}).to_string();
            let found = asked("application/json", &body);
            assert_eq!(
                found.as_deref(),
                expected.as_ref().map(|name| *name),
                "{text}"
            );
            if name.is_none() {
                assert_eq!(asked("application/graphql", text), found, "{text}");
            }
        }
    }

    #[test]
    fn batches_read_where_all_of_them_do_and_hashes_say_nothing() {
        let all = r#"[{"query":"query A { a }"},{"query":"query B { b }"}]"#;
        assert_eq!(asked("application/json", all).as_deref(), Ok("A+B"));
        let one_writes = r#"[{"query":"query A { a }"},{"query":"mutation B { b }"}]"#;
        assert_eq!(
            asked("application/json", one_writes),
            Err("graphql-mutation")
        );
        assert_eq!(asked("application/json", "[]"), Err("graphql-unreadable"));
        let hash = r#"{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"ab"}}}"#;
        assert_eq!(asked("application/json", hash), Err("graphql-without-text"));
        let deep = format!("{}{}", "{a".repeat(500), "}".repeat(500));
        assert_eq!(
            asked("application/graphql", &deep),
            Err("graphql-unreadable")
        );
    }
}
