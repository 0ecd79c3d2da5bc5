-- minimum code level: 3
-- 0003_language: messages, events, streams, cancel requests, groups of children, deadlines, forks.
--
-- Whatever is delivered to a run (a message, an event, a cancel request) is a row of its own, written
-- under a lock on the run's row; the narrow task is touched only where the run is asleep. Journal,
-- claim, heartbeat and start get more arguments or columns; `create or replace` can't do that.

alter table rowlock.run
    add column deadline_at  timestamptz,
    add column forked_from  uuid,
    add column child_index  integer,
    add column detached     boolean;
comment on column rowlock.run.deadline_at is 'When the first generation must have ended; null: no deadline.';
comment on column rowlock.run.forked_from is 'The run whose history this one was copied from.';
comment on column rowlock.run.child_index is 'Which of its group it is (app.map), from 1; null: a child by itself, or none.';
comment on column rowlock.run.detached is 'A child that is not cancelled with its parent.';

alter table rowlock.generation
    add column deadline_at  timestamptz,
    add column place        text collate "C";
comment on column rowlock.generation.reason is 'resume, retry, rewind, fork or continued.';
comment on column rowlock.generation.place is 'The first place that was not kept, of a rewind or fork.';
comment on column rowlock.generation.deadline_at is 'As in run, for this generation: only `continued` keeps a deadline.';

-- Ids follow commit order within a run: whoever sends holds the run's row.
create table rowlock.message (
    id                   bigint generated always as identity,
    run_id               uuid        not null,
    sent_at              timestamptz not null,
    from_run_id          uuid,
    received_generation  integer,
    topic                text        not null,
    key                  text,
    received_place       text collate "C",
    value                jsonb       not null,
    constraint message_pkey primary key (run_id, id),
    constraint message_received check ((received_place is null) = (received_generation is null))
) with (
    -- What was received leaves message_inbox only with a vacuum: else each receive of a busy inbox
    -- would pass all those before it.
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500
);
create index message_inbox on rowlock.message (run_id, topic, id) where received_place is null;
create unique index message_key on rowlock.message (run_id, key) where key is not null;
comment on table rowlock.message is 'What was sent to a run, in order; received_place is null until a receive has recorded it.';
comment on column rowlock.message.key is 'The sender''s idempotency key; unique within the run that receives.';

create table rowlock.event (
    run_id  uuid        not null,
    set_at  timestamptz not null,
    name    text        not null,
    value   jsonb       not null,
    constraint event_pkey primary key (run_id, name)
);
comment on table rowlock.event is 'What runs show to others: the latest value by name.';

create table rowlock.stream_entry (
    run_id      uuid        not null,
    emitted_at  timestamptz not null,
    "offset"    bigint      not null,
    stream      text        not null,
    value       jsonb       not null,
    constraint stream_entry_pkey primary key (run_id, stream, "offset")
);
comment on table rowlock.stream_entry is 'What runs emit, in order; offsets count from 0 within a stream.';

-- No key, and nobody but the sweep updates a row: a caller who asks a second time and leaves his
-- transaction open must hold up neither the run's journal nor its parent's.
create table rowlock.cancel_request (
    run_id        uuid        not null,
    requested_at  timestamptz not null,
    look_at       timestamptz not null default clock_timestamp(),
    generation    integer     not null,
    grace_s       real        not null,
    force         boolean     not null,
    reason        text
);
create index cancel_request_run on rowlock.cancel_request (run_id);
create index cancel_request_look on rowlock.cancel_request (look_at);
comment on table rowlock.cancel_request is 'Requests to cancel, until their run has ended; the oldest counts, and any force.';
comment on column rowlock.cancel_request.look_at is 'When the sweep looks at it: soon, then ever more seldom.';
comment on column rowlock.cancel_request.generation is 'The history it is meant for, and those that continue it.';

-- No key: two journals must not wait for each other (design: waiting for many).
create table rowlock.arrival (
    arrived_at  timestamptz not null,
    count       integer     not null,
    name        text collate "C" not null
);
create index arrival_name on rowlock.arrival (name);
comment on table rowlock.arrival is 'How many children of a group have ended, a row for each batch that ended some; many are folded into one.';
comment on column rowlock.arrival.name is 'The group: run, generation and place of the step that started it.';

alter table rowlock.wait
    add column count  integer,
    add column name   text,
    drop constraint wait_kind,
    drop constraint wait_has_object,
    add constraint wait_kind check (kind in ('timer', 'retry', 'run', 'message', 'event', 'group')),
    add constraint wait_has_object check ((kind in ('run', 'event')) = (on_run_id is not null)),
    add constraint wait_has_name check ((kind in ('message', 'event', 'group')) = (name is not null)),
    add constraint wait_has_due check (kind not in ('timer', 'retry') or due_at is not null);
create index wait_group on rowlock.wait (name) where kind = 'group';
comment on column rowlock.wait.name is 'The message''s topic, the event''s name, or the group of children''s.';
comment on column rowlock.wait.count is 'How many children the group has.';

alter table rowlock.worker add column doing jsonb;
comment on column rowlock.worker.doing is 'Steps that had been running for more than a second at the last heartbeat: run, place, name, attempt, since.';

-- Clients that wait for news of runs. Unlogged: after a crash they have to connect again anyway.
create unlogged table rowlock.listener (
    id     uuid        not null,
    until  timestamptz not null,
    constraint listener_pkey primary key (id)
);
comment on table rowlock.listener is 'Processes that listen to rowlock_news; while there is none nobody notifies.';

-- Whoever could not see the waiters (a caller with an old snapshot) notes what they wait for.
alter table rowlock.wake
    alter column run_id drop not null,
    add column on_run_id  uuid,
    add column name       text,
    add constraint wake_has_object check ((run_id is null) = (on_run_id is not null));
create index wake_on_run on rowlock.wake (on_run_id) where on_run_id is not null;
comment on column rowlock.wake.run_id is 'Who is to be woken.';
comment on column rowlock.wake.on_run_id is 'Or: whoever waits for the end of this run, or for its event of this name.';

drop function if exists rowlock.claim(bigint, text, text, text[], integer, boolean);
drop function if exists rowlock.heartbeat(bigint, interval);
drop function if exists rowlock.start(text, jsonb, text, text, text, integer, interval, timestamptz, jsonb, jsonb);
drop function if exists rowlock.journal(bigint, json, integer, boolean, jsonb, jsonb, jsonb, jsonb, boolean);
drop function if exists rowlock.resume(uuid);
