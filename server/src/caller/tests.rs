use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::api_keys::tests::Memory;

const SECRET: &str = "a-secret-of-some-thirty-six-letters!";
const NO_LIMIT: Rate = Rate { per_second: 0.0, burst: 0.0 };

fn callers(rate: Rate) -> Callers {
    Callers::new(KeySet::new([("devkey", SECRET)]), ApiKeys::new(Arc::new(Memory::default())), rate)
}

fn token(grant: Option<serde_json::Value>) -> String {
    let mut claims = Claims::join("ana", "room");
    claims.other.extend(grant.map(|grant| (Grant::CLAIM.to_owned(), grant)));
    let keys = KeySet::new([("devkey", SECRET)]);
    format!("Bearer {}", keys.mint("devkey", &claims, Duration::from_secs(60)).unwrap())
}

async fn caller(grant: Option<serde_json::Value>) -> Result<Caller, CallerError> {
    callers(NO_LIMIT).of_header(Some(token(grant).as_bytes())).await
}

#[tokio::test]
async fn a_token_has_the_scopes_and_the_tenant_of_its_claim_and_none_without_it() {
    let granted = caller(Some(serde_json::json!({"scopes": ["vectors:write", "jobs:read"], "tenant": "acme"}))).await.unwrap();
    assert_eq!((granted.tenant.as_str(), granted.name.as_str()), ("acme", "ana"));
    assert_eq!(granted.scopes.names(), ["jobs:read", "vectors:write"]);
    let plain = caller(None).await.unwrap();
    assert_eq!((plain.tenant, plain.scopes), (Tenant::default(), Scopes::default()));
}

#[tokio::test]
async fn a_grant_is_put_into_a_token_and_read_from_it() {
    let grant = Grant { scopes: Scopes::from_iter([Scope::KeysAdmin]), tenant: "acme".parse().unwrap() };
    let mut claims = Claims { identity: "ana".into(), ..Claims::default() };
    grant.put(&mut claims);
    let token = KeySet::new([("devkey", SECRET)]).mint("devkey", &claims, Duration::from_secs(60)).unwrap();
    let found = callers(NO_LIMIT).of_header(Some(format!("Bearer {token}").as_bytes())).await.unwrap();
    assert_eq!((found.tenant, found.scopes), (grant.tenant, grant.scopes));
}

#[tokio::test]
async fn a_claim_that_is_not_understood_opens_nothing() {
    for claim in [
        serde_json::json!({"scopes": ["vectors:wrte"]}),
        serde_json::json!({"scopes": "vectors:write"}),
        serde_json::json!({"tenant": "../other"}),
        serde_json::json!({"admin": true}),
        serde_json::json!("keys:admin"),
        serde_json::json!(null),
    ] {
        assert!(matches!(caller(Some(claim.clone())).await, Err(CallerError::Claim(_))), "{claim}");
    }
}

#[tokio::test]
async fn what_is_no_good_credential_is_refused_and_never_quoted() {
    let callers = callers(NO_LIMIT);
    assert!(matches!(callers.of_header(None).await, Err(CallerError::Missing)));
    let long = format!("Bearer {}", "x".repeat(HEADER_BYTES_MAX));
    for header in ["", "Basic abc", "Bearer ", "bearer x", "Bearer s3cret", "Bearer alk_s3cret", "Bearer alk_", &long] {
        let error = callers.of_header(Some(header.as_bytes())).await.unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        assert_eq!(ApiError::from(error).status, axum::http::StatusCode::UNAUTHORIZED);
    }
    assert!(matches!(callers.of_header(Some(b"Bearer \xff")).await, Err(CallerError::Header)));
}

#[tokio::test]
async fn over_the_limit_both_faces_say_when_to_come_back() {
    let callers = callers(Rate { per_second: 0.5, burst: 1.0 });
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", token(None).parse().unwrap());
    assert!(callers.of_metadata(&metadata).await.is_ok());
    let status = callers.of_metadata(&metadata).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.metadata().get("retry-after").unwrap(), "2");
    let (home, next_door) = ("2001:db8:1:2::1".parse().unwrap(), "2001:db8:1:2:ffff::9".parse().unwrap());
    assert!(callers.admit_stranger(home).is_ok());
    assert!(callers.admit_stranger(next_door).is_err(), "one network of IPv6");
    assert!(callers.admit_stranger("2001:db8:1:3::1".parse().unwrap()).is_ok());
}

proptest! {
    #[test]
    fn no_header_breaks_the_reader(header in proptest::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let with_scheme = [b"Bearer ".as_slice(), &header].concat();
        for bytes in [header, with_scheme] {
            prop_assert!(runtime.block_on(callers(NO_LIMIT).of_header(Some(&bytes))).is_err());
        }
    }

    #[test]
    fn no_claim_breaks_the_reader(text in ".{0,60}", number in any::<i64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for claim in [serde_json::json!({"scopes": [text]}), serde_json::json!({"tenant": text}), serde_json::json!([number]), serde_json::json!({"scopes": number})] {
            if let Ok(caller) = runtime.block_on(caller(Some(claim))) {
                prop_assert!(caller.scopes.iter().all(|scope| scope.as_str() == text) );
            }
        }
    }
}
