-- redo: let an ended run go on, or copy it, with a part of its history.
--
-- Except that a blocked run is just made ready again, each of these begins a new generation (or a new
-- run) by copying the steps that are kept, in their order. Nothing recorded is changed, and a zombie
-- of the old generation writes to the old one. Messages received in the part that is dropped go back
-- to the inbox; children of that part are started anew; events and streams stay as they are seen.

-- locked_end: the last outcome of a run whose row this locks; refused when it has not ended.
create or replace function rowlock.locked_end(p_run uuid, p_what text) returns rowlock.outcome
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_state text;
    v_end   rowlock.outcome;
begin
    perform 1 from rowlock.run as r where r.id = p_run for no key update;
    if not found then
        perform rowlock.refuse_unknown(p_run);
    end if;
    select t.state into v_state from rowlock.task as t where t.run_id = p_run;
    if found then
        raise exception 'run % is % and can''t be %: it has not ended', p_run, v_state, p_what
            using errcode = 'RLS01',
                  hint = 'Nothing was changed. rowlock.cancel ends it; rowlock.fork copies it as it is.';
    end if;
    select o.* into v_end from rowlock.outcome as o
     where o.run_id = p_run order by o.generation desc limit 1;
    return v_end;
end $$;

-- input_of: what a generation was given.
create or replace function rowlock.input_of(p_run uuid, p_generation integer) returns jsonb
language sql stable set search_path = pg_catalog
return coalesce(
    (select g.input from rowlock.generation as g where g.run_id = p_run and g.generation = p_generation),
    (select r.input from rowlock.run as r where r.id = p_run));

-- check_input: the arguments of a workflow by name.
create or replace function rowlock.check_input(p_input jsonb) returns void
language plpgsql immutable set search_path = pg_catalog as $$
begin
    if jsonb_typeof(p_input) <> 'object' then
        raise exception 'the input is not a JSON object of the workflow''s arguments by name'
            using errcode = 'RLV01', hint = 'Nothing was changed.';
    end if;
end $$;

-- refuse_place: nothing is recorded there.
create or replace function rowlock.refuse_place(p_run uuid, p_place text) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    raise exception 'run % has recorded nothing at place %', p_run, coalesce(p_place, 'null')
        using errcode = 'RLN04',
              hint = 'rowlock.steps lists the places of a run. Nothing was changed.';
end $$;

-- first_position: where a place, or what is below it, was recorded first.
create or replace function rowlock.first_position(p_run uuid, p_generation integer, p_place text)
returns integer
language plpgsql stable
set search_path = pg_catalog
as $$
declare
    v_position integer;
begin
    select min(s.position) into v_position
      from rowlock.step as s
     where s.run_id = p_run and s.generation = p_generation and s.kind <> 'cancel'
       and (s.place = p_place or starts_with(s.place, p_place || '.'));
    if v_position is null then
        perform rowlock.refuse_place(p_run, p_place);
    end if;
    return v_position;
end $$;

-- begin_again: the next generation of an ended run, whose row is locked. Kept are the steps recorded
-- before p_below (null: all), and before it was cancelled.
create or replace function rowlock.begin_again(
    p_end rowlock.outcome, p_reason text, p_below integer, p_place text, p_input jsonb)
returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_next   integer := p_end.generation + 1;
    v_queue  text;
    v_below  integer;
begin
    -- What was recorded after a cancel came of it: without the cancel it would fit no code.
    select least(p_below, min(s.position)) into v_below
      from rowlock.step as s
     where s.run_id = p_end.run_id and s.generation = p_end.generation and s.kind = 'cancel';
    -- The conflict: a redo that an old snapshot does not show. Told as serialization_failure.
    insert into rowlock.generation (run_id, created_at, generation, reason, input, place)
    values (p_end.run_id, clock_timestamp(), v_next, p_reason,
            coalesce(p_input, rowlock.input_of(p_end.run_id, p_end.generation)), p_place)
    on conflict do nothing;
    insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                              place, kind, name, output, error)
    select s.run_id, s.recorded_at, v_next, s.position, s.epoch, s.seconds, s.attempts,
           s.place, s.kind, s.name, s.output, s.error
      from rowlock.step as s
     where s.run_id = p_end.run_id and s.generation = p_end.generation
       and (v_below is null or s.position < v_below);
    update rowlock.message as m
       set received_generation = case when s.place is not null then v_next end,
           received_place = s.place
      from rowlock.message as x
      left join rowlock.step as s
        on s.run_id = x.run_id and s.generation = v_next and s.place = x.received_place
     where x.run_id = p_end.run_id and x.received_generation = p_end.generation
       and m.run_id = x.run_id and m.id = x.id;
    insert into rowlock.task (run_id, due_at, started_at, epoch, generation, priority, state, app, queue,
                              workflow, progress)
    select r.id, clock_timestamp(), p_end.started_at, p_end.epoch, v_next, r.priority, 'ready', r.app,
           r.queue, r.workflow, 0
      from rowlock.run as r
     where r.id = p_end.run_id
    returning queue into v_queue;
    perform rowlock.notify_idle(p_end.app, v_queue);
