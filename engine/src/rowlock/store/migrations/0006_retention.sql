-- minimum code level: 3
-- 0006_retention: ended runs leave by policy.
--
-- run, step and outcome are deleted from in bounded batches. Their ids are in the order of creation, so
-- what leaves stands together at the lower end of every index and fills whole pages, which a vacuum
-- gives back for use: no partitions are needed for that (docs/performance.md has the sizes).

-- A more specific one wins: workflow before outcome, both before the app's.
create table rowlock.retention (
    set_at     timestamptz not null default clock_timestamp(),
    archive    boolean     not null default false,
    app        text        not null,
    workflow   text,
    outcome    text,
    keep       interval,
    keep_keys  interval,
    constraint retention_kind unique nulls not distinct (app, workflow, outcome),
    constraint retention_outcome check (outcome in ('succeeded', 'failed', 'cancelled', 'dead')),
    constraint retention_keep check (keep >= interval '0'),
    constraint retention_keys check (keep_keys is null or (keep is not null and keep_keys >= keep))
);
comment on table rowlock.retention is 'How long ended runs are kept; runs without a policy are kept for ever.';
comment on column rowlock.retention.set_at is 'When it was set like this.';
comment on column rowlock.retention.app is 'The app whose runs it is for.';
comment on column rowlock.retention.workflow is 'Null: all that have no policy of their own.';
comment on column rowlock.retention.outcome is 'succeeded, failed, cancelled or dead; null: all that have no policy of their own.';
comment on column rowlock.retention.keep is 'Counted from a run''s end; null: for ever.';
comment on column rowlock.retention.keep_keys is 'How long the key of a removed run stays used, counted from the run''s end; null: it goes with the run.';
comment on column rowlock.retention.archive is 'Only removed by those who archive them first, never by workers.';

-- Where a walk over the ended runs goes on, so that those which stay are not passed again and again.
create table rowlock.retention_walk (
    next_at   timestamptz not null default clock_timestamp(),
    in_vain   interval    not null default '0',
    after_id  uuid,
    walker    text        not null,
    lane      text[],
    constraint retention_walk_pkey primary key (walker)
) with (fillfactor = 50);
comment on table rowlock.retention_walk is 'How far each walk over the ended runs has come.';
comment on column rowlock.retention_walk.walker is 'Whose walk it is: the workers'', or that of a caller of rowlock.retain.';
comment on column rowlock.retention_walk.in_vain is 'How long it has taken to pass by what stays.';
comment on column rowlock.retention_walk.lane is 'App, workflow, queue and outcome of the runs it is among.';
comment on column rowlock.retention_walk.after_id is 'The last run it has looked at there.';
comment on column rowlock.retention_walk.next_at is 'When workers begin anew.';

-- The key of a run that has been removed. Start looks at nothing more than before.
alter table rowlock.run_key add column expires_at timestamptz;
create index run_key_expires on rowlock.run_key (expires_at) where expires_at is not null;
comment on column rowlock.run_key.expires_at is 'When the key may be used again: its run has been removed. Null: the run is there.';

-- Forks of a run, without which none of its children may leave: the copied steps name them.
create index run_forked_from on rowlock.run (forked_from) where forked_from is not null;

-- Whose child a run is too that was started by its key before: by another parent, or by nobody's.
create table rowlock.adoption (
    run_id             uuid    not null,
    parent_id          uuid    not null,
    parent_generation  integer not null,
    constraint adoption_pkey primary key (run_id, parent_id)
);
create index adoption_parent on rowlock.adoption (parent_id);
comment on table rowlock.adoption is 'Runs that started a child with a key which was used, and so share that run.';
comment on column rowlock.adoption.run_id is 'The run that is shared.';
comment on column rowlock.adoption.parent_id is 'Who shares it.';
comment on column rowlock.adoption.parent_generation is 'In which of its histories.';

alter table rowlock.adoption enable row level security;
alter table rowlock.retention enable row level security;
alter table rowlock.retention_walk enable row level security;
create policy by_app on rowlock.retention for select using (
    (select rowlock.my_apps()) is null or app = any ((select rowlock.my_apps())::text[]));
