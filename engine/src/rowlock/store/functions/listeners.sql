-- listeners: who waits outside, and how he is told.
--
-- Clients that wait for an outcome, an event or a stream look now and then; NOTIFY only shortens
-- that. It takes a database-wide lock at commit (3,300 commits a second become 1,500 with 16
-- clients), so nobody notifies unless somebody says that he listens, and the journal never does: it
-- says `listened`, and its worker tells in a transaction of its own, a few times a second.

-- listen: this process listens on the channel rowlock_news, for so long from now.
create or replace function rowlock.listen(p_listener uuid, p_for interval) returns void
language plpgsql volatile set search_path = pg_catalog set jit = off as $$
begin
    insert into rowlock.listener (id, until) values (p_listener, clock_timestamp() + p_for)
    on conflict (id) do update set until = excluded.until;
    delete from rowlock.listener
     where id = any (array(select l.id from rowlock.listener as l
                            where l.until < clock_timestamp() for update skip locked));
end $$;

create or replace function rowlock.unlisten(p_listener uuid) returns void
language sql volatile set search_path = pg_catalog as $$
    delete from rowlock.listener where id = p_listener;
$$;

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
