//! `auralink keys`: makes, lists and revokes API keys of a running server, by its REST API.

use crate::api::{CreateKey, CreatedKey, KeyList};
use crate::caller::Scope;
use crate::cli::KeysCommand;
use crate::client::Client;

const PATH: &str = "/api/v1/keys";

/// Does it.
pub async fn run(command: KeysCommand) -> anyhow::Result<()> {
    let needed = [Scope::KeysAdmin];
    match command {
        KeysCommand::Create { name, scopes, expires_in, http } => {
            let wanted = CreateKey { name, scopes: scopes.names(), expires_in_s: expires_in.map(|time| time.as_secs()) };
            let made: CreatedKey = Client::new(&http, &needed)?.post(PATH, &wanted).await?;
            eprintln!("API key {} of the tenant {}. Keep it now: it cannot be shown again.", made.key.id, made.key.tenant);
            println!("{}", made.token);
        }
        KeysCommand::List { http } => {
            let list: KeyList = Client::new(&http, &needed)?.get(PATH).await?;
            println!("{:<24}  {:<12}  {:<12}  {:<12}  {:<24}  scopes", "id", "made", "last used", "ends", "name");
            for key in list.keys {
                let (made, used, end) = (day(Some(key.created_at)), day(key.last_used_at), day(key.expires_at));
                let name: String = key.name.chars().filter(|c| !c.is_control()).collect();
                println!("{:<24}  {made:<12}  {used:<12}  {end:<12}  {name:<24}  {}", key.id, key.scopes.join(","));
            }
        }
        KeysCommand::Revoke { id, http } => {
            // The id becomes part of a path.
            anyhow::ensure!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "`{id}` is no key's id; `auralink keys list` shows them");
            Client::new(&http, &needed)?.delete(&format!("{PATH}/{id}")).await?;
            eprintln!("{id} is refused from now on.");
        }
    }
    Ok(())
}

/// The day (UTC) of seconds since 1970.
fn day(seconds: Option<u64>) -> String {
    let at = seconds.and_then(|s| i64::try_from(s).ok()).and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    at.map_or_else(|| "-".into(), |at| at.date().to_string())
}
