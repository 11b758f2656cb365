//! The text of an API key: `alk_<id>_<secret>`, 24 and 64 hexadecimal digits. The prefix lets people and secret scanners know one.

use std::fmt;
use std::str::FromStr;

use auralink_infrastructure::tenant::Tenant;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::credentials::CredentialsError;

/// What every token begins with.
const PREFIX: &str = "alk_";

/// Digits of the hash of the tenant's name, which an id begins with: so a tenant's keys are listed without reading all.
const TENANT_DIGITS: usize = 8;

/// Digits of an id.
const ID_DIGITS: usize = 24;

/// Digits of a secret: 32 bytes.
const SECRET_DIGITS: usize = 64;

/// A token. `Debug` shows its id alone; [`Token::reveal`] is for the one answer that hands it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

/// The text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAToken;

impl Token {
    /// A new one for a tenant.
    pub fn random(tenant: &Tenant) -> Result<Self, CredentialsError> {
        let id = random::<{ (ID_DIGITS - TENANT_DIGITS) / 2 }>()?;
        let secret = random::<{ SECRET_DIGITS / 2 }>()?;
        Ok(Self { id: prefix_of(tenant) + &hex(&id), secret: hex(&secret) })
    }

    /// Is the text meant to be a token, and not a JSON web token?
    pub fn looks_like(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Names the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole token.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }

    /// What is kept of the secret.
    pub fn secret_sha256(&self) -> String {
        hex(&Sha256::digest(&self.secret))
    }

    /// Is this the secret whose hash was kept? Takes as long wherever they differ.
    pub fn has_secret(&self, sha256: &str) -> bool {
        self.secret_sha256().as_bytes().ct_eq(sha256.as_bytes()).into()
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let (id, secret) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(NotAToken)?;
        if !is_id(id) || !is_hex(secret, SECRET_DIGITS) {
            return Err(NotAToken);
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, …)", self.id)
    }
}

/// What the ids of a tenant's keys begin with.
pub fn prefix_of(tenant: &Tenant) -> String {
    hex(&Sha256::digest(tenant.as_str())[..TENANT_DIGITS / 2])
}

/// Can the text be an id?
pub fn is_id(text: &str) -> bool {
    is_hex(text, ID_DIGITS)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], CredentialsError> {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CredentialsError::Random)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_read_back_and_never_shown() {
        let token = Token::random(&Tenant::default()).unwrap();
        let text = token.reveal();
        assert_eq!((text.len(), text.parse::<Token>()), (93, Ok(token.clone())));
        assert!(token.has_secret(&token.secret_sha256()) && !token.has_secret("") && !token.has_secret(&"0".repeat(64)));
        assert!(!format!("{token:?}").contains(&token.secret) && !token.secret_sha256().contains(&token.secret));
        assert_ne!(text, Token::random(&Tenant::default()).unwrap().reveal());
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser_and_only_whole_tokens_pass(text in ".{0,120}") {
            prop_assert!(text.parse::<Token>().is_err());
            let prefixed = format!("alk_{text}");
            prop_assert!(prefixed.parse::<Token>().is_err());
        }

        #[test]
        fn what_differs_in_one_character_is_another_or_none(at in 0_usize..93, with in any::<char>()) {
            let token = Token::random(&Tenant::default()).unwrap();
            let mut letters: Vec<char> = token.reveal().chars().collect();
            prop_assume!(letters[at] != with);
            letters[at] = with;
            let changed: String = letters.into_iter().collect();
            if let Ok(other) = changed.parse::<Token>() {
                prop_assert!(other.id != token.id || !other.has_secret(&token.secret_sha256()));
            }
        }
    }
}
