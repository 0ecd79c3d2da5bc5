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
    perform 1 from rowlock.run as r where r.id = p_run and rowlock.allowed(r.app) for no key update;
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
    raise exception 'run % has recorded nothing at place %', p_run, rowlock.shown(p_place)
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
    v_below  integer;
begin
    perform rowlock.retake_dedup(p_end.run_id);
    -- What was recorded after a cancel came of it: without the cancel it would fit no code.
    select least(p_below, min(s.position)) into v_below
      from rowlock.step as s
     where s.run_id = p_end.run_id and s.generation = p_end.generation and s.kind = 'cancel';
    -- The conflict: a redo that an old snapshot does not show. Told as serialization_failure.
    insert into rowlock.generation (run_id, created_at, generation, reason, input, place)
    values (p_end.run_id, clock_timestamp(), v_next, p_reason,
            coalesce(p_input, rowlock.input_of(p_end.run_id, p_end.generation)), p_place)
    on conflict do nothing;
    -- No longer how the run stands: lists pass it by (ended.sql).
    update rowlock.outcome as o set redone_at = clock_timestamp()
     where o.run_id = p_end.run_id and o.generation = p_end.generation;
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
                              workflow, progress, partition)
    select r.id, clock_timestamp(), p_end.started_at, p_end.epoch, v_next, r.priority, 'ready', r.app,
           p_end.queue, r.workflow, 0,
           case when r.partition is not null then rowlock.partition_in(r.app, p_end.queue, r.partition) end
      from rowlock.run as r
     where r.id = p_end.run_id;
    perform rowlock.note_audit(p_reason, p_end.app, p_end.run_id, null,
        jsonb_build_object('status', p_end.status, 'generation', p_end.generation),
        jsonb_build_object('status', 'ready', 'generation', v_next, 'place', p_place,
                           'input', case when p_input is not null then 'another' end));
    perform rowlock.notify_idle(p_end.app, p_end.queue);
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
    select t.* into v_task from rowlock.task as t
     where t.run_id = resume.run_id and t.state = 'blocked' and rowlock.allowed(t.app)
       for no key update;
    if found then
        if rowlock.is_paused(v_task.reason) then
            perform rowlock.refuse_state(v_task, 'resumed');
        end if;
        -- The version it was blocked on does not fit it, so it is no longer pinned.
        update rowlock.task as t
           set state = 'ready', due_at = clock_timestamp(), version = '', reason = null, takeovers = 0
         where t.run_id = resume.run_id;
        perform rowlock.note_audit('resume', v_task.app, v_task.run_id, null,
            jsonb_build_object('status', 'blocked', 'version', nullif(v_task.version, ''),
                               'reason', v_task.reason -> 'kind'),
            jsonb_build_object('status', 'ready'));
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
'Lets a blocked, cancelled or dead run go on from what it has recorded (before the cancel was seen). The
current version takes it.

run_id: the run.';

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
'Lets a failed run go on: the last step that recorded an error, and all recorded after it, are done
again.

run_id: the run.';

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
'Lets an ended run do again what it recorded at a place and after it, with the present code.

run_id: the run.
place: from where on, see rowlock.steps.
input: other arguments, as a JSON object; default: those it had.';

-- copy_run: a new run with what another has recorded, as fork describes it; p_parent and p_place: as a child
-- of that run, which is a copy itself.
create or replace function rowlock.copy_run(
    p_run uuid, p_new uuid, p_place text, p_input jsonb, p_outcomes jsonb, p_version text,
    p_children boolean, p_parent uuid, p_parent_place text, p_child_index integer)
returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_run        rowlock.run;
    v_now        timestamptz := clock_timestamp();
    v_queue      text;
    v_priority   smallint;
    v_copies     jsonb := '{}';
    v_below      integer;
    v_bad        text;
