//! The binary: one command line over the server and its tools.

use clap::Parser;

mod addresses;
mod api;
mod audio_in;
mod captions;
mod cli;
mod config;
mod connection;
mod correlation;
mod credentials;
mod exposition;
mod grpc;
mod http;
mod keys;
mod page;
mod play;
mod publish;
mod reload;
mod serve;
mod speech;
mod telemetry;
mod tls;
mod token;

fn main() -> std::process::ExitCode {
    let cli = cli::Cli::parse();
    let done = match cli.command {
        None => block_on(serve::run(cli.serve)),
        Some(cli::Command::Serve(args)) => block_on(serve::run(args)),
        Some(cli::Command::Token(args)) => token::run(&args),
        Some(cli::Command::Play(args)) => block_on(play::run(args)),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("auralink: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn block_on(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run)
}
