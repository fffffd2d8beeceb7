//! `doctor`: checks whether everything that the console and the replicas need is in place.
//!
//! Guarantees that each problem is reported with a remedy, and that nothing is changed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use humantime::format_duration;
use kvorum_protocol::client::{Options, Route};
use kvorum_protocol::status::Status;
use kvorum_protocol::{Client, ClientError, WIRE_VERSION};
use serde::Serialize;
use serde_json::json;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::print;
use crate::arguments::Global;
use crate::clusters::Split;
use crate::exit::{Exit, Failure};
use crate::kubernetes::rights::{self, Action};
use crate::kubernetes::{CALL_PATIENCE, Kube};
use crate::output::Said;
use crate::platform::{Marked, Platform};
use crate::statuses::ask_everybody;
use crate::target::{self, Discovered, Named, Target};

/// The clock difference that gives a warning: tokens end by clocks, and certificates allow for two
/// days.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);
/// The number of entries that a replica may lack without counting as behind.
const LAG_MAX: u64 = 10_000;

/// The result of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was checked.
#[derive(Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    /// The state that was found.
    text: String,
    /// The remedy; `None` when nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, what: &str, text: impl Into<String>) {
        self.add(Verdict::Ok, what, text, None);
    }

    fn warn(&mut self, what: &str, text: impl Into<String>, cure: &str) {
        self.add(Verdict::Warn, what, text, Some(cure.to_owned()));
    }

    fn fail(&mut self, what: &str, text: impl Into<String>, cure: &str) {
        self.add(Verdict::Fail, what, text, Some(cure.to_owned()));
    }

    fn add(&mut self, verdict: Verdict, what: &str, text: impl Into<String>, cure: Option<String>) {
        self.0.push(Finding { what: what.to_owned(), verdict, text: text.into(), cure });
    }
}

/// Runs all checks and prints the findings.
pub async fn doctor(global: &Global, named: Named) -> Result<(), Failure> {
    let mut findings = Findings::default();
    findings.ok("program", format!("{}, wire {WIRE_VERSION}", env!("CARGO_PKG_VERSION")));
    match target::choose(global, named, Discovered::look(), false) {
        Ok(target) => examine(&target, global, &mut findings).await,
        Err(stop) => findings.fail("target", stop.message, "name a cluster"),
    }
    let lines: Vec<_> = findings.0.iter().map(line).collect();
    print(global.output, &lines.join("\n"), &json!(findings.0))?;
    let failed = findings.0.iter().filter(|one| one.verdict == Verdict::Fail).count();
    match failed {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{failed} of {} things are wrong", findings.0.len()))),
    }
}

fn line(finding: &Finding) -> String {
    let word = match finding.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    };
    let text = format!("{word}  {:<14} {}", finding.what, finding.text);
    match &finding.cure {
        Some(cure) => format!("{text}\n{:<21}{cure}", ""),
        None => text,
    }
}

async fn examine(target: &Target, global: &Global, findings: &mut Findings) {
    findings.ok("target", target.describe());
    let (client, platform) = match target.open(global).await {
        Ok(opened) => opened,
        Err(stop) => {
            let cure = match stop.exit {
                Exit::NotAuthorized => "log in again, or have the Role kvorum-console-view bound",
                _ => "nothing else can be looked at before that is mended",
            };
            return findings.fail("access", stop.message, cure);
        }
    };
    if let Platform::Kubernetes(kube) = &platform {
        examine_kubernetes(kube, findings).await;
        examine_pods(kube, global, findings).await;
    }
    match ask_everybody(&client).await {
        Ok(said) => {
            // Beside a second cluster, nothing else that they say fits together.
            if Split::of(&said).is_none() {
                examine_replicas(&said, findings);
            }
            examine_clusters(&said, &platform, findings).await;
        }
        Err(stop) => findings.fail(
            "replicas",
            stop.message,
            "no replica answers: look at the pods or processes, and their logs",
        ),
    }
}

async fn examine_kubernetes(kube: &Kube, findings: &mut Findings) {
    let access = &kube.access;
    match timeout(CALL_PATIENCE, kube.client().apiserver_version()).await {
        Ok(Ok(version)) => {
            findings.ok("API server", format!("{} {}", access.server(), version.git_version));
        }
        Ok(Err(error)) => findings.warn(
            "API server",
            format!("{} does not tell its version: {error}", access.server()),
            "nothing depends on it",
        ),
        Err(_) => findings.fail("API server", "does not answer", "a VPN? is it running?"),
    }
    findings.ok("user", format!("{} in namespace {}", access.user, access.namespace));
    examine_rights(kube, findings).await;
}

