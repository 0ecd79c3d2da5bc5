-- behind: claims that need not walk past what is dead at the head of their index.
--
-- Until a vacuum removes it from index task_ready, every look at the head of a queue passes by all that ended
-- since the last: 1 ms for 20,000 runs, for their entries are marked as dead, and only pages are read. While a
-- transaction elsewhere stays open they are neither removed nor marked: 15 ms for 50,000 runs. How many entries
-- and pages a claim has walked past PostgreSQL counts itself. Where that is out of all proportion to what was found,
-- the claim answers what the worker is to say with the next one, its memory:
--
--   looked   when a claim last looked at all there is, which is a full look
--   due      when the next full look is due: ten times as long after it as it took, a second at most
--   queues   for each queue that had something, its bounds: by partition ('' is none) and priority the
--            (due_at, run_id) behind which there is work. "many": they would be too many; null: the full look did
--            not reach it, and the next one that does is full there
--   cursors  for each queue with partitions, which of them had its turn last with this worker
--
-- A full look walks once past all that is dead, and finds the head of each partition and priority. Until the next
-- one is due, claims look only at these, and only behind their bounds, which they move.
-- Bounds hide work, so they are no truth: what was committed late with an old due_at, another priority,
-- partition or queue, another version's runs, what somebody handed back: all this is for the full look. It is
-- found ten looks later, and never lost: a full look has no bounds but those it finds. Once a full look is quick there
-- is no memory, nor is there one where little has ended since the last vacuum. Nothing is exact by it: who counts for a
-- limit counts all (limits.sql). Places that are handed over have a memory of their own for each queue. Not covered is
-- index task_begun, which a queue with a rate asks for runs that have begun while the rate lets no others go.

-- Of the release before; below are others of their names.
drop function if exists rowlock.recall(text, jsonb, timestamptz);
drop function if exists rowlock.note_look(jsonb, text, jsonb, boolean, timestamptz);
drop function if exists rowlock.note_taken(jsonb, text, jsonb, uuid[], boolean, timestamptz);
drop function if exists rowlock.memory_of(jsonb, timestamptz);
drop function if exists rowlock.is_behind(text, text, text[], jsonb);
drop function if exists rowlock.pick_behind(text, text, text[], jsonb, integer);
drop function if exists rowlock.bounds_behind(jsonb, uuid[], boolean, timestamptz);
drop function if exists rowlock.room(text, text, text[], bigint, integer);
drop function if exists rowlock.open_partitions(
    rowlock.queue, text[], text, integer, timestamptz, boolean, boolean);
drop function if exists rowlock.pick(
    text, text, text, text[], text[], interval, integer, integer, uuid[], jsonb);
drop function if exists rowlock.pick_limited(
    text, text, boolean, rowlock.queue_gate, text[], bigint, text[], integer, jsonb);

-- recall: what a memory says at a time; nothing, if code before this wrote it.
create or replace function rowlock.recall(
    p_memory jsonb, p_at timestamptz, out bounded boolean, out queues jsonb, out cursors jsonb)
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    queues := coalesce(p_memory -> 'queues', '{}');
    cursors := coalesce(p_memory -> 'cursors', '{}');
    -- A full look, too, where the clock went back.
    bounded := coalesce(p_memory ? 'queues' and p_at >= (p_memory ->> 'looked')::timestamptz
                        and p_at < (p_memory ->> 'due')::timestamptz, false);
end $$;

-- memory_of: of a full look that walked far. What the first of them saw nobody noted: the next is one again.
create or replace function rowlock.memory_of(p_queues jsonb, p_cursors jsonb, p_began timestamptz) returns jsonb
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    most_queues constant integer := 64;  -- more are not worth it
    most_bytes  constant integer := 65536;
    a_while     constant interval := '1 s';  -- that look may have taken long for other reasons
    v_now       timestamptz := clock_timestamp();
begin
    if (select count(*) from jsonb_object_keys(p_queues)) > most_queues or length(p_queues::text) > most_bytes then
        return null;
    end if;
    return jsonb_build_object(
        'looked', v_now,
        'due', v_now + case when p_queues is null then interval '0' else least(10 * (v_now - p_began), a_while) end,
        'queues', coalesce(p_queues, '{}'),
        'cursors', p_cursors);
end $$;

-- bound: what a look that began at this time may leave behind it: nothing that is a moment old. Not up to now,
-- since a start that is about to commit has a due_at of its beginning.
create or replace function rowlock.bound(p_due_at timestamptz, p_run uuid, p_at timestamptz) returns jsonb
language sql stable
return case when p_due_at < p_at - interval '0.2 s'
            then jsonb_build_array(p_due_at, coalesce(p_run, '00000000-0000-0000-0000-000000000000'))
            else jsonb_build_array(p_at - interval '0.2 s', '00000000-0000-0000-0000-000000000000') end;

