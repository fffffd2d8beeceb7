//! A replica as a process: its log, its signals, its exit status.
//!
//! Guarantees that a panic on any thread, and a disk that fails, end the process at once with one
//! line on standard error: half a replica is worse than none. Exit status 143 after SIGTERM, 130
//! after SIGINT, 1 when it could not start, 0 when standard input ended.

use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::private::make_private;
use crate::replica::Replica;
use crate::settings::{LogFormat, Settings};

/// Threads for sockets. The driver and the sync have their own.
const WORKER_THREADS: usize = 2;

/// Runs a replica until it is told to stop.
pub fn run(settings: &Settings) -> ExitCode {
    make_private();
    log_to_stderr(settings.log_format);
    die_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run_until_told(settings));
            // A lookup of a name that nobody answers any more takes seconds, and is of no use.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("kvorum-replica: cannot start threads: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run_until_told(settings: &Settings) -> ExitCode {
    // A file that may not grow any more (`ulimit -f`) is an error of the write to it, which can be
    // told. Listening once is enough: a signal that was listened for ends nobody again.
    drop(signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).expect("SIGXFSZ can be handled"));
    let stopped = stop_signal(settings.stop_with_stdin);
    let on_fatal = Arc::new(|what: &str| {
        eprintln!("kvorum-replica: the disk failed, so this replica stops: {what}");
        std::process::abort();
    });
    tokio::pin!(stopped);
    let mut another = None;
    let (replica, code) = loop {
        let on_fatal = on_fatal.clone();
        let replica = tokio::select! {
            code = &mut stopped => return code,
            started = Replica::start(settings, another.take(), on_fatal) => match started {
                Ok(replica) => replica,
                Err(error) => {
                    eprintln!("kvorum-replica: {error}");
                    return ExitCode::FAILURE;
                }
            },
        };
        tokio::select! {
            code = &mut stopped => break (replica, code),
            newborn = replica.outlived(settings) => {
                another = newborn;
                replica.stop(false).await;
            }
        }
    };
    info!("stopping");
    // Whoever started this replica is gone, and takes the others with it.
    let is_orphan = code == ExitCode::SUCCESS;
    if !is_orphan {
        let again = stop_signal(false);
        tokio::select! {
            () = replica.leave() => {}
            _ = again => info!("told again: ends now"),
        }
    }
    replica.stop(!is_orphan).await;
    code
}

/// Ends when the process is told to stop; what it then returns. Signals count from the call on, not
/// from when somebody waits: one that came in between would kill the process.
fn stop_signal(with_stdin: bool) -> impl Future<Output = ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    async move {
        tokio::select! {
            _ = terminate.recv() => ExitCode::from(143),
            _ = interrupt.recv() => ExitCode::from(130),
            () = stdin_ended(), if with_stdin => ExitCode::SUCCESS,
        }
    }
}

/// Waits for the end of standard input on a thread of its own: the runtime would wait for a read
/// that never ends.
async fn stdin_ended() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("KVORUM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second logger, in a process that already has one, is of no use; the first one stays.
    let _ = match format {
        LogFormat::Text => log.with_ansi(false).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

fn die_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}
