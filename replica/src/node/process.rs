//! A replica as a process: its log, its signals, its exit status.
//!
//! Guarantees that a panic on any thread, and a disk failure, end the process at once with one line
//! on standard error: half a replica is worse than none. The exit status is 143 after SIGTERM, 130
//! after SIGINT, 1 when it could not start, and 0 when standard input ended.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::node::replica::Replica;
use crate::node::settings::{LogFormat, Settings};
use crate::private::make_private;

/// The exit status of a process whose standard input ended.
const ORPHANED: ExitCode = ExitCode::SUCCESS;
/// Number of threads for sockets. The driver and the sync have their own.
const WORKER_THREADS: usize = 2;

/// Runs a replica until it is asked to stop.
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
            // A name lookup that gets no answer takes seconds and is useless now: not awaited.
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
    // A write to a file at its size limit (`ulimit -f`) then fails with an error that can be
    // reported. Listening once is enough: from then on the signal does not kill the process.
    let file_too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    drop(signal(file_too_large).expect("SIGXFSZ can be handled"));
    let mut told = EndRequests::new(settings.stop_with_stdin);
    let on_fatal = Arc::new(|what: &str| {
        eprintln!("kvorum-replica: the disk failed, so this replica stops: {what}");
        std::process::abort();
    });
    let mut another = None;
    let (replica, code) = loop {
        let on_fatal = on_fatal.clone();
        let replica = tokio::select! {
            code = told.next() => return code,
            started = Replica::start(settings, another.take(), on_fatal) => match started {
                Ok(replica) => replica,
                Err(error) => {
                    eprintln!("kvorum-replica: {error}");
                    return ExitCode::FAILURE;
                }
            },
        };
        tokio::select! {
            code = told.next() => break (replica, code),
            newborn = replica.outlived(settings) => {
                another = newborn;
                replica.stop(false).await;
            }
        }
    };
    info!("stopping");
    // The process that started an orphan is gone, and ends the other replicas too.
    let mut is_orphan = code == ORPHANED;
    if !is_orphan {
        tokio::select! {
            () = replica.leave() => {}
            again = told.next() => {
                info!("told again: ends now");
                is_orphan = again == ORPHANED;
            }
        }
    }
    replica.stop(!is_orphan).await;
    code
}

/// The requests to end the process. They are received from the start on, not only while they are
/// awaited: a signal that came in between would kill the process.
struct EndRequests {
    terminate: Signal,
    interrupt: Signal,
    /// The end of standard input, if that is a request to end.
    orphaned: Option<oneshot::Receiver<()>>,
}

impl EndRequests {
    fn new(with_stdin: bool) -> Self {
        let terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
        let interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
        Self { terminate, interrupt, orphaned: with_stdin.then(stdin_ended) }
    }

    /// Waits until the process is asked to end; returns its exit status.
    async fn next(&mut self) -> ExitCode {
        let orphaned = async {
            match &mut self.orphaned {
                Some(orphaned) => drop(orphaned.await),
                None => std::future::pending().await,
            }
            self.orphaned = None;
        };
        tokio::select! {
            _ = self.terminate.recv() => ExitCode::from(143),
            _ = self.interrupt.recv() => ExitCode::from(130),
            () = orphaned => ORPHANED,
        }
    }
}

/// Reports the end of standard input, which is awaited on a thread of its own: the runtime would
/// wait for a read that never ends.
fn stdin_ended() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    end
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("KVORUM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second logger in a process that already has one is not needed; the first one stays.
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
