//! `flock-agent`: see `flock-agent --help`.

use std::process::ExitCode;

use flock_bin::agent::check;
use flock_bin::agent::check::options::CheckOptions;
use flock_bin::agent::log::Lines;
use flock_bin::agent::options::{Invocation, LogFormat, Options, OptionsError, ThisMachine};
use tracing_subscriber::EnvFilter;

/// The client of the API server logs each failed attempt; the agent says once that it failed
/// and once that it works again.
const DEFAULT_FILTER: &str = "info,kube_client=off,kube_runtime=off,tower=off";

fn main() -> ExitCode {
    match Invocation::read(std::env::args_os(), &ThisMachine) {
        Ok(Invocation::Serve(options)) => serve(*options),
        Ok(Invocation::Check(options)) => judge(&options),
        Err(OptionsError::CommandLine(error)) => error.exit(),
        Err(error) => fail(&error, ExitCode::from(2)),
    }
}

fn serve(options: Options) -> ExitCode {
    log(options.log_format);
    // Two threads serve as many pods as the kernel's one lock for network
    // configuration lets through.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, ExitCode::FAILURE),
    };
    match runtime.block_on(flock_bin::agent::run(options, signal())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, ExitCode::FAILURE),
    }
}

fn judge(options: &CheckOptions) -> ExitCode {
    log(LogFormat::Text);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, ExitCode::from(2)),
    };
    match runtime.block_on(check::run(options)) {
        Ok(report) => {
            // Whoever does not read it to its end still gets the exit status.
            let _ = std::io::Write::write_all(
                &mut std::io::stdout(),
                check::render(&report, options.output).as_bytes(),
            );
            if report.agrees() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(&error, ExitCode::from(2)),
    }
}

/// Ready when somebody asks the agent to end.
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| tracing::error!(%error, "can't listen for a signal")).ok();
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    tokio::select! {
        Some(()) = async { terminate.as_mut()?.recv().await } => {}
        Some(()) = async { interrupt.as_mut()?.recv().await } => {}
        else => std::future::pending().await,
    }
}

fn log(format: LogFormat) {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(asked) if !asked.is_empty() => EnvFilter::builder().parse_lossy(asked),
        _ => EnvFilter::new(DEFAULT_FILTER),
    };
    let colours = format == LogFormat::Text && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = Lines::new(std::io::stderr, colours);
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
    match format {
        LogFormat::Text => subscriber.with_ansi(colours).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}

fn fail(error: &dyn std::error::Error, code: ExitCode) -> ExitCode {
    eprintln!("flock-agent: {error}");
    code
}
