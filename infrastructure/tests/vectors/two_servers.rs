//! Two servers on one PostgreSQL: what one remembers of a collection is never older than what the other made of it.

use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::pgvector::PgVector;
use auralink_infrastructure::vector::{Address, Engine, Metric, Query, Record, Spec, VectorError};

use crate::engines::PATIENCE;
use crate::postgres;

fn record(id: &str, vector: &[f32]) -> Record {
    Record { id: id.into(), vector: vector.to_vec(), metadata: Default::default(), document: None }
}

#[tokio::test]
async fn a_collection_that_another_server_made_anew_is_the_new_one() {
    let url = tokio::task::spawn_blocking(|| postgres::shared().database()).await.unwrap();
    let [one, other] = [(), ()].map(|()| PgVector::new(&Secret::new(url.as_str()), PATIENCE).unwrap());
    let address = Address::new(&Tenant::default(), "again").unwrap();
    one.create(&address, &Spec { dimension: 2, metric: Metric::Cosine }).await.unwrap();
    one.upsert(&address, vec![record("old", &[1.0, 0.0])]).await.unwrap();
    other.destroy(&address).await.unwrap();
    for gone in [one.upsert(&address, vec![record("late", &[1.0, 0.0])]).await.unwrap_err(), one.get(&address, &[]).await.unwrap_err()] {
        assert!(matches!(&gone, VectorError::NotFound(name) if name == "again"), "{gone}");
    }
    other.create(&address, &Spec { dimension: 3, metric: Metric::Euclidean }).await.unwrap();
    one.upsert(&address, vec![record("new", &[0.0, 3.0, 4.0])]).await.unwrap();
    let query = Query { vector: vec![0.0, 0.0, 0.0], k: 5, filter: None, with_vectors: false };
    let found = one.query(&address, &query).await.unwrap();
    assert_eq!(found.iter().map(|found| (found.record.id.as_str(), found.distance)).collect::<Vec<_>>(), [("new", 5.0)]);
    // Searches that want more than the usual candidates have settings of their own, which no other search has.
    other.upsert(&address, (0..300).map(|n| record(&format!("n{n}"), &[n as f32, 1.0, 1.0])).collect()).await.unwrap();
    for k in [300, 5, 1_000, 5] {
        let found = one.query(&address, &Query { k, ..query.clone() }).await.unwrap();
        assert_eq!(found.len(), k.min(301));
    }
}

/// Searches that are given up, wherever they were, take nothing of what is written after them along.
#[tokio::test]
async fn what_is_written_after_a_search_that_was_given_up_is_there() {
    let url = tokio::task::spawn_blocking(|| postgres::shared().database()).await.unwrap();
    let [one, other] = [(), ()].map(|()| PgVector::new(&Secret::new(url.as_str()), PATIENCE).unwrap());
    let address = Address::new(&Tenant::default(), "given-up").unwrap();
    one.create(&address, &Spec { dimension: 2, metric: Metric::Cosine }).await.unwrap();
    // Fewer than are asked for: the search begins a transaction of its own for a second look.
    let query = Query { vector: vec![1.0, 0.0], k: 90, filter: None, with_vectors: false };
    one.query(&address, &query).await.unwrap();
    let mut given_up = 0;
    for n in 0..400_u32 {
        let search = one.query(&address, &query);
        // Polled so often and no more: each place where it waits is one to be given up at.
        let mut search = std::pin::pin!(search);
        let mut left = n % 8;
        let done = std::future::poll_fn(|context| match search.as_mut().poll(context) {
            std::task::Poll::Ready(_) => std::task::Poll::Ready(true),
            std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(false),
            std::task::Poll::Pending => {
                left -= 1;
                std::task::Poll::Pending
            }
        });
        given_up += u32::from(!done.await);
        let id = format!("n{n}");
        one.upsert(&address, vec![record(&id, &[1.0, 1.0])]).await.unwrap();
        let found = other.get(&address, &[id]).await.unwrap();
        assert_eq!(found.len(), 1, "{n} was acknowledged and is not there");
    }
    assert!(given_up > 50, "only {given_up} were given up");
}
