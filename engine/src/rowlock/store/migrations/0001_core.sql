-- minimum code level: 1
-- 0001_core: ledgers and a to-do list.
--
-- run, step and outcome are insert-only: what was asked, what was done, what came of it. task is
-- what is left to do, narrow, and the only table that churns. Keys begin with the run's id, a
-- UUIDv7 made by the server, so that the three ledgers can be partitioned by it one day.
-- No foreign keys between hot tables: they cost share locks; tests/store/test_orphans.py keeps
-- watch instead.

create table rowlock.run (
    id                 uuid        not null,
    created_at         timestamptz not null,
    parent_id          uuid,
    parent_generation  integer,
    priority           smallint    not null,
    app                text        not null,
    workflow           text        not null,
    queue              text        not null,
    key                text,
    parent_place       text collate "C",
    input              jsonb       not null,
    attributes         jsonb,
    constraint run_pkey primary key (id)
);
create index run_parent on rowlock.run (parent_id) where parent_id is not null;
create index run_attributes on rowlock.run using gin (attributes jsonb_path_ops)
    where attributes is not null;
comment on table rowlock.run is
    'What was asked: one row a run, never updated. Deliveries lock this row, not the task.';
comment on column rowlock.run.id is 'UUIDv7 made by the server: ordering by id is ordering by creation.';
comment on column rowlock.run.key is 'The caller''s idempotency key; unique per app in run_key.';

-- Not partitioned, because a unique index on a partitioned table must contain the partition key.
create table rowlock.run_key (
    run_id  uuid not null,
    app     text not null,
    key     text not null,
    constraint run_key_pkey primary key (app, key)
);
comment on table rowlock.run_key is 'Idempotency keys: a start with a key that exists gives that run back.';

create table rowlock.generation (
    run_id      uuid        not null,
    created_at  timestamptz not null,
    generation  integer     not null,
    reason      text        not null,
    input       jsonb       not null,
    constraint generation_pkey primary key (run_id, generation)
);
comment on table rowlock.generation is
    'Input and reason of the histories after a run''s first. A redo begins the next one.';

create table rowlock.step (
    run_id       uuid        not null,
    recorded_at  timestamptz not null,
    generation   integer     not null,
    position     integer     not null,
    epoch        integer     not null,
    seconds      real        not null,
    attempts     smallint    not null,
    place        text collate "C" not null,
    kind         text        not null,
    name         text        not null,
    output       jsonb,
    error        jsonb,
    constraint step_pkey primary key (run_id, generation, place)
);
comment on table rowlock.step is 'What was done: one row a checkpoint, never updated.';
comment on column rowlock.step.place is 'Outline number of the call in the program: 1, 2, 3; steps of a branch 4.1, 4.2.';
comment on column rowlock.step.position is 'Order in which outcomes were recorded within the run; gaps are allowed. Replay delivers in this order.';
comment on column rowlock.step.epoch is 'Epoch of the claim that recorded it: one owner''s work has one epoch.';
comment on column rowlock.step.seconds is 'How long the last attempt took on the worker.';

create table rowlock.outcome (
    run_id       uuid        not null,
    started_at   timestamptz,
    finished_at  timestamptz not null,
    generation   integer     not null,
    epoch        integer     not null,
    app          text        not null,
    workflow     text        not null,
    queue        text        not null,
    version      text        not null,
    status       text        not null,
    output       jsonb,
    error        jsonb,
    constraint outcome_pkey primary key (run_id, generation),
    constraint outcome_status check (status in ('succeeded', 'failed', 'cancelled', 'dead', 'continued'))
);
create index outcome_status_run on rowlock.outcome (status, run_id);
comment on table rowlock.outcome is
    'What came of it: one row a generation, never updated. Keeps the epoch, which a redo goes on from.';

create table rowlock.task (
    run_id       uuid        not null,
    due_at       timestamptz not null,
    started_at   timestamptz,
    claimed_at   timestamptz,
    worker_id    bigint,
    epoch        integer     not null default 0,
    generation   integer     not null default 1,
    progress     integer     not null default 0,
    patience_ms  integer     not null default 0,
    priority     smallint    not null,
    takeovers    smallint    not null default 0,
    closing      boolean     not null default false,
    state        text        not null,
    app          text        not null,
    queue        text        not null,
    workflow     text        not null,
    version      text        not null default '',
    reason       jsonb,
    constraint task_pkey primary key (run_id),
    constraint task_state check (state in ('scheduled', 'ready', 'running', 'waiting', 'blocked')),
    constraint task_running_has_worker check ((state = 'running') = (worker_id is not null)),
    constraint task_blocked_has_reason check (state <> 'blocked' or reason is not null)
) with (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);
-- What every claim filters on comes first; what is due later is not in it at all.
create index task_ready on rowlock.task (app, queue, version, priority, due_at, run_id)
    where state = 'ready';
