-- minimum code level: 4
-- 0007_flow: what limits a queue, partitions, and how late a run may begin.
--
-- A limit is a count of rows that exist, taken under a lock that nobody waits for; nothing here is a
-- counter that would have to be put back. Settings (queue) and lock (queue_gate) stay different rows.

alter table rowlock.queue
    add column declared               jsonb,
    add column concurrency            integer,
    add column worker_concurrency     integer,
    add column rate                   integer,
    add column rate_period            interval,
    add column rate_burst             integer,
    add column rate_smooth            boolean not null default false,
    add column partitions             boolean not null default false,
    add column partition_concurrency  integer,
    add column partition_rate         integer,
    add column partition_rate_period  interval,
    add column partition_rate_burst   integer,
    add column partition_rate_smooth  boolean not null default false,
    add column ageing                 interval,
    add column weight                 real not null default 1,
    add column set_at                 timestamptz,
    add column set_by                 text,
    add column limited                boolean generated always as (
        concurrency is not null or worker_concurrency is not null or rate is not null or partitions
        or ageing is not null) stored,
    add column revision               bigint  not null default 0,
    add constraint queue_concurrency check (concurrency >= 1),
    add constraint queue_worker_concurrency check (worker_concurrency >= 1),
    add constraint queue_rate check (rate >= 1),
    add constraint queue_rate_period check (rate_period > interval '0' and rate is not null
                                            or rate_period is null and rate is null),
    add constraint queue_rate_burst check (
        rate_burst is null or rate_burst >= 1 and rate is not null and not rate_smooth),
    add constraint queue_partition_concurrency check (
        partition_concurrency is null or partition_concurrency >= 1 and partitions),
    add constraint queue_partition_rate check (partition_rate is null or partition_rate >= 1 and partitions),
    add constraint queue_partition_rate_period check (
        partition_rate_period > interval '0' and partition_rate is not null
        or partition_rate_period is null and partition_rate is null),
    add constraint queue_partition_rate_burst check (
        partition_rate_burst is null
        or partition_rate_burst >= 1 and partition_rate is not null and not partition_rate_smooth),
    add constraint queue_ageing check (ageing > interval '0'),
    add constraint queue_weight check (weight > 0);
comment on column rowlock.queue.concurrency is 'How many of its runs may hold a claim at a time; null: no limit.';
comment on column rowlock.queue.worker_concurrency is 'How many of them in one worker process; null: no limit.';
comment on column rowlock.queue.rate is 'How many first claims any rate_period may hold, wherever it begins; null: no limit.';
comment on column rowlock.queue.rate_period is 'The period of the rate.';
comment on column rowlock.queue.rate_burst is 'So many at once after a quiet time, and at the rate from then on.';
comment on column rowlock.queue.rate_smooth is 'At least rate_period / rate between two.';
comment on column rowlock.queue.partitions is 'Whether its runs wait in partitions, which take turns.';
comment on column rowlock.queue.partition_concurrency is 'As concurrency, for each partition.';
comment on column rowlock.queue.partition_rate is 'As rate, for each partition.';
comment on column rowlock.queue.partition_rate_period is 'As rate_period.';
comment on column rowlock.queue.partition_rate_burst is 'As rate_burst.';
comment on column rowlock.queue.partition_rate_smooth is 'As rate_smooth.';
comment on column rowlock.queue.ageing is 'How much waiting is worth one priority; null: none is.';
comment on column rowlock.queue.weight is 'How often workers look here first, in proportion to other queues.';
comment on column rowlock.queue.declared is 'What code declared last; another declaration replaces whatever was set.';
comment on column rowlock.queue.set_at is 'When limits were set live, by rowlock.set_limit; null: they are as declared.';
comment on column rowlock.queue.set_by is 'The role that set them.';
comment on column rowlock.queue.limited is 'Whether its claims go one after the other, and count.';
comment on column rowlock.queue.revision is 'Grows whenever it becomes limited: see queue_gate.marked.';

alter table rowlock.queue_gate
    add column cursor text   not null default '',
    add column marked bigint not null default 0;
