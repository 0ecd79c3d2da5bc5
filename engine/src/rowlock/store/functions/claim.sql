-- claim: take ready runs for a worker, at most as many as it has free slots.
--
-- One call in autocommit, in this order: (1) look for work without locks, so that pollers who
-- find nothing never hold a lock that others need; nor those for whom a limit leaves no room; (2) the own worker row FOR KEY SHARE, lease
-- checked: the reaper takes it FOR UPDATE, so it either sees this claim or prevents it (4j);
-- (3) the queue's gate: shared, or where limits are to be counted alone (limits.sql); so a
-- limit that comes later is exact at once; (4) in a later statement, the settings again, and the claim: ids through ANY(ARRAY(…)), because the same as a CTE joined to the
-- update flips to a sequential scan under a generic plan (tests/store/test_plans.py).
-- Looked up one by one (OFFSET 0): as a join, a plan made when `run` was tiny reads all of it later.
-- SKIP LOCKED everywhere: nobody waits for anybody. FOR NO KEY UPDATE is enough for a ready task,
-- and passes the KEY SHARE of those who watch it: a parent's suspend must not hide its child.

-- ready_queues: which queues of an app have ready tasks, from a name on and at most so many: a loose walk over
-- the claim's index, one probe a queue however deep the backlog.
create or replace function rowlock.ready_queues(p_app text, p_after text, p_most integer) returns text[]
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_bitmapscan = off
as $$
    with recursive walk as (
        (select t.queue, 1 as nth from rowlock.task as t
          where t.app = p_app and t.state = 'ready' and t.queue > p_after
          order by t.app, t.queue limit 1)
        union all
        select (select t.queue from rowlock.task as t
                 where t.app = p_app and t.state = 'ready' and t.queue > walk.queue
                 order by t.app, t.queue limit 1), walk.nth + 1
          from walk
         where walk.queue is not null and walk.nth < p_most)
    select coalesce(array_agg(walk.queue order by walk.nth), '{}')
      from walk
     where walk.queue is not null
$$;

-- by_weight: queues in random order, heavier ones sooner: the first is each in proportion to its weight.
create or replace function rowlock.by_weight(p_app text, p_queues text[]) returns text[]
language sql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off set enable_bitmapscan = off
as $$
    select array_agg(x.name order by -ln(1 - random()) / coalesce(q.weight, 1))
      from unnest(p_queues) as x (name)
      left join lateral (
           select y.weight from rowlock.queue as y where y.app = p_app and y.name = x.name offset 0) as q on true
$$;

-- fitting: of which versions a worker may take runs; '' is any that is not pinned yet.
create or replace function rowlock.fitting(p_app text, p_version text) returns text[]
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    if p_version = '' then
        return array(select v.name from rowlock.version as v where v.app = p_app) || '{""}'::text[];
    elsif rowlock.current_version(p_app) = p_version then
        return array[p_version, ''];
    end if;
    return array[p_version];
end $$;

-- is_parted: whether any ready run in a queue is in a partition; null: there is none at all. The last of the index
-- says it: a probe a version, because as a semi-join it reads the whole queue of a version that is not ours.
create or replace function rowlock.is_parted(p_app text, p_queue text, p_fits text[]) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    return (select bool_or(x.parted)
              from unnest(p_fits) as f (version)
             cross join lateral (
                   select coalesce(t.partition, '') > '' as parted from rowlock.task as t
                    where t.app = p_app and t.queue = p_queue and t.version = f.version and t.state = 'ready'
                    order by t.app desc, t.queue desc, t.version desc, coalesce(t.partition, '') desc
                    limit 1) as x);
end $$;

-- takes_turn: whether one more large claim may be at a queue. Each walks past what all the others hold, and
-- keeps locked what they had taken and committed when it came there (a row that changed since the snapshot is
-- locked before it is looked at again), so that their journals are passed by: more than two at a time bring less.
-- Nobody waits here: who gets no turn is told to come again, and waits without a snapshot (runtime/patience.py).
create or replace function rowlock.takes_turn(p_app text, p_queue text) returns boolean
language sql volatile
set search_path = pg_catalog
as $$
    select case when pg_try_advisory_xact_lock(hashtextextended('rowlock.claim ' || p_app || ' ' || p_queue, 1))
                then true
                else pg_try_advisory_xact_lock(hashtextextended('rowlock.claim ' || p_app || ' ' || p_queue, 2)) end
