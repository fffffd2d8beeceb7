//! Pure: the changes that each event makes to the state, and the effects that it asks for.
//!
//! | module | what it is |
//! |---|---|
//! | `bursts` | keys that arrived all at once |
//! | `press` | keys |
//! | `commands` | lines of the prompt |
//! | `acts` | the calls to the cluster, and the questions before them |
//! | `answers` | the results of calls |
//!
//! Guarantees that a destructive call comes out only after a `y`, a typed name or `--yes`, none of
//! them among keys that arrived all at once; that no event, in any order, makes it panic; and that
//! nothing in it waits. The time comes with the event.

pub(crate) mod acts;
mod answers;
mod bursts;
mod commands;
mod press;

use std::time::Duration;

use crate::app::cluster::{ClusterEvent, Kind};
use crate::app::demo::{Facts, Order};
use crate::app::dialog;
use crate::app::output::Verdict;
use crate::app::{App, Purpose, Stage, layout, writes};
use crate::exit::Exit;
use crate::message::{Call, Effect, Event, HowToKill, Now, Observation, Place, ProbeReport};
use crate::prompt::PaneName;

pub use commands::{unanswered, why_detached};

/// The time between two attempts to attach to a target that waiting may bring back.
const ATTACH_RETRY: Duration = Duration::from_secs(5);
/// The time between two attempts to get a page of keys.
const PAGE_RETRY: Duration = Duration::from_secs(1);

/// Applies an event, and returns the effects to carry out.
pub fn update(app: &mut App, now: Now, event: Event) -> Vec<Effect> {
    app.now = now;
    let mut effects = match event {
        Event::Key(key) => bursts::alone(app, &key),
        Event::Burst(keys) => bursts::burst(app, &keys),
        Event::Paste(text) => bursts::paste(app, &text),
        Event::Resize { width, height } => {
            app.size = (width, height);
            app.attended = now;
            if app.settings.is_shared {
                viewer_came(app);
            }
            Vec::new()
        }
        Event::Line(line) => commands::entered(app, &line),
        Event::NoLine(why) => {
            app.output.say(now, Verdict::Refused, why);
            Vec::new()
        }
        Event::Tick => Vec::new(),
        Event::Attached(place) => {
            // The failures so far were not those of lines.
            app.output.failed = 0;
            attached(app, place)
        }
        Event::NotAttached(why) => {
            // When attempts are repeated, only a new reason is reported.
            if !matches!(&app.stage, Stage::Detached { why: last } if *last == why) {
                app.output.say(now, Verdict::Refused, why.message.clone());
            }
            app.tried = Some(now);
            app.stage = Stage::Detached { why };
            Vec::new()
        }
        Event::Observation(seen) => observed(app, seen),
        Event::Answered { call, result } => answers::answered(app, call, result),
        Event::Probe(report) => probed(app, report),
    };
    effects.extend(after(app));
    effects
}

/// Handles a viewer who attached or resized the window: what another viewer left half done is not
/// theirs to confirm.
fn viewer_came(app: &mut App) {
    let was_asked = app.dialog.take().is_some();
    let was_typed = app.prompt.is_open && !app.prompt.line().trim().is_empty();
    app.prompt.put_aside();
    if was_asked || was_typed {
        app.output.say(app.now, Verdict::Note, "nothing was done: a viewer attached");
    }
}

/// Closes a shared console's prompt that was left idle: the next key may be another viewer's.
fn viewer_went(app: &mut App) {
    let idle = app.now.monotonic.saturating_sub(app.attended.monotonic);
    if app.settings.is_shared && app.prompt.is_open && idle >= dialog::PATIENCE {
        app.prompt.put_aside();
        let seconds = dialog::PATIENCE.as_secs();
        let note = format!("{seconds} s without a key: the prompt closed; ↑ has its line");
        app.output.say(app.now, Verdict::Note, note);
    }
}

/// Applies what follows from the state, whatever the event was, and returns the effects.
fn after(app: &mut App) -> Vec<Effect> {
    let gap = app.last_gap_us();
    let note = app.dialog.as_mut().and_then(|dialog| dialog.refresh(&app.cluster, gap, app.now));
    if let Some(note) = note {
        app.dialog = None;
        app.output.say(app.now, Verdict::Note, note);
    }
    viewer_went(app);
    let mut effects = direct(app);
    if may_retry(app) {
        app.tried = None;
        effects.push(Effect::Attach(app.destination.clone()));
    }
    if let Some(name) = app.wants_demo
        && app.dialog.is_none()
        && app.cluster.leader().is_some()
    {
        app.wants_demo = None;
        effects.extend(acts::ask(app, dialog::Act::Demo(name), false));
    }
    effects.extend(commands::go_on(app));
    effects.extend(page_wanted(app));
    effects
}

/// Whether to retry a target that could not be attached to: waiting may help.
fn may_retry(app: &App) -> bool {
    let Stage::Detached { why } = &app.stage else { return false };
    app.settings.retries
        && why.exit == Exit::Unavailable
        && app.tried.is_some_and(|tried| app.now.monotonic >= tried.monotonic + ATTACH_RETRY)
}

