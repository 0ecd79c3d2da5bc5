-- start, start_many: accept work. What start returned, or the caller's own transaction
-- committed, reaches an outcome.
--
-- Only inserts: a caller who leaves the transaction open holds up nobody but another start with
-- the same key. Key first, then run, then task; keys in sorted order, so that two callers with
-- the same keys in opposite order cannot deadlock (7d). Keys of dedup, debounce and batch: start_keys.sql.
-- plpgsql, not one statement with CTEs: whoever waited for another's key must see that row afterwards (7b).

create or replace function rowlock.resolve_app(app text) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    v_apps text[];
begin
    if resolve_app.app is not null then
        if resolve_app.app = '' or length(resolve_app.app) > 200 then
            perform rowlock.check_name('name of the app', resolve_app.app);
        end if;
        if not rowlock.allowed(resolve_app.app) then
            perform rowlock.refuse_app(resolve_app.app);
        end if;
        return resolve_app.app;
    end if;
    -- `helm test` leaves its own app behind: nobody means that one.
    v_apps := array(select x.app
                      from (select distinct w.app from rowlock.workflow as w
                             where w.app <> 'rowlock-selftest') as x
                     where rowlock.allowed(x.app) order by 1 limit 10);
    if cardinality(v_apps) = 1 then
        return v_apps[1];
    end if;
    raise exception 'which app is meant is not clear: %',
                    case when cardinality(v_apps) = 0 then 'none that this role may use has registered yet'
                         else 'there are ' || array_to_string(v_apps, ', ') end
        using errcode = 'RLA01', hint = 'Name it: app => ''…'', on the command line --app ….';
end $$;

