//! The console: the entry point for each way of using it.
//!
//! | way | what it is |
//! |---|---|
//! | [`attach`] | on a running cluster; without one, the screen that helps to get one |
//! | `local` | on a local cluster of its own |
//! | `demo` | the director on a local cluster, with a screen or without |
//! | [`events`] | the events of a cluster, one per line |
//!
//! Guarantees that a panic on any thread restores the terminal and ends the process: half a console
//! is worse than none.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use kvorum_protocol::client::Options;

use crate::app::{App, Settings};
use crate::arguments::{Global, ThemeName};
use crate::backend::Backend;
use crate::backend::cluster::RealCluster;
use crate::clock::Clock;
use crate::credentials::Own;
use crate::exit::{Exit, Failure};
use crate::input;
use crate::kubernetes::{self, Kube};
use crate::login;
use crate::message::Destination;
use crate::prompt::grammar::ReadMode;
use crate::runtime::{Attach, Front, Loop, Runtime};
use crate::screen::{self, Modes, Screen};
use crate::target::{self, Discovered, Named, Target};

/// Whether a screen can be drawn and keys can be read.
#[must_use]
pub fn has_terminal() -> bool {
    screen::is_terminal()
}

/// Runs the console on a running cluster.
pub async fn attach(global: &Global, named: Named) -> Result<(), Failure> {
    let chosen = target::choose(global, named, Discovered::look(), false);
    // Only a contradiction ends the program; the screen can help where a cluster is missing.
    if let Err(stop) = &chosen
        && stop.exit == Exit::Usage
    {
        return Err(Failure::usage(stop.message.clone()));
    }
    let shown = chosen.as_ref().map_or("a cluster".to_owned(), Target::describe);
    let mut settings = settings(global, &shown);
    settings.retries = matches!(chosen, Ok(Target::Kubernetes(_)));
    settings.contexts = kubernetes::config::contexts();
    let way = Way::of(global)?;
    let given = move || chosen.as_ref().map(Clone::clone).map_err(Failure::again);
    let attach: Attach =
        Box::new(move |destination| Box::pin(open(destination, given(), way.clone())));
    run(global, settings, attach).await
}

/// How replicas are talked to.
#[derive(Clone)]
struct Way {
    timeout: Duration,
    /// The user that this program is.
    own: Own,
}

impl Way {
    fn of(global: &Global) -> Result<Self, Failure> {
        Ok(Self { timeout: global.timeout, own: login::own(global)? })
    }

    fn options(&self) -> Result<Options, Failure> {
        Ok(Options { deadline: self.timeout, dial: self.own.dial()?, ..Options::default() })
    }
}

/// Opens the given destination.
async fn open(
    destination: Destination,
    given: Result<Target, Failure>,
    way: Way,
) -> Result<Arc<dyn Backend>, Failure> {
    match destination {
        Destination::Given => match given {
            Ok(Target::Endpoints(addresses)) => open_at(addresses, &way).await,
            Ok(Target::Local(folder)) => open_local(folder, &way).await,
            Ok(Target::Kubernetes(named)) => open_pods(named, &way).await,
            // A local cluster may have been started since.
            Err(stop) => match target::living() {
                Some(folder) => open_local(folder, &way).await,
                None => Err(stop),
            },
        },
        Destination::Endpoints(addresses) => open_at(addresses, &way).await,
        Destination::Context(context) => {
            // The namespace and the `StatefulSet` that were named apply there too.
            let given = match given {
                Ok(Target::Kubernetes(named)) => named,
                _ => kubernetes::KubeTarget::default(),
            };
            let named = kubernetes::KubeTarget { context: Some(context), ..given };
            open_pods(named, &way).await
        }
        #[cfg(feature = "local")]
        Destination::StartLocal => start(crate::local::Plan::default(), way.timeout, None).await,
        #[cfg(not(feature = "local"))]
        Destination::StartLocal => Err(no_local()),
    }
}

async fn open_at(addresses: Vec<String>, way: &Way) -> Result<Arc<dyn Backend>, Failure> {
    Ok(Arc::new(RealCluster::at(&addresses, way.options()?).await?))
}

async fn open_pods(named: kubernetes::KubeTarget, way: &Way) -> Result<Arc<dyn Backend>, Failure> {
    let kube = Kube::find(&named, &way.own).await?;
    Ok(Arc::new(RealCluster::of_pods(kube, way.timeout).await))
}

#[cfg(feature = "local")]
async fn open_local(folder: PathBuf, way: &Way) -> Result<Arc<dyn Backend>, Failure> {
    crate::local::folder::check_running(&folder)?;
    Ok(Arc::new(RealCluster::local(folder, way.options()?).await?))
}

#[cfg(not(feature = "local"))]
#[expect(clippy::unused_async, reason = "as where there are local clusters")]
async fn open_local(_: PathBuf, _: &Way) -> Result<Arc<dyn Backend>, Failure> {
    Err(no_local())
}

