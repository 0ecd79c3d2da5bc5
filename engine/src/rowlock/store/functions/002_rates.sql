-- rates: how many first claims fit into a queue's rate now, and which are used.
--
-- No window as long as the period, wherever it begins, holds more first claims than the rate says. What is
-- counted are rows of rate_use, written by the claim itself, in its transaction: nothing has to be put back
-- after a crash. First claims of one two-hundredth of the period share a row and count as of the last of
-- them, so later than they were: never too many, and 200 rows are the most that a claim reads. The time of a
-- first claim is the task's started_at, and never before that of the one before it, whatever the clock does.
-- `smooth` leaves at least period / rate between two. `burst` is a bucket of so many tokens that fills at the
-- rate: kept as the time until which it is used up, not as a count.

-- rate_of: a rate as people write it: 100/min, 5/s, 1000/1h, 10/30s; with `smooth`, or `burst 20`. No row: it
-- is none.
create or replace function rowlock.rate_of(
    p_text text, out most integer, out period interval, out smooth boolean, out burst integer)
returns setof record
language sql immutable
set search_path = pg_catalog
as $$
    select x.m[1]::integer,
           make_interval(secs => coalesce(x.m[2], '1')::double precision
                                 * case x.m[3] when 's' then 1 when 'min' then 60 when 'h' then 3600 else 86400 end),
           x.m[4] is not distinct from 'smooth', x.m[5]::integer
      from regexp_match(p_text, '^([1-9]\d{0,8})/([1-9]\d{0,6})?(s|min|h|d)(?: (smooth|burst ([1-9]\d{0,8})))?$') as x (m)
     where x.m is not null
$$;

-- rate_text: the same the other way.
create or replace function rowlock.rate_text(p_most integer, p_period interval, p_smooth boolean, p_burst integer)
returns text
language sql immutable
set search_path = pg_catalog
as $$
    select p_most || '/'
           || (select case when x.s / u.s = 1 then '' else (x.s / u.s)::bigint::text end || u.name
                 from (values (86400, 'd'), (3600, 'h'), (60, 'min'), (1, 's')) as u (s, name)
                where x.s % u.s = 0 order by u.s desc limit 1)
           || case when p_smooth then ' smooth' else coalesce(' burst ' || p_burst, '') end
      from (select extract(epoch from p_period)::bigint as s) as x
$$;

-- rate_step: the time that belongs to one first claim; rounded up, or one too many would fit.
create or replace function rowlock.rate_step(p_most integer, p_period interval) returns interval
language sql immutable
return make_interval(secs => (ceil(extract(epoch from p_period) * 1000000 / p_most) / 1000000)::double precision);

-- rate_room: how many first claims may be made at this time, and if none, in how many seconds one.
create or replace function rowlock.rate_room(
    p_app text, p_queue text, p_share text, p_most integer, p_period interval, p_smooth boolean,
    p_burst integer, p_at timestamptz, out fresh integer, out free_in double precision)
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_last  rowlock.rate_use;
    v_step  interval;
    v_first timestamptz;
    v_used  bigint;
begin
    if p_smooth or p_burst is not null then
        select u.* into v_last from rowlock.rate_use as u
         where u.app = p_app and u.queue = p_queue and u.share = p_share
         order by u.app desc, u.queue desc, u.share desc, u.at desc limit 1;
        v_step := rowlock.rate_step(p_most, p_period);
        if p_smooth then
            fresh := case when v_last.at + v_step > p_at then 0 else 1 end;
            free_in := extract(epoch from v_last.at + v_step - p_at);
        else
            -- The bucket is full when nothing of it is used any more.
            v_first := greatest(p_at, v_last.until);
            fresh := floor(p_burst - extract(epoch from v_first - p_at) / extract(epoch from v_step));
            free_in := extract(epoch from v_first - p_at - (p_burst - 1) * v_step);
        end if;
    else
        select sum(u.n), min(u.at) into v_used, v_first from rowlock.rate_use as u
         where u.app = p_app and u.queue = p_queue and u.share = p_share and u.at >= p_at - p_period;
        fresh := greatest(0, p_most - coalesce(v_used, 0));
        free_in := extract(epoch from v_first + p_period - p_at) + 0.000001;
    end if;
    fresh := greatest(0, fresh);
    free_in := case when fresh = 0 then greatest(free_in, 0.0001) end;
end $$;

-- use_rate: note first claims made at this time, and forget some that count no more. p_most null: for the time
-- alone.
create or replace function rowlock.use_rate(
    p_app text, p_queue text, p_share text, p_most integer, p_period interval, p_at timestamptz, p_n integer)
returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    v_last  rowlock.rate_use;
    v_grain numeric := extract(epoch from p_period) / 200;
    v_until timestamptz;
begin
    select u.* into v_last from rowlock.rate_use as u
     where u.app = p_app and u.queue = p_queue and u.share = p_share
     order by u.app desc, u.queue desc, u.share desc, u.at desc limit 1;
    v_until := greatest(p_at, v_last.until) + p_n * rowlock.rate_step(p_most, p_period);
    if v_last.at = p_at
       or floor(extract(epoch from v_last.at) / v_grain) = floor(extract(epoch from p_at) / v_grain) then
        update rowlock.rate_use as u
           set at = p_at, n = u.n + p_n, until = v_until, expires_at = greatest(p_at + p_period, v_until)
         where u.app = p_app and u.queue = p_queue and u.share = p_share and u.at = v_last.at;
    else
        insert into rowlock.rate_use (at, expires_at, until, n, app, queue, share)
        values (p_at, greatest(p_at + p_period, v_until), v_until, p_n, p_app, p_queue, p_share);
    end if;
    -- Of all shares: a partition that is never used again leaves nothing behind.
    delete from rowlock.rate_use
     where ctid = any (array(
             select u.ctid from rowlock.rate_use as u
              where u.app = p_app and u.queue = p_queue and u.expires_at < p_at
              order by u.app, u.queue, u.expires_at limit 20));
end $$;
