//! Two scripted sides, a scripted bridge, and a client whose answers are copied.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use outgrow_rollout::{ShadowEvidence, Side, SliceId};
use outgrow_shadow::{
    Accept, Draft, Flow, Freshness, Limits, Place, Places, Raw, Rule, Shadow, ShadowSettings,
    SideTargets, SliceShadow, Tap,
};
use outgrow_testkit::{Upstream, eventually};
use tokio::runtime::Handle;

/// A wait that ends as soon as it can.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// The route of most copies.
const PRODUCT: &str = "GET /api/products/{id}";

pub(crate) fn shop() -> SliceId {
    SliceId::new("shop").unwrap()
}

/// How far the bridge has come; `None` outside means that there is no link at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position(Arc<Mutex<Option<Option<SystemTime>>>>);

impl Position {
    pub(crate) fn stuck() -> Self {
        let position = Self::default();
        position.set(Some(None));
        position
    }

    /// Everything is carried over, now and from now on.
    pub(crate) fn catch_up(&self) {
        let far = SystemTime::now() + Duration::from_secs(3_600);
        self.set(Some(Some(far)));
    }

    fn set(&self, to: Option<Option<SystemTime>>) {
        *self.0.lock().unwrap() = to;
    }
}

impl Freshness for Position {
    fn applied_through(&self, _: &SliceId) -> Option<SystemTime> {
        self.0.lock().unwrap().flatten()
    }

    fn has_link(&self, _: &SliceId) -> bool {
        self.0.lock().unwrap().is_some()
    }
}

/// What a side answers now. Cheap to clone, changed while it serves.
#[derive(Debug, Clone)]
pub(crate) struct Script(Arc<Mutex<(u16, String, String)>>);

impl Script {
    pub(crate) fn new(build: &str, body: &str) -> Self {
        Self(Arc::new(Mutex::new((
            200,
            build.to_owned(),
            body.to_owned(),
        ))))
    }

    pub(crate) fn set(&self, body: &str) {
        self.0.lock().unwrap().2 = body.to_owned();
    }

    pub(crate) fn deploy(&self, build: &str) {
        self.0.lock().unwrap().1 = build.to_owned();
    }

    pub(crate) fn status(&self, status: u16) {
        self.0.lock().unwrap().0 = status;
    }

    pub(crate) fn answer(&self) -> Response<Bytes> {
        let (status, build, body) = self.0.lock().unwrap().clone();
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("x-build-id", build)
            .body(Bytes::from(body))
            .unwrap()
    }

    pub(crate) async fn serve(&self) -> Upstream {
        let script = self.clone();
        Upstream::start(move |_| {
            let answer = script.answer();
            async move { answer }
        })
        .await
    }
}

/// What a test changes of the usual settings.
pub(crate) type Change<'a> = &'a dyn Fn(&mut ShadowSettings);

pub(crate) fn settings(legacy: &[&Upstream], extracted: &[&Upstream]) -> ShadowSettings {
    let at = |upstreams: &[&Upstream]| {
        let one = |u: &&Upstream| Place::Tcp(u.addr().to_string().parse().unwrap());
        upstreams.iter().map(one).collect()
    };
    ShadowSettings {
        slices: vec![SliceShadow {
            id: shop(),
            legacy: at(legacy),
            extracted: at(extracted),
            sandbox: Places::default(),
            rewrites: Default::default(),
            sample: 1.0,
            flow: Flow::default(),
            noise_sample: 0.0,
            rules: Vec::new(),
            arrays: Vec::new(),
            headers: None,
            redact: Vec::new(),
            keep: Duration::from_hours(1),
            mismatch_max: 0.001,
        }],
        build_header: HeaderName::from_static("x-build-id"),
        limits: Limits {
            lag: WAIT,
            ..Limits::default()
        },
    }
}

pub(crate) fn ignore(path: &str, until: Option<&str>) -> Rule {
    Rule {
        path: path.to_owned(),
        reason: "a test".to_owned(),
        until: until.map(str::to_owned),
        owner: None,
        accept: Accept::Any,
    }
}