-- reads_as: whether a JSON value is null, or a text that this type reads. (PostgreSQL's own
-- pg_input_is_valid came with 16.)
create or replace function rowlock.reads_as(p_value jsonb, p_type text) returns boolean
language plpgsql stable set search_path = pg_catalog as $$
begin
    if p_value is null or jsonb_typeof(p_value) = 'null' then
        return true;
    elsif jsonb_typeof(p_value) <> 'string' then
        return false;
    end if;
    case p_type
        when 'interval' then perform (p_value #>> '{}')::interval;
        when 'timestamptz' then perform (p_value #>> '{}')::timestamptz;
        when 'uuid' then perform (p_value #>> '{}')::uuid;
    end case;
    return true;
exception when data_exception then
    return false;
end $$;

-- partition_in: that part of a queue, if the queue has any. A run keeps the one it was started with; its
-- task has it where the queue has partitions.
create or replace function rowlock.partition_in(p_app text, p_queue text, p_partition text) returns text
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
    select p_partition from rowlock.queue as q where q.app = p_app and q.name = p_queue and q.partitions
$$;

-- queue_for: where a run of this workflow waits.
create or replace function rowlock.queue_for(p_app text, p_workflow text, p_queue text) returns text
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
    select coalesce(p_queue,
                    (select w.queue from rowlock.workflow as w where w.app = p_app and w.name = p_workflow),
                    'default')
$$;

-- is_span: whether that can be added to any time that counts, and be read by everybody.
create or replace function rowlock.is_span(p_span interval) returns boolean
language sql immutable
return p_span between interval '-1000 years' and interval '1000 years';

create or replace function rowlock.is_moment(p_at timestamptz) returns boolean
language sql immutable
return p_at >= timestamptz '0001-01-02 00:00Z' and p_at < timestamptz '9000-01-01 00:00Z';

-- What a batch is when nobody says more.
create or replace function rowlock.batch_size() returns integer language sql immutable return 100;
create or replace function rowlock.batch_wait() returns interval language sql immutable return interval '5 seconds';

-- start_fault: what is wrong with the rarer options of a start, those that are no run of all plain ones.
create or replace function rowlock.start_fault(p_start jsonb, p_due_at timestamptz) returns text
language plpgsql stable
set search_path = pg_catalog
as $$
declare
    v_name text;
    v_key  text;
begin
    foreach v_name in array array['partition', 'dedup', 'debounce', 'batch'] loop
        if jsonb_typeof(p_start -> v_name) not in ('string', 'null') then
            return format('has a %s that is not a text', v_name);
        elsif p_start ->> v_name = '' then
            return format('has a %s that is empty; leave it out where there is none', v_name);
        elsif octet_length(p_start ->> v_name) > 1000
              or v_name = 'partition' and length(p_start ->> v_name) > 200 then
            return format('has a %s longer than %s', v_name,
                          case v_name when 'partition' then '200 characters' else '1000 bytes' end);
        end if;
    end loop;
    if not rowlock.reads_as(p_start -> 'start_before', 'timestamptz') then
        return 'has a start_before that is not a time, such as "2030-01-31T12:00:00Z"';
    elsif not rowlock.is_moment((p_start ->> 'start_before')::timestamptz) then
        return format('has a start_before of %s, which is no time before the year 9000', p_start ->> 'start_before');
    elsif (p_start ->> 'start_before')::timestamptz <= p_due_at then
        return 'has a start_before that comes before it may begin';
    elsif p_start ->> 'on_duplicate' not in ('existing', 'reject', 'replace') then
        return 'has an on_duplicate that is none of existing, reject and replace';
    elsif p_start ->> 'on_duplicate' is not null and p_start ->> 'dedup' is null then
        return 'has on_duplicate without dedup';
    end if;
    foreach v_name in array array['quiet', 'most', 'wait'] loop
        if not rowlock.reads_as(p_start -> v_name, 'interval')
           or (p_start ->> v_name)::interval <= interval '0' then
            return format('has a %s that is not a duration above 0', v_name);
        elsif not rowlock.is_span((p_start ->> v_name)::interval) then
            return format('has a %s of %s, but it must not be longer than 1000 years', v_name, p_start ->> v_name);
        end if;
        v_key := case v_name when 'wait' then 'batch' else 'debounce' end;
        if p_start ->> v_name is not null and p_start ->> v_key is null then
            return format('has %s without %s', v_name, v_key);
        end if;
    end loop;
    if jsonb_typeof(p_start -> 'size') not in ('number', 'null')
       or (jsonb_typeof(p_start -> 'size') = 'number'
           and ((p_start ->> 'size')::numeric not between 1 and 10000 or (p_start ->> 'size')::numeric % 1 <> 0)) then
        return format('has a size of %s, but it must be a whole number between 1 and 10000',
                      rowlock.shown(p_start ->> 'size'));
    elsif p_start ->> 'size' is not null and p_start ->> 'batch' is null then
        return 'has size without batch';
    end if;
    if p_start ->> 'debounce' is not null and p_start ->> 'quiet' is null then
        return 'has debounce without quiet, which says for how long';
    elsif (p_start ->> 'most')::interval < (p_start ->> 'quiet')::interval then
        return 'has a most that is shorter than quiet';
    end if;
    -- Each of these says by itself which run is meant, or when it is due.
    if p_start ->> 'dedup' is not null then
        v_name := (select min(x) from unnest(array['key', 'debounce', 'batch', 'parent_id']) as x
                    where p_start ->> x is not null);
        return 'has both dedup and ' || v_name;
    elsif p_start ->> 'debounce' is not null then
        v_name := (select min(x)
                     from unnest(array['key', 'batch', 'delay', 'start_at', 'start_before', 'parent_id']) as x
                    where p_start ->> x is not null);
        return 'has both debounce and ' || v_name;
    elsif p_start ->> 'batch' is not null then
        v_name := (select min(x)
                     from unnest(array['key', 'delay', 'start_at', 'start_before', 'parent_id']) as x
                    where p_start ->> x is not null);
        return coalesce('has both batch and ' || v_name, rowlock.batch_fault(
            case when jsonb_typeof(p_start -> 'input') = 'object' then p_start -> 'input' else '{}' end,
            coalesce((p_start ->> 'size')::numeric::integer, rowlock.batch_size())));
    end if;
    return null;
end $$;

create or replace function rowlock.start_many(runs jsonb, app text default null)
returns setof uuid
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app    text := rowlock.resolve_app(start_many.app);
    v_now    timestamptz := clock_timestamp();
    v_bad    record;
    v_asked  text[];
    v_keys   text[] := '{}';  -- new ones, with the ids of their runs
    v_ids    uuid[] := '{}';
    v_used   text[];
    v_known  text[] := '{}';  -- used ones
    v_known_ids uuid[] := '{}';
    v_fields constant text[] := '{workflow,input,key,queue,priority,delay,start_at,attributes,trace_context,deadline,
        partition,start_before,dedup,on_duplicate,debounce,quiet,most,batch,size,wait,
        parent_id,parent_generation,parent_place,detached}';
    v_singles    bigint[] := '{}';  -- which have a key of dedup, debounce or batch
    v_single_ids uuid[] := '{}';
    v_queue  text;
begin
    if jsonb_typeof(start_many.runs) is distinct from 'array' then
        raise exception 'runs must be a JSON array of objects, not %',
                        coalesce(jsonb_typeof(start_many.runs), 'null')
            using errcode = 'RLV01', hint = 'For example [{"workflow": "fulfil", "input": {}}].';
    end if;

    -- Refuse before anything is written.
    select x.n, x.why, x.code, x.hint into v_bad
      from (
        select e.n,
               case when jsonb_typeof(e.v) <> 'object' then 'is not an object'
                    when e.v - v_fields <> '{}'
                        then format('has a field %s, which no start has',
                                    rowlock.shown((select min(k) from jsonb_object_keys(e.v - v_fields) as k)))
                    when jsonb_typeof(e.v -> 'workflow') is distinct from 'string' or e.v ->> 'workflow' = ''
                        then 'names no workflow'
                    when length(e.v ->> 'workflow') > 200 then 'has a workflow name longer than 200 characters'
                    when jsonb_typeof(e.v -> 'input') not in ('object', 'null')
                        then 'has an input that is not a JSON object of the workflow''s arguments by name'
                    when jsonb_typeof(e.v -> 'key') not in ('string', 'null')
                        then 'has a key that is not a text'
                    when e.v ->> 'key' = '' then 'has a key that is empty; leave it out where there is none'
                    when octet_length(e.v ->> 'key') > 1000 then 'has a key longer than 1000 bytes'
                    when jsonb_typeof(e.v -> 'attributes') not in ('object', 'null')
                        then 'has attributes that are not a JSON object'
                    when jsonb_typeof(e.v -> 'trace_context') not in ('object', 'null')
                        then 'has a trace_context that is not a JSON object'
                    when jsonb_typeof(e.v -> 'priority') not in ('number', 'null')
                         or (jsonb_typeof(e.v -> 'priority') = 'number'
                             and ((e.v -> 'priority')::numeric not between 0 and 100
                                  or (e.v -> 'priority')::numeric % 1 <> 0))
                        then format('has a priority of %s, but it must be a whole number between 0 (first) and 100 (last)',
                                    rowlock.shown(e.v ->> 'priority'))
                    when e.v ->> 'deadline' is not null and not rowlock.reads_as(e.v -> 'deadline', 'interval')
                        then 'has a deadline that is not a duration above 0'
                    when (e.v ->> 'deadline')::interval <= interval '0'
                        then 'has a deadline that is not a duration above 0'
                    when not rowlock.is_span((e.v ->> 'deadline')::interval)
                        then format('has a deadline of %s, but it must not be longer than 1000 years',
                                    rowlock.shown(e.v ->> 'deadline'))
                    when e.v ->> 'delay' is not null and not rowlock.reads_as(e.v -> 'delay', 'interval')
                        then 'has a delay that is not a duration, such as "1 hour"'
                    when (e.v ->> 'delay')::interval < interval '0'
                        then format('has a delay of %s, but it can''t be negative', rowlock.shown(e.v ->> 'delay'))
                    when not rowlock.is_span((e.v ->> 'delay')::interval)
                        then format('has a delay of %s, but it must not be longer than 1000 years',
                                    rowlock.shown(e.v ->> 'delay'))
                    when e.v ->> 'start_at' is not null and not rowlock.reads_as(e.v -> 'start_at', 'timestamptz')
                        then 'has a start_at that is not a time, such as "2030-01-31T12:00:00Z"'
                    when not rowlock.is_moment((e.v ->> 'start_at')::timestamptz)
                        then format('has a start_at of %s, which is no time before the year 9000',
                                    rowlock.shown(e.v ->> 'start_at'))
                    when jsonb_typeof(e.v -> 'queue') not in ('string', 'null')
                        then 'has a queue that is not a text'
                    when jsonb_typeof(e.v -> 'detached') not in ('boolean', 'null')
                        then 'has a detached that is not true or false'
                    when e.v ->> 'parent_id' is not null and not rowlock.reads_as(e.v -> 'parent_id', 'uuid')
                        then 'has a parent_id that is none'
                    when e.v ->> 'parent_id' is not null
                         and not exists (select from rowlock.run as r
                                          where r.id = (e.v ->> 'parent_id')::uuid and r.app = v_app)
                        then 'names a parent that is no run of app ' || v_app
                    when e.v ? 'delay' and e.v ? 'start_at' and e.v ->> 'delay' is not null
                         and e.v ->> 'start_at' is not null then 'has both delay and start_at'
                    when e.v ?| array['partition', 'start_before', 'dedup', 'on_duplicate', 'debounce', 'quiet',
                                      'most', 'batch', 'size', 'wait']
                        then rowlock.start_fault(
                            e.v, coalesce((e.v ->> 'start_at')::timestamptz,
                                          v_now + (e.v ->> 'delay')::interval, v_now))
               end as why,
               'RLV01' as code, 'Nothing was started.' as hint
          from jsonb_array_elements(start_many.runs) with ordinality as e (v, n)
        union all
        select min(x.n), 'has a partition, but queue ' || rowlock.shown(x.queue) || ' of app ' || v_app
                         || ' has no partitions',
               'RLV01',
               'Nothing was started. Declare the queue with partitions, or leave the partition out.'
          from (select e.n, rowlock.queue_for(v_app, e.v ->> 'workflow', e.v ->> 'queue') as queue
                  from jsonb_array_elements(start_many.runs) with ordinality as e (v, n)
                 where jsonb_typeof(e.v) = 'object' and e.v ->> 'partition' is not null
                   and (e.v ->> 'queue' is null
                        or exists (select from rowlock.queue as q where q.app = v_app and q.name = e.v ->> 'queue'))
               ) as x
         where rowlock.partition_in(v_app, x.queue, '') is null
         group by x.queue
        union all
        select min(e.n), 'names queue ' || rowlock.shown(e.v ->> 'queue') || ', which app ' || v_app || ' does not have',
               'RLN01',
               'Nothing was started. Declare the queue in code with app.queue(…) and start a worker or client '
               'of that code, or correct the name.'
          from jsonb_array_elements(start_many.runs) with ordinality as e (v, n)
         where jsonb_typeof(e.v) = 'object' and e.v ->> 'queue' is not null
           and not exists (select from rowlock.queue as q where q.app = v_app and q.name = e.v ->> 'queue')
         group by 2) as x
     where x.why is not null
     order by x.n
     limit 1;
    if found then
        raise exception '% %', case when jsonb_array_length(start_many.runs) = 1 then 'the run'
                                    else format('run %s of %s', v_bad.n, jsonb_array_length(start_many.runs)) end,
                        v_bad.why
            using errcode = v_bad.code, hint = v_bad.hint;
    end if;

    -- Keys first, in sorted order; a key that exists gives its run back, whatever that run's fate. One that
    -- retention removed in between was there and is there no more: once again.
    v_asked := array(
        select distinct e.v ->> 'key' collate "C" as key
          from jsonb_array_elements(start_many.runs) as e (v)
         where e.v ->> 'key' is not null
         order by 1);
    while cardinality(v_keys) + cardinality(v_known) < cardinality(v_asked) loop
        with new as (
            insert into rowlock.run_key (app, key, run_id)
            select v_app, k.key, rowlock.uuidv7()
              from unnest(v_asked) with ordinality as k (key, nth)
             where not k.key = any (v_keys)
             order by k.nth
            on conflict (app, key) do nothing
            returning key, run_id)
        select v_keys || coalesce(array_agg(key), '{}'), v_ids || coalesce(array_agg(run_id), '{}')
          into v_keys, v_ids from new;
        exit when cardinality(v_keys) = cardinality(v_asked);
        v_used := array(select unnest(v_asked) except select unnest(v_keys));
        if start_many.runs @? '$[*].parent_id' then
            -- They will be this parent's children too: not to be removed meanwhile.
            perform 1 from rowlock.run as r
              where r.id = any (array(select k.id from rowlock.used_keys(v_app, v_used) as k))
              order by r.id for key share;
        end if;
        select coalesce(array_agg(k.key), '{}'), coalesce(array_agg(k.id), '{}') into v_known, v_known_ids
          from rowlock.used_keys(v_app, v_used) as k;
    end loop;
    if v_known <> '{}' and start_many.runs @? '$[*].parent_id' then
        perform rowlock.adopt(start_many.runs, v_known, v_known_ids);
    end if;

    -- Those with a key of another kind one by one, in sorted order too; of the same key in the order asked.
    if start_many.runs @? '$[*] ? (@.dedup != null || @.debounce != null || @.batch != null)' then
        select array_agg(x.n), array_agg(x.id) into v_singles, v_single_ids
          from (select s.n, rowlock.start_entry(s.v, v_app) as id
                  from (select e.n, e.v
                          from jsonb_array_elements(start_many.runs) with ordinality as e (v, n)
                         where num_nonnulls(e.v ->> 'dedup', e.v ->> 'debounce', e.v ->> 'batch') > 0
                         order by e.v ->> 'dedup' is null, e.v ->> 'debounce' is null,
                                  e.v ->> 'workflow' collate "C",
                                  coalesce(e.v ->> 'dedup', e.v ->> 'debounce', e.v ->> 'batch') collate "C", e.n
                        offset 0) as s) as x;
    end if;

    return query
    with asked as materialized (
        select e.n,
               e.v,
               e.v ->> 'key' as key,
               case when e.n = any (v_singles) then null
                    when e.v ->> 'key' is null then rowlock.uuidv7() else new.id end as id,
               row_number() over (partition by e.v ->> 'key' order by e.n) as nth,
               coalesce((e.v ->> 'start_at')::timestamptz, v_now + (e.v ->> 'delay')::interval, v_now) as due_at,
               coalesce(e.v ->> 'queue',
                        (select w.queue from rowlock.workflow as w
                          where w.app = v_app and w.name = e.v ->> 'workflow'),
                        'default') as queue
          from jsonb_array_elements(start_many.runs) with ordinality as e (v, n)
          left join unnest(v_keys, v_ids) as new (key, id) on new.key = e.v ->> 'key'
    ), fresh as materialized (
        select a.*,
               -- A child is its parent's tenant's, unless it says otherwise.
               coalesce(a.v ->> 'partition',
                        case when a.v ->> 'parent_id' is not null
                             then (select rowlock.partition_in(v_app, a.queue, r.partition)
                                     from rowlock.run as r
                                    where r.id = (a.v ->> 'parent_id')::uuid and r.partition is not null) end)
               as partition
          from asked as a
         where a.id is not null and (a.key is null or a.nth = 1)
    ), runs as (
        insert into rowlock.run (id, created_at, priority, app, workflow, queue, key, input, attributes,
                                 trace_context, parent_id, parent_generation, parent_place, detached,
                                 deadline_at, partition, start_before)
        select f.id, v_now, coalesce((f.v ->> 'priority')::numeric::smallint, 50), v_app, f.v ->> 'workflow', f.queue, f.key,
               coalesce(nullif(f.v -> 'input', 'null'), '{}'), nullif(f.v -> 'attributes', 'null'),
               nullif(f.v -> 'trace_context', 'null'),
               (f.v ->> 'parent_id')::uuid, (f.v ->> 'parent_generation')::integer, f.v ->> 'parent_place',
               (f.v ->> 'detached')::boolean, f.due_at + (f.v ->> 'deadline')::interval, f.partition,
               (f.v ->> 'start_before')::timestamptz
          from fresh as f
    ), tasks as (
        insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow, partition,
                                  start_before)
        select f.id, f.due_at, coalesce((f.v ->> 'priority')::numeric::smallint, 50),
               case when f.due_at > v_now then 'scheduled' else 'ready' end,
               v_app, f.queue, f.v ->> 'workflow', f.partition, (f.v ->> 'start_before')::timestamptz
          from fresh as f
    )
    select coalesce(a.id, known.id, single.id)
      from asked as a
      left join unnest(v_known, v_known_ids) as known (key, id) on known.key = a.key
      left join unnest(v_singles, v_single_ids) as single (n, id) on single.n = a.n
     order by a.n;

    for v_queue in
        select distinct coalesce(e.v ->> 'queue', w.queue, 'default')
          from jsonb_array_elements(start_many.runs) as e (v)
          left join rowlock.workflow as w on w.app = v_app and w.name = e.v ->> 'workflow'
    loop
        perform rowlock.notify_idle(v_app, v_queue);
    end loop;
end $$;
comment on function rowlock.start_many(jsonb, text) is
'Starts many runs at once and gives their ids, in the same order.

runs: a JSON array of objects with "workflow" and, as with start, "input", "key", "queue", "priority",
    "delay" or "start_at", "attributes", "trace_context", "deadline", "partition", "start_before",
    "dedup" with "on_duplicate", "debounce" with "quiet" and "most", or "batch" with "size" and "wait". No
    other fields.
app: which app; default: the one there is, if there is one.';

-- start_entry: one object of start_many that has been found good.
create or replace function rowlock.start_entry(p_start jsonb, p_app text) returns uuid
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    return rowlock.start(
        workflow => p_start ->> 'workflow', input => nullif(p_start -> 'input', 'null'), app => p_app,
        queue => p_start ->> 'queue', priority => (p_start ->> 'priority')::numeric::integer,
        delay => (p_start ->> 'delay')::interval, start_at => (p_start ->> 'start_at')::timestamptz,
        attributes => nullif(p_start -> 'attributes', 'null'),
        trace_context => nullif(p_start -> 'trace_context', 'null'),
        deadline => (p_start ->> 'deadline')::interval, partition => p_start ->> 'partition',
        start_before => (p_start ->> 'start_before')::timestamptz, dedup => p_start ->> 'dedup',
        on_duplicate => p_start ->> 'on_duplicate', debounce => p_start ->> 'debounce',
        quiet => (p_start ->> 'quiet')::interval, most => (p_start ->> 'most')::interval,
        batch => p_start ->> 'batch', size => (p_start ->> 'size')::numeric::integer,
        wait => (p_start ->> 'wait')::interval);
end $$;

-- used_keys: those of these keys that are used, and by which runs. A look a key: as a join, a generic plan
-- reads all keys of the app.
create or replace function rowlock.used_keys(p_app text, p_keys text[])
returns table (key text, id uuid)
language sql stable
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
    select k.key, u.run_id
      from unnest(p_keys) as k (key)
     cross join lateral (select y.run_id from rowlock.run_key as y
                          where y.app = p_app and y.key = k.key offset 0) as u
$$;

-- adopt: a child with a key that was used is a run that was started before: from now on it stays as long
-- as this parent too. The rows of these runs are held.
create or replace function rowlock.adopt(p_runs jsonb, p_keys text[], p_ids uuid[]) returns void
language sql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
    insert into rowlock.adoption as a (run_id, parent_id, parent_generation)
    select k.id, (e.v ->> 'parent_id')::uuid, max(coalesce((e.v ->> 'parent_generation')::integer, 1))
      from jsonb_array_elements(p_runs) as e (v)
      join unnest(p_keys, p_ids) as k (key, id) on k.key = e.v ->> 'key'
     cross join lateral (select y.* from rowlock.run as y where y.id = k.id offset 0) as r
     where e.v ->> 'parent_id' is not null
       -- its own child of a history that it has left counts as another's
       and (r.parent_id, r.parent_generation) is distinct from
           ((e.v ->> 'parent_id')::uuid, (e.v ->> 'parent_generation')::integer)
     group by 1, 2
    on conflict (run_id, parent_id) do update
       set parent_generation = excluded.parent_generation
     where a.parent_generation < excluded.parent_generation;
$$;

-- start: the same for one run, without the detour through JSON: this is what every caller waits for.
create or replace function rowlock.start(
    workflow      text,
    input         jsonb       default '{}',
    key           text        default null,
    queue         text        default null,
    app           text        default null,
    priority      integer     default null,
    delay         interval    default null,
    start_at      timestamptz default null,
    attributes    jsonb       default null,
    trace_context jsonb       default null,
    deadline      interval    default null,
    partition     text        default null,
    start_before  timestamptz default null,
    dedup         text        default null,
    on_duplicate  text        default null,
    debounce      text        default null,
    quiet         interval    default null,
    most          interval    default null,
    batch         text        default null,
    size          integer     default null,
    wait          interval    default null)
returns uuid
language plpgsql volatile
set search_path = pg_catalog
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_app      text := rowlock.resolve_app(start.app);
    v_now      timestamptz := clock_timestamp();
    v_due_at   timestamptz := coalesce(
        start.start_at, case when rowlock.is_span(start.delay) then v_now + start.delay end, v_now);
    v_id       uuid;
    v_new      uuid;
    v_queue    text;
    v_priority smallint;
    v_input    jsonb := coalesce(start.input, '{}');
    v_rare     boolean := num_nonnulls(start.partition, start.start_before, start.dedup, start.on_duplicate,
                                       start.debounce, start.quiet, start.most, start.batch, start.size,
                                       start.wait) > 0;
    v_size     integer;
    v_rest     jsonb;
    v_bad      boolean := false;
begin
    if v_rare then
        -- By itself: an expression with these subqueries costs every start, though it is false.
        v_rest := jsonb_build_object(
            'key', start.key, 'delay', start.delay, 'start_at', start.start_at, 'partition', start.partition,
            'start_before', start.start_before, 'dedup', start.dedup, 'on_duplicate', start.on_duplicate,
            'debounce', start.debounce, 'quiet', start.quiet, 'most', start.most, 'batch', start.batch,
            'size', start.size, 'wait', start.wait, 'input', case when start.batch is not null then v_input end);
        v_bad := rowlock.start_fault(v_rest, v_due_at) is not null
                 or (start.partition is not null
                     and rowlock.partition_in(v_app, rowlock.queue_for(v_app, start.workflow, start.queue),
                                              start.partition) is null);
    end if;
    -- What start_many would refuse it refuses, in the same words: nothing is written for a bad one.
    if v_bad or coalesce(start.workflow, '') = '' or length(start.workflow) > 200
       or jsonb_typeof(v_input) <> 'object' or start.key = '' or octet_length(start.key) > 1000
       or jsonb_typeof(start.attributes) <> 'object' or jsonb_typeof(start.trace_context) <> 'object'
       or start.priority not between 0 and 100 or start.deadline <= interval '0'
       or start.delay < interval '0' or not rowlock.is_span(start.delay) or not rowlock.is_span(start.deadline)
       or not rowlock.is_moment(start.start_at)
       or (start.delay is not null and start.start_at is not null)
       or (start.queue is not null and not exists (
             select from rowlock.queue as q where q.app = v_app and q.name = start.queue)) then
        return (select * from rowlock.start_many(
            jsonb_build_array(coalesce(v_rest, '{}') || jsonb_build_object(
                'workflow', start.workflow, 'input', start.input, 'key', start.key, 'queue', start.queue,
                'priority', start.priority, 'delay', start.delay, 'start_at', start.start_at,
                'attributes', start.attributes, 'trace_context', start.trace_context,
                'deadline', start.deadline)),
            v_app));
    end if;
    v_priority := coalesce(start.priority, 50);

    if start.key is not null then
        loop
            insert into rowlock.run_key (app, key, run_id) values (v_app, start.key, rowlock.uuidv7())
            on conflict (app, key) do nothing
            returning run_id into v_id;
            exit when v_id is not null;
            select k.run_id into v_id from rowlock.run_key as k
             where k.app = v_app and k.key = start.key;
            if found then
                return v_id;
            end if;
            -- Retention has removed that key in between: it is free.
        end loop;
    else
        v_id := rowlock.uuidv7();
    end if;
    if start.dedup is not null then
        v_new := v_id;
        v_id := rowlock.take_dedup(v_app, start.workflow, start.dedup,
                                   coalesce(start.on_duplicate, 'existing'), v_new);
        if v_id <> v_new then
            return v_id;
        end if;
    elsif start.debounce is not null then
        v_new := v_id;
        v_id := rowlock.take_debounce(v_app, start.workflow, start.debounce, v_new, start.quiet, start.most,
                                      v_input, start.attributes, start.deadline);
        if v_id <> v_new then
            return v_id;
        end if;
        v_due_at := v_now + start.quiet;
    elsif start.batch is not null then
        v_size := coalesce(start.size, rowlock.batch_size());
        v_new := v_id;
        v_id := rowlock.take_batch(v_app, start.workflow, start.batch, v_new, v_size,
                                   coalesce(start.wait, rowlock.batch_wait()), v_input);
        if v_id <> v_new then
            return v_id;
        end if;
        if jsonb_array_length(v_input -> rowlock.batch_list(v_input)) < v_size then
            v_due_at := v_now + coalesce(start.wait, rowlock.batch_wait());
        end if;
    end if;

    v_queue := coalesce(
        start.queue,
        (select w.queue from rowlock.workflow as w where w.app = v_app and w.name = start.workflow),
        'default');
    insert into rowlock.run (id, created_at, priority, app, workflow, queue, key, input, attributes,
                             trace_context, deadline_at, partition, start_before, dedup, debounce, batch,
                             batch_size)
    values (v_id, v_now, v_priority, v_app, start.workflow, v_queue, start.key, v_input, start.attributes,
            start.trace_context, v_due_at + start.deadline, start.partition, start.start_before, start.dedup,
            start.debounce, start.batch, v_size);
    insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow, partition,
                              start_before)
    values (v_id, v_due_at, v_priority, case when v_due_at > v_now then 'scheduled' else 'ready' end,
            v_app, v_queue, start.workflow, start.partition, start.start_before);
    if v_due_at <= v_now then
        perform rowlock.notify_idle(v_app, v_queue);
    end if;
    return v_id;
