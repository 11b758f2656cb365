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
            eprintln!("auralink: {}", sentence(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

/// What went wrong and why, each cause once: most of our errors quote theirs already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

fn block_on(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    #[test]
    fn no_cause_is_said_twice() {
        let io = || std::io::Error::other("the disk is full");
        let quoting = anyhow::Error::new(super::credentials::CredentialsError::Io { path: "keys".into(), source: io() });
        assert_eq!(super::sentence(&quoting).matches("the disk is full").count(), 1);
        assert_eq!(super::sentence(&Err::<(), _>(io()).context("no keys").unwrap_err()), "no keys: the disk is full");
    }
}
