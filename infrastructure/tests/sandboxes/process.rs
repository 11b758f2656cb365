//! The engine `process`: with control groups as root, and what it does beside the conformance.

use std::sync::Arc;

use auralink_infrastructure::vm::process::{ProcessConfig, ProcessEngine};
use auralink_infrastructure::vm::{Engine, Source};

use crate::conformance::{Bench, Expect};

pub async fn bench() -> Bench {
    let engine = Arc::new(ProcessEngine::new(ProcessConfig::default()));
    engine.probe().await.expect("the process engine works here: run `make setup`");
    Bench {
        engine,
        again: Box::new(|| Arc::new(ProcessEngine::new(ProcessConfig::default()))),
        source: Source::Host,
        expect: Expect { users: false, ..Expect::ALL },
        homes: tempfile::tempdir().unwrap(),
    }
}

conformance!(bench);
