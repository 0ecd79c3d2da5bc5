-- made: steps of a batch that the server has a part in, and what hangs on them.
--
-- The server makes the ids of children and the time of a `now`, and finds the message that a receive
-- gets. On a step that was written hang: children, a message to another run, an event, an entry of a
-- stream, the cancelling of children. What could not be written (the place was recorded before, the
-- run is another's) has none of it: everything below goes by v_fresh.

-- next_message: the oldest message of a topic that nobody has received, after p_skip others.
create or replace function rowlock.next_message(p_run uuid, p_topic text, p_skip integer)
returns table (id bigint, value jsonb)
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_bitmapscan = off set enable_sort = off
as $$
    select m.id, m.value
      from rowlock.message as m
     where m.run_id = p_run and m.topic = p_topic and m.received_place is null
     order by m.run_id, m.topic, m.id
     limit 1 offset p_skip
$$;

-- next_offset: where the next entry of a stream goes. Under the lock on the run's row.
create or replace function rowlock.next_offset(p_run uuid, p_stream text) returns bigint
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_bitmapscan = off set enable_sort = off
as $$
    select coalesce(
        (select e."offset" + 1 from rowlock.stream_entry as e
          where e.run_id = p_run and e.stream = p_stream
          order by e.run_id desc, e.stream desc, e."offset" desc
          limit 1),
        0)
$$;

-- append: entries of streams, in their order `n`, as JSON objects of run, stream and value. The rows
-- of their runs are held.
create or replace function rowlock.append(p_entries jsonb, p_now timestamptz) returns void
language sql volatile
set search_path = pg_catalog
as $$
    insert into rowlock.stream_entry (run_id, emitted_at, "offset", stream, value)
    select x.run, p_now, s.first + row_number() over (partition by x.run, x.stream order by x.n) - 1,
           x.stream, x.value
      from jsonb_to_recordset(p_entries) as x (run uuid, stream text, value jsonb, n integer)
      join (select d.run, d.stream, rowlock.next_offset(d.run, d.stream) as first
              from (select distinct y.run, y.stream
                      from jsonb_to_recordset(p_entries) as y (run uuid, stream text)) as d
            offset 0) as s using (run, stream)
     order by x.run, x.stream, x.n;
$$;

-- child_partition: which part of its queue a child waits in: its parent's, if the queue has partitions,
-- unless it says otherwise; then the queue must have some.
create or replace function rowlock.child_partition(p_app text, p_queue text, p_partition text, p_child jsonb)
returns text
language plpgsql stable
set search_path = pg_catalog set jit = off
as $$
begin
    if p_child ->> 'partition' is not null and rowlock.partition_in(p_app, p_queue, p_partition) is null then
        raise exception 'the run has a partition, but queue % of app % has no partitions',
                        rowlock.shown(p_queue), p_app
            using errcode = '22023';  -- so that this entry fails alone
    end if;
    return rowlock.partition_in(p_app, p_queue, p_partition);
end $$;

create or replace function rowlock.record_made(
    p_worker bigint, p_steps jsonb, p_passed uuid[], p_now timestamptz)
returns table (i integer, verdict text, detail jsonb)
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_indexscan = off set enable_indexonlyscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_outputs   jsonb;              -- by entry: the output that is made here
    v_messages  jsonb := '{}';      -- by entry: the message it receives
    v_fresh     integer[];          -- entries whose step was written
    v_woken     integer := 0;
begin
    select coalesce(jsonb_object_agg(x.i, x.output), '{}') into v_outputs
      from (
        select e.i,
               case when e.kind = 'now'
                    then to_jsonb(p_now + coalesce(nullif(current_setting('rowlock.test_offset', true), ''), '0')::interval)
                    when e.child is not null then to_jsonb(rowlock.uuidv7())
                    when e.children is not null  -- the name of the group
                    then to_jsonb(format('%s:%s:%s', e.run, t.generation, e.place))
               end as output
          from jsonb_to_recordset(p_steps) as e (
                   i integer, run uuid, place text, kind text, child jsonb, children jsonb)
          left join rowlock.task as t on t.run_id = e.run
         where e.kind = 'now' or e.child is not null or e.children is not null) as x;
    if p_steps @> '[{"kind": "receive"}]' then
        -- Two receives of a topic in one batch get two messages, in the order of their positions. One
        -- whose place is recorded (the batch is sent again) has its message, and takes no turn.
        select coalesce(jsonb_object_agg(x.i, x.message), '{}') into v_messages
          from (
            select e.i, to_jsonb(m) as message
              from (select e.i, e.run, e.name,
                           row_number() over (partition by e.run, e.name order by e.position) as nth
                      from jsonb_to_recordset(p_steps) as e (
                               i integer, run uuid, epoch integer, position integer, place text,
                               kind text, name text, error jsonb)
                      join rowlock.task as t on t.run_id = e.run
                     where e.kind = 'receive' and e.error is null and not e.run = any (p_passed)
                       and t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
                       and not exists (select from rowlock.step as s
                                        where s.run_id = t.run_id and s.generation = t.generation
                                          and s.place = e.place)
                   ) as e
             cross join lateral rowlock.next_message(e.run, e.name, (e.nth - 1)::integer) as m) as x;
    end if;

    insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                              place, kind, name, output, error)
    select e.run, p_now, t.generation, e.position, e.epoch, e.seconds, coalesce(e.attempts, 1),
           e.place, coalesce(e.kind, 'step'), e.name,
           coalesce(v_outputs -> e.i::text, v_messages -> e.i::text -> 'value', e.output), e.error
      from jsonb_to_recordset(p_steps) as e (
               i integer, run uuid, position integer, epoch integer, seconds real,
               attempts smallint, place text, kind text, name text, output jsonb, error jsonb, send jsonb)
      join rowlock.task as t on t.run_id = e.run
     where t.epoch = e.epoch and t.state || '' = 'running' and t.worker_id + 0 = p_worker
       and not e.run = any (p_passed)
       and (e.kind is distinct from 'receive' or e.error is not null or v_messages ? e.i::text)
       and (e.send is null
            or exists (select from rowlock.task as d
                        where d.run_id = (e.send ->> 'run')::uuid and rowlock.allowed(d.app))
            or exists (select from rowlock.message as m
                        where m.run_id = (e.send ->> 'run')::uuid and m.key = e.send ->> 'key'))
    on conflict do nothing;
    v_fresh := array(
        select e.i
          from jsonb_to_recordset(p_steps) as e (
                   i integer, run uuid, epoch integer, position integer, place text)
          join rowlock.task as t on t.run_id = e.run and t.epoch = e.epoch
          join rowlock.step as s
            on s.run_id = t.run_id and s.generation = t.generation and s.place = e.place
         where s.position = e.position and s.epoch = e.epoch and s.xmin = pg_current_xact_id()::xid);
    return query
    select f.i, 'written', coalesce(v_outputs -> f.i::text, v_messages -> f.i::text -> 'value')
      from unnest(v_fresh) as f (i)
     where v_outputs ? f.i::text or v_messages ? f.i::text;

    -- messages received
    if v_messages <> '{}' then
        update rowlock.message as m
           set received_generation = t.generation, received_place = e.place
          from jsonb_to_recordset(p_steps) as e (i integer, run uuid, place text)
          join rowlock.task as t on t.run_id = e.run
         where e.i = any (v_fresh) and m.run_id = e.run
           and m.id = (v_messages -> e.i::text ->> 'id')::bigint;
    end if;

    -- children, by themselves or in a group
    if p_steps @? '$[*] ? (exists (@.child) || exists (@.children))' then
        with fresh as materialized (
            select e.*, t.generation
              from jsonb_to_recordset(p_steps) as e (
                       i integer, run uuid, place text, child jsonb, children jsonb, trace_context jsonb)
              join rowlock.task as t on t.run_id = e.run
             where e.i = any (v_fresh)
        ), asked as materialized (
            select (v_outputs ->> f.i::text)::uuid as id, f.run, f.generation, f.place, f.child,
                   null::integer as child_index, f.trace_context
              from fresh as f where f.child is not null
            union all
            select rowlock.uuidv7(), f.run, f.generation, f.place, c.child, c.nth::integer,
                   f.trace_context
              from fresh as f
             cross join lateral jsonb_array_elements(f.children) with ordinality as c (child, nth)
        ), placed as materialized (
            select a.*, r.app, coalesce((a.child ->> 'priority')::smallint, r.priority) as priority,
                   coalesce(a.child ->> 'queue', w.queue, 'default') as queue,
                   coalesce(a.child ->> 'partition', r.partition) as partition
              from asked as a
              join rowlock.run as r on r.id = a.run
              left join rowlock.workflow as w on w.app = r.app and w.name = a.child ->> 'workflow'
        ), parted as materialized (
            select p.*, case when p.partition is not null
                             then rowlock.child_partition(p.app, p.queue, p.partition, p.child)
                        end as part
              from placed as p
        ), runs as (
            insert into rowlock.run (id, created_at, parent_id, parent_generation, parent_place,
                                     child_index, detached, deadline_at, priority, app, workflow, queue,
                                     input, attributes, trace_context, partition)
            select p.id, p_now, p.run, p.generation, p.place, p.child_index,
                   (p.child ->> 'detached')::boolean,
                   p_now + (p.child ->> 'deadline_s')::double precision * interval '1 second',
                   p.priority, p.app, p.child ->> 'workflow', p.queue,
                   coalesce(nullif(p.child -> 'input', 'null'), '{}'),
                   nullif(p.child -> 'attributes', 'null'), nullif(p.trace_context, 'null'), p.part
              from parted as p
        ), tasks as (
            insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow, partition)
            select p.id, p_now, p.priority, 'ready', p.app, p.queue, p.child ->> 'workflow', p.part
              from parted as p
            returning app, queue
        )
        select count(rowlock.notify_idle(q.app, q.queue, p_worker)) into v_woken
          from (select distinct app, queue from tasks) as q;
        v_woken := 0;
    end if;

    -- messages to other runs, whose rows are held: ids follow commit order
    if p_steps @? '$[*].send' then
        insert into rowlock.message (run_id, sent_at, from_run_id, topic, key, value)
        select (e.send ->> 'run')::uuid, p_now, e.run, e.name, e.send ->> 'key', e.send -> 'value'
          from jsonb_to_recordset(p_steps) as e (
                   i integer, run uuid, position integer, name text, send jsonb)
         where e.i = any (v_fresh) and e.send is not null
         order by e.run, e.position
        on conflict (run_id, key) where key is not null do nothing;
        v_woken := v_woken + rowlock.wake_runs(array(
            select distinct w.run_id
              from jsonb_to_recordset(p_steps) as e (i integer, name text, send jsonb)
              join rowlock.wait as w on w.run_id = (e.send ->> 'run')::uuid
             where e.i = any (v_fresh) and w.kind = 'message' and w.name = e.name), false);
    end if;

    -- events: the waiters are read in a later statement than the write (3o)
    if p_steps @> '[{"kind": "set_event"}]' then
        insert into rowlock.event (run_id, set_at, name, value)
        select distinct on (e.run, e.name) e.run, p_now, e.name, e.value
          from jsonb_to_recordset(p_steps) as e (
                   i integer, run uuid, position integer, kind text, name text, value jsonb)
         where e.i = any (v_fresh) and e.kind = 'set_event'
         order by e.run, e.name, e.position desc
        on conflict (run_id, name) do update set value = excluded.value, set_at = excluded.set_at;
        v_woken := v_woken + rowlock.wake_runs(array(
            select distinct w.run_id
              from jsonb_to_recordset(p_steps) as e (i integer, run uuid, kind text, name text)
              join rowlock.wait as w on w.on_run_id = e.run
             where e.i = any (v_fresh) and e.kind = 'set_event' and w.kind = 'event' and w.name = e.name),
            false);
    end if;

    -- entries of streams
    if p_steps @> '[{"kind": "emit"}]' then
        perform rowlock.append(jsonb_agg(jsonb_build_object(
                    'run', e.run, 'stream', e.name, 'value', e.value, 'n', e.position)), p_now)
           from jsonb_to_recordset(p_steps) as e (
                    i integer, run uuid, position integer, kind text, name text, value jsonb)
          where e.i = any (v_fresh) and e.kind = 'emit'
         having count(*) > 0;
    end if;

    -- a run that was cancelled cancels its children; those it starts to clean up are none of these
    if p_steps @> '[{"kind": "cancel"}]' then
        insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force, reason)
        select c.id, p_now, t.generation, (e.output ->> 'grace_s')::real, false,
               format('its parent %s was cancelled', e.run)
          from jsonb_to_recordset(p_steps) as e (i integer, run uuid, kind text, output jsonb)
          join rowlock.run as c on c.parent_id = e.run
          join rowlock.task as t on t.run_id = c.id
         where e.i = any (v_fresh) and e.kind = 'cancel' and c.detached is not true
           and not exists (select from rowlock.cancel_request as x
                            where x.run_id = c.id and x.generation = t.generation);
        return query select -1, 'tend', null::jsonb;
    end if;

    if v_woken > 0 then
        return query select -1, 'woken', to_jsonb(v_woken);
    end if;
end $$;
