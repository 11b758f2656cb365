//! The engine `docker`, against a daemon of the tests' own.

use std::sync::Arc;

use auralink_infrastructure::vm::{Engine, Source};

use crate::conformance::{Bench, Expect};
use crate::daemons::{docker, rootfs};

async fn bench() -> Bench {
    let engine = Arc::new(docker().engine());
    engine.probe().await.expect("Docker works here: run `make setup`");
    Bench {
        engine,
        again: Box::new(|| Arc::new(docker().engine())),
        source: Source::RootFs(rootfs().to_owned()),
        expect: Expect::ALL,
        homes: tempfile::tempdir().unwrap(),
    }
}

conformance!(bench);