#[cfg(not(feature = "local"))]
fn no_local() -> Failure {
    Failure::usage("this program was built without local clusters; use --endpoints HOST:PORT")
}

/// Starts a local cluster.
#[cfg(feature = "local")]
async fn start(
    plan: crate::local::Plan,
    timeout: Duration,
    temporary: Option<tempfile::TempDir>,
) -> Result<Arc<dyn Backend>, Failure> {
    Ok(Arc::new(RealCluster::start(&plan, timeout, temporary).await?))
}

/// Runs the console on a local cluster of its own; without a terminal, runs the cluster alone.
#[cfg(feature = "local")]
pub async fn local(local: crate::arguments::Local, global: &Global) -> Result<(), Failure> {
    if local.no_console || !(has_terminal() || global.plain) {
        return crate::local::run(local, global).await;
    }
    let (plan, timeout) = (crate::local::Plan::from(&local), global.timeout);
    let shown = match &plan.data {
        Some(folder) => format!("local {}", folder.display()),
        None => "a local cluster".to_owned(),
    };
    let way = Way::of(global)?;
    let attach: Attach = Box::new(move |destination| {
        let plan = plan.clone();
        match destination {
            Destination::Given | Destination::StartLocal => Box::pin(start(plan, timeout, None)),
            other @ (Destination::Endpoints(_) | Destination::Context(_)) => {
                Box::pin(open(other, Err(Failure::failed("no cluster is named")), way.clone()))
            }
        }
    });
    run(global, settings(global, &shown), attach).await
}

/// Runs a demo: on the cluster that runs, or on a temporary one that is removed afterwards.
#[cfg(feature = "local")]
pub async fn demo(
    demo: crate::arguments::Demo,
    global: &Global,
    named: Named,
) -> Result<(), Failure> {
    // A Kubernetes cluster must be named: no demo runs on one by accident.
    let found = Discovered { has_kubernetes: false, ..Discovered::look() };
    let all = [named.endpoints, named.local, named.kubernetes];
    let is_named = all.iter().any(Option::is_some) || found.living.is_some();
    let given = match is_named {
        true => Some(target::choose(global, named, found, true)?),
        false => None,
    };
    let is_headless = demo.headless || !has_terminal();
    if let (Some(target), false, true) = (&given, demo.yes, is_headless) {
        let message = format!(
            "the demo {} {}; repeat with --yes, or name no cluster to run it on one of its own",
            demo.name.deed(),
            target.describe()
        );
        return Err(Failure::new(Exit::NeedsYes, message));
    }
    let shown = given.as_ref().map_or("a cluster of the demo's own".to_owned(), Target::describe);
    let (timeout, yes) = (global.timeout, demo.yes || given.is_none());
    let way = Way::of(global)?;
    let attach: Attach = Box::new(move |_| match given.clone() {
        Some(target) => Box::pin(open(Destination::Given, Ok(target), way.clone())),
        None => Box::pin(start_temporary(timeout)),
    });
    let mut app = App::new(settings(global, &shown));
    if is_headless || yes {
        app.demo = Some(crate::app::demo::Demo::new(demo.name, crate::message::Now::default()));
    } else {
        app.wants_demo = Some(demo.name);
    }
    if is_headless {
        let console = Runtime::prepare(app, Clock::start(), Front::Demo, None, attach);
        let ended = Box::pin(console.run()).await?;
        return report(global, &ended);
    }
    let ended = Box::pin(on_screen(app, attach)?.run()).await?;
    match ended.demo.as_ref().and_then(|demo| demo.result.as_ref()) {
        Some(Ok(figures)) => say(&figures.to_string()),
        Some(Err(why)) => Err(Failure::failed(why.clone())),
        None => Ok(()),
    }
}

#[cfg(feature = "local")]
async fn start_temporary(timeout: Duration) -> Result<Arc<dyn Backend>, Failure> {
    let folder = tempfile::Builder::new().prefix("kvorum-demo-").tempdir()?;
    let data = Some(folder.path().join("cluster"));
    let disk_reserve = "1MiB".to_owned();
    let plan = crate::local::Plan { data, disk_reserve, ..crate::local::Plan::default() };
    start(plan, timeout, Some(folder)).await
}

/// Prints the result of a demo.
#[cfg(feature = "local")]
fn report(global: &Global, app: &App) -> Result<(), Failure> {
    use crate::arguments::Format;
    if let Some(why) = crate::update::why_detached(app) {
        return Err(why.again());
    }
    let result = app.demo.as_ref().and_then(|demo| demo.result.clone());
    let figures = match result {
        Some(Ok(figures)) => figures,
        Some(Err(why)) => return Err(Failure::failed(format!("the demo failed: {why}"))),
        None => return Err(Failure::failed("the demo was ended before its end")),
    };
    let json = serde_json::to_value(&figures).unwrap_or_default();
    match global.output {
        Format::Table | Format::Raw => say(&figures.to_string())?,
        Format::Json => say(&serde_json::to_string_pretty(&json).unwrap_or_default())?,
        Format::Jsonl => say(&json.to_string())?,
    }
    match figures.is_proof() {
        true => Ok(()),
        false => Err(Failure::failed("acknowledged writes were lost or doubled")),
    }
}

