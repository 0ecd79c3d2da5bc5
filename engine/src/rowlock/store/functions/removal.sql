-- removal: take ended runs out of the database, with all that was recorded of them.
--
-- Whoever removes a run holds its row FOR UPDATE. So does nobody else: a redo and whoever delivers hold
-- it NO KEY UPDATE, a fork KEY SHARE. Either they were first, and the run is passed by (SKIP LOCKED, and
-- a look in a later statement), or they find no run. Nothing else of an ended run is ever locked by
-- others, so a removal that has the row waits for nobody.
--
-- A run that is there is whole: it may be redone or copied, and then needs its children. So a child stays
-- as long as its parent, and whoever was forked as long as the fork, whose steps name the children of
-- both. A run that was found by its key instead of a new child has several parents (adoption). Children of
-- histories that a parent has left for good (continue_as_new) are free.

-- kept_because: those of p_runs that can't be removed, and why. p_children: whether their children are
-- looked at too; there may be many. Each look is a subquery with a limit, which no plan can turn into a
-- join that reads the whole table.
create or replace function rowlock.kept_because(p_runs uuid[], p_children boolean)
returns table (run_id uuid, reason text)
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
    select x.id, x.reason
      from (
        select r.id,
               case when (select true from rowlock.task as t where t.run_id = r.id limit 1)
                        then 'it has not ended'
                    when (select true from rowlock.wait as w where w.on_run_id = r.id limit 1)
                        then 'another run waits for it'
                    when (select true
                            from (select r.parent_id, r.parent_generation where r.parent_id is not null
                                   union all
                                  select a.parent_id, a.parent_generation from rowlock.adoption as a
                                   where a.run_id = r.id) as p
                           where (select true from rowlock.run as y where y.id = p.parent_id limit 1)
                             and (select true from rowlock.outcome as o
                                   where o.run_id = p.parent_id and o.generation >= p.parent_generation
                                     and o.status = 'continued' limit 1) is null
                           limit 1)
                        then 'its parent is there'
                    when (select true from rowlock.run as f where f.forked_from = r.id limit 1)
                        then 'a fork of it is there'
                    when p_children
                         and (select true
                                from rowlock.run as c
                               cross join lateral (
                                     select from rowlock.task as t where t.run_id = c.id offset 0) as t
                               where c.parent_id = r.id
                               limit 1)
                        then 'a child of it has not ended'
               end as reason
          from unnest(p_runs) as i (id)
         cross join lateral (select y.* from rowlock.run as y where y.id = i.id offset 0) as r) as x
     where x.reason is not null
$$;

-- not_too_many: the first of these runs, until together they have more rows than fit into a short
-- transaction; at least one.
create or replace function rowlock.not_too_many(p_runs uuid[], p_rows integer) returns uuid[]
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
    select coalesce(array_agg(x.id order by x.nth), '{}')
      from (
        select i.id, i.nth,
               sum(w.weight) over (order by i.nth rows between unbounded preceding and 1 preceding) as before
          from unnest(p_runs) with ordinality as i (id, nth)
         cross join lateral (
               select (select count(*) from (select from rowlock.step as s
                                              where s.run_id = i.id limit p_rows) as s)
                    + (select count(*) from (select from rowlock.message as m
                                              where m.run_id = i.id limit p_rows) as m)
                    + (select count(*) from (select from rowlock.stream_entry as e
                                              where e.run_id = i.id limit p_rows) as e)
                    + (select count(*) from (select from rowlock.event as e
                                              where e.run_id = i.id limit p_rows) as e)
                    + (select count(*) from (select from rowlock.run as c
                                              where c.parent_id = i.id limit p_rows) as c)
                      as weight offset 0) as w) as x
     where coalesce(x.before, 0) < p_rows
$$;

-- remove_runs: these runs, whose rows are held and that may leave, are gone. p_keys: their keys stay as
-- long as the policies say; otherwise they go too. Rows of keys and arrivals are looked up run by run:
-- as a join, a plan made when these tables were tiny reads all of them later.
create or replace function rowlock.remove_runs(p_runs uuid[], p_keys boolean) returns void
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_now     timestamptz := clock_timestamp();
    v_keys    tid[];
    v_expires timestamptz[];
    v_rows    tid[];
begin
    select array_agg(k.ctid), array_agg(case when p_keys then o.finished_at + p.keep_keys end)
      into v_keys, v_expires
      from unnest(p_runs) as i (id)
     cross join lateral (
           select y.app, y.key from rowlock.run as y
            where y.id = i.id and y.key is not null offset 0) as r
     cross join lateral (
           select y.ctid from rowlock.run_key as y
            where y.app = r.app and y.key = r.key and y.run_id = i.id offset 0) as k
     cross join lateral (
           select y.* from rowlock.outcome as y
            where y.run_id = i.id order by y.run_id desc, y.generation desc limit 1) as o
      left join lateral rowlock.policy_for(o.app, o.workflow, o.status) as p on true;
    if v_keys is not null then
        update rowlock.run_key as k
           set expires_at = x.expires_at
          from unnest(v_keys, v_expires) as x (row, expires_at)
         where k.ctid = x.row and x.expires_at > v_now;
        delete from rowlock.run_key as k
         where k.ctid = any (v_keys) and k.expires_at is null;
    end if;

    perform rowlock.drop_start_keys(p_runs);
    v_rows := array(
        select a.ctid
          from unnest(p_runs) as i (id)
         cross join lateral (
               select y.ctid from rowlock.arrival as y
                where y.name > i.id || ':' and y.name < i.id || ';' offset 0) as a);
    delete from rowlock.arrival where ctid = any (v_rows);
    delete from rowlock.adoption where run_id = any (p_runs);
    delete from rowlock.adoption where parent_id = any (p_runs);

    delete from rowlock.step where run_id = any (p_runs);
    delete from rowlock.outcome where run_id = any (p_runs);
    delete from rowlock.generation where run_id = any (p_runs);
    delete from rowlock.message where run_id = any (p_runs);
    delete from rowlock.event where run_id = any (p_runs);
    delete from rowlock.stream_entry where run_id = any (p_runs);
    -- What is left of those that were cancelled, unless a sweep is at it, which drops it too.
    perform rowlock.drop_requests(p_runs);
    delete from rowlock.run where id = any (p_runs);