create index task_running on rowlock.task (worker_id) where state = 'running';
create index task_due on rowlock.task (due_at) where state in ('scheduled', 'waiting');
create index task_blocked on rowlock.task (app) where state = 'blocked';
comment on table rowlock.task is
    'What is left to do: one row an unfinished run. Claiming updates it, finishing deletes it.';
comment on column rowlock.task.due_at is 'When it may run; a ready task keeps it, the wait in the queue counts from here.';
comment on column rowlock.task.epoch is 'Fencing token: every change of hands adds one.';
comment on column rowlock.task.version is 'The code version the run is pinned to; empty until a versioned worker claims it.';
comment on column rowlock.task.takeovers is 'Takeovers in a row without a new step.';
comment on column rowlock.task.progress is 'Highest step position at the last takeover.';
comment on column rowlock.task.patience_ms is 'How long a wake-up by an outcome may be saved up while the run waits for many.';
comment on column rowlock.task.closing is 'A finish wants this row: no new watcher may come.';

create table rowlock.wait (
    run_id      uuid        not null,
    opened_at   timestamptz not null,
    due_at      timestamptz,
    on_run_id   uuid,
    generation  integer     not null,
    attempt     smallint    not null default 0,
    place       text collate "C" not null,
    kind        text        not null,
    error       jsonb,
    constraint wait_pkey primary key (run_id, generation, place),
    constraint wait_kind check (kind in ('timer', 'retry', 'run')),
    constraint wait_has_object check ((kind = 'run') = (on_run_id is not null) and (kind = 'run') = (due_at is null))
);
create index wait_on_run on rowlock.wait (on_run_id) where on_run_id is not null;
comment on table rowlock.wait is
    'What a run waits for, by place. Touched only by whoever holds the waiter''s task.';

-- No key: two transactions that note the same waiter must not wait for each other.
create table rowlock.wake (
    run_id    uuid        not null,
    noted_at  timestamptz not null default clock_timestamp()
);
create index wake_run on rowlock.wake (run_id);
comment on table rowlock.wake is
    'Waiters that could not be locked when what they wait for happened; any worker''s sweep wakes them.';

-- Settings and lock are different rows: changing a setting never stops a claim.
create table rowlock.queue (
    declared_at  timestamptz not null default clock_timestamp(),
    app          text        not null,
    name         text        not null,
    constraint queue_pkey primary key (app, name)
);
create table rowlock.queue_gate (
    app   text not null,
    name  text not null,
    constraint queue_gate_pkey primary key (app, name)
);
comment on table rowlock.queue is 'Queues of each app and their settings.';
comment on table rowlock.queue_gate is 'The row that claims of a queue lock; nobody waits for it.';

create table rowlock.workflow (
    registered_at  timestamptz not null default clock_timestamp(),
    app            text        not null,
    name           text        not null,
    queue          text        not null,
    constraint workflow_pkey primary key (app, name)
);
comment on table rowlock.workflow is 'Workflows that some worker or client has shown, with their queue.';

create table rowlock.version (
    registered_at  timestamptz not null default clock_timestamp(),
    promoted_at    timestamptz,
    app            text        not null,
    name           text        not null,
    constraint version_pkey primary key (app, name),
    constraint version_name check (name <> '')
);
comment on table rowlock.version is 'Code versions by app. Current: the last promoted, else the last registered.';

create table rowlock.worker (
    id             bigint generated always as identity,
    registered_at  timestamptz not null default clock_timestamp(),
    lease_until    timestamptz not null,
    pid            integer     not null,
    slots          integer     not null,
    listening      boolean     not null default false,
    draining       boolean     not null default false,
    app            text        not null,
    version        text        not null default '',
    host           text        not null,
    queues         text[],
    constraint worker_pkey primary key (id)
) with (fillfactor = 50);
comment on table rowlock.worker is
    'Live worker processes. The row is the lease, and its lock is the fence of everything the worker writes.';
comment on column rowlock.worker.queues is 'Queues it serves; null: all of its app''s.';
comment on column rowlock.worker.listening is 'Idle and to be told by NOTIFY; set before its last look for work.';
