use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::Value;

use super::*;
use crate::caller::Scope;

/// Documents in memory, for tests of what stands on them.
#[derive(Default)]
pub struct Memory(Mutex<BTreeMap<(String, String), (Value, u64)>>);

fn as_expected(expect: Expect, present: Option<u64>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => present.is_none(),
        Expect::Version(version) => present == Some(version),
    }
}

#[async_trait]
impl Documents for Memory {
    async fn get(&self, collection: &str, key: &str) -> Result<Option<Document>, StateError> {
        let all = self.0.lock().unwrap();
        let found = all.get(&(collection.to_owned(), key.to_owned()));
        Ok(found.map(|(value, version)| Document { key: key.to_owned(), value: value.clone(), version: *version }))
    }

    async fn put(&self, collection: &str, key: &str, value: &Value, expect: Expect) -> Result<u64, StateError> {
        let mut all = self.0.lock().unwrap();
        let place = (collection.to_owned(), key.to_owned());
        let present = all.get(&place).map(|(_, version)| *version);
        if !as_expected(expect, present) {
            return Err(StateError::Conflict { collection: place.0, key: place.1 });
        }
        let version = present.unwrap_or(0) + 1;
        all.insert(place, (value.clone(), version));
        Ok(version)
    }

    async fn delete(&self, collection: &str, key: &str, expect: Expect) -> Result<bool, StateError> {
        let mut all = self.0.lock().unwrap();
        let place = (collection.to_owned(), key.to_owned());
        if !as_expected(expect, all.get(&place).map(|(_, version)| *version)) {
            return Err(StateError::Conflict { collection: place.0, key: place.1 });
        }
        Ok(all.remove(&place).is_some())
    }

    async fn list(&self, collection: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>, StateError> {
        let all = self.0.lock().unwrap();
        let mine = all.iter().filter(|((c, key), _)| c == collection && key.starts_with(prefix) && after.is_none_or(|a| key.as_str() > a));
        let document = |((_, key), (value, version)): (&(String, String), &(Value, u64))| Document {
            key: key.clone(),
            value: value.clone(),
            version: *version,
        };
        Ok(mine.take(limit as usize).map(document).collect())
    }
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn reading() -> Scopes {
    Scopes::from_iter([Scope::VectorsRead])
}

async fn made(keys: &ApiKeys, owner: &str) -> (ApiKey, Token) {
    keys.create(&tenant(owner), "robot", reading(), None).await.unwrap()
}

#[tokio::test]
async fn a_key_opens_what_it_was_made_for_until_it_is_revoked() {
    let keys = ApiKeys::new(Arc::new(Memory::default()));
    let (key, token) = made(&keys, "acme").await;
    let caller = keys.verify(&token.reveal()).await.unwrap();
    assert_eq!(caller, Caller { tenant: tenant("acme"), scopes: reading(), name: "robot".into() });
    assert!(caller.require(Scope::VectorsRead).is_ok());
    assert!(caller.require(Scope::VectorsWrite).unwrap_err().to_string().contains("vectors:write"));
    let used = keys.list(&tenant("acme")).await.unwrap()[0].last_used_at;
    assert!(used.is_some_and(|used| used >= key.created_at));
    keys.revoke(&tenant("acme"), &key.id).await.unwrap();
    assert!(matches!(keys.verify(&token.reveal()).await, Err(CallerError::UnknownKey)));
    assert!(matches!(keys.revoke(&tenant("acme"), &key.id).await, Err(ApiKeysError::NotFound { .. })));
}

#[tokio::test]
async fn only_the_hash_is_kept() {
    let memory = Arc::new(Memory::default());
    let (_, token) = made(&ApiKeys::new(memory.clone()), "acme").await;
    let secret = token.reveal().rsplit('_').next().unwrap().to_owned();
    let kept = format!("{:?}", memory.0.lock().unwrap());
    assert!(kept.contains(&token.secret_sha256()) && !kept.contains(&secret));
}

#[tokio::test]
async fn tenants_neither_see_nor_revoke_each_others_keys() {
    let keys = ApiKeys::new(Arc::new(Memory::default()));
    let (acme, token) = made(&keys, "acme").await;
    made(&keys, "other").await;
    assert_eq!(keys.list(&tenant("acme")).await.unwrap().len(), 1);
    assert!(matches!(keys.revoke(&tenant("other"), &acme.id).await, Err(ApiKeysError::NotFound { .. })));
    assert!(keys.verify(&token.reveal()).await.is_ok());
    for id in ["", "..", "x", &"f".repeat(24), &"é".repeat(12)] {
        assert!(matches!(keys.revoke(&tenant("acme"), id).await, Err(ApiKeysError::NotFound { .. })), "{id:?}");
    }
}

#[tokio::test]
async fn another_secret_and_an_end_in_the_past_are_refused() {
    let memory = Arc::new(Memory::default());
    let keys = ApiKeys::new(memory.clone());
    let (key, token) = keys.create(&tenant("acme"), "robot", reading(), Some(Duration::from_secs(60))).await.unwrap();
    assert!(keys.verify(&token.reveal()).await.is_ok());
    let other = format!("alk_{}_{}", key.id, "0".repeat(64));
    assert!(matches!(keys.verify(&other).await, Err(CallerError::UnknownKey)));
    let place = (COLLECTION.to_owned(), key.id.clone());
    memory.0.lock().unwrap().get_mut(&place).unwrap().0["expires_at"] = 1.into();
    let error = keys.verify(&token.reveal()).await.unwrap_err();
    assert!(matches!(&error, CallerError::Expired(name) if name == "robot"), "{error}");
    memory.0.lock().unwrap().get_mut(&place).unwrap().0["scopes"] = serde_json::json!(["of:tomorrow"]);
    assert!(matches!(keys.verify(&token.reveal()).await, Err(CallerError::State)), "what is not understood opens nothing");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_their_number_is_bounded() {
    let keys = ApiKeys::new(Arc::new(Memory::default()));
    let acme = tenant("acme");
    for name in ["", "  ", "a\u{7}", &"x".repeat(101)] {
        assert!(matches!(keys.create(&acme, name, reading(), None).await, Err(ApiKeysError::Name)), "{name:?}");
    }
    assert!(matches!(keys.create(&acme, "n", Scopes::default(), None).await, Err(ApiKeysError::NoScopes)));
    assert!(matches!(keys.create(&acme, "n", reading(), Some(Duration::ZERO)).await, Err(ApiKeysError::NoTime)));
    for _ in 0..KEYS_MAX {
        made(&keys, "acme").await;
    }
    assert_eq!(keys.list(&acme).await.unwrap().len(), KEYS_MAX, "over several pages");
    assert!(matches!(keys.create(&acme, "n", reading(), None).await, Err(ApiKeysError::TooMany(_))));
    made(&keys, "other").await;
}