async fn examine_rights(kube: &Kube, findings: &mut Findings) {
    let access = &kube.access;
    let missing = match rights::missing(kube).await {
        Ok(missing) => missing,
        Err(why) => {
            return findings.warn("rights", why, "what is asked for is asked for in any case");
        }
    };
    let actions = [
        (Action::Watch, "see the pods"),
        (Action::Reach, "port-forward"),
        (Action::ReachNewer, "port-forward in Kubernetes 1.35 and newer"),
        (Action::Kill, "kill"),
        (Action::Scale, "scale"),
        (Action::Logs, "logs"),
        (Action::Events, "Events"),
        (Action::Marker, "read the marker"),
        (Action::Write, "read the certificate of admin"),
        (Action::Look, "read the certificate of view"),
    ];
    for (action, name) in actions {
        match (rights::why_not(&missing, action, kube), action) {
            (None, _) => findings.ok("right", name),
            // Inside the cluster, the replicas are dialed directly.
            (Some(_), Action::Reach | Action::ReachNewer) if access.is_inside => {
                findings.ok("right", format!("{name} is not needed inside the cluster"));
            }
            (Some(_), Action::Write | Action::Look) if !kube.reads_secrets => {
                findings.ok("right", format!("{name} is not needed with --tls-dir"));
            }
            (Some(why), Action::Write) => findings.warn(
                "right",
                why,
                "bind the Role kvorum-console-act; without its certificate you may only look",
            ),
            (Some(why), Action::Look) => findings.warn(
                "right",
                why,
                "bind the Role kvorum-console-view; who may read that of admin needs no other",
            ),
            (Some(why), Action::Watch) => {
                findings.fail("right", why, "bind the Role kvorum-console-view");
            }
            (Some(why), Action::Reach) => findings.fail("right", why, "bind the Role kvorum-desk"),
            (Some(why), Action::ReachNewer) => {
                findings.warn("right", why, "bind the Role kvorum-desk");
            }
            (Some(why), Action::Kill | Action::Scale) => {
                findings.warn("right", why, "bind the Role kvorum-console-act");
            }
            (Some(why), _) => findings.warn("right", why, "bind the Role kvorum-console-view"),
        }
    }
}

async fn examine_pods(kube: &Arc<Kube>, global: &Global, findings: &mut Findings) {
    let (pods, wanted) = (kube.pods().all(), kube.pods().wanted());
    let count = wanted.replicas;
    match count {
        0 => findings.warn("replicas", "none is wanted", "kvorum scale 3"),
        2 => findings.warn("replicas", "two are wanted: none may be gone", "kvorum scale 3"),
        count if count > crate::kubernetes::REPLICAS_MAX => findings.fail(
            "replicas",
            format!("{count} are wanted, more than a cluster can have"),
            "kubectl scale to 7 or fewer",
        ),
        count => findings.ok("replicas", format!("{count} are wanted")),
    }
    for name in kube.pods().names() {
        let Some(pod) = pods.get(&name) else {
            findings.fail(&name, "there is no pod", "kubectl describe statefulset tells why");
            continue;
        };
        match pod.is_running {
            true => findings.ok(&name, format!("pod {}, restarted {}x", pod.state, pod.restarts)),
            false => {
                let cure = format!("kubectl describe pod {name} tells why");
                findings.fail(&name, format!("pod {}", pod.state), &cure);
                continue;
            }
        }
        if kube.access.is_inside {
            let address = format!("{name}.kvorum-peers:7300");
            match timeout(CALL_PATIENCE, lookup_host(&address)).await {
                Ok(Ok(_)) => findings.ok(&name, "has a name in the DNS"),
                _ => findings.warn(
                    &name,
                    format!("{address} is not known to the DNS"),
                    "the headless Service kvorum-peers has to publish pods that are not ready",
                ),
            }
        }
    }
    let running = kube
        .pods()
        .names()
        .into_iter()
        .filter(|name| pods.get(name).is_some_and(|pod| pod.is_running));
    examine_ways(kube, global, running, findings).await;
}

