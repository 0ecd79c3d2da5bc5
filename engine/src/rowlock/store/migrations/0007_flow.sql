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
comment on column rowlock.queue.declared is 'What code declared last; another declaration replaces whatever was set.';
comment on column rowlock.queue.set_at is 'When limits were set live, by rowlock.set_limit; null: they are as declared.';
comment on column rowlock.queue.set_by is 'The role that set them.';

alter table rowlock.queue_gate add column cursor text not null default '';
comment on column rowlock.queue_gate.cursor is 'The partition that was served last: the next claim goes on behind it.';

alter table rowlock.run add column partition text, add column start_before timestamptz;
comment on column rowlock.run.partition is 'The part of the queue it waits in, by the caller''s key; null: the queue has none.';
comment on column rowlock.run.start_before is 'When it is too late to begin.';
alter table rowlock.task add column partition text, add column start_before timestamptz;
