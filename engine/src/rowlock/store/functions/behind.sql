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
--   behind   for each queue that gave something, by priority: the last (due_at, run_id) that was taken since;
--            null for a queue with ageing or partitions, or of which nothing is known yet, as it was not
--            reached: it is looked at as ever
--
-- Until the full look is due, claims look only at these queues and priorities, and only behind those bounds.
-- Bounds hide work, so they are no truth: what was committed late with an old due_at, another priority, another
-- queue, a partition, another version's runs, what somebody handed back: all this is for the full look. It is
-- found ten looks later, and never lost: a full look begins with no bounds, so where it could take nothing
-- (no room, the gate was busy) the next look goes from the head again. Once a full look is quick there is no
-- memory, nor is there one where little has ended since the last vacuum. Nothing is exact by it: who counts for a limit
-- counts all (limits.sql). Places that are handed over have a memory of their own for each queue.

-- recall: what a memory says at a time. For a full look only the names of queues and priorities are left.
create or replace function rowlock.recall(
    p_app text, p_memory jsonb, p_at timestamptz, out bounded boolean, out behind jsonb)
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    behind := coalesce(p_memory -> 'behind', '{}');
    -- A full look, too, where the clock went back; and where a pause has runs set aside.
    bounded := coalesce(p_at >= (p_memory ->> 'looked')::timestamptz
                        and p_at < (p_memory ->> 'due')::timestamptz, false)
               and not exists (select from rowlock.pause as p
                                where p.app = p_app and p.lifted_at is null and p.workflow is not null);
    if not bounded then
        behind := coalesce((
            select jsonb_object_agg(q.key, (
                       select jsonb_object_agg(
                                  k, jsonb_build_array('-infinity', '00000000-0000-0000-0000-000000000000'))
                         from jsonb_object_keys(q.value) as k))
              from jsonb_each(behind) as q where q.value <> 'null'), '{}');
    end if;
end $$;

-- note_look: a look at a queue, before it is known what may be taken there.
create or replace function rowlock.note_look(
    p_behind jsonb, p_queue text, p_bounds jsonb, p_found boolean, p_at timestamptz) returns jsonb
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    if not p_found then
        p_bounds := rowlock.bounds_behind(p_bounds, '{}', true, p_at);
    end if;
    if p_found or p_bounds is not null or p_behind ? p_queue then
        return p_behind || jsonb_build_object(p_queue, p_bounds);
    end if;
    return p_behind;
end $$;

-- note_taken: these runs of a queue were taken. p_is_all: there were no more.
create or replace function rowlock.note_taken(
    p_behind jsonb, p_queue text, p_bounds jsonb, p_ids uuid[], p_is_all boolean, p_at timestamptz) returns jsonb
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    return p_behind || jsonb_build_object(
        p_queue, rowlock.bounds_behind(coalesce(p_bounds, '{}'), p_ids, p_is_all, p_at));
end $$;

-- memory_of: of a full look that walked far. What the first of them took nobody noted: the next is one again.
create or replace function rowlock.memory_of(p_behind jsonb, p_began timestamptz) returns jsonb
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    most_queues constant integer := 64;  -- more are not worth it
    a_while     constant interval := '1 s';  -- that look may have taken long for other reasons
    v_now       timestamptz := clock_timestamp();
begin
    if (select count(*) from jsonb_object_keys(p_behind)) > most_queues then
        return null;
    end if;
    return jsonb_build_object(
        'looked', v_now,
        'due', v_now + case when p_behind is null then interval '0'
                            else least(10 * (v_now - p_began), a_while) end,
        'behind', coalesce(p_behind, '{}'));
end $$;