/// Checks, of all at once, whether running pods answer.
async fn examine_ways(
    kube: &Arc<Kube>,
    global: &Global,
    running: impl Iterator<Item = String>,
    findings: &mut Findings,
) {
    let options = Options { deadline: global.timeout, dial: kube.dial(), ..Options::default() };
    let client = Arc::new(Client::new(kube.resolve(), options));
    let asked = running.map(|name| {
        let client = Arc::clone(&client);
        async move {
            let began = Instant::now();
            let said = client.status(&Route::Through(name.clone())).await;
            (name, began.elapsed(), said)
        }
    });
    for (name, took, said) in futures::future::join_all(asked).await {
        match said {
            Ok(_) => findings.ok(&name, format!("answers after {took:.0?}")),
            Err(error) => {
                let cure = match &error {
                    ClientError::Target(_) => "as it says",
                    _ if kube.access.is_inside => "kubectl logs of the pod may tell why",
                    _ => {
                        "kubectl logs of the pod may tell why; if none answers, the API server \
                         has to pass WebSockets, or use --endpoints HOST:PORT"
                    }
                };
                findings.fail(&name, error.to_string(), cure);
            }
        }
    }
}

fn examine_replicas(said: &[Said], findings: &mut Findings) {
    let told: Vec<&Status> = said.iter().filter_map(|(_, status)| status.as_ref().ok()).collect();
    for (name, status) in said {
        match status {
            Err(why) => findings.fail(name, why.clone(), "look at its log"),
            Ok(status) => examine_replica(status, &told, findings),
        }
    }
    let versions: std::collections::BTreeSet<_> =
        told.iter().map(|status| status.version).collect();
    match versions.len() {
        0 | 1 => {}
        _ => findings.warn(
            "version",
            "the replicas are not at the same version of the cluster",
            "it rises when all run the newer program, and all have caught up",
        ),
    }
    let leaders = told.iter().filter(|status| status.leader.as_deref() == Some(&status.name));
    match leaders.count() {
        1 => findings.ok("leader", "one"),
        0 => findings.fail("leader", "none", "a majority of the replicas has to be there"),
        _ => findings.warn("leader", "more than one claims to be", "an election is under way"),
    }
}

/// Checks whether all replicas belong to one cluster, and whether it is the one that is marked.
async fn examine_clusters(said: &[Said], platform: &Platform, findings: &mut Findings) {
    if let Some(split) = Split::of(said) {
        let way_back = platform.with_ground(|ground| split.way_back(ground));
        return findings.fail("cluster", split.what(), &way_back);
    }
    let told = said.iter().filter_map(|(_, told)| told.as_ref().ok());
    let Some(cluster) = told.map(|status| status.cluster).next() else { return };
    match platform.marked().await {
        Ok(Marked::Nowhere) => findings.ok("cluster", cluster.to_string()),
        Ok(Marked::As(marked)) if marked == cluster => {
            findings.ok("cluster", format!("{cluster}, and it is marked"));
        }
        Ok(Marked::As(marked)) => findings.fail(
            "cluster",
            format!("{cluster}, and the marker names another one, {marked}"),
            "if this one is to stay, remove the marker (on Kubernetes: empty its ConfigMap): its \
             leader makes it anew",
        ),
        Ok(Marked::Gone) => findings.fail(
            "cluster",
            format!("{cluster}, and its marker is gone"),
            "its leader makes it anew within half a minute; if not, its log tells why",
        ),
        Err(stop) => findings.warn(
            "cluster",
            format!("{cluster}; its marker cannot be read: {}", stop.message),
            "the Role kvorum-console-view allows it",
        ),
    }
}

fn examine_replica(status: &Status, told: &[&Status], findings: &mut Findings) {
    let name = &status.name;
    if let Some(trouble) = &status.trouble {
        findings.fail(name, trouble.clone(), "as it says");
    } else if let Some(waits) = &status.membership.waits {
        findings.warn(name, waits.clone(), "as it says");
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let theirs = Duration::from_micros(status.wall_us);
    let differs = now.abs_diff(theirs);
    if differs > CLOCKS_DIFFER {
        let seconds = Duration::from_secs(differs.as_secs());
        findings.warn(
            name,
            format!("its clock differs from this one by {}", format_duration(seconds)),
            "set the clocks by NTP: times, tokens and certificates depend on them",
        );
    }
    let most = told.iter().map(|status| status.decided).max().unwrap_or(0);
    let lag = most.saturating_sub(status.applied);
    match lag > LAG_MAX {
        true => findings.warn(name, format!("lacks {lag} entries"), "it catches up by itself"),
        false => findings.ok(name, format!("{:?}, lacks {lag} entries", status.role)),
    }
}
