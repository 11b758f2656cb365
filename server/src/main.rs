//! The binary: one command line over the server and its tools.

use clap::Parser;

mod addresses;
mod api;
mod api_keys;
mod audio_in;
mod caller;
mod captions;
mod cli;
mod client;
mod config;
mod connection;
mod correlation;
mod credentials;
mod embeddings;
mod exposition;
mod files;
mod files_command;
mod grpc;
mod http;
mod jobs;
mod keys;
mod keys_command;
mod page;
mod pipeline;
mod pipeline_command;
mod play;
mod publish;
mod reload;
mod sandbox_command;
mod sandboxes;
mod schedules;
mod serve;
mod speech;
mod state_command;
mod telemetry;
mod tls;
mod token;
mod vector_imports;
mod vectors;
mod vectors_command;
mod work;
mod worker_command;

fn main() -> std::process::ExitCode {
    let cli = cli::Cli::parse();
    if !matches!(cli.command, None | Some(cli::Command::Serve(_) | cli::Command::Worker(_))) {
        end_with_the_reader();
    }
    let done = match cli.command {
        None => block_on(serve::run(cli.serve)),
        Some(cli::Command::Serve(args)) => block_on(serve::run(args)),
        Some(cli::Command::Token(args)) => token::run(&args),
        Some(cli::Command::Play(args)) => block_on(play::run(args)),
        Some(cli::Command::Migrate(args)) => block_on(state_command::migrate(args)),
        Some(cli::Command::Backup(args)) => block_on(state_command::backup(args)),
        Some(cli::Command::Restore(args)) => block_on(state_command::restore(args)),
        Some(cli::Command::Worker(args)) => block_on(worker_command::run(args)),
        Some(cli::Command::Sandbox(args)) => return exit_with(sandbox_command::run(*args)),
        Some(cli::Command::Vectors { command }) => block_on(vectors_command::run(command)),
        Some(cli::Command::Keys { command }) => block_on(keys_command::run(command)),
        Some(cli::Command::Files { command }) => block_on(files_command::run(command)),
        Some(cli::Command::Pipeline { command }) => block_on(pipeline_command::run(command)),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("auralink: {}", sentence(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

/// `auralink ... | head` closes our output when it has seen enough: that is no crash. Rust ignores SIGPIPE, which a server needs, and its
/// `println!` panics instead. The exit code is what a shell shows for SIGPIPE.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(141);
        }
        usual(panic);
    }));
}

/// What went wrong and why, each cause once: most of our errors quote theirs already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

/// For a command that passes a program's exit code on.
fn exit_with(run: impl Future<Output = anyhow::Result<u8>>) -> std::process::ExitCode {
    let done = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from).and_then(|runtime| {
        let done = runtime.block_on(run);
        // A read of standard input that still waits must not hold the command up.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(code) => std::process::ExitCode::from(code),
        Err(error) => {
            eprintln!("auralink: {}", sentence(&error));
            std::process::ExitCode::FAILURE
        }
    }
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