$$;

-- take: these ready runs, which are locked, are the worker's now. p_least: no claim of their queue is earlier
-- (limits.sql). p_at: the time of first claims. p_counted: they are to be counted for a limit.
create or replace function rowlock.take(
    p_worker bigint, p_version text, p_runs uuid[], p_least timestamptz, p_at timestamptz, p_counted boolean)
returns table (
    run_id uuid, epoch integer, generation integer, created_at timestamptz, workflow text, queue text,
    version text, key text, takeovers smallint, input text, attributes text, trace_context text,
    waited double precision, started_at timestamptz, age double precision, deadline_in double precision,
    in_group boolean, cancel text)
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
begin
    return query
    with claimed as (
        update rowlock.task as t
           set state = 'running', epoch = t.epoch + 1, worker_id = p_worker,
               claimed_at = greatest(clock_timestamp(), p_least),
               started_at = coalesce(t.started_at, p_at, clock_timestamp()),
               limited = t.limited or p_counted,
               version = case when t.version = '' then p_version else t.version end
         where t.run_id = any (p_runs)
        returning t.run_id, t.epoch, t.generation, t.version, t.takeovers, t.due_at, t.started_at,
                  t.queue, clock_timestamp() as at)
    select c.run_id, c.epoch, c.generation, r.created_at, r.workflow, c.queue, c.version, r.key,
           c.takeovers,
           case when c.generation = 1 then r.input else g.input end::text,
           r.attributes::text, r.trace_context::text,
           extract(epoch from c.at - c.due_at)::double precision, c.started_at,
           extract(epoch from c.at - c.started_at)::double precision,
           extract(epoch from case when c.generation = 1 then r.deadline_at else g.deadline_at end
                              - c.at)::double precision,
           r.child_index is not null,
           q.request
      from claimed as c
     cross join lateral (
           select x.* from rowlock.run as x where x.id = c.run_id offset 0) as r
      left join lateral (
           select x.input, x.deadline_at from rowlock.generation as x
            where x.run_id = c.run_id and x.generation = c.generation and c.generation > 1
           offset 0) as g on true
      left join lateral (
           select rowlock.request_of(c.run_id, c.generation) as request
            where exists (select from rowlock.cancel_request as x where x.run_id = c.run_id)
           offset 0) as q on true;
end $$;

-- claim_next: see above. p_after: the queue that the last call came to. Its last row may be no run, but says
-- when to come again sooner than to poll (again_in, in seconds; 0: another claim was at it), p_after of the
-- next call (null: from the first), and its p_memory (null: there is nothing to remember, see behind.sql).
-- p_handed: code of the release before asked for places with it, which journal hands over now.
create or replace function rowlock.claim_next(
    p_worker bigint, p_app text, p_version text, p_queues text[], p_after text, p_want integer,
    p_listening boolean, p_handed timestamptz default null, p_memory text default null)