fn attached(app: &mut App, place: Place) -> Vec<Effect> {
    app.output.say(app.now, Verdict::Note, format!("attached to {}", place.name));
    app.stage = Stage::Attached(place);
    app.cluster = crate::app::cluster::Cluster::default();
    app.failover = crate::app::failover::Failover::default();
    app.log = crate::app::log::LogPane::default();
    app.keys = crate::app::keys::KeysPane::default();
    app.selected = None;
    // It would undo a write to another cluster.
    app.undo = None;
    Vec::new()
}

fn observed(app: &mut App, seen: Observation) -> Vec<Effect> {
    let happened = app.cluster.observe(app.now, &seen);
    for happening in happened {
        app.output.happened(happening);
    }
    match seen {
        Observation::Status(status) => app.failover.status(&status),
        Observation::Up { node } => app.failover.started(&node),
        Observation::Log { node, entries } => {
            for entry in &entries {
                app.keys.apply(entry);
            }
            app.log.push(&node, entries);
        }
        Observation::LogReset => {
            app.log.reset();
            app.keys.is_loaded = false;
        }
        Observation::Place(place) => {
            if matches!(app.stage, Stage::Attached(_)) {
                app.stage = Stage::Attached(place);
            }
        }
        _ => {}
    }
    Vec::new()
}

fn probed(app: &mut App, report: ProbeReport) -> Vec<Effect> {
    if let ProbeReport::Acks { acks, .. } = &report {
        for ack in acks {
            app.failover.acknowledged(ack);
        }
    }
    if let ProbeReport::Proven(proof) = &report {
        let (verdict, text) = match proof {
            Ok(proof) if proof.is_kept() => (Verdict::Done, writes::proof_line(proof)),
            Ok(proof) => (Verdict::Refused, writes::proof_line(proof)),
            Err(why) => (Verdict::Refused, format!("the probe could not be proven: {why}")),
        };
        app.output.say(app.now, verdict, text);
    }
    app.writes.report(report);
    Vec::new()
}

/// Advances the demo's director, and carries out its orders.
fn direct(app: &mut App) -> Vec<Effect> {
    let Some(mut demo) = app.demo.take() else { return Vec::new() };
    let facts = Facts { cluster: &app.cluster, writes: &app.writes, failover: &app.failover };
    let orders = demo.advance(&facts, app.now);
    app.demo = Some(demo);
    let mut effects = Vec::new();
    for order in orders {
        match order {
            Order::Probe(on) => effects.extend(acts::probe(app, on)),
            Order::Kill(node) => {
                let call = Call::Kill { node, how: HowToKill::Now };
                effects.extend(acts::call(app, call, Purpose::Demo));
            }
            Order::Scale(replicas) => {
                effects.extend(acts::call(app, Call::Scale { replicas }, Purpose::Demo));
            }
            Order::Say(text) => {
                let (wall_us, kind) = (app.now.wall_us, Kind::Demo);
                app.output.happened(ClusterEvent { wall_us, kind, node: None, text });
            }
        }
    }
    effects
}

/// Whether the Keys pane is on the screen.
fn shows_keys(app: &App) -> bool {
    app.focus == PaneName::Keys || (app.size.0 >= layout::TWO_COLUMNS && !app.zoomed)
}

/// Requests the page of keys that is wanted and not loaded.
fn page_wanted(app: &mut App) -> Vec<Effect> {
    let is_wanted = !app.keys.is_loaded && app.keys.loading.is_none();
    let may_retry = match app.keys.trouble {
        Some(_) => app.now.monotonic >= app.keys.tried + PAGE_RETRY,
        None => true,
    };
    if !is_wanted || !may_retry || !shows_keys(app) || app.cluster.ready() == 0 {
        return Vec::new();
    }
    let call = Call::Scan {
        prefix: app.keys.prefix.clone(),
        from: app.keys.start().to_vec(),
        consistency: app.consistency(),
        node: None,
    };
    app.keys.tried = app.now.monotonic;
    let (effects, id) = acts::call_as(app, call, Purpose::Page);
    app.keys.loading = id;
    effects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Settings;
    use crate::exit::Failure;
    use crate::message::Destination;

    /// The destination that was chosen last is retried, one attempt at a time, after a pause.
    #[test]
    fn the_destination_that_was_chosen_is_tried_again() {
        let mut app = App::new(Settings { retries: true, ..Settings::default() });
        let mut clock = Now::default();
        let mut after = |app: &mut App, seconds, event| {
            clock.monotonic += Duration::from_secs(seconds);
            update(app, clock, event)
        };
        let gone = || Event::NotAttached(Failure::new(Exit::Unavailable, "nobody answers"));
        assert_eq!(after(&mut app, 1, gone()), [], "not at once");
        let again = after(&mut app, 6, Event::Tick);
        assert_eq!(again, [Effect::Attach(Destination::Given)]);
        assert_eq!(after(&mut app, 6, Event::Tick), [], "a try that takes long is the only one");
        let chosen = Destination::Context("other".to_owned());
        commands::attach_to(&mut app, chosen.clone());
        assert_eq!(after(&mut app, 6, gone()), []);
        assert_eq!(after(&mut app, 6, Event::Tick), [Effect::Attach(chosen)]);
    }
}
