//! A replica as a process: its log, its signals, its exit status.
//!
//! Guarantees that a panic on any thread, and a disk that fails, end the process at once with one
//! line on standard error: half a replica is worse than none. Exit status 143 after SIGTERM, 130
//! after SIGINT, 1 when it could not start, 0 when standard input ended.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::private::make_private;
use crate::replica::Replica;
use crate::settings::{LogFormat, Settings};

/// What a process returns whose standard input ended.
const ORPHANED: ExitCode = ExitCode::SUCCESS;
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
    let file_too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    drop(signal(file_too_large).expect("SIGXFSZ can be handled"));
    let mut told = Told::new(settings.stop_with_stdin);
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
    // Whoever started an orphan is gone, and takes the others with it.
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

/// What tells the process to end. It counts from the start on, not from when somebody waits: a
/// signal that came in between would kill the process.
struct Told {
    terminate: Signal,
    interrupt: Signal,
    /// The end of standard input, where that counts.
    orphaned: Option<oneshot::Receiver<()>>,
}

impl Told {
    fn new(with_stdin: bool) -> Self {
        let terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
        let interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
        Self { terminate, interrupt, orphaned: with_stdin.then(stdin_ended) }
    }

    /// Waits until the process is told to end; what it then returns.
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

/// Tells of the end of standard input, which is waited for on a thread of its own: the runtime
/// would wait for a read that never ends.
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