-- probes: how many pages a look at a queue without partitions, and who takes runs there, may read for nothing:
-- some for each version, and if there are bounds for each priority.
create or replace function rowlock.probes(p_fits text[], p_bounds jsonb) returns integer
language sql immutable
return cardinality(p_fits) * 8 * (1 + coalesce((
           select count(*)::integer from jsonb_object_keys(p_bounds -> '') as k), 0));

-- heads: the bounds of a queue: before the first of each partition and priority of the versions that fit; and for
-- those that were known and have nothing now, before what may come. Null: they are too many.
create or replace function rowlock.heads(
    p_app text, p_queue text, p_fits text[], p_known jsonb, p_at timestamptz) returns jsonb
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    most_heads constant integer := 256;
    v_heads    jsonb;
    v_found    integer;
begin
    with recursive walk as (
        select f.version, x.partition, x.priority, x.due_at, 1 as nth
          from unnest(p_fits) as f (version)
         cross join lateral (
               select coalesce(t.partition, '') as partition, t.priority, t.due_at
                 from rowlock.task as t
                where t.app = p_app and t.queue = p_queue and t.version = f.version and t.state = 'ready'
                order by t.app, t.queue, t.version, coalesce(t.partition, ''), t.priority, t.due_at, t.run_id
                limit 1) as x
        union all
        select walk.version, x.partition, x.priority, x.due_at, walk.nth + 1
          from walk
         cross join lateral (
               select coalesce(t.partition, '') as partition, t.priority, t.due_at
                 from rowlock.task as t
                where t.app = p_app and t.queue = p_queue and t.version = walk.version and t.state = 'ready'
                  and (coalesce(t.partition, ''), t.priority) > (walk.partition, walk.priority)
                order by t.app, t.queue, t.version, coalesce(t.partition, ''), t.priority, t.due_at, t.run_id
                limit 1) as x
         where walk.nth <= most_heads)
    select count(*), jsonb_agg(jsonb_build_array(h.partition, h.priority, h.due_at))
      into v_found, v_heads
      from (select walk.partition, walk.priority, min(walk.due_at) as due_at
              from walk group by walk.partition, walk.priority) as h;
    if v_found > most_heads then
        return null;
    end if;
    if jsonb_typeof(p_known) = 'object' then
        v_heads := coalesce(v_heads, '[]') || coalesce((
            select jsonb_agg(jsonb_build_array(p.key, b.key, 'infinity'))
              from jsonb_each(p_known) as p
             cross join lateral jsonb_object_keys(p.value) as b (key)
            having count(*) + v_found <= most_heads), '[]');
    end if;
    return coalesce((
        select jsonb_object_agg(p.partition, p.bounds)
          from (select h.partition, jsonb_object_agg(h.priority, rowlock.bound(h.due_at, null, p_at)) as bounds
                  from (select x ->> 0 as partition, x ->> 1 as priority, min((x ->> 2)::timestamptz) as due_at
                          from jsonb_array_elements(v_heads) as x
                         group by x ->> 0, x ->> 1) as h
                 group by h.partition) as p), '{}');
end $$;

-- bounds_until: the same bounds, where nothing is left up to a moment ago.
create or replace function rowlock.bounds_until(p_bounds jsonb, p_at timestamptz) returns jsonb
language sql stable
return coalesce((select jsonb_object_agg(b, rowlock.bound('infinity', null, p_at))
                   from jsonb_object_keys(p_bounds) as b), '{}');

-- is_behind: whether there is anything behind the bounds of a partition, without a lock.
create or replace function rowlock.is_behind(
    p_app text, p_queue text, p_partition text, p_fits text[], p_bounds jsonb) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    perform 1 from jsonb_each(p_bounds) as b
      cross join unnest(p_fits) as f (version)
      cross join lateral (
            select from rowlock.task as r
             where r.app = p_app and r.queue = p_queue and r.version = f.version
               and coalesce(r.partition, '') = p_partition and r.priority = b.key::smallint
               and (r.due_at, r.run_id) > ((b.value ->> 0)::timestamptz, (b.value ->> 1)::uuid)
               and r.state = 'ready'
             order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
             limit 1) as x
      limit 1;
    return found;
end $$;

