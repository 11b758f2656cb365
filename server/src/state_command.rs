//! `auralink migrate`, `auralink backup`, `auralink restore`: the state, without a server.

use anyhow::Context as _;
use auralink_infrastructure::state::{State, StateConfig};

use crate::cli::{BackupArgs, PlaceArgs, RestoreArgs};
use crate::config::Config;

/// Brings the schema up to date.
pub async fn migrate(args: PlaceArgs) -> anyhow::Result<()> {
    let (config, what) = place(&args)?;
    let done = State::migrate(&config).await?;
    match done.from == done.to {
        true => println!("The state's schema in {what} is up to date: version {}.", done.to),
        false => println!("The state's schema in {what} went from version {} to {}.", done.from, done.to),
    }
    Ok(())
}

/// Writes a backup, also beside a running server.
pub async fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let (config, what) = place(&args.place)?;
    State::backup(&config, &args.file).await?;
    println!("The state in {what} is in {}.", args.file.display());
    Ok(())
}

/// Puts a backup back.
pub async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let (config, what) = place(&args.place)?;
    State::restore(&config, &args.file, args.replace).await?;
    println!("{} is the state in {what} now; jobs that were running then are queued again.", args.file.display());
    Ok(())
}

/// Where the state is, and its name for people.
fn place(args: &PlaceArgs) -> anyhow::Result<(StateConfig, String)> {
    let config = configuration(args)?;
    let state = config.state().context("the state's engine cannot be reached")?;
    let what = match &state {
        StateConfig::Sqlite { folder } => folder.display().to_string(),
        StateConfig::Postgres { .. } => "PostgreSQL".into(),
    };
    Ok((state, what))
}

/// The file, then the flag.
pub fn configuration(args: &PlaceArgs) -> anyhow::Result<Config> {
    let mut config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    config.data_dir = args.data_dir.clone().or(config.data_dir);
    Ok(config)
}