end $$;
comment on function rowlock.start(text, jsonb, text, text, text, integer, interval, timestamptz, jsonb, jsonb,
    interval, text, timestamptz, text, text, text, interval, interval, text, integer, interval) is
'Starts a run of a workflow and gives its id. The run begins when the transaction commits, and never if
it does not.

workflow: its name. It need not be known yet: the run waits for a worker that knows it.
input: its arguments by name, as a JSON object; default: none.
key: an idempotency key, of up to 1,000 bytes: a key that the app has used gives that run back, whatever
    became of it; default: none.
queue: where it waits; default: the workflow''s queue.
app: which app; default: the one there is, if there is one.
priority: 0 (first) to 100 (last); default: 50.
delay: how long it waits before it may begin, up to 1,000 years; default: not at all.
start_at: when it may begin, instead of a delay; default: now.
attributes: what it shall be found by, as a JSON object; default: nothing.
trace_context: the W3C trace it belongs to, {"traceparent": "…"}; default: it begins one.
deadline: how long after it may begin it must have ended, else it fails; default: as long as it takes.
partition: which part of its queue it waits in, such as a tenant, of up to 200 characters; the queue must have
    partitions; default: none.
start_before: when it is too late to begin: if it has not begun by then, it fails; default: never.
dedup: a key, of up to 1,000 bytes, that the run has while it is unfinished, unique within its workflow;
    default: none.
on_duplicate: what becomes of a start whose dedup key an unfinished run has: existing gives that run back,
    reject refuses, replace cancels that run and starts this one; default: existing.
debounce: a key, of up to 1,000 bytes: until the run is due, another start of the workflow with it gives the
    same run back, with the later input, attributes and deadline, put off again; default: none.
quiet: how long after the last such start it is due; default: none, but debounce needs it.
most: with debounce: how long after the first such start it is due at the latest; default: however long.
batch: a key, of up to 1,000 bytes: until the run is due or full, another start of the workflow with it gives
    the same run back and adds its list to the run''s; one argument must be a JSON array, all others the same;
    default: none.
size: with batch: how long the list may become, 1 to 10000; so long it is due at once; default: 100.
wait: with batch: how long after such a start it is due at the latest; default: 5 seconds.';
