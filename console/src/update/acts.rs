//! Pure: the acts on the cluster, and the confirmation before them.

use kvorum_protocol::{Condition, Key};

use crate::app::cluster::short;
use crate::app::dialog::{Act, Dialog, Tier};
use crate::app::output::Verdict;
use crate::app::writes::ProbeState;
use crate::app::{App, Haste, Purpose, Undo};
use crate::arguments::DemoName;
use crate::message::{Call, CallId, Effect, Source};
use crate::output;
use crate::prompt::grammar::Scenario;

/// The maximum number of calls in flight; further ones are refused.
const CALLS_MAX: usize = 64;

/// The reason a read-only console gives.
const READ_ONLY: &str = "this console is read-only (--readonly or KVORUM_READONLY)";

/// Makes a call.
pub fn call(app: &mut App, call: Call, purpose: Purpose) -> Vec<Effect> {
    call_as(app, call, purpose).0
}

/// Makes a call and reports its answer.
pub fn call_and_say(app: &mut App, call: Call) -> Vec<Effect> {
    let purpose = Purpose::Say { key: call.written_key().cloned() };
    self::call(app, call, purpose)
}

/// Makes a call and returns its id.
pub fn call_as(app: &mut App, call: Call, purpose: Purpose) -> (Vec<Effect>, Option<CallId>) {
    let refusal = match &call {
        _ if app.place().is_none() => Some("no cluster is attached".to_owned()),
        _ if app.calls.len() >= CALLS_MAX => {
            Some(format!("{CALLS_MAX} calls are in flight already; wait for some of them"))
        }
        call if app.settings.readonly && changes(call) => Some(READ_ONLY.to_owned()),
        _ => None,
    };
    let text = describe(&call);
    if let Some(why) = refusal {
        say_refused(app, &purpose, Verdict::Refused, format!("{text}: {why}"));
        return (Vec::new(), None);
    }
    if let Call::Kill { node, .. } = &call {
        let led = app.cluster.leader() == Some(node.as_str());
        app.failover.killed(node, led, app.now.wall_us);
    }
    let id = app.begin(text, purpose);
    (vec![Effect::Call { id, call }], Some(id))
}

/// Reports that a call was not carried out; also to the demo, if the demo requested it.
pub fn say_refused(app: &mut App, purpose: &Purpose, verdict: Verdict, text: String) {
    if let (Purpose::Demo, Some(demo)) = (purpose, &mut app.demo) {
        demo.refused(text.clone());
    }
    app.output.say(app.now, verdict, text);
}

fn changes(call: &Call) -> bool {
    call.is_destructive()
        || matches!(call, Call::Put { .. } | Call::Batch { .. } | Call::Heal { .. })
}

/// Describes a call in words, for messages about it.
#[must_use]
pub fn describe(call: &Call) -> String {
    let key_of = |key: &Key| output::preview(&key.0);
    match call {
        Call::Put { key, .. } => format!("put {}", key_of(key)),
        Call::Delete { key, .. } => format!("delete {}", key_of(key)),
        Call::Get { key, node, .. } => match node {
            Some(node) => format!("get {} at {}", key_of(key), short(node)),
            None => format!("get {}", key_of(key)),
        },
        Call::Scan { prefix, .. } => format!("scan {}", output::preview(prefix)),
        Call::Inspect { key, .. } => format!("inspect {}", key_of(key)),
        Call::Batch { count } => format!("batch {count}"),
        Call::Logs { node } => format!("logs {}", short(node)),
        Call::Kill { node, .. } => format!("kill {} {node}", short(node)),
        Call::Scale { replicas } => format!("scale {replicas}"),
        Call::HandOver { from, .. } => format!("hand over from {}", short(from)),
        Call::Cut { node, peer } => format!("cut {}–{}", short(node), short(peer)),
        Call::Heal { node, peer } => format!("heal {}–{}", short(node), short(peer)),
    }
}

/// Asks before an act, unless it keeps the quorum and was confirmed beforehand.
pub fn ask(app: &mut App, act: Act, yes: bool) -> Vec<Effect> {
    if app.place().is_none() || app.settings.readonly {
        let why = if app.settings.readonly { READ_ONLY } else { "no cluster is attached" };
        app.output.say(app.now, Verdict::Refused, format!("{}: {why}", title(&act)));
        return Vec::new();
    }
    if let Some(why) = impossible(app, &act) {
        app.output.say(app.now, Verdict::Refused, format!("{}: {why}", title(&act)));
        app.dialog = Some(Dialog::refusal(&title(&act), &why, app.now));
        return Vec::new();
    }
    let dialog = Dialog::new(act.clone(), &app.cluster, app.last_gap_us(), app.now);
    let is_meant = app.haste != Haste::Burst && (yes || !app.settings.confirm);
    if dialog.tier == Tier::Yes && is_meant {
        return carry_out(app, act);
    }
    app.dialog = Some(dialog);
    Vec::new()
}

fn title(act: &Act) -> String {
    match act {
        Act::Call(call) => describe(call),
        Act::Cuts { name, .. } => format!("scenario {name}"),
        Act::Demo(DemoName::Failover) => "demo failover".to_owned(),
        Act::Demo(DemoName::Scale) => "demo scale".to_owned(),
    }
}

