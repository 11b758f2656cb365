//! `auralink token`: an access token for a room, and the link of the page that uses it.

use auralink_signaling::access::{Claims, KeySet};

use crate::cli::{ClientArgs, TokenArgs};
use crate::config::default_data_dir;
use crate::credentials::{Credentials, CredentialsError};

/// The key pair that a command signs with: given, or the one that the server on this machine made.
pub fn key_pair(args: &ClientArgs) -> Result<(String, String), CredentialsError> {
    if let (Some(key), Some(secret)) = (&args.api_key, &args.api_secret) {
        return Ok((key.clone(), secret.clone()));
    }
    let credentials =
        if args.dev { Credentials::dev() } else { Credentials::read(&args.data_dir.clone().unwrap_or_else(default_data_dir))? };
    Ok((credentials.api_key, credentials.api_secret))
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
    let mut claims = Claims::join(args.identity.clone(), args.room.clone());
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
