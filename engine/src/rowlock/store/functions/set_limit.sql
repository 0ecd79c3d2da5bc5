-- set_limit, unset_limit, reset_limits: change what limits a queue while it works; declarations of code.
--
-- Claims read settings without a lock, and find a change with their next look after its commit: whoever
-- leaves it open holds up nobody but another change of the same queue. What code declares counts when the
-- queue is first seen, and again when the declaration changes; what is set live holds until then. The
-- declaration that counts is that of the current version: a worker of an older one that restarts in the
-- middle of a roll-out changes nothing. Clients only make queues that are not there yet.

-- limits_of: the limits of a queue as one JSON object; what is not limited is not in it.
create or replace function rowlock.limits_of(p_set rowlock.queue) returns jsonb
language sql stable
set search_path = pg_catalog
as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'concurrency', p_set.concurrency, 'worker_concurrency', p_set.worker_concurrency,
        'rate', rowlock.rate_text(p_set.rate, p_set.rate_period, p_set.rate_smooth, p_set.rate_burst),
        'partitions', nullif(p_set.partitions, false),
        'partition_concurrency', p_set.partition_concurrency,
        'partition_rate', rowlock.rate_text(p_set.partition_rate, p_set.partition_rate_period,
                                            p_set.partition_rate_smooth, p_set.partition_rate_burst),
        'ageing', extract(epoch from p_set.ageing)::double precision, 'weight', nullif(p_set.weight, 1)))
$$;

-- check_limits: refuse what can't be a limit.
create or replace function rowlock.check_limits(p_limits jsonb) returns void
language plpgsql immutable
set search_path = pg_catalog
as $$
declare
    v_why  text;
    v_hint text;
    v_name text;
begin
    select min(k) into v_name from jsonb_object_keys(p_limits) as k
     where k not in ('concurrency', 'worker_concurrency', 'rate', 'partitions', 'partition_concurrency',
                     'partition_rate', 'ageing', 'weight');
    if v_name is not null then
        perform rowlock.refuse_limit(v_name);
    end if;
    for v_name in
        select x from unnest(array['concurrency', 'worker_concurrency', 'partition_concurrency']) as x
         where p_limits ? x
    loop
        if jsonb_typeof(p_limits -> v_name) <> 'number'
           or not (p_limits ->> v_name)::numeric between 1 and 1000000
           or (p_limits ->> v_name)::numeric % 1 <> 0 then
            v_why := format('%s is %s, but must be a whole number from 1 to 1000000', v_name,
                            rowlock.shown(p_limits ->> v_name));
            v_hint := v_name || ' => 5';
        end if;
    end loop;
    for v_name in select x from unnest(array['rate', 'partition_rate']) as x where p_limits ? x loop
        if not exists (select from rowlock.rate_of(p_limits ->> v_name) as r
                        where r.period <= interval '366 days') then
            v_why := format('%s is %s, but must be a number up to 999999999, a slash and a period of up to 366 days, '
                            'such as 100/min, 5/s, 1000/2h or 20/30s, and may end in smooth or burst 20',
                            v_name, coalesce(nullif(rowlock.shown(p_limits ->> v_name), ''), 'empty'));
            v_hint := v_name || ' => ''100/min''';
        end if;
    end loop;
    if p_limits ? 'partitions' and jsonb_typeof(p_limits -> 'partitions') <> 'boolean' then
        v_why := 'partitions must be true or false';
        v_hint := 'partitions => true';
    elsif not coalesce((p_limits ->> 'partitions')::boolean, false)
          and p_limits ?| array['partition_concurrency', 'partition_rate'] then
        v_name := case when p_limits ? 'partition_concurrency' then 'partition_concurrency' else 'partition_rate' end;
        v_why := format('%s is a limit for each partition, which needs a queue with partitions', v_name);
        v_hint := format('partitions => true, %s => %s', v_name,
                         case v_name when 'partition_rate' then '''5/s''' else '1' end);
    end if;
    if p_limits ? 'ageing' and (jsonb_typeof(p_limits -> 'ageing') <> 'number'
                                or not (p_limits ->> 'ageing')::numeric between 0.001 and 31622400) then
        v_why := format('ageing is %s s, but must be from 0.001 s to 366 days',
                        rowlock.shown(p_limits ->> 'ageing'));
        v_hint := 'ageing => interval ''1 minute''';
    end if;
    if p_limits ? 'weight' and (jsonb_typeof(p_limits -> 'weight') <> 'number'
                                or not (p_limits ->> 'weight')::numeric between 0.001 and 1000) then
        v_why := format('weight is %s, but must be from 0.001 to 1000', rowlock.shown(p_limits ->> 'weight'));
        v_hint := 'weight => 2';
    end if;
    if v_why is not null then
        raise exception '%', v_why
            using errcode = 'RLV02',
                  hint = format('For example rowlock.set_limit(''payments'', %s); rowlock.unset_limit takes a limit '
                                'away. Nothing was changed.', v_hint);
    end if;
end $$;

