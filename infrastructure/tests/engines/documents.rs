//! Small documents, on both engines of the state.

use auralink_infrastructure::state::{Documents, Expect, MAX_VALUE_BYTES, State, StateError};
use serde_json::json;

use crate::place::{Kind, Place};

async fn state(kind: Kind) -> (Place, State) {
    let place = Place::closed(kind);
    let state = State::open(&place.state).await.unwrap();
    (place, state)
}

async fn are_kept_with_their_versions(kind: Kind) {
    let (_place, state) = state(kind).await;
    assert_eq!(state.get("c", "k").await.unwrap(), None);
    assert!(matches!(state.put("c", "k", &json!(0), Expect::Version(1)).await, Err(StateError::Conflict { .. })));
    assert_eq!(state.put("c", "k", &json!({ "a": [1, null, "ü\u{0}"] }), Expect::Absent).await.unwrap(), 1);
    assert!(matches!(state.put("c", "k", &json!(0), Expect::Absent).await, Err(StateError::Conflict { .. })));
    assert_eq!(state.put("c", "k", &json!(2), Expect::Version(1)).await.unwrap(), 2);
    assert_eq!(state.put("c", "k", &json!({ "a": "ü\u{0}" }), Expect::Any).await.unwrap(), 3);
    let document = state.get("c", "k").await.unwrap().unwrap();
    assert_eq!((document.value, document.version), (json!({ "a": "ü\u{0}" }), 3));
    assert!(matches!(state.delete("c", "k", Expect::Version(2)).await, Err(StateError::Conflict { .. })));
    assert!(matches!(state.delete("c", "k", Expect::Absent).await, Err(StateError::Conflict { .. })));
    assert!(state.delete("c", "k", Expect::Version(3)).await.unwrap());
    assert!(!state.delete("c", "k", Expect::Any).await.unwrap());
    // Many at once: each change of a version happens once.
    state.put("c", "n", &json!(0), Expect::Absent).await.unwrap();
    let racing = (0..40).map(|n| {
        let state = state.clone();
        tokio::spawn(async move { state.put("c", "n", &json!(n), Expect::Version(1)).await.is_ok() })
    });
    let won = futures_util::future::join_all(racing).await.into_iter().filter(|won| *won.as_ref().unwrap()).count();
    assert_eq!(won, 1);
}

async fn are_listed_by_prefix_in_the_order_of_bytes(kind: Kind) {
    let (_place, state) = state(kind).await;
    for key in ["a/1", "a/2", "a/Z", "a/z", "a/é", "b", "A"] {
        state.put("c", key, &json!(key), Expect::Absent).await.unwrap();
    }
    state.put("d", "a/3", &json!(0), Expect::Absent).await.unwrap();
    let keys = async |prefix: &str, after: Option<&str>, limit| {
        state.list("c", prefix, after, limit).await.unwrap().into_iter().map(|document| document.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("a/", None, 100).await, ["a/1", "a/2", "a/Z", "a/z", "a/é"]);
    assert_eq!(keys("a/", Some("a/2"), 2).await, ["a/Z", "a/z"]);
    assert_eq!(keys("", None, 100).await, ["A", "a/1", "a/2", "a/Z", "a/z", "a/é", "b"]);
    assert!(keys("x", None, 100).await.is_empty());
}

async fn are_bounded(kind: Kind) {
    let (_place, state) = state(kind).await;
    let large = json!("x".repeat(MAX_VALUE_BYTES - 2));
    state.put("c", "large", &large, Expect::Any).await.unwrap();
    assert_eq!(state.get("c", "large").await.unwrap().unwrap().value, large);
    let larger = json!("x".repeat(MAX_VALUE_BYTES - 1));
    assert!(matches!(state.put("c", "larger", &larger, Expect::Any).await, Err(StateError::Invalid(text)) if text.contains("c/larger")));
    for key in ["", "a\u{0}b", &"x".repeat(513)] {
        assert!(matches!(state.get("c", key).await, Err(StateError::Invalid(_))), "{key:?}");
        assert!(matches!(state.put(key, "k", &json!(0), Expect::Any).await, Err(StateError::Invalid(_))), "{key:?}");
    }
}

macro_rules! on_both_engines {
    ($($name:ident),+) => { $(mod $name {
        use crate::place::Kind;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn sqlite() {
            super::$name(Kind::Sqlite).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgres() {
            super::$name(Kind::Postgres).await;
        }
    })+ };
}
on_both_engines!(are_kept_with_their_versions, are_listed_by_prefix_in_the_order_of_bytes, are_bounded);
