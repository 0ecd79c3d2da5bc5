-- minimum code level: 4
-- 0009_starts: keys that a run has while it is unfinished (dedup), or has not begun (debounce).
--
-- Insert-only at the first start with a key; a later start takes the row over when the run it names has
-- ended (or begun). So neither claim nor journal knows of these keys, and nothing has to be put back after a
-- crash: whether a key is free is asked of the task. The row leaves with the run that it names.

create table rowlock.start_key (
    run_id    uuid not null,
    app       text not null,
    workflow  text not null,
    kind      text not null,
    key       text not null,
    constraint start_key_pkey primary key (app, workflow, kind, key),
    constraint start_key_kind check (kind in ('dedup', 'debounce'))
) with (fillfactor = 80);
comment on table rowlock.start_key is
    'Which run a key of dedup or debounce was last given to. It is the run''s while that is unfinished, or has not begun.';
comment on column rowlock.start_key.run_id is 'That run.';
comment on column rowlock.start_key.app is 'The app it belongs to.';
comment on column rowlock.start_key.workflow is 'The workflow within which the key is unique.';
comment on column rowlock.start_key.key is 'The key, as its caller gave it.';
comment on column rowlock.start_key.kind is 'dedup or debounce.';
alter table rowlock.start_key enable row level security;

alter table rowlock.run add column dedup text, add column debounce text;
comment on column rowlock.run.dedup is 'Its key while it is unfinished, unique within its workflow.';
comment on column rowlock.run.debounce is 'Its key until it is due: till then another start with it replaces input and attributes.';
comment on table rowlock.run is
    'What was asked: one row a run, never updated, but for what a debounced start replaces. Deliveries lock this row, not the task.';

-- Those that have not begun and must not begin any time. What claims change is in predicates anyway.
create index task_start_before on rowlock.task (start_before)
    where start_before is not null and started_at is null;
comment on column rowlock.task.partition is 'That of its run, if its queue has partitions.';
comment on column rowlock.task.start_before is 'That of its run, in the first generation.';

-- Start gets more arguments; `create or replace` can't do that.
drop function if exists rowlock.start(text, jsonb, text, text, text, integer, interval, timestamptz, jsonb, jsonb, interval);