end $$;

create or replace function rowlock.delete(run_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_app    text;
    v_state  text;
    v_reason text;
begin
    -- An old snapshot would not show that the run has been redone since.
    perform rowlock.require_read_committed();
    select r.app into v_app from rowlock.run as r
     where r.id = delete.run_id and rowlock.allowed(r.app) for update;
    if not found then
        perform rowlock.refuse_unknown(delete.run_id);
    end if;
    select t.state into v_state from rowlock.task as t where t.run_id = delete.run_id;
    if found then
        raise exception 'run % is % and can''t be deleted: it has not ended', delete.run_id, v_state
            using errcode = 'RLS01', hint = 'Nothing was changed. rowlock.cancel ends it.';
    end if;
    select k.reason into v_reason from rowlock.kept_because(array[delete.run_id], true) as k;
    if found then
        raise exception 'run % can''t be deleted: %', delete.run_id, v_reason
            using errcode = 'RLS05',
                  hint = 'Nothing was changed. '
                         || case v_reason
                                when 'its parent is there' then 'Delete the parent first, which may need it. '
                                when 'a fork of it is there' then 'Delete the fork first, which may need it. '
                                else 'Wait until that one has ended, or cancel it. ' end
                         || 'rowlock.why_kept(run_id) is null for runs that can be deleted.';
    end if;
    perform rowlock.note_audit('delete', v_app, delete.run_id, null,
        (select jsonb_build_object('status', r.status, 'workflow', r.workflow, 'key', r.key)
           from rowlock.runs as r where r.run_id = delete.run_id),
        '{"status": "deleted"}');
    perform rowlock.remove_runs(array[delete.run_id], false);
end $$;
comment on function rowlock.delete(uuid) is
'Deletes an ended run with all that was recorded of it, its key too. Refused while something needs it: its
parent, a fork of it, a child that has not ended, a run that waits for it.

run_id: the run.';

create or replace function rowlock.why_kept(run_id uuid) returns text
language sql stable
set search_path = pg_catalog
as $$
    select k.reason from rowlock.kept_because(array[why_kept.run_id], true) as k
     where (select rowlock.allowed(r.app) from rowlock.run as r where r.id = k.run_id)
$$;
comment on function rowlock.why_kept(uuid) is
'Why a run can''t be deleted: it has not ended, or what needs it; null when it can be.

run_id: the run.';

-- remove_chosen: what choose_runs chose in this transaction, when it is safe elsewhere. Looked at again: whoever
-- may call this may not remove anything else by it.
create or replace function rowlock.remove_chosen(p_runs uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_gone uuid[];
begin
    perform rowlock.require_read_committed();
    v_gone := array(select r.id from rowlock.run as r
                     where r.id = any (p_runs) order by r.id for update skip locked);
    v_gone := rowlock.old_enough(v_gone, null, true, clock_timestamp());
    v_gone := array(select i.id from unnest(v_gone) as i (id)
                    except select k.run_id from rowlock.kept_because(v_gone, true) as k);
    if cardinality(v_gone) < cardinality(p_runs) then
        raise exception '% of % runs may not be removed', cardinality(p_runs) - cardinality(v_gone),
                        cardinality(p_runs)
            using errcode = 'RLS05',
                  hint = 'Remove what rowlock.choose_runs gave, in the same transaction. Nothing was changed.';
    end if;
    perform rowlock.remove_runs(p_runs, true);
end $$;

-- archived_rows: all that is stored of these runs, run by run and part by part, values as they are: in the
-- order in which a nested loop comes upon them, so that nothing is sorted or held in memory, however
-- large a run is. store/removal.py, which reads it, makes one object of each run.
create or replace function rowlock.archived_rows(p_runs uuid[])
returns table (run_id uuid, part text, "row" text)
language sql stable
set search_path = pg_catalog
set enable_seqscan = off set jit = off set enable_hashjoin = off set enable_mergejoin = off
as $$
    select i.id, x.part, x."row"::text
      from unnest(p_runs) as i (id)
     cross join lateral (
           (select 'run' as part, row_to_json(r) as "row" from rowlock.run as r where r.id = i.id)
            union all
           (select 'outcomes', row_to_json(o) from rowlock.outcome as o
             where o.run_id = i.id order by o.generation)
            union all
           (select 'generations', row_to_json(g) from rowlock.generation as g
             where g.run_id = i.id order by g.generation)
            union all
           (select 'steps', row_to_json(s) from rowlock.step as s
             where s.run_id = i.id order by s.generation, s.position)
            union all
           (select 'messages', row_to_json(m) from rowlock.message as m
             where m.run_id = i.id order by m.id)
            union all
           (select 'events', row_to_json(e) from rowlock.event as e
             where e.run_id = i.id order by e.name)
            union all
           (select 'stream_entries', row_to_json(e) from rowlock.stream_entry as e
             where e.run_id = i.id order by e.stream, e."offset")) as x (part, "row")
$$;