create or replace function rowlock.refuse_limit(p_name text) returns void
language plpgsql immutable set search_path = pg_catalog as $$
begin
    raise exception 'there is no limit %', rowlock.shown(p_name)
        using errcode = 'RLV02',
              hint = 'There are concurrency, worker_concurrency, rate, partitions, partition_concurrency, '
                     'partition_rate, ageing and weight. Nothing was changed.';
end $$;

-- put_limits: give a queue these limits and no others. Its caller holds the row.
create or replace function rowlock.put_limits(
    p_app text, p_queue text, p_limits jsonb, p_declared jsonb, p_set_by text)
returns void
language sql volatile
set search_path = pg_catalog
as $$
    update rowlock.queue as q
       set concurrency = (p_limits ->> 'concurrency')::integer,
           worker_concurrency = (p_limits ->> 'worker_concurrency')::integer,
           rate = r.most, rate_period = r.period, rate_smooth = coalesce(r.smooth, false), rate_burst = r.burst,
           partitions = coalesce((p_limits ->> 'partitions')::boolean, false),
           partition_concurrency = (p_limits ->> 'partition_concurrency')::integer,
           partition_rate = p.most, partition_rate_period = p.period,
           partition_rate_smooth = coalesce(p.smooth, false), partition_rate_burst = p.burst,
           ageing = make_interval(secs => (p_limits ->> 'ageing')::double precision),
           weight = coalesce((p_limits ->> 'weight')::real, 1),
           declared = p_declared,
           set_at = case when p_set_by is not null then clock_timestamp() end,
           set_by = p_set_by,
           revision = q.revision + (not q.limited)::integer
      from (select) as one
      left join lateral rowlock.rate_of(p_limits ->> 'rate') as r on true
      left join lateral rowlock.rate_of(p_limits ->> 'partition_rate') as p on true
     where q.app = p_app and q.name = p_queue;
    select rowlock.notify_idle(p_app, p_queue);
$$;

-- change_limits: what set_limit (p_given), unset_limit (p_gone) and reset_limits (neither) have in common.
create or replace function rowlock.change_limits(
    p_what text, p_app text, p_queue text, p_given jsonb, p_gone text) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_app    text := rowlock.resolve_app(p_app);
    v_set    rowlock.queue;
    v_before jsonb;
    v_after  jsonb;
    v_needs  text;
begin
    select q.* into v_set from rowlock.queue as q where q.app = v_app and q.name = p_queue for no key update;
    if not found then
        perform rowlock.refuse_queue(v_app, p_queue);
    end if;
    v_before := rowlock.limits_of(v_set);
    v_after := case when p_gone is not null then v_before - p_gone
                    else coalesce(v_before || p_given, v_set.declared, '{}') end;
    -- What is set already and needs partitions goes first; what is given along with their end check_limits refuses.
    v_needs := case when (v_before ->> 'partitions')::boolean and not coalesce((v_after ->> 'partitions')::boolean, false)
                    then (select min(x) from unnest(array['partition_concurrency', 'partition_rate']) as x
                           where v_before ? x and v_after ? x) end;
    if v_needs is not null then
        raise exception 'queue % can''t do without partitions: it has a %', p_queue, v_needs
            using errcode = 'RLV02',
                  hint = format('First rowlock.unset_limit(%L, %L). Nothing was changed.', p_queue, v_needs);
    end if;
    perform rowlock.check_limits(v_after);
    if v_after -> 'partitions' = 'false' then
        v_after := v_after - 'partitions';
    end if;
    if (v_set.set_at is null and p_given is null and p_gone is null)
       or (v_after = v_before and num_nonnulls(p_given, p_gone) > 0) then
        return false;
    end if;
    perform rowlock.put_limits(v_app, p_queue, v_after, v_set.declared,
                               case when p_given is not null or p_gone is not null then rowlock.invoker() end);
    perform rowlock.note_audit(p_what, v_app, null, 'queue ' || p_queue, v_before, v_after);
    return true;
end $$;

create or replace function rowlock.set_limit(
    queue                  text,
    concurrency            integer  default null,
    worker_concurrency     integer  default null,
    rate                   text     default null,
    partitions             boolean  default null,
    partition_concurrency  integer  default null,
    partition_rate         text     default null,
    ageing                 interval default null,
    weight                 real     default null,
    app                    text     default null)
returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_given jsonb := jsonb_strip_nulls(jsonb_build_object(
        'concurrency', set_limit.concurrency, 'worker_concurrency', set_limit.worker_concurrency,
        'rate', set_limit.rate, 'partitions', set_limit.partitions,
        'partition_concurrency', set_limit.partition_concurrency, 'partition_rate', set_limit.partition_rate,
        'ageing', extract(epoch from set_limit.ageing)::double precision, 'weight', set_limit.weight));
begin
    if v_given = '{}' then
        raise exception 'no limit is given'
            using errcode = 'RLV02',
                  hint = 'For example concurrency => 5. rowlock.unset_limit takes a limit away, rowlock.reset_limits '
                         'sets all as declared. Nothing was changed.';
    end if;
    return rowlock.change_limits('set_limit', set_limit.app, set_limit.queue, v_given, null);