returns table (
    run_id uuid, epoch integer, generation integer, created_at timestamptz, workflow text, queue text,
    version text, key text, takeovers smallint, input text, attributes text, trace_context text,
    waited double precision, started_at timestamptz, age double precision, deadline_in double precision,
    in_group boolean, cancel text, limited boolean, again_in double precision, after text, memory text)
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    a_batch   constant integer := 32;    -- queues that one claim serves, when there are more
    most_idle constant integer := 1024;  -- queues that it looks at when none gives anything
    a_walk    constant integer := 2000;  -- entries of the index that it may walk past for nothing;
    a_version constant integer := 300;   -- and so many more for each version that it may take
    a_read    constant integer := 50;    -- pages of it that it may read, but for probes, to find the next runs
    a_large   constant integer := 32;    -- runs: who asks for so many wants a turn
    v_wanted  integer := p_want;
    v_from    text := coalesce(p_after, '');
    v_wrapped boolean := coalesce(p_after, '') = '';
    v_batch   text[];
    v_looked  integer := 0;
    v_queue   text;
    v_fits    text[];
    v_got     integer;
    v_limited boolean;
    v_plain   boolean;
    v_parted  boolean;
    v_alone   boolean;
    v_gate    rowlock.queue_gate;
    v_room    record;
    v_soon    double precision;
    v_ids     uuid[];
    v_at      timestamptz;
    v_again   double precision;
    v_after   text;
    v_began   timestamptz := clock_timestamp();
    v_walked  bigint := pg_stat_get_xact_tuples_returned('rowlock.task_ready'::regclass);
    v_read    bigint := 0;
    v_page    bigint;
    v_entries bigint;
    v_bounded boolean := false;  -- whether this look is no full one
    v_memory  jsonb;
    v_known   jsonb;             -- of queues, what is remembered, if anything is (behind.sql); and the cursors
    v_cursors jsonb := '{}';
    v_cursor  text;
    v_bounds  jsonb;             -- behind which there is work; null: taken from the head
    v_news    boolean;
    v_next    jsonb;
    v_least   timestamptz;       -- no claim of a limited queue is earlier (limits.sql)
    v_paused_app       boolean;
    v_paused_queues    text[] := '{}';
    v_paused_workflows text[] := '{}';
