-- Times are milliseconds since 1970 by the engine's clock. `due`: when a waiting job may run. `lease`: until when a running one is its worker's.
-- `fence`: the number of the newest claim; only its holder may finish the job.
CREATE TABLE jobs (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant          TEXT COLLATE "C" NOT NULL,
    kind            TEXT COLLATE "C" NOT NULL,
    state           TEXT COLLATE "C" NOT NULL,
    payload         TEXT NOT NULL,
    priority        BIGINT NOT NULL,
    attempt         BIGINT NOT NULL DEFAULT 0,
    max_attempts    BIGINT NOT NULL,
    fence           BIGINT NOT NULL DEFAULT 0,
    due             BIGINT NOT NULL DEFAULT 0,
    lease           BIGINT NOT NULL DEFAULT 0,
    worker          TEXT NOT NULL DEFAULT '',
    cancelling      BIGINT NOT NULL DEFAULT 0,
    progress_done   BIGINT NOT NULL DEFAULT 0,
    progress_total  BIGINT NOT NULL DEFAULT 0,
    message         TEXT NOT NULL DEFAULT '',
    result          TEXT,
    error           TEXT,
    idempotency_key TEXT COLLATE "C",
    created         BIGINT NOT NULL,
    started         BIGINT,
    finished        BIGINT
);
CREATE INDEX jobs_ready ON jobs (kind, priority DESC, id) WHERE state = 'queued';
CREATE INDEX jobs_waiting ON jobs (due) WHERE state = 'waiting';
CREATE INDEX jobs_running ON jobs (lease) WHERE state = 'running';
CREATE INDEX jobs_finished ON jobs (state, finished) WHERE finished IS NOT NULL;
CREATE INDEX jobs_listed ON jobs (tenant, state, id);
CREATE UNIQUE INDEX jobs_idempotent ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE schedules (
    tenant       TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    cron         TEXT NOT NULL,
    kind         TEXT COLLATE "C" NOT NULL,
    payload      TEXT NOT NULL,
    priority     BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    due          BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE INDEX schedules_due ON schedules (due);
