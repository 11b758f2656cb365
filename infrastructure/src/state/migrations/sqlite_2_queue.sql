-- Times are milliseconds since 1970 by the engine's clock. `due`: when a waiting job may run. `lease`: until when a running one is its worker's.
-- `fence`: the number of the newest claim; only its holder may finish the job.
CREATE TABLE jobs (
    id              TEXT NOT NULL PRIMARY KEY,
    tenant          TEXT NOT NULL,
    kind            TEXT NOT NULL,
    state           TEXT NOT NULL,
    payload         TEXT NOT NULL,
    priority        INTEGER NOT NULL,
    attempt         INTEGER NOT NULL DEFAULT 0,
    max_attempts    INTEGER NOT NULL,
    fence           INTEGER NOT NULL DEFAULT 0,
    due             INTEGER NOT NULL DEFAULT 0,
    lease           INTEGER NOT NULL DEFAULT 0,
    worker          TEXT NOT NULL DEFAULT '',
    cancelling      INTEGER NOT NULL DEFAULT 0,
    progress_done   INTEGER NOT NULL DEFAULT 0,
    progress_total  INTEGER NOT NULL DEFAULT 0,
    message         TEXT NOT NULL DEFAULT '',
    result          TEXT,
    error           TEXT,
    idempotency_key TEXT,
    created         INTEGER NOT NULL,
    started         INTEGER,
    finished        INTEGER
);
CREATE INDEX jobs_ready ON jobs (kind, priority DESC, id) WHERE state = 'queued';
CREATE INDEX jobs_waiting ON jobs (due) WHERE state = 'waiting';
CREATE INDEX jobs_running ON jobs (lease) WHERE state = 'running';
CREATE INDEX jobs_finished ON jobs (state, finished) WHERE finished IS NOT NULL;
CREATE INDEX jobs_listed ON jobs (tenant, state, id);
CREATE UNIQUE INDEX jobs_idempotent ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE schedules (
    tenant       TEXT NOT NULL,
    name         TEXT NOT NULL,
    cron         TEXT NOT NULL,
    kind         TEXT NOT NULL,
    payload      TEXT NOT NULL,
    priority     INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    due          INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) WITHOUT ROWID;
CREATE INDEX schedules_due ON schedules (due);