begin
    perform rowlock.require_read_committed();
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    update rowlock.worker as w set listening = p_listening
     where w.id = p_worker and w.app = p_app and w.listening <> p_listening;
    if coalesce(p_want, 0) <= 0 or p_handed is not null then
        return;
    end if;

    -- Looked for before it is summed up: there is seldom any.
    if exists (select from rowlock.pause as p where p.app = p_app and p.lifted_at is null) then
        select coalesce(bool_or(p.queue is null and p.workflow is null), false),
               coalesce(array_agg(p.queue) filter (where p.queue is not null), '{}'),
               coalesce(array_agg(p.workflow) filter (where p.workflow is not null), '{}')
          into v_paused_app, v_paused_queues, v_paused_workflows
          from rowlock.pause as p
         where p.app = p_app and p.lifted_at is null;
        if v_paused_app then
            return;
        end if;
    end if;
    -- Where a pause has runs set aside, each look is a full one, and remembers nothing.
    v_memory := p_memory::jsonb;
    if v_memory is not null and v_paused_workflows = '{}' then
        select r.bounded, r.queues, r.cursors into v_bounded, v_known, v_cursors
          from rowlock.recall(v_memory, v_began) as r;
    end if;
    if v_bounded then
        v_batch := array(select k from jsonb_object_keys(v_known) as k
                          where p_queues is null or k = any (p_queues));
    else
        v_batch := coalesce(p_queues, rowlock.ready_queues(p_app, v_from, a_batch));
        if v_batch = '{}' and v_wrapped and v_known is null
           and pg_stat_get_xact_tuples_returned('rowlock.task_ready'::regclass) - v_walked <= a_walk then
            return;
        end if;
    end if;
    v_fits := rowlock.fitting(p_app, p_version);

    loop
        -- Where the walk goes on; an incomplete batch was the last.
        v_after := case when v_bounded then p_after
                        when p_queues is null and cardinality(v_batch) = a_batch then v_batch[a_batch] end;
        if v_looked = 0 and v_known is not null and not v_bounded then
            -- Of what is known nothing may stay hidden.
            v_batch := array(select q from unnest(v_batch) as q
                             union
                             select k from jsonb_object_keys(v_known) as k
                              where p_queues is null or k = any (p_queues));
        end if;
        v_looked := v_looked + cardinality(v_batch);
        if cardinality(v_batch) > 1 then
            v_batch := rowlock.by_weight(p_app, v_batch);
        end if;
        foreach v_queue in array v_batch loop
            if p_want <= 0 then
                exit when v_bounded or v_known is null;
                -- Not reached by this full look: not to be passed by until the next one.
                v_known := v_known || jsonb_build_object(v_queue, null);
                continue;
            end if;
            continue when v_queue = any (v_paused_queues);
            v_page := pg_stat_get_xact_blocks_fetched('rowlock.task_ready'::regclass);
            select q.limited, q.ageing is null and not q.partitions, l.bounds, l.is_news, l.is_parted
              into v_limited, v_plain, v_bounds, v_news, v_parted
              from rowlock.queue as q
             cross join lateral rowlock.look(
                   p_app, v_queue, v_fits, v_known is not null, v_bounded, v_known -> v_queue, v_began) as l
             where q.app = p_app and q.name = v_queue;
            v_alone := v_limited or v_parted;
            if v_news and (v_parted is not null or v_known ? v_queue) then
                v_known := v_known || jsonb_build_object(v_queue, coalesce(v_bounds, '"many"'));
            end if;
            continue when v_parted is null;
            if v_limited then
                v_room := rowlock.room(p_app, v_queue, v_fits, p_worker, p_want, v_bounds);
                if v_room.room <= 0 then
                    v_again := least(v_again, v_room.again_in);
                    continue;
                end if;
            end if;
            perform 1 from rowlock.worker as w
              where w.id = p_worker and w.app = p_app and w.lease_until > clock_timestamp() and not w.draining
                and not exists (select from rowlock.drain_request as d where d.worker_id = w.id)
                for key share skip locked;
            if not found then
                return;
            end if;
            if v_alone then
                select g.* into v_gate from rowlock.queue_gate as g
                 where g.app = p_app and g.name = v_queue
                   for update skip locked;
            elsif p_want >= a_large and not rowlock.takes_turn(p_app, v_queue) then
                v_again := 0;
                continue;
            else
                perform 1 from rowlock.queue_gate as g
                  where g.app = p_app and g.name = v_queue
                    for key share skip locked;
            end if;
            if not found then
                v_again := 0;
                continue;
            end if;
            if v_paused_workflows <> '{}' and not v_parted and not rowlock.set_aside(
                   p_app, v_queue, '', v_fits, v_paused_workflows, p_want) then
                perform pg_notify('rowlock_worker_' || p_worker, '');  -- there may be work behind them
                continue;
            end if;

            v_least := case when v_alone then v_gate.oldest_claim end;
            if v_alone then
                v_cursor := v_gate.cursor;
                v_gate.cursor := coalesce(v_cursors ->> v_queue, v_cursor);
                v_entries := rowlock.counted_entries();
                select x.ids, x.at, x.again_in, x.cursor, x.next_bounds
                  into v_ids, v_at, v_soon, v_gate.cursor, v_next
                  from rowlock.pick_limited(p_app, v_queue, v_parted, v_gate, v_fits, p_worker,
                                             v_paused_workflows, p_want, v_bounds, v_began) as x;
                v_again := least(v_again, v_soon);
                if v_known is not null then
                    v_cursors := v_cursors || jsonb_build_object(v_queue, v_gate.cursor);
                end if;
                -- Not by each claim behind bounds: it would be one more version of a row that can't be removed.
                if v_gate.cursor <> v_cursor and not (v_bounded and v_bounds is not null) then
                    update rowlock.queue_gate as g set cursor = v_gate.cursor
                     where g.app = p_app and g.name = v_queue;
                end if;
                if rowlock.walked_far(v_entries, cardinality(v_ids)) then
                    perform rowlock.move_oldest(p_app, v_queue, v_least);
                    v_least := (select g.oldest_claim from rowlock.queue_gate as g
                                 where g.app = p_app and g.name = v_queue);
                end if;
            else
                -- Limited meanwhile: who counts must not find these beside his.
                continue when (select q.limited from rowlock.queue as q
                                where q.app = p_app and q.name = v_queue);
                v_at := null;
                select x.ids, v_bounds || jsonb_build_object('', x.next_bounds)
                  into v_ids, v_next
                  from rowlock.pick(p_app, v_queue, '', v_fits, v_paused_workflows, null, p_want, p_want, '{}',
                                    v_bounds -> '', v_began) as x;
            end if;
            if v_plain and not v_parted then
                v_read := v_read - v_page - rowlock.probes(v_fits, v_bounds)
                          + pg_stat_get_xact_blocks_fetched('rowlock.task_ready'::regclass);
            end if;
            if v_bounds is not null then
                v_known := v_known || jsonb_build_object(v_queue, v_next);
            end if;
            continue when v_ids = '{}';

            return query
            select c.*, v_limited, null::double precision, null::text, null::text
              from rowlock.take(p_worker, p_version, v_ids, v_least, v_at, v_alone) as c;
            get diagnostics v_got = row_count;
            p_want := p_want - v_got;
        end loop;
        exit when v_bounded or p_queues is not null or p_want < v_wanted or v_looked >= most_idle;
        if v_after is null then
            exit when v_wrapped;
            v_wrapped := true;
        else
            exit when v_wrapped and v_after >= nullif(p_after, '');
        end if;
        v_batch := rowlock.ready_queues(p_app, coalesce(v_after, ''), a_batch);
        exit when v_batch = '{}';
    end loop;
    if v_bounded then
        memory := jsonb_build_object('looked', v_memory -> 'looked', 'due', v_memory -> 'due',
                                     'queues', v_known, 'cursors', v_cursors)::text;
        v_again := least(v_again, extract(epoch from (v_memory ->> 'due')::timestamptz - v_began));
    elsif pg_stat_get_xact_tuples_returned('rowlock.task_ready'::regclass) - v_walked
              > a_walk + a_version * cardinality(v_fits) + 10 * (v_wanted - p_want)
          or (p_want < v_wanted and v_read > a_read) then
        memory := rowlock.memory_of(v_known, v_cursors, v_began)::text;
    end if;
    if v_again is not null or v_after is not null or memory is not null then
        again_in := case when p_want > 0 then v_again end;
        after := v_after;
        return next;
    end if;