comment on column rowlock.queue_gate.cursor is 'The partition that was served last: the next claim goes on behind it.';
comment on column rowlock.queue_gate.marked is
    'As of this revision of the settings every run that runs is marked as limited, so that it is counted.';

alter table rowlock.run add column partition text, add column start_before timestamptz;
comment on column rowlock.run.partition is 'The part of the queue it waits in, by the caller''s key; null: the queue has none.';
comment on column rowlock.run.start_before is 'When it is too late to begin.';
alter table rowlock.task add column partition text, add column start_before timestamptz;
comment on column rowlock.task.partition is 'As in run.';
comment on column rowlock.task.start_before is 'As in run.';

-- Only runs claimed under a limit are in the index that limits count: for all of them it would cost 86 WAL
-- bytes a run (5 %). Those that run when their queue becomes limited are marked by its next claim.
alter table rowlock.task add column limited boolean not null default false;
comment on column rowlock.task.limited is 'Claimed from a queue that is limited, or running when it became so.';
create index task_limited on rowlock.task (app, queue, coalesce(partition, '')) where state = 'running' and limited;
-- Those that have begun are no first claims: they pass a rate, without a look at who waits before them.
create index task_begun on rowlock.task (app, queue, version, coalesce(partition, ''), priority, due_at, run_id)
    where state = 'ready' and limited and started_at is not null;
-- Each partition's runs stand together, so that none is read for another's sake.
drop index rowlock.task_ready;
create index task_ready on rowlock.task (app, queue, version, coalesce(partition, ''), priority, due_at, run_id)
    where state = 'ready';

-- How much of a rate is used: first claims, those of one two-hundredth of the period in one row. Written and
-- deleted by claims alone, in their own transaction, under the queue's gate.
create table rowlock.rate_use (
    at          timestamptz not null,
    expires_at  timestamptz not null,
    until       timestamptz,
    n           integer     not null,
    app         text        not null,
    queue       text        not null,
    share       text        not null,
    constraint rate_use_pkey primary key (app, queue, share, at)
) with (fillfactor = 50);
create index rate_use_expires on rowlock.rate_use (app, queue, expires_at);
comment on table rowlock.rate_use is 'First claims from queues with a rate, as long as they count.';
comment on column rowlock.rate_use.app is 'The app whose queue it is.';
comment on column rowlock.rate_use.queue is 'The queue.';
comment on column rowlock.rate_use.at is 'When the last of them was claimed: all count as of then.';
comment on column rowlock.rate_use.expires_at is 'When they count for nothing any more.';
comment on column rowlock.rate_use.until is 'How long the rate is used up for those who may burst.';
comment on column rowlock.rate_use.n is 'How many.';
comment on column rowlock.rate_use.share is 'What the rate is for: empty: the queue; a colon and a name: a partition.';

-- What each version's code declares: it counts when that version is, or becomes, the current one.
create table rowlock.declaration (
    declared_at  timestamptz not null default clock_timestamp(),
    app          text        not null,
    version      text        not null,
    queues       jsonb       not null,
    constraint declaration_pkey primary key (app, version)
);
comment on table rowlock.declaration is 'The limits of queues as each version''s code declares them.';
comment on column rowlock.declaration.declared_at is 'Since when it is declared so.';
comment on column rowlock.declaration.app is 'The app.';
comment on column rowlock.declaration.version is 'The version of its code; empty: it carries none.';
comment on column rowlock.declaration.queues is 'Limits by queue.';

alter table rowlock.rate_use enable row level security;
alter table rowlock.declaration enable row level security;
create policy by_app on rowlock.rate_use for select using (
    (select rowlock.my_apps()) is null or app = any ((select rowlock.my_apps())::text[]));
create policy by_app on rowlock.declaration for select using (
    (select rowlock.my_apps()) is null or app = any ((select rowlock.my_apps())::text[]));

-- They get more arguments; `create or replace` can't do that. Nobody else calls them.
drop function if exists rowlock.ready_queues(text);
drop function if exists rowlock.set_aside(text, text, text[], text[], integer);
