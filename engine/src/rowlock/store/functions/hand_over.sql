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
-- he sees fewer gone than did go. Whom he claims he claims no earlier than those whose places they take, whatever
-- the clock says: so no count begins behind them (limits.sql).
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

-- held: of these runs, those that this worker runs under a limit and in no partition, by queue; and when the
-- last of them was claimed.
create or replace function rowlock.held(p_worker bigint, p_app text, p_runs uuid[])
returns table (queue text, n integer, claimed_at timestamptz)
language sql volatile
set search_path = pg_catalog
as $$
    select t.queue, count(*)::integer, max(t.claimed_at)
      from unnest(p_runs) as e (run_id)
     cross join lateral (
           select y.queue, y.claimed_at from rowlock.task as y
            where y.run_id = e.run_id and y.state || '' = 'running' and y.worker_id + 0 = p_worker
              and y.app || '' = p_app and y.limited and coalesce(y.partition, '') = ''
           offset 0) as t
     group by t.queue
     order by t.queue
$$;

-- journal_and_claim: journal, and as many runs as it let go of limited ones: each as an answer, with the
-- verdict `claimed` and what claim_next gives of it. Only a worker that has slots to spare asks for it, or other
-- queues would get none. p_memory, and an answer `memory`: by queue what claim_next is to be told (behind.sql).
create or replace function rowlock.journal_and_claim(
    p_worker bigint, p_steps json, p_asked integer, p_made boolean, p_rows boolean, p_emits jsonb,
    p_waits jsonb, p_finishes jsonb, p_suspends jsonb, p_releases jsonb, p_groups text[],
    p_retrying boolean, p_app text, p_version text, p_memory jsonb default null)
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
    v_lasts  timestamptz[];
    v_place  record;
    v_row    record;
    v_memory jsonb := coalesce(p_memory, '{}');
begin
    -- The fence, as in journal: what is held now ends in this transaction or not at all.
    perform 1 from rowlock.worker as w
      where w.id = p_worker and w.app = p_app and rowlock.allowed(w.app)
        for key share skip locked;
    if found then
        v_ends := array(select e.run from jsonb_to_recordset(p_finishes || p_suspends || p_releases) as e (run uuid));
        select array_agg(h.queue), array_agg(h.n), array_agg(h.claimed_at) into v_queues, v_before, v_lasts
          from rowlock.held(p_worker, p_app, v_ends) as h;
    end if;
    return query
    select j.i, j.verdict, j.detail
      from rowlock.journal(p_worker, p_steps, p_asked, p_made, p_rows, p_emits, p_waits, p_finishes,
                           p_suspends, p_releases, p_groups, p_retrying) as j;
    for v_place in
        select b.queue, b.n - coalesce(h.n, 0) as n, b.claimed_at
          from unnest(v_queues, v_before, v_lasts) as b (queue, n, claimed_at)
          left join rowlock.held(p_worker, p_app, v_ends) as h on h.queue = b.queue
         where b.n > coalesce(h.n, 0)
    loop
        v_memory := v_memory - v_place.queue;
        for v_row in
            select c.run_id, c.memory, to_jsonb(c) as claimed
              from rowlock.claim_next(p_worker, p_app, p_version, array[v_place.queue], null, v_place.n, null,
                                      v_place.claimed_at, p_memory ->> v_place.queue) as c
        loop
            if v_row.run_id is not null then
                return query select -1, 'claimed', v_row.claimed;
            elsif v_row.memory is not null then
                v_memory := v_memory || jsonb_build_object(v_place.queue, v_row.memory);
            end if;
        end loop;
    end loop;
    if v_memory <> '{}' then
        return query select -1, 'memory', to_jsonb(v_memory::text);
    end if;
end $$;
