//! `auralink token`: an access token for a room or for the API, and the link of the page that uses it.

use std::path::PathBuf;

use anyhow::bail;
use auralink_signaling::access::{Claims, KeySet};

use crate::caller::Grant;
use crate::cli::{ClientArgs, TokenArgs};
use crate::config::{Config, default_data_dir};
use crate::credentials::Credentials;
use crate::keys;

/// The key pair that a command signs with: given, the first of the server's configuration, or the one that the server on this
/// machine made.
pub fn key_pair(args: &ClientArgs) -> anyhow::Result<(String, String)> {
    match (&args.api_key, &args.api_secret) {
        (Some(key), Some(secret)) => return Ok((key.clone(), secret.clone())),
        (Some(_), None) => bail!("--api-key needs its secret: --api-secret, or LIVEKIT_API_SECRET"),
        (None, Some(_)) => bail!("--api-secret needs its key: --api-key, or LIVEKIT_API_KEY"),
        (None, None) => {}
    }
    let mut config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    config.keys.add_from_environment()?;
    if let Some(pair) = keys::configured(&config)?.0.into_iter().next().filter(|_| !args.dev) {
        return Ok(pair);
    }
    let credentials = if args.dev { Credentials::dev() } else { Credentials::read(&data_dir(args)?)? };
    Ok((credentials.api_key, credentials.api_secret))
}

/// Where the server on this machine keeps its keys and its certificate.
pub fn data_dir(args: &ClientArgs) -> anyhow::Result<PathBuf> {
    Ok(match (&args.data_dir, &args.config) {
        (Some(dir), _) => dir.clone(),
        (None, Some(config)) => Config::read(config)?.data_dir(),
        (None, None) => default_data_dir(),
    })
}

/// Prints the token.
pub fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let (key, secret) = key_pair(&args.client)?;
    let keys = KeySet::new([(key.clone(), secret)]);
    let token = keys.mint(&key, &claims(args), args.valid_for)?;
    println!("{token}");
    if let Some(page) = &args.page {
        println!("{}/#token={token}", page.trim_end_matches('/'));
    }
    Ok(())
}

fn claims(args: &TokenArgs) -> Claims {
    let mut claims = match &args.room {
        Some(room) => Claims::join(args.identity.clone(), room.clone()),
        None => Claims { identity: args.identity.clone(), ..Claims::default() },
    };
    if let Some(scopes) = args.scopes {
        Grant { scopes, tenant: args.tenant.clone() }.put(&mut claims);
    }
    claims.name = args.name.clone().unwrap_or_default();
    if let Some(grant) = &mut claims.video {
        grant.room_admin = args.admin;
        grant.room_create = args.admin;
        grant.room_list = args.admin;
        if args.listen_only {
            grant.can_publish = Some(false);
            grant.can_publish_data = Some(false);
        }
    }
    claims
}
