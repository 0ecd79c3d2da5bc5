-- minimum code level: 3
-- 0004_control: pauses, requests to drain, retired versions, the audit, and who may use which app.
--
-- What a caller's transaction may hold for an hour is never a row that a worker must lock: a pause is
-- read without a lock, a request to drain is a row of its own and not the worker's, which is its lease.
-- Row-level security is on for every table. The owner, as whom all functions run that write, is not
-- subject to it; whoever else was granted nothing sees nothing.

create table rowlock.pause (
    paused_at  timestamptz not null default clock_timestamp(),
    lifted_at  timestamptz,
    app        text        not null,
    queue      text,
    workflow   text,
    paused_by  text        not null,
    reason     text,
    constraint pause_key unique nulls not distinct (app, queue, workflow),
    constraint pause_one check (queue is null or workflow is null)
);
create index pause_lifted on rowlock.pause (lifted_at) where lifted_at is not null;
comment on table rowlock.pause is
    'What is not claimed: a queue, a workflow, or with neither all of an app. Claims read it, and never wait for it.';
comment on column rowlock.pause.lifted_at is
    'When the pause of a workflow ended; the row stays until those that were set aside for it are ready again.';

-- No key: two who ask must not wait for each other.
create table rowlock.drain_request (
    worker_id     bigint      not null,
    requested_at  timestamptz not null default clock_timestamp()
);
create index drain_request_worker on rowlock.drain_request (worker_id);
comment on table rowlock.drain_request is
    'Workers that are to take no new runs and have not heard of it; claims look, the heartbeat carries it over.';

alter table rowlock.version add column retired_at timestamptz;
comment on column rowlock.version.retired_at is 'From then on it never becomes current again.';

create table rowlock.audit_entry (
    id                bigint generated always as identity,
    at                timestamptz not null default clock_timestamp(),
    run_id            uuid,
    actor             text        not null,
    application_name  text        not null,
    operation         text        not null,
    app               text,
    object            text,
    before            jsonb,
    after             jsonb,
    constraint audit_entry_pkey primary key (id)
);
create index audit_entry_run on rowlock.audit_entry (run_id) where run_id is not null;
comment on table rowlock.audit_entry is 'Who changed what by a function of control; never updated.';

create table rowlock.app_member (
    granted_at  timestamptz not null default clock_timestamp(),
    role        text        not null,
    app         text,
    granted_by  text        not null,
    constraint app_member_key unique nulls not distinct (role, app)
);
comment on table rowlock.app_member is 'Which role may use which app; app null: every app there is and will be.';
comment on column rowlock.app_member.role is
    'By name, so that a dump can be restored where the role does not exist.';

-- Those set aside for a paused workflow are found by it.
drop index rowlock.task_blocked;
create index task_blocked on rowlock.task (app, workflow) where state = 'blocked';

-- fork gets more arguments; `create or replace` can't do that.
drop function if exists rowlock.fork(uuid, text, jsonb, jsonb);

-- my_apps: which apps the current role may see; null: all. The functions bring the real one: policies
-- are made here, once, because making them locks their tables against everybody.
create function rowlock.my_apps() returns text[] language sql stable return '{}'::text[];

do $$
declare
    v_table text;
begin
    for v_table in
        select c.relname from pg_catalog.pg_class as c
         where c.relnamespace = 'rowlock'::regnamespace and c.relkind = 'r'
           and c.relname not in ('migration', 'repeatable')
    loop
        execute format('alter table rowlock.%I enable row level security', v_table);
    end loop;
    foreach v_table in array array['run', 'task', 'outcome', 'queue', 'workflow', 'version', 'worker',
                                   'pause', 'audit_entry']
    loop
        -- As a subquery it is asked once a statement, not once a row.
        execute format('create policy by_app on rowlock.%I for select using ('
                       '(select rowlock.my_apps()) is null or app = any ((select rowlock.my_apps())::text[]))',
                       v_table);
    end loop;
    foreach v_table in array array['generation', 'step', 'message', 'event', 'stream_entry',
                                   'cancel_request', 'wait']
    loop
        -- Of its run. Not `exists`: that might be planned as a hash of all runs there are.
        execute format('create policy by_run on rowlock.%I for select using ('
                       '(select rowlock.my_apps()) is null'
                       ' or (select r.app from rowlock.run as r where r.id = run_id)'
                       ' = any ((select rowlock.my_apps())::text[]))', v_table);
    end loop;
end $$;
create policy by_run on rowlock.arrival for select using (
    (select rowlock.my_apps()) is null
    or (select r.app from rowlock.run as r where r.id = split_part(name, ':', 1)::uuid)
       = any ((select rowlock.my_apps())::text[]));
create policy by_worker on rowlock.drain_request for select using (
    exists (select from rowlock.worker as w where w.id = worker_id));
create policy own on rowlock.app_member for select using (
    pg_catalog.pg_has_role(to_regrole(format('%I', role))::oid, 'usage')
    or pg_catalog.pg_has_role(to_regrole('rowlock_admin')::oid, 'usage'));
