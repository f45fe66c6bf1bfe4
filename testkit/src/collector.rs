//! What a collector of traces has been told, read with OpenTelemetry's own types.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::Seen;

/// One span. Ids are hexadecimal digits, as in header fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub name: String,
    /// 2 is a server's, 3 a client's.
    pub kind: i32,
    pub trace: String,
    pub id: String,
    /// Empty where there is none.
    pub parent: String,
    pub state: String,
    pub flags: u32,
    /// In nanoseconds since 1970.
    pub begun: u64,
    pub ended: u64,
    pub attributes: BTreeMap<String, String>,
    /// 2 is an error.
    pub status: i32,
    pub resource: BTreeMap<String, String>,
}

impl Told {
    /// An attribute, or nothing.
    pub fn said(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// The spans of these exports, in their order.
///
/// # Panics
/// Panics if one is no export.
pub fn spans(exports: &[Seen]) -> Vec<Told> {
    let mut all = Vec::new();
    for export in exports {
        let request = ExportTraceServiceRequest::decode(plain(export));
        let request = request.expect("an export of traces in protobuf");
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.map(|own| own.attributes);
            let resource = attributes(resource.unwrap_or_default());
            let scopes = of_resource.scope_spans.into_iter();
            let spans = scopes.flat_map(|scope| scope.spans);
            all.extend(spans.map(|span| told(span, &resource)));
        }
    }
    all
}

/// The export as it was written, whether or not it came in fewer bytes.
fn plain(export: &Seen) -> Bytes {
    if export.header("content-encoding") != Some("gzip") {
        return export.body.clone();
    }
    let mut whole = Vec::new();
    let read = GzDecoder::new(&export.body[..]).read_to_end(&mut whole);
    read.expect("what says gzip is gzip");
    whole.into()
}

/// An answer that refuses so many spans of an export.
pub fn refusing(spans: i64, why: &str) -> Vec<u8> {
    ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: spans,
            error_message: why.to_owned(),
        }),
    }
    .encode_to_vec()
}

fn told(span: Span, resource: &BTreeMap<String, String>) -> Told {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Told {
        name: span.name,
        kind: span.kind,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        state: span.trace_state,
        flags: span.flags,
        begun: span.start_time_unix_nano,
        ended: span.end_time_unix_nano,
        attributes: attributes(span.attributes),
        status: span.status.map_or(0, |status| status.code),
        resource: resource.clone(),
    }
}

fn attributes(all: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        // No test expects one.
        other => format!("{other:?}"),
    };
    let count = all.len();
    let found: BTreeMap<_, _> = all
        .into_iter()
        .map(|one| (one.key, text(one.value)))
        .collect();
    assert_eq!(found.len(), count, "a name is there once: {found:?}");
    found
}
