-- transactions: how transaction steps are recorded, on connections of their own.

-- record_transaction: the last statement of a transaction step, pipelined with COMMIT. It may
-- wait (it has a connection of its own), and it raises when it wrote no row: to Postgres a fence
-- that matched nothing is no error, and the user's writes would commit without their step.
create or replace function rowlock.record_transaction(
    p_run uuid, p_generation integer, p_epoch integer, p_place text, p_position integer, p_name text,
    p_attempts integer, p_seconds double precision, p_output jsonb)
returns void
language plpgsql volatile set search_path = pg_catalog as $$
begin
    perform 1 from rowlock.task as t
      where t.run_id = p_run and t.generation = p_generation and t.epoch = p_epoch and t.state = 'running'
        and rowlock.allowed(t.app)
        for key share;
    if not found then
        raise exception 'run % is no longer owned in epoch %', p_run, p_epoch
            using errcode = 'RLF01', hint = 'Another worker goes on with it; this transaction is rolled back.';
    end if;
    insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                              place, kind, name, output)
    values (p_run, clock_timestamp(), p_generation, p_position, p_epoch, p_seconds, p_attempts,
            p_place, 'transaction', p_name, p_output);
end $$;

-- record_failed_transaction: the error of a transaction step, after its rollback and over another
-- connection than the journal's: the lost transaction may still be open on the server, and this
-- waits for it (5e). If that one committed after all, its step is what counts.
create or replace function rowlock.record_failed_transaction(
    p_run uuid, p_generation integer, p_epoch integer, p_place text, p_position integer, p_name text,
    p_attempts integer, p_seconds double precision, p_error jsonb)
returns table ("position" integer, output text, error text)
language plpgsql volatile set search_path = pg_catalog as $$
#variable_conflict use_column
begin
    perform rowlock.require_read_committed();
    insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                              place, kind, name, error)
    select t.run_id, clock_timestamp(), p_generation, p_position, p_epoch, p_seconds, p_attempts,
           p_place, 'transaction', p_name, p_error
      from rowlock.task as t
     where t.run_id = p_run and t.generation = p_generation and t.epoch = p_epoch and t.state = 'running'
       and rowlock.allowed(t.app)
       for key share
    on conflict do nothing;
    return query
    select s.position, s.output::text, s.error::text
      from rowlock.step as s
     where s.run_id = p_run and s.generation = p_generation and s.place = p_place
       and exists (select from rowlock.task as t
                    where t.run_id = p_run and t.epoch = p_epoch and t.state = 'running'
                      and rowlock.allowed(t.app));
end $$;