begin
    select r.* into v_run from rowlock.run as r where r.id = p_run;
    select coalesce(t.queue, (select o.queue from rowlock.outcome as o
                               where o.run_id = p_run order by o.generation desc limit 1), v_run.queue),
           coalesce(t.priority, v_run.priority)
      into v_queue, v_priority
      from (values (1)) as one
      left join rowlock.task as t on t.run_id = p_run;
    if p_children then
        v_copies := rowlock.unfinished_children(p_run, p_new);
    end if;
    -- One statement, so one moment: the run may be at work, or be redone, which moves its messages to
    -- another generation. Refusals come afterwards, and undo it.
    with present as materialized (
        select coalesce(
                   (select t.generation from rowlock.task as t where t.run_id = p_run),
                   (select max(o.generation) from rowlock.outcome as o where o.run_id = p_run))
               as generation
    ), below as materialized (
        select min(s.position) as position
          from present as p
          join rowlock.step as s on s.run_id = p_run and s.generation = p.generation
         where s.kind <> 'cancel' and (s.place = p_place or starts_with(s.place, p_place || '.'))
    ), cancelled as materialized (
        select min(s.position) as position
          from present as p
          join rowlock.step as s on s.run_id = p_run and s.generation = p.generation
         where s.kind = 'cancel'
    ), new_run as (
        insert into rowlock.run (id, created_at, priority, app, workflow, queue, input, attributes,
                                 trace_context, forked_from, parent_id, parent_generation, parent_place,
                                 child_index, partition)
        select p_new, v_now, v_priority, v_run.app, v_run.workflow, v_queue,
               coalesce(p_input, rowlock.input_of(p_run, p.generation)), v_run.attributes,
               v_run.trace_context, p_run, p_parent, case when p_parent is not null then 1 end,
               p_parent_place, p_child_index, v_run.partition
          from present as p
        returning id, input
    ), new_generation as (
        insert into rowlock.generation (run_id, created_at, generation, reason, input, place)
        select r.id, v_now, 1, 'fork', r.input, p_place from new_run as r
    ), kept as (
        insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                                  place, kind, name, output, error)
        select p_new, s.recorded_at, 1, s.position, 0, s.seconds, s.attempts, s.place, s.kind, s.name,
               case when p_outcomes ? s.place then p_outcomes -> s.place
                    when s.kind in ('child', 'children') then coalesce(v_copies -> (s.output #>> '{}'), s.output)
                    else s.output end,
               case when p_outcomes ? s.place then null else s.error end
          from present as p
         cross join below as b
         cross join cancelled as c
          join rowlock.step as s on s.run_id = p_run and s.generation = p.generation
         where (c.position is null or s.position < c.position) and not starts_with(s.place, 'undo.')
           and (p_place is null or s.position < b.position or p_outcomes ? s.place)
        returning place
    ), messages as (
        -- What was received after that place is received again; what nobody received stays where it is.
        insert into rowlock.message (run_id, sent_at, from_run_id, topic, key, value,
                                     received_generation, received_place)
        select p_new, m.sent_at, m.from_run_id, m.topic, m.key, m.value,
               case when k.place is not null then 1 end, k.place
          from present as p
          join rowlock.message as m on m.run_id = p_run and m.received_generation = p.generation
          left join kept as k on k.place = m.received_place
         order by m.id)
    select b.position,
           (select min(o.place)
              from jsonb_object_keys(p_outcomes) as o (place)
             where not exists (
                     select from rowlock.step as s
                      where s.run_id = p_run and s.generation = p.generation and s.place = o.place
                        and s.kind not in ('child', 'children', 'cancel', 'send', 'set_event', 'emit')))
      into v_below, v_bad
      from present as p cross join below as b;
    if p_place is not null and v_below is null then
        perform rowlock.refuse_place(p_run, p_place);
    end if;
    if v_bad is not null then
        raise exception 'run % has no recorded outcome at place % that could be another', p_run, rowlock.shown(v_bad)
            using errcode = 'RLN04',
                  hint = 'rowlock.steps lists the places of a run. Nothing was started.';
    end if;
    if v_copies <> '{}' then
        perform rowlock.copy_children(p_new, v_copies, p_version);
    end if;
    -- epoch 1: a claim of a run with steps reads its history
    insert into rowlock.task (run_id, due_at, epoch, priority, state, app, queue, workflow, version, partition)
    values (p_new, v_now, 1, v_priority, 'ready', v_run.app, v_queue, v_run.workflow,
            coalesce(p_version, ''), rowlock.partition_in(v_run.app, v_queue, v_run.partition));
    perform rowlock.notify_idle(v_run.app, v_queue);
end $$;

-- unfinished_children: what a copy's steps will say instead of what the run's own say: another id for each
-- child that has not ended, another name for each group in which one has not. Of its present history alone:
-- an earlier one may have a group at the same place, and the copy has but one.
create or replace function rowlock.unfinished_children(p_run uuid, p_new uuid) returns jsonb
language sql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
    with named as materialized (
        select s.place, s.kind, s.output #>> '{}' as name
          from rowlock.step as s
         where s.run_id = p_run and s.kind in ('child', 'children') and s.output is not null
           and s.generation = coalesce(
                   (select t.generation from rowlock.task as t where t.run_id = p_run),
                   (select max(o.generation) from rowlock.outcome as o where o.run_id = p_run)))
    select coalesce(jsonb_object_agg(x.old, x.new), '{}')
      from (select n.name as old, rowlock.uuidv7()::text as new
              from named as n
              join rowlock.run as c on c.id = case n.kind when 'child' then n.name::uuid end
             where c.parent_id = p_run and c.detached is not true
               and exists (select from rowlock.task as t where t.run_id = c.id)
             union all
            select n.name, format('%s:1:%s', p_new, n.place)
              from named as n
             where n.kind = 'children' and split_part(n.name, ':', 1) = p_run::text
               and exists (select from rowlock.run as c
                             join rowlock.task as t on t.run_id = c.id
                            where c.parent_id = p_run and c.child_index is not null
                              and c.parent_generation::text = split_part(n.name, ':', 2)
                              and c.parent_place = n.place)) as x
$$;

-- copy_children: the children that the steps of a copy name. Of a group all are copied: those that have
-- ended with what they recorded and how they ended, and are done with.
create or replace function rowlock.copy_children(p_new uuid, p_copies jsonb, p_version text) returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_named record;
    v_child record;
    v_from  uuid[];
    v_to    uuid[];
begin
    for v_named in
        select c.key as old, s.output #>> '{}' as new, s.place, s.kind
          from jsonb_each_text(p_copies) as c
          join rowlock.step as s on s.run_id = p_new and s.generation = 1
           and s.kind in ('child', 'children') and s.output #>> '{}' = c.value
         order by s.position
    loop
        if v_named.kind = 'child' then
            perform rowlock.copy_run(v_named.old::uuid, v_named.new::uuid, null, null, null, p_version, true,
                                     p_new, v_named.place, null);
            continue;
        end if;
        select array_agg(r.id), array_agg(rowlock.uuidv7()) into v_from, v_to
          from rowlock.run as r
         where r.parent_id = split_part(v_named.old, ':', 1)::uuid
           and r.parent_generation = split_part(v_named.old, ':', 2)::integer
           and r.parent_place = split_part(v_named.old, ':', 3) and r.child_index is not null
           and not exists (select from rowlock.task as t where t.run_id = r.id);
        for v_child in
            select r.id, r.child_index
              from rowlock.run as r
             where r.parent_id = split_part(v_named.old, ':', 1)::uuid
               and r.parent_generation = split_part(v_named.old, ':', 2)::integer
               and r.parent_place = split_part(v_named.old, ':', 3) and r.child_index is not null
               and not r.id = any (coalesce(v_from, '{}'))
             order by r.child_index
        loop
            perform rowlock.copy_run(v_child.id, rowlock.uuidv7(), null, null, null, p_version, true,
                                     p_new, v_named.place, v_child.child_index);
        end loop;
        if v_from is not null then
            perform rowlock.copy_ended(v_from, v_to, p_new, v_named.place);
            insert into rowlock.arrival (arrived_at, count, name)
            values (clock_timestamp(), cardinality(v_from), v_named.new);
        end if;
    end loop;
end $$;

-- copy_ended: runs of a group that have ended, as runs of another group that have ended so, with the history
-- that counts there: the first.
create or replace function rowlock.copy_ended(p_from uuid[], p_to uuid[], p_parent uuid, p_place text)
returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
    insert into rowlock.run (id, created_at, priority, app, workflow, queue, input, attributes,
                             trace_context, forked_from, parent_id, parent_generation, parent_place,
                             child_index, partition)
    select x.new, clock_timestamp(), r.priority, r.app, r.workflow, r.queue,
           rowlock.input_of(r.id, o.generation), r.attributes, r.trace_context, r.id, p_parent, 1, p_place,
           r.child_index, r.partition
      from unnest(p_from, p_to) as x (old, new)
      join rowlock.run as r on r.id = x.old
     cross join lateral rowlock.first_end(x.old) as o;
    insert into rowlock.generation (run_id, created_at, generation, reason, input)
    select r.id, r.created_at, 1, 'fork', r.input from rowlock.run as r where r.id = any (p_to);
    insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts, place,
                              kind, name, output, error)
    select x.new, s.recorded_at, 1, s.position, 0, s.seconds, s.attempts, s.place, s.kind, s.name, s.output,
           s.error
      from unnest(p_from, p_to) as x (old, new)
     cross join lateral rowlock.first_end(x.old) as o
      join rowlock.step as s on s.run_id = x.old and s.generation = o.generation;
    insert into rowlock.outcome (run_id, started_at, finished_at, generation, epoch, app, workflow, queue,
                                 version, status, output, error)
    select x.new, o.started_at, o.finished_at, 1, 1, o.app, o.workflow, o.queue, o.version, o.status,
           o.output, o.error
      from unnest(p_from, p_to) as x (old, new)
     cross join lateral rowlock.first_end(x.old) as o;