end $$;

-- claim: the same for workers that know of no such last row: they begin behind any queue, and ask for so few
-- that they need no turn.
create or replace function rowlock.claim(
    p_worker bigint, p_app text, p_version text, p_queues text[], p_want integer, p_listening boolean)
returns table (
    run_id uuid, epoch integer, generation integer, created_at timestamptz, workflow text, queue text,
    version text, key text, takeovers smallint, input text, attributes text, trace_context text,
    waited double precision, started_at timestamptz, age double precision, deadline_in double precision,
    in_group boolean, cancel text)
language sql volatile
set search_path = pg_catalog
as $$
    select c.run_id, c.epoch, c.generation, c.created_at, c.workflow, c.queue, c.version, c.key, c.takeovers,
           c.input, c.attributes, c.trace_context, c.waited, c.started_at, c.age, c.deadline_in, c.in_group,
           c.cancel
      from rowlock.claim_next(
               p_worker, p_app, p_version, p_queues,
               (select q.name from rowlock.queue as q where q.app = p_app order by random() limit 1),
               least(p_want, 31), p_listening) as c
     where c.run_id is not null
$$;

-- history: what a run has recorded and what it waits for, for replay.
create or replace function rowlock.history(p_runs uuid[], p_generations integer[])
returns table (
    run_id uuid, place text, kind text, name text, "position" integer, output text, error text,
    due_in double precision, on_run_id uuid, attempt smallint)
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
    select s.run_id, s.place, s.kind, s.name, s.position, s.output::text, s.error::text,
           case when s.kind = 'cancel'  -- how much of its grace is left
                then extract(epoch from s.recorded_at - clock_timestamp())::double precision
                     + (s.output ->> 'grace_s')::double precision end,
           null::uuid, s.attempts
      from unnest(p_runs, p_generations) as a (run_id, generation)
     cross join lateral (
           select x.* from rowlock.step as x
            where x.run_id = a.run_id and x.generation = a.generation offset 0) as s
     where rowlock.is_owner() or rowlock.is_member((select r.app from rowlock.run as r where r.id = a.run_id))
    union all
    select w.run_id, w.place, w.kind, null, null, null, w.error::text,
           extract(epoch from w.due_at - clock_timestamp())::double precision, w.on_run_id, w.attempt
      from unnest(p_runs, p_generations) as a (run_id, generation)
     cross join lateral (
           select x.* from rowlock.wait as x
            where x.run_id = a.run_id and x.generation = a.generation offset 0) as w
     where rowlock.is_owner() or rowlock.is_member((select r.app from rowlock.run as r where r.id = a.run_id))
$$;
