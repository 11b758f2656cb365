//! `auralink.v1.Jobs`: a thin face on [`crate::jobs`].

use std::pin::Pin;
use std::time::Duration;

use auralink_infrastructure::queue::{self, JobFilter};
use auralink_proto::v1::jobs_server::Jobs as JobsApi;
use auralink_proto::v1::{
    CancelJobRequest, CheckRequest, DeleteScheduleRequest, DeleteScheduleResponse, GetJobRequest, Job, JobProgress, JobSchedule, JobState,
    ListJobsRequest, ListJobsResponse, ListSchedulesRequest, ListSchedulesResponse, PurgeJobsRequest, PurgeJobsResponse,
    PutScheduleRequest, RetryJobRequest, WatchJobRequest,
};
use futures_util::stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::api::ApiError;
use crate::caller::{Caller, Callers};
use crate::jobs::{Check, Jobs, JobsError};
use crate::schedules::Schedules;

/// The service.
pub struct JobsService {
    /// The application layer.
    pub jobs: Jobs,
    /// Long work that comes again.
    pub schedules: Schedules,
    /// Who calls.
    pub callers: Callers,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn status(error: JobsError) -> Status {
    ApiError::from(error).into()
}

impl JobsService {
    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.callers.of_metadata(request.metadata()).await
    }
}

#[tonic::async_trait]
impl JobsApi for JobsService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<Job>, Status> {
        let caller = self.caller(&request).await?;
        let CheckRequest { work_ms, failures, max_attempts, idempotency_key } = request.into_inner();
        let (attempts, key) = ((max_attempts > 0).then_some(max_attempts), (!idempotency_key.is_empty()).then_some(idempotency_key));
        let job = self.jobs.check(&caller, &Check { work_ms, failures }, attempts, key).await;
        Ok(Response::new(message(job.map_err(status)?)))
    }

    async fn get(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let caller = self.caller(&request).await?;
        Ok(Response::new(message(self.jobs.get(&caller, &request.into_inner().id).await.map_err(status)?)))
    }

    async fn list(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        let caller = self.caller(&request).await?;
        let ListJobsRequest { state, kind, before, limit } = request.into_inner();
        let before = (!before.is_empty()).then(|| before.parse()).transpose().map_err(|error: queue::QueueError| status(error.into()))?;
        let filter = JobFilter { state: wanted(state)?, kind: (!kind.is_empty()).then_some(kind), before, limit };
        let (jobs, next) = self.jobs.list(&caller, &filter).await.map_err(status)?;
        let next = next.map_or_else(String::new, |id| id.to_string());
        Ok(Response::new(ListJobsResponse { jobs: jobs.into_iter().map(message).collect(), next }))
    }

    async fn cancel(&self, request: Request<CancelJobRequest>) -> Result<Response<Job>, Status> {
        let caller = self.caller(&request).await?;
        Ok(Response::new(message(self.jobs.cancel(&caller, &request.into_inner().id).await.map_err(status)?)))
    }

    async fn retry(&self, request: Request<RetryJobRequest>) -> Result<Response<Job>, Status> {
        let caller = self.caller(&request).await?;
        Ok(Response::new(message(self.jobs.retry(&caller, &request.into_inner().id).await.map_err(status)?)))
    }

    async fn purge(&self, request: Request<PurgeJobsRequest>) -> Result<Response<PurgeJobsResponse>, Status> {
        let caller = self.caller(&request).await?;
        let PurgeJobsRequest { state, older_than_s } = request.into_inner();
        let state = wanted(state)?.ok_or_else(|| Status::invalid_argument("`state` says which: done, dead or cancelled jobs"))?;
        let deleted = self.jobs.purge(&caller, state, Duration::from_secs(older_than_s)).await.map_err(status)?;
        Ok(Response::new(PurgeJobsResponse { deleted }))
    }

    async fn put_schedule(&self, request: Request<PutScheduleRequest>) -> Result<Response<JobSchedule>, Status> {
        let caller = self.caller(&request).await?;
        let PutScheduleRequest { name, cron, work_json } = request.into_inner();
        let work = serde_json::from_str(&work_json).map_err(|why| Status::invalid_argument(format!("work_json: {why}")))?;
        Ok(Response::new(schedule(self.schedules.put(&caller, name, cron, work).await?)))
    }

    async fn list_schedules(&self, request: Request<ListSchedulesRequest>) -> Result<Response<ListSchedulesResponse>, Status> {
        let caller = self.caller(&request).await?;
        let schedules = self.schedules.list(&caller).await?.into_iter().map(schedule).collect();
        Ok(Response::new(ListSchedulesResponse { schedules }))
    }

    async fn delete_schedule(&self, request: Request<DeleteScheduleRequest>) -> Result<Response<DeleteScheduleResponse>, Status> {
        let caller = self.caller(&request).await?;
        self.schedules.delete(&caller, &request.into_inner().name).await?;
        Ok(Response::new(DeleteScheduleResponse {}))
    }

    type WatchStream = Answer<Job>;

    async fn watch(&self, request: Request<WatchJobRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = self.caller(&request).await?;
        let changes = self.jobs.watch(&caller, &request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(Box::pin(changes.map(|job| job.map(message).map_err(|error| status(error.into()))))))
    }
}

/// The state that is asked for; none: any.
fn wanted(state: i32) -> Result<Option<queue::JobState>, Status> {
    let state = JobState::try_from(state).map_err(|_| Status::invalid_argument(format!("{state} is no state of a job")))?;
    Ok(match state {
        JobState::Unspecified => None,
        JobState::Queued => Some(queue::JobState::Queued),
        JobState::Running => Some(queue::JobState::Running),
        JobState::Waiting => Some(queue::JobState::Waiting),
        JobState::Done => Some(queue::JobState::Done),
        JobState::Dead => Some(queue::JobState::Dead),
        JobState::Cancelled => Some(queue::JobState::Cancelled),
    })
}

fn schedule(schedule: queue::Schedule) -> JobSchedule {
    let queue::Schedule { name, cron, kind, payload, next_ms, .. } = schedule;
    JobSchedule { name, cron, kind, payload_json: payload.to_string(), next_at_ms: next_ms }
}

fn message(job: queue::Job) -> Job {
    let state = match job.state {
        queue::JobState::Queued => JobState::Queued,
        queue::JobState::Running => JobState::Running,
        queue::JobState::Waiting => JobState::Waiting,
        queue::JobState::Done => JobState::Done,
        queue::JobState::Dead => JobState::Dead,
        queue::JobState::Cancelled => JobState::Cancelled,
    };
    let queue::Progress { done, total, message } = job.progress;
    Job {
        id: job.id.to_string(),
        kind: job.kind,
        state: state.into(),
        payload_json: job.payload.to_string(),
        priority: job.priority,
        attempt: job.attempt,
        max_attempts: job.max_attempts,
        progress: Some(JobProgress { done, total, message }),
        result_json: job.result.map_or_else(String::new, |result| result.to_string()),
        error: job.error.unwrap_or_default(),
        cancelling: job.cancelling,
        created_at_ms: job.created_ms,
        started_at_ms: job.started_ms.unwrap_or(0),
        finished_at_ms: job.finished_ms.unwrap_or(0),
        due_at_ms: job.due_ms.unwrap_or(0),
    }
}