/// Returns why an act cannot be carried out here.
fn impossible(app: &App, act: &Act) -> Option<String> {
    let place = app.place()?;
    let allows_faults = |node: &String| {
        let status = app.cluster.node(node).and_then(|node| node.status.as_ref());
        status.is_some_and(|status| status.allows_faults)
    };
    let no_faults = || {
        "faults are not allowed here; start the cluster with --allow-faults to cut links".to_owned()
    };
    match act {
        Act::Call(Call::Kill { node, .. }) if !allows_faults(node) => place.no_kill.clone(),
        Act::Call(Call::Put { .. } | Call::Delete { .. }) => place.no_write.clone(),
        Act::Call(Call::HandOver { .. }) => place.no_operation.clone(),
        Act::Call(Call::Scale { .. }) => place.no_scale.clone(),
        Act::Call(Call::Cut { node, .. }) => (!allows_faults(node)).then(no_faults),
        Act::Cuts { cuts, .. } => cuts.iter().any(|(node, _)| !allows_faults(node)).then(no_faults),
        Act::Call(Call::Logs { .. }) => place.no_logs.clone(),
        Act::Demo(DemoName::Failover) => place.no_kill.clone(),
        Act::Demo(DemoName::Scale) => place.no_scale.clone(),
        Act::Call(_) => None,
    }
}

/// Carries out an act that was agreed to.
pub fn carry_out(app: &mut App, act: Act) -> Vec<Effect> {
    match act {
        Act::Call(call) => call_and_say(app, call),
        Act::Cuts { cuts, .. } => cuts
            .into_iter()
            .flat_map(|(node, peer)| call_and_say(app, Call::Cut { node, peer }))
            .collect(),
        Act::Demo(name) => {
            app.demo = Some(crate::app::demo::Demo::new(name, app.now));
            Vec::new()
        }
    }
}

/// Asks whether to undo the last write.
pub fn undo(app: &mut App) -> Vec<Effect> {
    let Some(Undo { key, value, revision, what }) = app.undo.clone() else {
        let note = "there is no put or delete of this console to take back";
        app.output.say(app.now, Verdict::Note, note);
        return Vec::new();
    };
    app.output.say(app.now, Verdict::Note, format!("undo of {what}"));
    let condition = revision.map_or(Condition::Absent, Condition::AtRevision);
    let call = match value {
        Some(value) => Call::Put { key, value: Source::Bytes(value), condition, node: None },
        None => Call::Delete { key, condition, node: None },
    };
    ask(app, Act::Call(call), false)
}

/// Turns the write probe on or off.
pub fn probe(app: &mut App, on: bool) -> Vec<Effect> {
    let refusal = match (on, app.writes.state) {
        _ if app.place().is_none() => Some("no cluster is attached"),
        (true, _) if app.settings.readonly => Some(READ_ONLY),
        (true, ProbeState::On) => Some("it is on already"),
        (_, ProbeState::Proving) => Some("it is reading again what it wrote; a moment"),
        (false, ProbeState::Off) => Some("it is off already"),
        _ => None,
    };
    if let Some(why) = refusal {
        app.output.say(app.now, Verdict::Note, format!("write probe: {why}"));
        return Vec::new();
    }
    if on {
        app.writes.start();
    }
    vec![Effect::Probe { on }]
}

/// Heals every link that is cut.
pub fn heal_all(app: &mut App) -> Vec<Effect> {
    let links = cut_links(app);
    if links.is_empty() {
        app.output.say(app.now, Verdict::Note, "no link is cut");
    }
    let heal = |(node, peer)| call_and_say(app, Call::Heal { node, peer });
    links.into_iter().flat_map(heal).collect()
}

/// Returns the links that are cut, each from the end that cut it.
fn cut_links(app: &App) -> Vec<(String, String)> {
    let of_node = |node: &crate::app::cluster::Node| {
        let name = node.name.clone();
        let links = node.status.iter().flat_map(|status| status.links.clone());
        let cut = links.filter(|link| link.is_cut);
        cut.map(move |link| (name.clone(), link.peer)).collect::<Vec<_>>()
    };
    app.cluster.nodes().flat_map(of_node).collect()
}

/// Returns the cuts of a scenario of the Omni-Paxos paper (section 2), or why there are none.
pub fn scenario(app: &App, scenario: Scenario) -> Result<Vec<(String, String)>, String> {
    let names = app.cluster.names();
    let leader = app.cluster.leader().ok_or("no leader is known now; try again")?;
    let others: Vec<&String> = names.iter().filter(|name| *name != leader).collect();
    let [center, rest @ ..] = &others[..] else { return Err("there is one replica".to_owned()) };
    if rest.is_empty() {
        return Err("a partial loss of connectivity takes three replicas or more".to_owned());
    }
    let pairs = || {
        let pair = |(at, a): (usize, &String)| {
            names[at + 1..].iter().map(|b| (a.clone(), b.clone())).collect::<Vec<_>>()
        };
        names.iter().enumerate().flat_map(pair).collect::<Vec<_>>()
    };
    let has = |pair: &(String, String), name: &str| pair.0 == name || pair.1 == name;
    Ok(match scenario {
        Scenario::Qloss => pairs().into_iter().filter(|pair| !has(pair, center)).collect(),
        Scenario::Constrained => {
            pairs().into_iter().filter(|p| !has(p, center) || has(p, leader)).collect()
        }
        Scenario::Chained => {
            let last = rest.last().expect("there are three");
            vec![(leader.to_owned(), (*last).clone())]
        }
        Scenario::Restore => Vec::new(),
    })
}
