-- hand_over: who lets go of a limited queue's runs claims as many others in the same transaction.
--
-- Under pressure a claim by itself costs a commit, a round trip and the queue's gate, for one run or a few;
-- and meanwhile the limit is not used up. Here the places of runs that end go to runs that wait, with the
-- commit that ends them, and without the gate: at no instant does anybody see more runs running than before.
-- Who holds the gate and counts sees either those that ended or those that came for them. So nothing depends
-- on what is read here: where a limit was lowered meanwhile, the number of runs stays at most what it was;
-- and a later statement sees the lower limit, and hands over nothing until there is room.
--
-- That the places are the caller's to give is certain: he holds his worker row FOR KEY SHARE, and only its
-- holder FOR UPDATE, or his own journal, ends a claim of his (journal.sql). His own claims may come meanwhile:
-- he sees fewer gone than did go.
--
-- may_hand_over: whether places in a queue go on this way. Not for rates and partitions, which the gate guards
-- too; not before all that runs is marked, so that it is counted (limits.sql); nor where code of another version
-- has work there, or it might never get a place.
create or replace function rowlock.may_hand_over(p_app text, p_queue text, p_fits text[]) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    perform 1 from rowlock.queue as q, rowlock.queue_gate as g
      where q.app = p_app and q.name = p_queue and q.limited and q.rate is null and not q.partitions
        and g.app = q.app and g.name = q.name and g.marked >= q.revision;
    if not found then
        return false;
    end if;
    perform 1 from rowlock.version as v
      cross join lateral (
            select from rowlock.task as t
             where t.app = p_app and t.queue = p_queue and t.version = v.name and t.state = 'ready' limit 1) as x
      where v.app = p_app and not v.name = any (p_fits);
    return not found;
end $$;

-- held: of these runs, those that this worker runs under a limit and in no partition, by queue.
create or replace function rowlock.held(p_worker bigint, p_app text, p_runs uuid[])
returns table (queue text, n integer)
language sql volatile
set search_path = pg_catalog
as $$
    select t.queue, count(*)::integer
      from unnest(p_runs) as e (run_id)
     cross join lateral (
           select y.queue from rowlock.task as y
            where y.run_id = e.run_id and y.state || '' = 'running' and y.worker_id + 0 = p_worker
              and y.app || '' = p_app and y.limited and coalesce(y.partition, '') = ''
           offset 0) as t
     group by t.queue
     order by t.queue
$$;

-- journal_and_claim: journal, and as many runs as it let go of limited ones: each as an answer, with the
-- verdict `claimed` and what claim_next gives of it. Only a worker that has slots to spare asks for it, or other
-- queues would get none.
create or replace function rowlock.journal_and_claim(
    p_worker bigint, p_steps json, p_asked integer, p_made boolean, p_rows boolean, p_emits jsonb,
    p_waits jsonb, p_finishes jsonb, p_suspends jsonb, p_releases jsonb, p_groups text[],
    p_retrying boolean, p_app text, p_version text)
returns table (i integer, verdict text, detail jsonb)
language plpgsql volatile
set search_path = pg_catalog
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_ends   uuid[];
    v_queues text[];
    v_before integer[];
    v_place  record;
begin
    -- The fence, as in journal: what is held now ends in this transaction or not at all.
    perform 1 from rowlock.worker as w
      where w.id = p_worker and w.app = p_app and rowlock.allowed(w.app)
        for key share skip locked;
    if found then
        v_ends := array(select e.run from jsonb_to_recordset(p_finishes || p_suspends || p_releases) as e (run uuid));
        select array_agg(h.queue), array_agg(h.n) into v_queues, v_before
          from rowlock.held(p_worker, p_app, v_ends) as h;
    end if;
    return query
    select j.i, j.verdict, j.detail
      from rowlock.journal(p_worker, p_steps, p_asked, p_made, p_rows, p_emits, p_waits, p_finishes,
                           p_suspends, p_releases, p_groups, p_retrying) as j;
    for v_place in
        select b.queue, b.n - coalesce(h.n, 0) as n
          from unnest(v_queues, v_before) as b (queue, n)
          left join rowlock.held(p_worker, p_app, v_ends) as h on h.queue = b.queue
         where b.n > coalesce(h.n, 0)
    loop
        return query
        select -1, 'claimed', to_jsonb(c)
          from rowlock.claim_next(p_worker, p_app, p_version, array[v_place.queue], null, v_place.n, null, true) as c
         where c.run_id is not null;
    end loop;
end $$;