#[cfg(feature = "local")]
fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints the events of a cluster, until the program is ended.
pub async fn events(global: &Global, named: Named) -> Result<(), Failure> {
    let target = target::choose(global, named, Discovered::look(), false)?;
    crate::note::note(format!("using {}", target.describe()));
    let (shown, way) = (target.describe(), Way::of(global)?);
    let attach: Attach =
        Box::new(move |_| Box::pin(open(Destination::Given, Ok(target.clone()), way.clone())));
    let front = match global.output {
        crate::arguments::Format::Table => Front::Plain,
        _ => Front::Jsonl,
    };
    let app = App::new(settings(global, &shown));
    let console = Runtime::prepare(app, Clock::start(), front, None, attach);
    let ended = Box::pin(console.run()).await?;
    crate::update::why_detached(&ended).map_or(Ok(()), |why| Err(why.again()))
}

/// Runs a console on a terminal, or in line mode.
async fn run(global: &Global, settings: Settings, attach: Attach) -> Result<(), Failure> {
    let app = App::new(settings);
    if global.attach && !has_terminal() {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        return Err(Failure::usage(match is_dumb {
            true => "TERM is dumb: this terminal cannot show a screen; set TERM, or use --plain",
            false => {
                "--attach needs a terminal to be attached to; give the container stdin: true and \
                 tty: true"
            }
        }));
    }
    let console = match global.plain {
        true => {
            let lines = Some(input::lines()?);
            Runtime::prepare(app, Clock::start(), Front::Plain, lines, attach)
        }
        false => on_screen(app, attach)?,
    };
    let ended = Box::pin(console.run()).await?;
    match ended.output.failed {
        1.. if global.plain && !std::io::stdin().is_terminal() => Err(Failure::failed(format!(
            "{} of the lines were not done, as it was said",
            ended.output.failed
        ))),
        _ => Ok(()),
    }
}

/// Takes the terminal for a console that attaches with `attach`. From now on a panic on any thread
/// restores the terminal and ends the process.
///
/// # Errors
/// When the terminal cannot be taken or read.
pub fn on_screen(app: App, attach: Attach) -> Result<Loop, Failure> {
    give_back_on_panic();
    let modes = if app.settings.is_shared { Modes::Shared } else { Modes::Own };
    let screen = Screen::enter(modes)
        .map_err(|error| Failure::failed(format!("the terminal cannot be used: {error}")))?;
    let keys = match input::keys() {
        Ok(keys) => keys,
        Err(error) => {
            screen.leave();
            return Err(error.into());
        }
    };
    Ok(Runtime::prepare(app, Clock::start(), Front::Screen(screen), Some(keys), attach))
}

/// Returns the settings given by the command line and the environment.
fn settings(global: &Global, shown: &str) -> Settings {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    Settings {
        readonly: global.readonly,
        confirm: true,
        theme: global.theme.unwrap_or(ThemeName::Auto),
        no_color: is_set("NO_COLOR"),
        ascii: global.ascii || has_ascii_locale(|name| std::env::var(name).ok()),
        read: if global.local_read { ReadMode::Local } else { ReadMode::Linearizable },
        zone: TimeZone::system(),
        target: shown.to_owned(),
        contexts: Vec::new(),
        retries: false,
        is_shared: global.attach,
        mask: global.mask,
    }
}

/// Whether the environment says that only ASCII is shown. Where it says nothing, as in a container,
/// the terminal is on another machine, and is assumed to show Unicode, as nearly all terminals do.
fn has_ascii_locale(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    locale.is_some_and(|locale| matches!(&*locale, "C" | "POSIX"))
}

/// Makes a panic on any thread restore the terminal and end the process. The replicas of a local
/// cluster end with it.
fn give_back_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        screen::give_back();
        say(panic);
        crate::note::note(format!(
            "this is a bug in kvorum {}; the terminal is as it was",
            env!("CARGO_PKG_VERSION")
        ));
        std::process::exit(i32::from(Exit::Bug as u8));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_may_ask_for_ascii() {
        let cases: [(&[(&str, &str)], bool); 6] = [
            (&[], false),
            (&[("LANG", "C")], true),
            (&[("LANG", "C.UTF-8")], false),
            (&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "POSIX")], true),
            (&[("LANG", "C"), ("LC_CTYPE", "en_US.UTF-8")], false),
            (&[("LANG", "C"), ("LC_ALL", "")], true),
        ];
        for (set, expected) in cases {
            let variable = |name: &str| {
                set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(has_ascii_locale(variable), expected, "{set:?}");
        }
    }
}