end $$;
comment on function rowlock.set_limit(text, integer, integer, text, boolean, integer, text, interval, real, text) is
'Sets limits of a queue while it works; those that are not named stay. They hold until the code declares
other ones. What runs goes on: a lower limit means that nothing is claimed until fewer run. True when
something changed.

queue: which queue.
concurrency: how many of its runs may hold a claim at a time, over all workers; default: as it is.
worker_concurrency: how many in one worker process; default: as it is.
rate: how many may be claimed for the first time in any such period, such as 100/min, 5/s or 20/30s; with
    smooth behind it, evenly spread; with burst 20, up to so many at once after a quiet time, whatever the
    window; default: as it is.
partitions: whether its runs wait in partitions, which take turns; default: as it is.
partition_concurrency: how many of one partition may hold a claim at a time; default: as it is.
partition_rate: how many of one partition may be claimed for the first time in any such period; default:
    as it is.
ageing: by how much longer a run must have waited to go before one whose priority is better by one;
    default: as it is.
weight: how often a worker looks here first, in proportion to its other queues, where 1 is usual; default:
    as it is.
app: of which app; default: the one there is, if there is one.';

create or replace function rowlock.unset_limit(queue text, name text, app text default null) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
begin
    if unset_limit.name is null then
        perform rowlock.refuse_limit(null);
    end if;
    perform rowlock.check_limits(jsonb_build_object(unset_limit.name, case
        when unset_limit.name like '%rate' then '"1/s"' when unset_limit.name = 'partitions' then 'true'
        else '1' end::jsonb) || '{"partitions": true}');
    return rowlock.change_limits('unset_limit', unset_limit.app, unset_limit.queue, null, unset_limit.name);
end $$;
comment on function rowlock.unset_limit(text, text, text) is
'Takes one limit of a queue away, until the code declares other ones. True when there was one.

queue: which queue.
name: which limit: concurrency, worker_concurrency, rate, partitions, partition_concurrency,
    partition_rate, ageing or weight.
app: of which app; default: the one there is, if there is one.';

create or replace function rowlock.reset_limits(queue text, app text default null) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
begin
    return rowlock.change_limits('reset_limits', reset_limits.app, reset_limits.queue, null, null);
end $$;
comment on function rowlock.reset_limits(text, text) is
'Sets the limits of a queue as its code declares them. True when they were otherwise.

queue: which queue.
app: of which app; default: the one there is, if there is one.';

-- apply_declaration: what the current version declares counts from now on, where it is new. A queue whose row
-- somebody holds is passed by; every worker asks again once a minute, for all apps (null).
create or replace function rowlock.apply_declaration(p_app text) returns void
language plpgsql volatile
set search_path = pg_catalog set enable_seqscan = off set jit = off
as $$
declare
    v_one record;
begin
    for v_one in
        select q.app, q.name, e.value as limits
          from rowlock.declaration as d
         cross join lateral jsonb_each(d.queues) as e
          join rowlock.queue as q on q.app = d.app and q.name = e.key
         where (p_app is null or d.app = p_app) and rowlock.allowed(d.app)
           and d.version = coalesce(rowlock.current_version(d.app), '')
           and coalesce(q.declared, '{}') <> e.value
         order by q.app, q.name
           for no key update of q skip locked
    loop
        perform rowlock.put_limits(v_one.app, v_one.name, v_one.limits, v_one.limits, null);
    end loop;
end $$;

-- declare_queues: what the code of a version says of its queues: a JSON object of limits by queue. p_only_new:
-- from a client, whose code may be older than that of the workers.
create or replace function rowlock.declare_queues(p_app text, p_version text, p_queues jsonb, p_only_new boolean)
returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_new text;
begin
    if not rowlock.allowed(p_app) then
        perform rowlock.refuse_app(p_app);
    end if;
    perform rowlock.check_limits(e.value) from jsonb_each(p_queues) as e;
    for v_new in
        select k from jsonb_object_keys(p_queues) as k
         where not exists (select from rowlock.queue as q where q.app = p_app and q.name = k)
         order by k
    loop
        -- With its limits in one transaction: at no time is it there without them.
        insert into rowlock.queue (app, name) values (p_app, v_new) on conflict do nothing;
        if found then
            perform rowlock.put_limits(p_app, v_new, p_queues -> v_new, p_queues -> v_new, null);
        end if;
        insert into rowlock.queue_gate (app, name) values (p_app, v_new) on conflict do nothing;
    end loop;
    if p_only_new then
        return;
    end if;
    perform 1 from rowlock.declaration as d
      where d.app = p_app and d.version = p_version and d.queues = p_queues;
    if not found then
        insert into rowlock.declaration as d (app, version, queues) values (p_app, p_version, p_queues)
        on conflict (app, version) do update
           set queues = excluded.queues, declared_at = excluded.declared_at;
    end if;
    perform rowlock.apply_declaration(p_app);
end $$;
