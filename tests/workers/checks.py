"""What must hold of every history, whatever happened; each check is a query that finds nothing."""

from __future__ import annotations

import psycopg

CHECKS = {
    "a run has neither task nor outcome": """
        select r.id from rowlock.run r
         where not exists (select from rowlock.task t where t.run_id = r.id)
           and not exists (select from rowlock.outcome o where o.run_id = r.id)""",
    "a run has a task and an outcome of the same generation": """
        select t.run_id from rowlock.task t
          join rowlock.outcome o on o.run_id = t.run_id and o.generation = t.generation""",
    "a step was recorded after the outcome of its generation": """
        select s.run_id, s.place from rowlock.step s
          join rowlock.outcome o on o.run_id = s.run_id and o.generation = s.generation
         where s.recorded_at > o.finished_at""",
    "a history mixes owners: an older epoch recorded after a newer one": """
        select run_id from (
            select run_id, epoch, lag(epoch) over (
                       partition by run_id, generation order by position) as before
              from rowlock.step) x
         where before > epoch""",
    "a history's positions do not follow the order of recording": """
        select run_id from (
            select run_id, recorded_at, kind, lag(recorded_at) over (
                       partition by run_id, generation order by position) as before,
                   lag(kind) over (partition by run_id, generation order by position) as kind_before
              from rowlock.step) x
         where before > recorded_at and kind <> 'transaction'
           -- A batch that is sent again finds what its first try, whose answer nobody got, did not.
           and kind_before not in ('transaction', 'receive', 'send')""",
    "two steps have one position": """
        select run_id, position from rowlock.step
         group by run_id, generation, position having count(*) > 1""",
    "a step has no run": """
        select run_id from rowlock.step s
         where not exists (select from rowlock.run r where r.id = s.run_id)""",
    "a task has no run": """
        select run_id from rowlock.task t
         where not exists (select from rowlock.run r where r.id = t.run_id)""",
    "an outcome has no run": """
        select run_id from rowlock.outcome o
         where not exists (select from rowlock.run r where r.id = o.run_id)""",
    "a key points to no run": """
        select key from rowlock.run_key k
         where k.expires_at is null
           and not exists (select from rowlock.run r where r.id = k.run_id)""",
    "a key expires although its run is there": """
        select key from rowlock.run_key k
         where k.expires_at is not null
           and exists (select from rowlock.run r where r.id = k.run_id)""",
    "something is left of a run that was removed": """
        select x.run_id, x.what from (
            select run_id, 'generation' as what from rowlock.generation
            union all select run_id, 'message' from rowlock.message
            union all select run_id, 'event' from rowlock.event
            union all select run_id, 'stream entry' from rowlock.stream_entry
            union all select run_id, 'wait' from rowlock.wait
            union all select run_id, 'adoption' from rowlock.adoption
            union all select parent_id, 'adoption' from rowlock.adoption
            union all select split_part(name, ':', 1)::uuid, 'arrival' from rowlock.arrival) x
         where not exists (select from rowlock.run r where r.id = x.run_id)""",
    "a child was removed before its parent": """
        select s.run_id, s.place from rowlock.step s
         where s.kind = 'child' and s.error is null
           and not exists (select from rowlock.run c where c.id = (s.output #>> '{}')::uuid)
           -- a parent that has begun anew since reads it no more
           and not exists (select from rowlock.outcome o
                            where o.run_id = s.run_id and o.generation >= s.generation
                              and o.status = 'continued')""",
    "a run waits for one that was removed": """
        select w.run_id, w.on_run_id from rowlock.wait w
         where w.on_run_id is not null
           and not exists (select from rowlock.run r where r.id = w.on_run_id)""",
    "a child was started twice for one place": """
        select parent_id, parent_place from rowlock.run where parent_id is not null
         group by parent_id, parent_generation, parent_place, child_index having count(*) > 1""",
    "a child is not in its parent's history": """
        select c.id from rowlock.run c
         where c.parent_id is not null and c.key is null
           and exists (select from rowlock.run p where p.id = c.parent_id)
           and not exists (select from rowlock.step s
                            where s.run_id = c.parent_id and s.generation = c.parent_generation
                              and s.place = c.parent_place
                              and (s.output = to_jsonb(c.id)
                                   or (s.kind = 'children' and c.child_index is not null)))""",
    "a message was received that is not in the history": """
        select m.run_id, m.id from rowlock.message m
         where m.received_place is not null
           and not exists (select from rowlock.step s
                            where s.run_id = m.run_id and s.generation = m.received_generation
                              and s.place = m.received_place and s.kind = 'receive'
                              and s.name = m.topic)""",
    "a message was received twice, or two at one place": """
        select run_id, received_place from rowlock.message where received_place is not null
         group by run_id, received_generation, received_place having count(*) > 1""",
    "messages of a topic were not received in their order": """
        select run_id from (
            select m.run_id, s.position, lag(s.position) over (
                       partition by m.run_id, m.received_generation, m.topic
                       order by m.id) as before
              from rowlock.message m
              join rowlock.step s on s.run_id = m.run_id and s.generation = m.received_generation
                                 and s.place = m.received_place) x
         where before > position""",
    "an entry of a stream is missing": """
        select run_id, stream from rowlock.stream_entry
         group by run_id, stream having count(*) <> max("offset") + 1""",
    "what was emitted is not in the stream": """
        select s.run_id, s.name from rowlock.step s
         where s.kind = 'emit' and s.error is null
           and not exists (select from rowlock.run r
                            where r.id = s.run_id and r.forked_from is not null)
         group by s.run_id, s.generation, s.name
        having count(*) > (select count(*) from rowlock.stream_entry e
                            where e.run_id = s.run_id and e.stream = s.name)""",
    "a finished run left waits behind": """
        select w.run_id from rowlock.wait w
         where not exists (select from rowlock.task t where t.run_id = w.run_id)""",
    "a run sleeps although what it waits for has ended": """
        select t.run_id from rowlock.task t
          join rowlock.wait w on w.run_id = t.run_id and w.generation = t.generation
         where t.state = 'waiting' and w.on_run_id is not null and t.due_at > now() + interval '2 s'
           and not exists (select from rowlock.task o where o.run_id = w.on_run_id)
           and not exists (select from rowlock.wake k where k.run_id = t.run_id)""",
    "a run sleeps although a message it waits for is there": """
        select t.run_id from rowlock.task t
          join rowlock.wait w on w.run_id = t.run_id and w.generation = t.generation
          join rowlock.message m on m.run_id = t.run_id and m.topic = w.name
         where t.state = 'waiting' and w.kind = 'message' and m.received_place is null
           and t.due_at > now() + interval '2 s'
           and not exists (select from rowlock.wake k where k.run_id = t.run_id)""",
    "a run sleeps although the event it waits for is there": """
        select t.run_id from rowlock.task t
          join rowlock.wait w on w.run_id = t.run_id and w.generation = t.generation
          join rowlock.event e on e.run_id = w.on_run_id and e.name = w.name
         where t.state = 'waiting' and w.kind = 'event' and t.due_at > now() + interval '2 s'
           and not exists (select from rowlock.wake k where k.run_id = t.run_id)""",
    "a claim has no worker": """
        select run_id from rowlock.task t where state = 'running'
           and not exists (select from rowlock.worker w where w.id = t.worker_id)""",
}


def broken(database: str) -> dict[str, list[tuple[object, ...]]]:
    """The checks that found something, with the first of what they found."""
    with psycopg.connect(database, autocommit=True) as connection:
        found = {
            name: connection.execute(f"{query} limit 5").fetchall()
            for name, query in CHECKS.items()
        }
    return {name: rows for name, rows in found.items() if rows}
