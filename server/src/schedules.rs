//! Work that comes again by the clock: the application layer under gRPC and REST. Scopes `jobs:read` and `jobs:write`, and those of the work.

use auralink_infrastructure::queue::{NewJob, NewSchedule, Queue, Schedule};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::ApiError;
use crate::caller::{Caller, Scope};
use crate::files::{Export, Files, Place};
use crate::jobs::{Check, Jobs};
use crate::vector_imports::VectorImports;

/// What is to be done, by its `kind`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", deny_unknown_fields)]
pub enum Work {
    /// Checks that workers run.
    #[serde(rename = "check")]
    Check {
        /// 0 to 60,000: how long it works.
        #[serde(default)]
        work_ms: u32,
        /// Its first attempts fail, so many.
        #[serde(default)]
        failures: u32,
    },
    /// Copies a file from one store into another.
    #[serde(rename = "files.import")]
    ImportFile {
        /// Which.
        from: Place,
        /// Where to.
        to: Place,
    },
    /// Takes a recording, or all below a folder, to transcripts; what is done is not done again, so only new recordings cost anything.
    #[serde(rename = "files.pipeline")]
    Pipeline {
        /// Which.
        at: Place,
        /// Where transcripts are written; without it they are only kept.
        export: Option<Export>,
    },
    /// Reads records from a file of JSON lines into a collection.
    #[serde(rename = "vectors.import")]
    ImportVectors {
        /// Which collection.
        collection: String,
        /// Which file.
        from: Place,
    },
}

/// The schedules of every tenant. Clones are the same.
#[derive(Clone)]
pub struct Schedules {
    queue: Queue,
    files: Files,
    imports: VectorImports,
}

impl Schedules {
    /// Over its parts.
    pub fn new(queue: Queue, files: Files, imports: VectorImports) -> Self {
        Self { queue, files, imports }
    }

    /// Writes a schedule, over one of the same name. The work is looked at now: its caller may do it, and it can be done.
    pub async fn put(&self, caller: &Caller, name: String, cron: String, work: Work) -> Result<Schedule, ApiError> {
        caller.require(Scope::JobsWrite)?;
        let NewJob { kind, payload, priority, max_attempts, .. } = match work {
            Work::Check { work_ms, failures } => Jobs::check_job(caller, &Check { work_ms, failures })?,
            Work::ImportFile { from, to } => self.files.import_job(caller, from, to)?,
            Work::Pipeline { at, export } => self.files.pipeline_job(caller, at, export).await?,
            Work::ImportVectors { collection, from } => self.imports.job(caller, collection, from).await?,
        };
        let new = NewSchedule { name, tenant: caller.tenant.clone(), cron, kind, payload, priority, max_attempts };
        Ok(self.queue.schedule_put(new).await?)
    }

    /// The caller's, by name.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<Schedule>, ApiError> {
        caller.require(Scope::JobsRead)?;
        Ok(self.queue.schedule_list(&caller.tenant).await?)
    }

    /// Deletes one; its jobs stay.
    pub async fn delete(&self, caller: &Caller, name: &str) -> Result<(), ApiError> {
        caller.require(Scope::JobsWrite)?;
        Ok(self.queue.schedule_delete(&caller.tenant, name).await?)
    }
}