end $$;

-- refuse_compensated: what was undone must not pass as done.
create or replace function rowlock.refuse_compensated(p_end rowlock.outcome, p_what text) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    if exists (select from rowlock.step as s
                where s.run_id = p_end.run_id and s.generation = p_end.generation
                  and starts_with(s.place, 'undo.')) then
        raise exception 'run % has undone a part of what it did, and can''t be % as if it were done',
                        p_end.run_id, p_what
            using errcode = 'RLS03',
                  hint = 'rowlock.rewind(run, place) lets it do again what comes from a place on. '
                         'Nothing was changed.';
    end if;
end $$;

create or replace function rowlock.resume(run_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_task rowlock.task;
    v_end  rowlock.outcome;
begin
    -- Blocked: the version it was blocked on does not fit it, so it is no longer pinned.
    update rowlock.task as t
       set state = 'ready', due_at = clock_timestamp(), version = '', reason = null, takeovers = 0
     where t.run_id = resume.run_id and t.state = 'blocked'
    returning t.* into v_task;
    if found then
        perform rowlock.notify_idle(v_task.app, v_task.queue);
        return;
    end if;
    v_end := rowlock.locked_end(resume.run_id, 'resumed');
    if v_end.status not in ('cancelled', 'dead') then
        raise exception 'run % has % and can''t be resumed', resume.run_id, v_end.status
            using errcode = 'RLS01',
                  hint = case v_end.status when 'failed' then 'rowlock.retry goes on from its failed step. '
                                           else 'rowlock.rewind or rowlock.fork do a part of it again. ' end
                         || 'Nothing was changed.';
    end if;
    perform rowlock.refuse_compensated(v_end, 'resumed');
    perform rowlock.begin_again(v_end, 'resume', null, null, null);
end $$;
comment on function rowlock.resume(uuid) is
    'Lets a blocked, cancelled or dead run go on from what is recorded (before the cancel was seen); the app''s current version takes it.';

create or replace function rowlock.retry(run_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_end    rowlock.outcome;
    v_failed integer;
begin
    v_end := rowlock.locked_end(retry.run_id, 'retried');
    if v_end.status <> 'failed' then
        raise exception 'run % has % and can''t be retried: it did not fail', retry.run_id, v_end.status
            using errcode = 'RLS01',
                  hint = case when v_end.status in ('cancelled', 'dead') then 'rowlock.resume lets it go on. '
                              else 'rowlock.rewind or rowlock.fork do a part of it again. ' end
                         || 'Nothing was changed.';
    end if;
    perform rowlock.refuse_compensated(v_end, 'retried');
    select max(s.position) into v_failed
      from rowlock.step as s
     where s.run_id = retry.run_id and s.generation = v_end.generation and s.error is not null;
    perform rowlock.begin_again(v_end, 'retry', v_failed, null, null);
end $$;
comment on function rowlock.retry(uuid) is
    'Lets a failed run go on from its failed step: the last one that recorded an error, and all recorded after it, are done again.';

create or replace function rowlock.rewind(run_id uuid, place text, input jsonb default null)
returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_end rowlock.outcome;
begin
    perform rowlock.check_input(rewind.input);
    v_end := rowlock.locked_end(rewind.run_id, 'rewound');
    perform rowlock.begin_again(
        v_end, 'rewind', rowlock.first_position(rewind.run_id, v_end.generation, rewind.place),
        rewind.place, rewind.input);
end $$;
comment on function rowlock.rewind(uuid, text, jsonb) is
    'Lets an ended run do again what it recorded at a place and after it, with the present code; optionally with another input.';

create or replace function rowlock.fork(
    run_id    uuid,
    place     text  default null,
    input     jsonb default null,
    outcomes  jsonb default null)
returns uuid
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_run        rowlock.run;
    v_new        uuid := rowlock.uuidv7();
    v_now        timestamptz := clock_timestamp();
    v_below      integer;
    v_bad        text;
begin
    perform rowlock.check_input(fork.input);
    if jsonb_typeof(fork.outcomes) <> 'object' then
        raise exception 'outcomes is not a JSON object of values by place'
            using errcode = 'RLV01', hint = 'For example {"3": {"paid": true}}. Nothing was started.';
    end if;
    -- Not to be removed meanwhile: this lock passes all others.
    select r.* into v_run from rowlock.run as r where r.id = fork.run_id for key share;
    if not found then
        perform rowlock.refuse_unknown(fork.run_id);
    end if;
    -- One statement, so one moment: the run may be at work, or be redone, which moves its messages to
    -- another generation. Refusals come afterwards, and undo it.
    with present as materialized (
        select coalesce(
                   (select t.generation from rowlock.task as t where t.run_id = fork.run_id),
                   (select max(o.generation) from rowlock.outcome as o where o.run_id = fork.run_id))
               as generation
    ), below as materialized (
        select min(s.position) as position
          from present as p
          join rowlock.step as s on s.run_id = fork.run_id and s.generation = p.generation
         where s.kind <> 'cancel' and (s.place = fork.place or starts_with(s.place, fork.place || '.'))
    ), cancelled as materialized (
        select min(s.position) as position
          from present as p
          join rowlock.step as s on s.run_id = fork.run_id and s.generation = p.generation
         where s.kind = 'cancel'
    ), new_run as (
        insert into rowlock.run (id, created_at, priority, app, workflow, queue, input, attributes,
                                 trace_context, forked_from)
        select v_new, v_now, v_run.priority, v_run.app, v_run.workflow, v_run.queue,
               coalesce(fork.input, rowlock.input_of(fork.run_id, p.generation)), v_run.attributes,
               v_run.trace_context, fork.run_id
          from present as p
        returning id, input
    ), new_generation as (
        insert into rowlock.generation (run_id, created_at, generation, reason, input, place)
        select r.id, v_now, 1, 'fork', r.input, fork.place from new_run as r
    ), kept as (
        insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                                  place, kind, name, output, error)
        select v_new, s.recorded_at, 1, s.position, 0, s.seconds, s.attempts, s.place, s.kind, s.name,
               case when fork.outcomes ? s.place then fork.outcomes -> s.place else s.output end,
               case when fork.outcomes ? s.place then null else s.error end
          from present as p
         cross join below as b
         cross join cancelled as c
          join rowlock.step as s on s.run_id = fork.run_id and s.generation = p.generation
         where (c.position is null or s.position < c.position) and not starts_with(s.place, 'undo.')
           and (fork.place is null or s.position < b.position or fork.outcomes ? s.place)
        returning place
    ), messages as (
        -- What was received after that place is received again; what nobody received stays where it is.
        insert into rowlock.message (run_id, sent_at, from_run_id, topic, key, value,
                                     received_generation, received_place)
        select v_new, m.sent_at, m.from_run_id, m.topic, m.key, m.value,
               case when k.place is not null then 1 end, k.place
          from present as p
          join rowlock.message as m on m.run_id = fork.run_id and m.received_generation = p.generation
          left join kept as k on k.place = m.received_place
         order by m.id)
    select b.position,
           (select min(o.place)
              from jsonb_object_keys(fork.outcomes) as o (place)
             where not exists (
                     select from rowlock.step as s
                      where s.run_id = fork.run_id and s.generation = p.generation and s.place = o.place
                        and s.kind not in ('child', 'children', 'cancel', 'send', 'set_event', 'emit')))
      into v_below, v_bad
      from present as p cross join below as b;
    if fork.place is not null and v_below is null then
        perform rowlock.refuse_place(fork.run_id, fork.place);
    end if;
    if v_bad is not null then
        raise exception 'run % has no recorded outcome at place % that could be another', fork.run_id, v_bad
            using errcode = 'RLN04',
                  hint = 'rowlock.steps lists the places of a run. Nothing was started.';
    end if;
    -- epoch 1: a claim of a run with steps reads its history
    insert into rowlock.task (run_id, due_at, epoch, priority, state, app, queue, workflow)
    values (v_new, v_now, 1, v_run.priority, 'ready', v_run.app, v_run.queue, v_run.workflow);
    perform rowlock.notify_idle(v_run.app, v_run.queue);
    return v_new;
end $$;
comment on function rowlock.fork(uuid, text, jsonb, jsonb) is
    'Starts a new run with a copy of a run''s history up to a place (all of it without one), optionally with another input or other outcomes by place; gives its id. The key is not copied.';