end $$;

-- first_end: how a child of a group ended, as its group knows it, however often it was redone since.
create or replace function rowlock.first_end(p_run uuid) returns setof rowlock.outcome
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off
as $$
    select o.* from rowlock.outcome as o
     where o.run_id = p_run and o.status <> 'continued' order by o.generation limit 1
$$;

create or replace function rowlock.fork(
    run_id    uuid,
    place     text    default null,
    input     jsonb   default null,
    outcomes  jsonb   default null,
    version   text    default null,
    children  boolean default false)
returns uuid
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app    text;
    v_status text;
    v_new    uuid := rowlock.uuidv7();
begin
    perform rowlock.check_input(fork.input);
    if jsonb_typeof(fork.outcomes) <> 'object' then
        raise exception 'outcomes is not a JSON object of values by place'
            using errcode = 'RLV01', hint = 'For example {"3": {"paid": true}}. Nothing was started.';
    end if;
    select r.app, coalesce(t.state, (select o.status from rowlock.outcome as o where o.run_id = r.id
                                      order by o.generation desc limit 1))
      into v_app, v_status
      from rowlock.run as r
      left join rowlock.task as t on t.run_id = r.id
     where r.id = fork.run_id and rowlock.allowed(r.app)
       for key share of r;  -- or it might be removed meanwhile; this passes all other locks
    if not found then
        perform rowlock.refuse_unknown(fork.run_id);
    end if;
    if fork.version is not null then
        perform rowlock.usable_version(v_app, fork.version);
    end if;
    perform rowlock.copy_run(fork.run_id, v_new, fork.place, fork.input, fork.outcomes, fork.version,
                             coalesce(fork.children, false), null, null, null);
    perform rowlock.note_audit('fork', v_app, fork.run_id, null, jsonb_build_object('status', v_status),
        jsonb_build_object('fork', v_new, 'place', fork.place, 'version', fork.version,
            'input', case when fork.input is not null then 'another' end,
            'outcomes', (select jsonb_agg(o.place order by o.place)
                           from jsonb_object_keys(fork.outcomes) as o (place)),
            'children', nullif(fork.children, false)));
    return v_new;
end $$;
comment on function rowlock.fork(uuid, text, jsonb, jsonb, text, boolean) is
'Starts a new run with a copy of a run''s history, and gives its id. Keys are not copied. Steps that are
kept name the children of the original, and both wait for those then.

run_id: the run that is copied, ended or not.
place: the first place that is not kept; what was recorded there and after it is done anew, with the
    present code; default: all is kept.
input: other arguments, as a JSON object; default: those it has.
outcomes: other outcomes of steps by place, {"2": "receipt-99"}: these are kept, too; default: none.
version: the code version that shall take it; default: the current one.
children: whether children that have not ended, and theirs, are forked with it; default: false, they are
    shared.';