/// A shadow whose two sides run these scripts.
pub(crate) struct Bench {
    pub(crate) legacy: Script,
    pub(crate) extracted: Script,
    pub(crate) at_legacy: Upstream,
    pub(crate) at_extracted: Upstream,
    pub(crate) shadow: Shadow,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(Position::default(), &|_| {}).await
    }

    pub(crate) async fn with(position: Position, change: Change<'_>) -> Self {
        let legacy = Script::new("m-1", r#"{"id":1,"price":"9.95"}"#);
        let extracted = Script::new("c-1", r#"{"id":1,"price":"9.95"}"#);
        let (at_legacy, at_extracted) = (legacy.serve().await, extracted.serve().await);
        let mut settings = settings(&[&at_legacy], &[&at_extracted]);
        change(&mut settings);
        let shadow = start(settings, position);
        Self {
            legacy,
            extracted,
            at_legacy,
            at_extracted,
            shadow,
        }
    }

    /// A client got the legacy side's answer; its copy goes into the shadow.
    pub(crate) fn client(&self) {
        self.client_of(Side::Legacy, &self.legacy.answer());
    }

    pub(crate) fn client_of(&self, primary: Side, answer: &Response<Bytes>) {
        offer(&self.shadow, primary, answer, HeaderMap::new());
    }

    pub(crate) async fn settled(&self) -> ShadowEvidence {
        settled(&self.shadow).await
    }
}

pub(crate) fn start(settings: ShadowSettings, position: Position) -> Shadow {
    Shadow::start(settings, Arc::new(position), &Handle::current()).unwrap()
}

/// Does what the proxy's tap does. False when the shadow did not want the copy.
pub(crate) fn offer(
    shadow: &Shadow,
    primary: Side,
    answer: &Response<Bytes>,
    headers: HeaderMap,
) -> bool {
    offered(
        shadow,
        PRODUCT,
        (primary, answer),
        headers,
        "/api/products/1",
        SideTargets::default(),
    )
}

/// The same, of another target.
pub(crate) fn offer_at(
    shadow: &Shadow,
    primary: Side,
    answer: &Response<Bytes>,
    target: &'static str,
) -> bool {
    offer_as(shadow, primary, answer, target, SideTargets::default())
}

/// The same, where the sides are asked by paths of their own.
pub(crate) fn offer_as(
    shadow: &Shadow,
    primary: Side,
    answer: &Response<Bytes>,
    target: &'static str,
    sides: SideTargets,
) -> bool {
    let headers = HeaderMap::new();
    offered(shadow, PRODUCT, (primary, answer), headers, target, sides)
}

/// The same, of another route.
pub(crate) fn offer_of(shadow: &Shadow, route: &str, answer: &Response<Bytes>) -> bool {
    let (given, target) = ((Side::Legacy, answer), "/api/products/1");
    let (headers, sides) = (HeaderMap::new(), SideTargets::default());
    offered(shadow, route, given, headers, target, sides)
}

fn offered(
    shadow: &Shadow,
    route: &str,
    (primary, answer): (Side, &Response<Bytes>),
    headers: HeaderMap,
    target: &'static str,
    sides: SideTargets,
) -> bool {
    let (request, answer) = ((Method::GET, target, &headers), (primary, answer));
    let Some(mut draft) = admitted(shadow, route, request, answer) else {
        return false;
    };
    draft.asks(sides);
    draft.offer();
    true
}

/// What the proxy would offer of a request that this side has answered, if the shadow wants a copy.
pub(crate) fn admitted(
    shadow: &Shadow,
    route: &str,
    (method, target, headers): (Method, &str, &HeaderMap),
    (primary, answer): (Side, &Response<Bytes>),
) -> Option<Box<Draft>> {
    let ticket = shadow.admit(&shop(), &route.into(), &method, 0)?;
    let raw = Raw::asked(target, headers, &HeaderName::from_static("x-none"));
    let mut draft = Draft::begin(ticket, method, raw);
    let latency = Duration::from_millis(1);
    draft.answered(primary, answer.status(), latency);
    draft.says(answer.headers());
    assert!(draft.keep(answer.body()), "there is memory for it");
    draft.ended(true);
    Some(draft)
}

/// What is known once nothing waits any more. The ledger must add up.
pub(crate) async fn settled(shadow: &Shadow) -> ShadowEvidence {
    let seen = eventually("every pair to be judged", WAIT, || async {
        let seen = shadow.evidence(&shop()).unwrap();
        (seen.waiting == 0).then_some(seen)
    })
    .await;
    balanced(&seen);
    for row in shadow.report(&shop()).unwrap().reasons {
        assert!(!row.meaning.is_empty(), "not explained: {row:?}");
    }
    seen
}

pub(crate) fn balanced(seen: &ShadowEvidence) {
    let sent = seen.matched + seen.mismatched + seen.candidate_errors + seen.not_comparable;
    let all = seen.sampled_out + seen.shed + seen.ineligible + seen.waiting + sent;
    assert_eq!(seen.eligible, all, "{seen:?}");
}

pub(crate) fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    )
}

pub(crate) fn ok(body: &str) -> Response<Bytes> {
    Response::builder()
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_owned()))
        .unwrap()
}
