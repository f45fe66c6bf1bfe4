//! HAR 1.2, which browsers and many tools write: one browser is one session.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Uri;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{
    Given, REQUESTS_MAX, Recorded, Recording, RecordingError, SideTargets, decoded, fields, method,
    target,
};

/// How far a text is looked at to tell what it is.
const LOOK: usize = 4_096;

#[derive(Deserialize)]
struct Har {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    version: Option<String>,
    #[serde(default)]
    creator: Creator,
    entries: Vec<serde_json::Value>,
}

#[derive(Default, Deserialize)]
struct Creator {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    started_date_time: String,
    request: Request,
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<Named>,
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostData {
    #[serde(default)]
    mime_type: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    params: Vec<Param>,
    encoding: Option<String>,
}

#[derive(Deserialize)]
struct Param {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    status: i64,
    #[serde(default)]
    headers: Vec<Named>,
    content: Option<Content>,
}

#[derive(Deserialize)]
struct Content {
    text: Option<String>,
    encoding: Option<String>,
}

/// Whether somebody meant this to be a HAR file.
pub(super) fn looks_like(text: &[u8]) -> bool {
    let start = &text[..text.len().min(LOOK)];
    let start = String::from_utf8_lossy(start);
    start.trim_start().starts_with('{') && start.contains("\"log\"")
}

/// Reads the requests to one origin.
pub(super) fn import(text: &[u8], origin: Option<&str>) -> Result<Recording, RecordingError> {
    let har: Har =
        serde_json::from_slice(text).map_err(|error| RecordingError::Har(error.to_string()))?;
    let version = har.log.version.as_deref().unwrap_or("1.1");
    if !version.starts_with("1.") {
        let text = format!("its version is {version}");
        return Err(RecordingError::Har(text));
    }
    if har.log.entries.len() > REQUESTS_MAX {
        return Err(RecordingError::TooLarge("more than a million requests"));
    }
    let mut wanted = origin.map(|origin| origin.trim_end_matches('/').to_ascii_lowercase());
    let mut elsewhere: BTreeMap<String, usize> = BTreeMap::new();
    let mut found: Vec<(OffsetDateTime, Recorded)> = Vec::new();
    for (index, entry) in har.log.entries.into_iter().enumerate() {
        let wrong = |what: String| RecordingError::Entry {
            entry: index + 1,
            what,
        };
        let entry: Entry =
            serde_json::from_value(entry).map_err(|error| wrong(error.to_string()))?;
        let Some((its, path)) = split(&entry.request.url).map_err(wrong)? else {
            *elsewhere.entry("other schemes".to_owned()).or_default() += 1;
            continue;
        };
        if *wanted.get_or_insert_with(|| its.clone()) != its {
            *elsewhere.entry(its).or_default() += 1;
            continue;
        }
        let at = OffsetDateTime::parse(&entry.started_date_time, &Rfc3339)
            .map_err(|_| wrong(format!("`{}` is no moment", entry.started_date_time)))?;
        found.push((at, recorded(entry, &path).map_err(wrong)?));
    }
    found.sort_by_key(|(at, _)| *at);
    let begun = found.first().map(|(at, _)| *at);
    let since = |at: OffsetDateTime| begun.map_or(0, |begun| (at - begun).whole_milliseconds());
    let requests = found.into_iter().map(|(at, request)| Recorded {
        at_ms: u64::try_from(since(at)).unwrap_or(0),
        ..request
    });
    let left = |(origin, count): (String, usize)| match count {
        1 => format!("one request to {origin}"),
        count => format!("{count} requests to {origin}"),
    };
    let requests: Vec<Recorded> = requests.collect();
    if let (true, Some(wanted)) = (requests.is_empty(), wanted) {
        let text = format!("it has no request to {wanted}");
        return Err(RecordingError::Har(text));
    }
    Ok(Recording {
        source: format!("HAR of {}", har.log.creator.name),
        requests,
        left_out: elsewhere.into_iter().map(left).collect(),
    })
}

/// Origin and target of a URL; `None` for what is no request over HTTP.
fn split(url: &str) -> Result<Option<(String, String)>, String> {
    let scheme = url.split(':').next().unwrap_or_default();
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        return Ok(None);
    }
    let bare = url.split('#').next().unwrap_or_default();
    let uri: Uri = bare.parse().map_err(|_| format!("`{url}` is no URL"))?;
    let authority = uri.authority().ok_or(format!("`{url}` has no host"))?;
    // Who is logged in by the URL is no part of the origin.
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let origin = format!("{scheme}://{host}").to_ascii_lowercase();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Some((origin, path.to_owned())))
}

fn recorded(entry: Entry, path: &str) -> Result<Recorded, String> {
    let request = entry.request;
    let body = request.post_data.map(posted).transpose()?;
    let answer = entry.response.map(given).transpose()?;
    Ok(Recorded {
        at_ms: 0,
        session: "browser".to_owned(),
        route: None,
        method: method(&request.method)?,
        target: target(path)?,
        sides: SideTargets::default(),
        headers: fields(&named(request.headers))?,
        body: body.unwrap_or_default(),
        answer: answer.flatten(),
    })
}

/// Without the fields that HTTP/2 and 3 begin with a colon, and with a value on one line.
fn named(all: Vec<Named>) -> Vec<(String, String)> {
    let real = all.into_iter().filter(|one| !one.name.starts_with(':'));
    let lines = |one: Named| {
        let each: Vec<(String, String)> = one
            .value
            .split(['\n', '\r'])
            .filter(|line| !line.is_empty())
            .map(|line| (one.name.clone(), line.trim().to_owned()))
            .collect();
        each
    };
    // Some browsers write several fields of a name as the lines of one.
    real.flat_map(lines).collect()
}

fn posted(data: PostData) -> Result<Bytes, String> {
    if data.encoding.as_deref() == Some("base64") {
        return decoded(&data.text);
    }
    let form = data
        .mime_type
        .starts_with("application/x-www-form-urlencoded");
    if data.text.is_empty() && !data.params.is_empty() {
        if !form {
            return Err(format!(
                "a body of {} that was kept in parts only cannot be sent again",
                data.mime_type
            ));
        }
        let part = |one: Param| format!("{}={}", one.name, one.value.unwrap_or_default());
        let parts: Vec<String> = data.params.into_iter().map(part).collect();
        return Ok(Bytes::from(parts.join("&")));
    }
    Ok(Bytes::from(data.text))
}

/// `None` for a request that was blocked or broken off.
fn given(response: Response) -> Result<Option<Given>, String> {
    let Some(status) = u16::try_from(response.status)
        .ok()
        .filter(|status| *status >= 100)
    else {
        return Ok(None);
    };
    let body = match response.content {
        Some(Content {
            text: Some(text),
            encoding: Some(encoding),
        }) if encoding == "base64" => decoded(&text)?,
        Some(Content {
            text: Some(text), ..
        }) => Bytes::from(text),
        _ => Bytes::new(),
    };
    Ok(Some(Given {
        status,
        headers: fields(&named(response.headers))?,
        body,
    }))
}
