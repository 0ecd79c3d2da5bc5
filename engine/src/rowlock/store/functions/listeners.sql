-- listeners: who waits outside, and how he is told.
--
-- Clients that wait for an outcome, an event or a stream look now and then; NOTIFY only shortens
-- that. It takes a database-wide lock at commit (3,300 commits a second become 1,500 with 16
-- clients), so nobody notifies unless somebody says that he listens, and the journal never does: it
-- says `listened`, and its worker tells in a transaction of its own, a few times a second.

-- Programs in other languages listen like our own clients do: docs/languages.md has the protocol.

-- Before they were public their arguments had other names, which `create or replace` can't change.
do $do$
begin
    if exists (select from pg_catalog.pg_proc as p
                where p.oid = to_regprocedure('rowlock.listen(uuid, interval)')
                  and p.proargnames[1] = 'p_listener') then
        drop function rowlock.listen(uuid, interval);
        drop function rowlock.unlisten(uuid);
    end if;
end $do$;

-- listen: somebody listens on the channel rowlock_news, for so long from now. Bounded: everybody pays
-- for a listener, and one who died without unlisten looks like one who lives.
create or replace function rowlock.listen(listener uuid, lease interval) returns void
language plpgsql volatile set search_path = pg_catalog set jit = off as $$
begin
    if listen.listener is null then
        raise exception 'the listener has no id'
            using errcode = 'RLV02', hint = 'Any uuid of your own will do, the same one each time. Nothing was changed.';
    end if;
    if listen.lease is null or listen.lease <= interval '0' or listen.lease > interval '1 hour' then
        raise exception 'the lease is %, but must be above 0 and at most 1 hour',
                        coalesce(listen.lease::text, 'null')
            using errcode = 'RLV02',
                  hint = 'For example lease => interval ''30 seconds'', renewed every 10. Nothing was changed.';
    end if;
    insert into rowlock.listener (id, until) values (listen.listener, clock_timestamp() + listen.lease)
    on conflict (id) do update set until = excluded.until;
    if current_setting('transaction_isolation') <> 'read committed' then
        return;  -- rows that others have removed since would fail the caller
    end if;
    delete from rowlock.listener
     where id = any (array(select l.id from rowlock.listener as l
                            where l.until < clock_timestamp() for update skip locked));
end $$;
comment on function rowlock.listen(uuid, interval) is
'Says that somebody listens on the channel rowlock_news: the ids of runs that end, set events or emit are
notified there. LISTEN first, and look again afterwards: docs/languages.md has the protocol.

listener: an id of your own.
lease: for how long from now, 1 hour at most; call it again in time.';

create or replace function rowlock.unlisten(listener uuid) returns void
language sql volatile set search_path = pg_catalog as $$
    delete from rowlock.listener as l where l.id = unlisten.listener;
$$;
comment on function rowlock.unlisten(uuid) is
'Says that somebody who called rowlock.listen listens no more: nobody notifies for nobody.

listener: the id that was given.';

create or replace function rowlock.anybody_listens() returns boolean
language plpgsql stable set search_path = pg_catalog set jit = off as $$
begin
    return exists (select from rowlock.listener as l where l.until > clock_timestamp());
end $$;

-- tell: there is news of these runs. A notification carries less than 8,000 bytes: 200 ids.
create or replace function rowlock.tell(p_runs uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog set jit = off as $$
begin
    if rowlock.anybody_listens() then
        perform pg_notify('rowlock_news', string_agg(r.id::text, ','))
           from unnest(p_runs) with ordinality as r (id, n)
          group by (r.n - 1) / 200;
    end if;
end $$;