-- is_behind: whether there is anything behind the bounds, without a lock.
create or replace function rowlock.is_behind(p_app text, p_queue text, p_fits text[], p_bounds jsonb)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_bound record;
begin
    for v_bound in
        select b.key::smallint as priority, (b.value ->> 0)::timestamptz as due_at, (b.value ->> 1)::uuid as run_id
          from jsonb_each(p_bounds) as b
    loop
        perform 1 from unnest(p_fits) as f (version)
          cross join lateral (
                select from rowlock.task as r
                 where r.app = p_app and r.queue = p_queue and r.version = f.version
                   and coalesce(r.partition, '') = '' and r.priority = v_bound.priority
                   and (r.due_at, r.run_id) > (v_bound.due_at, v_bound.run_id)
                   and r.state = 'ready'
                 order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
                 limit 1) as x;
        if found then
            return true;
        end if;
    end loop;
    return false;
end $$;

-- pick_behind: lock the first runs in no partition, of each version that fits, behind the bounds; and how many of
-- them are claimed for the first time.
drop function if exists rowlock.pick_behind(text, text, text[], jsonb, integer);
create or replace function rowlock.pick_behind(
    p_app text, p_queue text, p_fits text[], p_bounds jsonb, p_want integer, out ids uuid[], out fresh integer)
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
    for v_bound in
        select b.key::smallint as priority, (b.value ->> 0)::timestamptz as due_at, (b.value ->> 1)::uuid as run_id
          from jsonb_each(p_bounds) as b
         order by b.key::smallint
    loop
        with chosen as (
            select c.run_id, c.started_at
              from unnest(p_fits) as f (version)
             cross join lateral (
                   select r.run_id, r.due_at, r.started_at
                     from rowlock.task as r
                    where r.app = p_app and r.queue = p_queue and r.version = f.version
                      and coalesce(r.partition, '') = '' and r.priority = v_bound.priority
                      and (r.due_at, r.run_id) > (v_bound.due_at, v_bound.run_id)
                      and r.state = 'ready'
                    order by r.app, r.queue, r.version, coalesce(r.partition, ''), r.priority, r.due_at, r.run_id
                    limit v_left
                      for no key update skip locked) as c
             order by c.due_at, c.run_id
             limit v_left)
        select coalesce(array_agg(c.run_id), '{}') as ids,
               count(*) filter (where c.started_at is null) as fresh
          into v_found
          from chosen as c;
        ids := ids || v_found.ids;
        fresh := fresh + v_found.fresh;
        v_left := p_want - cardinality(ids);
        exit when v_left <= 0;
    end loop;
end $$;

-- bounds_behind: the bounds of a queue after these runs were taken. p_is_all: no more were found. Then, and
-- for priorities before the last, nothing is left up to a moment ago: not up to now, since a start that is about
-- to commit has a due_at of its beginning. Null: nothing is known.
create or replace function rowlock.bounds_behind(
    p_bounds jsonb, p_ids uuid[], p_is_all boolean, p_at timestamptz) returns jsonb
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_taken  record;
    v_moment timestamptz := p_at - interval '0.2 s';
    v_until  jsonb := jsonb_build_array(v_moment, '00000000-0000-0000-0000-000000000000');
begin
    select array_agg(x.priority) as priorities, max(x.priority) as last,
           (array_agg(x.due_at))[1] as due_at, (array_agg(x.run_id))[1] as run_id
      into v_taken
      from (select t.priority, t.due_at, t.run_id from rowlock.task as t
             where t.run_id = any (p_ids)
             order by t.priority desc, t.due_at desc, t.run_id desc) as x;
    return (select jsonb_object_agg(b.priority, case
                       when p_is_all or b.priority < v_taken.last then v_until
                       when v_taken.last is null or b.priority > v_taken.last then p_bounds -> b.priority::text
                       when v_taken.due_at < v_moment then jsonb_build_array(v_taken.due_at, v_taken.run_id)
                       else v_until end)
              from (select k::smallint as priority from jsonb_object_keys(p_bounds) as k
                    union
                    select unnest(v_taken.priorities)) as b);
end $$;