-- look: whether there is work in a queue, without a lock. p_known: what a memory says of it. bounds: behind which
-- it is; null: they are not known, and runs are taken from their head. is_news: they are not those of the memory.
-- is_parted: whether any may be in a partition; null: there is none.
create or replace function rowlock.look(
    p_app text, p_queue text, p_fits text[], p_has_memory boolean, p_bounded boolean, p_known jsonb,
    p_at timestamptz, out bounds jsonb, out is_news boolean, out is_parted boolean)
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_partition record;
begin
    is_news := p_has_memory and not (p_bounded and coalesce(jsonb_typeof(p_known), 'null') <> 'null');
    if is_news then
        bounds := rowlock.heads(p_app, p_queue, p_fits, p_known, p_at);
    elsif jsonb_typeof(p_known) = 'object' then
        bounds := p_known;
    end if;
    if bounds is null then
        is_parted := rowlock.is_parted(p_app, p_queue, p_fits);
        return;
    end if;
    for v_partition in select p.key as name, p.value as bounds from jsonb_each(bounds) as p loop
        if rowlock.is_behind(p_app, p_queue, v_partition.name, p_fits, v_partition.bounds) then
            is_parted := bounds - '' <> '{}';
            return;
        end if;
    end loop;
    -- What others took there is not to be walked past again.
    is_news := true;
    bounds := coalesce((select jsonb_object_agg(p.key, rowlock.bounds_until(p.value, p_at))
                          from jsonb_each(bounds) as p), '{}');
end $$;

-- pick_behind: lock the first runs of a partition, of each version that fits, behind its bounds: as pick does
-- from its head. fresh: how many of them are claimed for the first time. next_bounds: after these were taken.
create or replace function rowlock.pick_behind(
    p_app text, p_queue text, p_partition text, p_fits text[], p_ageing interval, p_want integer, p_but uuid[],
    p_bounds jsonb, p_at timestamptz, out ids uuid[], out fresh integer, out next_bounds jsonb)
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_bound record;
    v_found record;
    v_left  integer := p_want;
begin
    ids := '{}';
    fresh := 0;
    next_bounds := p_bounds;
    if p_ageing is null then
        for v_bound in
            select b.key::smallint as priority, (b.value ->> 0)::timestamptz as due_at,
                   (b.value ->> 1)::uuid as run_id
              from jsonb_each(p_bounds) as b
             order by b.key::smallint
        loop
            exit when v_left <= 0;
            with chosen as (
                select c.run_id, c.due_at, c.started_at
                  from unnest(p_fits) as f (version)
                 cross join lateral (
                       select r.run_id, r.due_at, r.started_at
                         from rowlock.task as r
                        where r.app = p_app and r.queue = p_queue and r.version = f.version
                          and coalesce(r.partition, '') = p_partition and r.priority = v_bound.priority
                          and (r.due_at, r.run_id) > (v_bound.due_at, v_bound.run_id)
                          and r.state = 'ready' and not r.run_id = any (p_but)
                        order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
                        limit v_left
                          for no key update skip locked) as c
                 order by c.due_at, c.run_id
                 limit v_left)
            select coalesce(array_agg(c.run_id), '{}') as ids,
                   count(*) filter (where c.started_at is null) as fresh, max(c.due_at) as due_at
              into v_found
              from chosen as c;
            ids := ids || v_found.ids;
            fresh := fresh + v_found.fresh;
            v_left := v_left - cardinality(v_found.ids);
            next_bounds := next_bounds || jsonb_build_object(
                v_bound.priority, case when v_left > 0 then rowlock.bound('infinity', null, p_at)
                                       else rowlock.bound(v_found.due_at, v_found.ids[cardinality(v_found.ids)], p_at) end);
        end loop;
    else
        with chosen as (
            select b.key as priority, c.run_id, c.due_at, c.started_at
              from jsonb_each(p_bounds) as b
             cross join unnest(p_fits) as f (version)
             cross join lateral (
                   select r.run_id, r.due_at, r.started_at
                     from rowlock.task as r
                    where r.app = p_app and r.queue = p_queue and r.version = f.version
                      and coalesce(r.partition, '') = p_partition and r.priority = b.key::smallint
                      and (r.due_at, r.run_id) > ((b.value ->> 0)::timestamptz, (b.value ->> 1)::uuid)
                      and r.state = 'ready' and not r.run_id = any (p_but)
                    order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
                    limit p_want
                      for no key update skip locked) as c
             order by c.due_at + b.key::smallint * p_ageing, c.run_id
             limit p_want)
        select coalesce(array_agg(c.run_id), '{}'), count(*) filter (where c.started_at is null),
               p_bounds || coalesce((
                   select jsonb_object_agg(x.priority, rowlock.bound(x.due_at, x.run_id, p_at))
                     from (select distinct on (y.priority) y.priority, y.due_at, y.run_id
                             from chosen as y
                            order by y.priority, y.due_at desc, y.run_id desc) as x), '{}')
          into ids, fresh, next_bounds
          from chosen as c;
        if cardinality(ids) < p_want then
            next_bounds := rowlock.bounds_until(p_bounds, p_at);
        end if;
    end if;
end $$;
