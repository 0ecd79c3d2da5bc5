-- basics: small pieces the other functions stand on.

-- uuidv7: time-ordered ids made by the server. PostgreSQL 18 has its own, older ones get the layout of RFC 9562
-- section 5.7 (48 bits of milliseconds, version, random); its first 12 random bits are a fraction of the
-- millisecond (section 6.2, method 3), so that what one call starts is in its order.
do $do$
begin
    if to_regprocedure('pg_catalog.uuidv7()') is not null then
        create or replace function rowlock.uuidv7() returns uuid language sql volatile parallel safe
        return pg_catalog.uuidv7();
    else
        create or replace function rowlock.uuidv7() returns uuid language sql volatile parallel safe
        return (select encode(
                    overlay(uuid_send(gen_random_uuid())
                            placing substring(int8send(x.us / 1000) from 3)
                                    || int2send((x'7000'::integer + x.us % 1000 * 4096 / 1000)::smallint)
                            from 1 for 8), 'hex')::uuid
                  from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as us offset 0) as x);
    end if;
end
$do$;

-- shown: a name as messages show it: what somebody took for a name may be a book.
create or replace function rowlock.shown(p_name text) returns text
language sql immutable
return case when length(p_name) > 200 then left(p_name, 200) || '…' else coalesce(p_name, 'null') end;

-- is_paused: whether a task was set aside for its workflow (pause.sql).
create or replace function rowlock.is_paused(p_reason jsonb) returns boolean
language sql immutable
return p_reason ->> 'kind' is not distinct from 'paused';

-- require_read_committed: each statement of our functions must see what committed before it. At
-- a higher isolation level a lock succeeds and the look behind it is old: limits overshoot and
-- wake-ups are lost (protocol test 4b).
create or replace function rowlock.require_read_committed() returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'Rowlock''s own transactions must be READ COMMITTED, this one is %',
                        current_setting('transaction_isolation')
            using errcode = 'RLI01',
                  hint = 'Call this function in a transaction begun with ISOLATION LEVEL READ COMMITTED.';
    end if;
end $$;

-- current_version: the code version that takes unpinned runs: the last promoted, else the last
-- that registered for the first time. Null when no worker of the app carries a version.
create or replace function rowlock.current_version(app text) returns text
language sql stable set search_path = pg_catalog
return (
    select v.name
      from rowlock.version as v
     where v.app = current_version.app and v.retired_at is null
     order by v.promoted_at desc nulls last, v.registered_at desc, v.name desc
     limit 1);
comment on function rowlock.current_version(text) is
'The version that takes the runs which are not pinned yet; null when the app''s workers carry none.

app: which app.';

-- notify_idle: tell idle workers of a queue that there is work. Polling is the truth, this only
-- shortens it: NOTIFY takes a database-wide lock at commit, so it is sent only when someone
-- says that he listens, and to two of them, not to a herd. Two, because one may be frozen.
create or replace function rowlock.notify_idle(p_app text, p_queue text, p_but bigint default null)
returns void
-- jit off: where a caller forbids sequential scans, the cost of this one (the table is tiny, and has no
-- index for it) would have it compiled, for 100 ms, before PostgreSQL 18.
language plpgsql volatile set search_path = pg_catalog set jit = off as $$
begin
    perform pg_notify('rowlock_worker_' || w.id, '')
       from (select id
               from rowlock.worker
              where app = p_app and listening and not draining
                and lease_until > clock_timestamp()
                and (queues is null or p_queue = any (queues))
                and id is distinct from p_but
              order by random()
              limit 2) as w;
end $$;
