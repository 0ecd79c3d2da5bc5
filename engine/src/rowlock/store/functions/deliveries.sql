-- deliveries: what others tell a run (messages), what it shows them (events, streams).
--
-- Whoever delivers holds the run's row, an insert-only row that no worker needs to claim, take over
-- or end the run: so a caller may leave the transaction open, and only this run waits. Three
-- statements, each with a snapshot of its own: lock, write, then look who sleeps.

-- check_name, check_key: refused before anything is written.
create or replace function rowlock.check_name(p_what text, p_name text) returns void
language plpgsql immutable set search_path = pg_catalog as $$
begin
    if p_name is null or p_name = '' or length(p_name) > 200 then
        raise exception 'the % has %, but must have 1 to 200 characters', p_what,
                        coalesce(length(p_name) || ' characters', 'no value')
            using errcode = 'RLV02', hint = 'Nothing was changed.';
    end if;
end $$;

create or replace function rowlock.check_key(p_key text) returns void
language plpgsql immutable set search_path = pg_catalog as $$
begin
    if p_key = '' or octet_length(p_key) > 1000 then
        raise exception 'the key has % bytes, but must have 1 to 1000', octet_length(p_key)
            using errcode = 'RLV02', hint = 'Nothing was changed.';
    end if;
end $$;

-- refuse_unknown, refuse_finished: why a run can't be told anything.
create or replace function rowlock.refuse_unknown(p_run uuid) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    raise exception 'there is no run %', p_run
        using errcode = 'RLN03',
              hint = 'The id is wrong, retention has removed the run, or it is of an app that this role may not use.';
end $$;

create or replace function rowlock.refuse_finished(p_run uuid, p_what text) returns void
language plpgsql stable set search_path = pg_catalog as $$
declare
    v_status text;
begin
    select o.status into v_status from rowlock.outcome as o
     where o.run_id = p_run order by o.generation desc limit 1;
    raise exception 'run % has ended (%) and can''t be %', p_run, coalesce(v_status, 'it is gone'), p_what
        using errcode = 'RLS02',
              hint = 'Nothing was changed. rowlock.resume, retry, rewind or fork let an ended run go on.';
end $$;

create or replace function rowlock.send(
    run_id uuid, topic text, value jsonb default 'null', key text default null)
returns bigint
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_id   bigint;
    v_task rowlock.task;
begin
    perform rowlock.check_name('topic', send.topic);
    perform rowlock.check_key(send.key);
    perform 1 from rowlock.run as r
     where r.id = send.run_id and rowlock.allowed(r.app)
       for no key update;
    if not found then
        perform rowlock.refuse_unknown(send.run_id);
    end if;
    if send.key is not null then
        select m.id into v_id from rowlock.message as m where m.run_id = send.run_id and m.key = send.key;
        if found then
            return v_id;
        end if;
    end if;
    if not exists (select from rowlock.task as t where t.run_id = send.run_id) then
        perform rowlock.refuse_finished(send.run_id, 'sent anything');
    end if;
    -- The conflict: a message that an old snapshot does not show. Told as serialization_failure.
    insert into rowlock.message (run_id, sent_at, topic, key, value)
    values (send.run_id, clock_timestamp(), send.topic, send.key, coalesce(send.value, 'null'))
    on conflict do nothing
    returning id into v_id;
    if current_setting('transaction_isolation') <> 'read committed' then
        -- An old snapshot would not see that the run went to sleep meanwhile.
        perform rowlock.note_waiters(array[send.run_id]);
        return v_id;
    end if;
    update rowlock.task as t
       set state = 'ready', due_at = clock_timestamp()
     where t.run_id = send.run_id and t.state = 'waiting'
       and exists (select from rowlock.wait as w
                    where w.run_id = send.run_id and w.kind = 'message' and w.name = send.topic)
    returning t.* into v_task;
    if found then
        perform rowlock.notify_idle(v_task.app, v_task.queue);
    end if;
    return v_id;
end $$;
comment on function rowlock.send(uuid, text, jsonb, text) is
'Sends a message to an unfinished run, which gets it with app.receive(topic), and gives its number. Until
the transaction ends nobody else can send to this run.

run_id: the run.
topic: what it is about, in 1 to 200 characters.
value: what it says; default: null.
key: an idempotency key: one that this run was sent before gives that message back; default: none.';

create or replace function rowlock.set_event(run_id uuid, name text, value jsonb default 'null')
returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_app text;
begin
    perform rowlock.check_name('name', set_event.name);
    select r.app into v_app from rowlock.run as r
     where r.id = set_event.run_id and rowlock.allowed(r.app)
       for no key update;
    if not found then
        perform rowlock.refuse_unknown(set_event.run_id);
    end if;
    if not exists (select from rowlock.task as t where t.run_id = set_event.run_id) then
        perform rowlock.refuse_finished(set_event.run_id, 'given an event');
    end if;
    insert into rowlock.event (run_id, set_at, name, value)
    values (set_event.run_id, clock_timestamp(), set_event.name, coalesce(set_event.value, 'null'))
    on conflict (run_id, name) do update set value = excluded.value, set_at = excluded.set_at;
    if rowlock.note_watchers(array[set_event.run_id], set_event.name) then
        perform rowlock.notify_tender(v_app);
    end if;
    perform rowlock.tell(array[set_event.run_id]);
end $$;
comment on function rowlock.set_event(uuid, text, jsonb) is
'Sets an event of an unfinished run, and wakes who waits for it. The latest value counts.

run_id: the run.
name: which event, in 1 to 200 characters.
value: its value; default: null.';

create or replace function rowlock.get_event(run_id uuid, name text) returns jsonb
language sql stable set search_path = pg_catalog
return (select e.value from rowlock.event as e
         where e.run_id = get_event.run_id and e.name = get_event.name);
comment on function rowlock.get_event(uuid, text) is
'The latest value of a run''s event; null when it was never set.

run_id: the run.
name: which event.';

create or replace function rowlock.emit(run_id uuid, stream text, value jsonb default 'null')
returns bigint
language plpgsql volatile
set search_path = pg_catalog
as $$
#variable_conflict use_column
declare
    v_offset bigint;
begin
    perform rowlock.check_name('stream', emit.stream);
    perform 1 from rowlock.run as r
     where r.id = emit.run_id and rowlock.allowed(r.app)
       for no key update;
    if not found then
        perform rowlock.refuse_unknown(emit.run_id);
    end if;
    if not exists (select from rowlock.task as t where t.run_id = emit.run_id) then
        perform rowlock.refuse_finished(emit.run_id, 'written to');
    end if;
    v_offset := rowlock.next_offset(emit.run_id, emit.stream);
    -- The conflict: an entry that an old snapshot does not show. Told as serialization_failure.
    insert into rowlock.stream_entry (run_id, emitted_at, "offset", stream, value)
    values (emit.run_id, clock_timestamp(), v_offset, emit.stream, coalesce(emit.value, 'null'))
    on conflict do nothing;
    perform rowlock.tell(array[emit.run_id]);
    return v_offset;
end $$;
comment on function rowlock.emit(uuid, text, jsonb) is
'Appends to a stream of an unfinished run, and gives the offset, counted from 0.

run_id: the run.
stream: which stream, in 1 to 200 characters.
value: what is appended; default: null.';
