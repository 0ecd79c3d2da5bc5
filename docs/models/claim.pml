/* claim: claims, limits, journals and takeovers of one queue, as PostgreSQL's READ COMMITTED runs them.
 *
 * Each `atomic` is one statement of the SQL that it names; between two of them anything may happen: another's
 * statement or commit, an abort, a crash, the end of a lease. Tables hold what is committed; what a transaction
 * wrote stays in its own variables until its commit, since nobody else can see it. Locks are kept apart from
 * rows: a mask of those that share one (FOR KEY SHARE), or the one that has it, plus one.
 *
 * README.md says what is left out, and which SQL each step stands for. With -DBROKEN_… one rule is broken on
 * purpose; every one of these must be refuted. -DLIVE=n bounds bad luck, and asks that everything ends.
 */

#ifndef WORKERS
#define WORKERS 2            /* processes; number 0 keeps its lease and lives, or nobody would be left */
#endif
#ifndef TASKS
#define TASKS 2
#endif
#ifndef REAPERS
#define REAPERS 1
#endif
#ifndef FIRST
#define FIRST NONE           /* the limit at first */
#endif
#ifndef MOST
#define MOST 2               /* limits are 1 to MOST, or none */
#endif
#ifndef SETS
#define SETS 2               /* how often the limit is changed */
#endif
#ifndef LAPSES
#define LAPSES 1             /* leases that end although their worker lives */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef HANDBACKS
#define HANDBACKS 0
#endif

#define NONE      15         /* no limit: more than any number of runs */
#define NOBODY    15
#define CLAIMER   (w)        /* connections */
#define JOURNAL   (WORKERS + w)
#define REAPER    (2 * WORKERS + r)
#define BIT(n)    (1 << (n))

#ifdef LIVE
byte luck = LIVE;
#define BAD_LUCK (luck > 0) -> luck--
#else
#define BAD_LUCK true
#endif

mtype = { ready, running, done };

/* rowlock.task, and whether its one step is in rowlock.step */
mtype state[TASKS] = ready;
byte  epoch[TASKS] = 1;
byte  owner[TASKS] = NOBODY;
bool  limited[TASKS];        /* what a limit counts */
bool  recorded[TASKS];
byte  task_key[TASKS];       /* locks: FOR KEY SHARE, NO KEY UPDATE, UPDATE */
byte  task_nokey[TASKS];
byte  task_update[TASKS];

/* rowlock.worker */
bool  registered[WORKERS] = true;
bool  leased[WORKERS] = true;
byte  worker_key[WORKERS];
byte  worker_update[WORKERS];

/* rowlock.queue and rowlock.queue_gate */
byte  limit = FIRST;
byte  revision = 1;
byte  gate_marked;
byte  gate_key;
byte  gate_update;

/* What each process remembers: the epoch of every claim it knows of; 0: none. */
typedef Memory { byte epoch[TASKS] };
Memory known[WORKERS];
bool  alive[WORKERS] = true;

/* The promise, from outside: the largest limit in force since a claim had the gate; 0: it has it not. */
byte  allowed[WORKERS];

byte  sets = SETS;
byte  lapses = LAPSES;
byte  crashes = CRASHES;
byte  handbacks = HANDBACKS;

#define CAN_SHARE(t)  (task_update[t] == 0)
#define CAN_CHANGE(t) (task_update[t] == 0 && task_nokey[t] == 0)
#define CAN_TAKE(t)   (CAN_CHANGE(t) && task_key[t] == 0)

#if TASKS == 1
#define ANY(what)   (what(0))
#define COUNT(what) (what(0))
#elif TASKS == 2
#define ANY(what)   (what(0) || what(1))
#define COUNT(what) (what(0) + what(1))
#else
#define ANY(what)   (what(0) || what(1) || what(2))
#define COUNT(what) (what(0) + what(1) + what(2))
#endif
#define IS_READY(t)    (state[t] == ready)
#define IS_RUNNING(t)  (state[t] == running)
#define IS_COUNTED(t)  (state[t] == running && (limited[t] || (marks & BIT(t)) != 0))
#define IS_MARKED(t)   (state[t] == running && limited[t])
#define IS_MISSED(t)   (state[t] == running && !limited[t] && (marks & BIT(t)) == 0)
#define IS_UNKNOWN(t)  (state[t] == running && owner[t] == w && known[w].epoch[t] != epoch[t])

/* The end of a claim's transaction, either way. */
inline close_claim() {
    worker_key[w] = worker_key[w] & ~BIT(CLAIMER);
    gate_key = gate_key & ~BIT(CLAIMER);
    if :: gate_update == CLAIMER + 1 -> gate_update = 0 :: else fi;
    for (i : 0 .. TASKS - 1) {
        if :: task_nokey[i] == CLAIMER + 1 -> task_nokey[i] = 0 :: else fi
    }
    allowed[w] = 0; alone = false; seen = 0; seen_revision = 0; all = false; counted = 0; room = 0;
    marks = 0; picked = 0
}

/* claim_next (claim.sql), pick_limited and mark_running (limits.sql) */
proctype Claimer(byte w) {
    bool alone;              /* the gate alone, to count; else shared */
    byte seen, seen_revision;
    bool all;                /* not all that run are marked: count them one by one */
    byte counted, room;
    byte marks, picked;      /* own writes until the commit */
    byte i;

    /* (1) Without locks: is there work, a limit, room? */
end_look:
    atomic {
        alive[w] && registered[w] && leased[w] && ANY(IS_READY) && (limit == NONE || COUNT(IS_MARKED) < limit) ->
        alone = (limit != NONE);
#ifdef BROKEN_SETTINGS_READ_ONCE
        seen = limit; seen_revision = revision;
#endif
    }
    /* (2) The own worker's row FOR KEY SHARE SKIP LOCKED, its lease checked. */
    atomic {
        if
#ifdef BROKEN_CLAIM_WITHOUT_WORKER_ROW
        :: true
#else
        :: registered[w] && leased[w] && worker_update[w] == 0 -> worker_key[w] = worker_key[w] | BIT(CLAIMER)
        :: !(registered[w] && leased[w] && worker_update[w] == 0) -> goto abort
#endif
        :: BAD_LUCK -> goto abort
        fi
    }
#ifdef BROKEN_COUNT_IN_THE_LOCKS_STATEMENT
    /* A statement's snapshot is older than the locks that it takes. */
    counted = COUNT(IS_COUNTED);
#endif
    /* (3) The queue's gate SKIP LOCKED: FOR UPDATE to count, else FOR KEY SHARE. */
    atomic {
        if
#ifdef BROKEN_NO_GATE
        :: true
#else
#ifdef BROKEN_GATE_SHARED_BY_LIMITED
        :: gate_update == 0 -> gate_key = gate_key | BIT(CLAIMER)
        :: gate_update != 0 -> goto abort
#else
        :: alone && gate_update == 0 && gate_key == 0 -> gate_update = CLAIMER + 1
        :: alone && !(gate_update == 0 && gate_key == 0) -> goto abort
        :: !alone && gate_update == 0 -> gate_key = gate_key | BIT(CLAIMER)
        :: !alone && gate_update != 0 -> goto abort
#endif
#endif
        :: BAD_LUCK -> goto abort
        fi;
        allowed[w] = limit
    }
    /* (4) A later statement: the settings again. Who shares the gate and finds a limit takes nothing. */
    atomic {
#ifndef BROKEN_SETTINGS_READ_ONCE
        seen = limit; seen_revision = revision;
#endif
        if
        :: !alone && seen == NONE -> room = TASKS; goto pick
        :: !alone && seen != NONE -> goto abort
        :: alone
        :: BAD_LUCK -> goto abort
        fi
    }
    /* Limited since: what runs is marked first, what can't be locked is looked at once more. */
    atomic {
        if
#ifdef BROKEN_NEVER_MARKED
        :: true -> goto count
#endif
        :: gate_marked >= seen_revision -> seen_revision = 0; goto count
        :: gate_marked < seen_revision ->
            for (i : 0 .. TASKS - 1) {
                if
                :: state[i] == running && !limited[i] && CAN_CHANGE(i) ->
                    task_nokey[i] = CLAIMER + 1; marks = marks | BIT(i)
                :: else
                fi
            }
        :: BAD_LUCK -> goto abort
        fi
    }
    atomic {
        if
#ifdef BROKEN_LOCKED_ONES_NOT_COUNTED
        :: true
#else
        :: ANY(IS_MISSED) -> all = true; seen_revision = 0
        :: !ANY(IS_MISSED)
#endif
        :: BAD_LUCK -> goto abort
        fi
    }
count:
    atomic {
#ifndef BROKEN_COUNT_IN_THE_LOCKS_STATEMENT
        counted = (all -> COUNT(IS_RUNNING) : COUNT(IS_COUNTED));
#endif
        if
        :: seen == NONE -> room = TASKS
        :: seen != NONE && counted < seen -> room = seen - counted
        :: seen != NONE && counted >= seen -> room = 0; goto commit
        :: BAD_LUCK -> goto abort
        fi;
        counted = 0
    }
    /* (5) The first that can be locked FOR NO KEY UPDATE SKIP LOCKED; a stranger may hold any of them. */
pick:
    atomic {
        for (i : 0 .. TASKS - 1) {
            if
            :: room > 0 && state[i] == ready && CAN_CHANGE(i) ->
                task_nokey[i] = CLAIMER + 1; picked = picked | BIT(i); room--
            :: room > 0 && state[i] == ready && CAN_CHANGE(i) && BAD_LUCK
            :: else
            fi
        }
    }
commit:
    atomic {
        if
        :: true ->
            for (i : 0 .. TASKS - 1) {
                if
                :: (picked & BIT(i)) != 0 ->
                    assert(state[i] == ready && owner[i] == NOBODY);
                    state[i] = running; owner[i] = w;
#ifndef BROKEN_EPOCH_STAYS
                    epoch[i] = epoch[i] + 1;
#endif
                    limited[i] = limited[i] || alone
                :: (marks & BIT(i)) != 0 -> assert(state[i] == running); limited[i] = true
                :: else
                fi
            }
            if :: seen_revision > gate_marked && alone -> gate_marked = seen_revision :: else fi;
            /* Promise 4. */
            assert(picked == 0 || COUNT(IS_RUNNING) <= allowed[w]);
            assert(registered[w]);
            if
            :: picked == 0 || !alive[w]
            :: picked != 0 && alive[w] ->
                for (i : 0 .. TASKS - 1) {
                    if :: (picked & BIT(i)) != 0 -> known[w].epoch[i] = epoch[i] :: else fi
                }
            :: picked != 0 && alive[w] && BAD_LUCK    /* the answer is lost: the heartbeat will tell */
            fi
        :: BAD_LUCK
        fi;
        close_claim();
        goto end_look
    }
abort:
    atomic { close_claim(); goto end_look }
}

inline close_journal() {
    worker_key[w] = worker_key[w] & ~BIT(JOURNAL);
    task_key[t] = task_key[t] & ~BIT(JOURNAL);
    if :: task_update[t] == JOURNAL + 1 -> task_update[t] = 0 :: else fi;
    if :: heir != 0 -> task_nokey[heir - 1] = 0; heir = 0 :: else fi;
    was = 0
}

/* Nothing is held between tries, so a try that skips is as good as none: the guards below wait for one that
 * does not. What the journal asks of the task is `mine`, what a transaction step asks is `current`. */
#define MINE    (state[t] == running && owner[t] == w && epoch[t] == e)
#define CURRENT (state[t] == running && epoch[t] == e)

/* One run after the other: history, a step if it is not recorded, the end. A process that lost its lease goes on
 * here all the same, until the database tells it. */
proctype Journal(byte w) {
    byte t, e;
    bool is_there;
    byte heir;               /* whose turn it is in the place of t, plus one */
    byte was;                /* how many ran before the commit */
    byte i;

end_idle:
    atomic {
        if
        :: alive[w] && known[w].epoch[0] != 0 -> t = 0
#if TASKS > 1
        :: alive[w] && known[w].epoch[1] != 0 -> t = 1
#endif
#if TASKS > 2
        :: alive[w] && known[w].epoch[2] != 0 -> t = 2
#endif
        fi;
        e = known[w].epoch[t]
    }
    atomic { is_there = recorded[t]; if :: is_there -> goto finish :: else fi }

    if
    :: goto step
    :: goto transaction
    :: goto finish_or_hand_back
    fi;

    /* journal.sql (1): the fence, the own worker's row FOR KEY SHARE SKIP LOCKED. */
step:
    atomic {
        if
        :: !alive[w] || !registered[w] -> goto lost
#ifdef BROKEN_JOURNAL_WITHOUT_FENCE
        :: registered[w]
#else
        :: registered[w] && worker_update[w] == 0 -> worker_key[w] = worker_key[w] | BIT(JOURNAL)
#endif
        fi
    }
    /* (5): an insert for a task that is mine, without a lock on it. */
    atomic {
        if
        :: MINE
        :: !MINE -> close_journal(); goto lost
        :: BAD_LUCK -> close_journal(); goto step
        fi
    }
    atomic {
        if
        :: true ->
            /* Promises 2 and 3. */
            assert(CURRENT && owner[t] == w);
            assert(!recorded[t]);
            recorded[t] = true;
            close_journal()
        :: BAD_LUCK -> close_journal(); goto step
        fi
    }
    goto finish;

    /* record_transaction: on a connection of its own, FOR KEY SHARE of the task, and waits for it. */
transaction:
    atomic {
        if
        :: CAN_SHARE(t) && CURRENT -> task_key[t] = task_key[t] | BIT(JOURNAL)
        :: CAN_SHARE(t) && !CURRENT -> goto lost
        fi
    }
    atomic {
        if
        :: true ->
            assert(CURRENT && owner[t] == w);
            assert(!recorded[t]);
            recorded[t] = true;
            close_journal()
        :: BAD_LUCK -> close_journal(); goto lost
        fi
    }
    goto finish;

finish_or_hand_back:
    atomic {
        if
        :: handbacks > 0 -> handbacks--
        :: handbacks == 0 -> goto step
        fi
    }
    goto end_run;
finish:
    is_there = true;

end_run:
    atomic {
        if
        :: !alive[w] || !registered[w] -> goto lost
#ifdef BROKEN_JOURNAL_WITHOUT_FENCE
        :: registered[w]
#else
        :: registered[w] && worker_update[w] == 0 -> worker_key[w] = worker_key[w] | BIT(JOURNAL)
#endif
        fi
    }
    /* (3): the task FOR UPDATE SKIP LOCKED. */
    atomic {
        if
        :: !MINE -> close_journal(); goto lost
        :: MINE && CAN_TAKE(t) -> task_update[t] = JOURNAL + 1
        :: MINE && !CAN_TAKE(t) -> close_journal(); goto end_run
        fi
    }
    /* (9), hand_over.sql, without the gate: what this transaction ends is gone for it. */
    atomic {
        if
        :: !limited[t] || !leased[w] || limit == NONE || gate_marked < revision || COUNT(IS_MARKED) - 1 >= limit
        :: limited[t] && leased[w] && limit != NONE && gate_marked >= revision && COUNT(IS_MARKED) - 1 < limit ->
            for (i : 0 .. TASKS - 1) {
                if
                :: heir == 0 && i != t && state[i] == ready && CAN_CHANGE(i) ->
                    task_nokey[i] = JOURNAL + 1; heir = i + 1
                :: else
                fi
            }
        :: BAD_LUCK              /* it has no other slot free */
        fi;
        i = 0
    }
#ifdef BROKEN_HANDED_OVER_LATER
    /* The end is committed, and whoever comes in its place is not yet. */
    if
    :: heir != 0 -> atomic { was = COUNT(IS_RUNNING); state[t] = done; owner[t] = NOBODY };
        atomic {
            i = heir - 1; state[i] = running; owner[i] = w; epoch[i] = epoch[i] + 1; limited[i] = true;
            known[w].epoch[i] = epoch[i];
            assert(COUNT(IS_RUNNING) <= was);
            i = 0; close_journal(); goto lost
        }
    :: heir == 0
    fi;
#endif
    /* (6), (8) and commit. */
    atomic {
        if
        :: true ->
            assert(CURRENT && owner[t] == w);
            was = COUNT(IS_RUNNING);
            owner[t] = NOBODY;
            if
            :: is_there -> assert(recorded[t]); state[t] = done
            :: !is_there ->
                state[t] = ready;
#ifndef BROKEN_EPOCH_STAYS
                epoch[t] = epoch[t] + 1
#endif
            fi;
            if
            :: heir != 0 ->
                i = heir - 1;
                assert(state[i] == ready && owner[i] == NOBODY && registered[w]);
                state[i] = running; owner[i] = w; limited[i] = true;
#ifndef BROKEN_EPOCH_STAYS
                epoch[i] = epoch[i] + 1;
#endif
                if
                :: alive[w] -> known[w].epoch[i] = epoch[i]
                :: !alive[w]
                :: alive[w] && BAD_LUCK
                fi;
                i = 0
            :: heir == 0
            fi;
            /* Promise 4: its places are all it gives away. */
            assert(COUNT(IS_RUNNING) <= was);
            close_journal()
        :: BAD_LUCK -> close_journal(); goto end_run
        fi
    }
lost:
    atomic {
        /* A newer claim of the same run may be known meanwhile. */
        if :: known[w].epoch[t] == e -> known[w].epoch[t] = 0 :: else fi;
        t = 0; e = 0; is_there = false;
        goto end_idle
    }
}

/* heartbeat (worker.sql): renews what is there, even after it lapsed; waits for a reaper, and holds nothing
 * meanwhile. It answers with what the worker owns, so a claim whose answer was lost is picked up. */
proctype Heartbeat(byte w) {
    byte i;

end_beat:
    atomic {
        alive[w] && registered[w] && worker_update[w] == 0 && (!leased[w] || ANY(IS_UNKNOWN)) ->
        leased[w] = true;
        for (i : 0 .. TASKS - 1) {
            if :: state[i] == running && owner[i] == w -> known[w].epoch[i] = epoch[i] :: else fi
        }
        i = 0;
        goto end_beat
    }
}

inline close_reap() {
    for (i : 0 .. WORKERS - 1) {
        if :: worker_update[i] == REAPER + 1 -> worker_update[i] = 0 :: else fi
    }
    for (i : 0 .. TASKS - 1) {
        if :: task_update[i] == REAPER + 1 -> task_update[i] = 0 :: else fi;
        if :: task_nokey[i] == REAPER + 1 -> task_nokey[i] = 0 :: else fi
    }
    dead = 0; taken = 0; leaving = 0; i = 0; j = 0; owns = false
}

/* reap (tend.sql), by any worker; leave (worker.sql) is the same for one's own row. */
proctype Reaper(byte r) {
    byte dead, taken, leaving, i, j;
    bool owns;

    /* Dead workers' rows FOR UPDATE SKIP LOCKED. */
end_reap:
    atomic {
#if WORKERS > 2
        (registered[1] && !leased[1]) || (registered[2] && !leased[2]) ->
#else
        (registered[1] && !leased[1]) ->
#endif
        for (i : 0 .. WORKERS - 1) {
            if
#ifdef BROKEN_REAP_WITHOUT_FENCE
            :: registered[i] && !leased[i] -> dead = dead | BIT(i)
#else
            :: registered[i] && !leased[i] && worker_key[i] == 0 && worker_update[i] == 0 ->
                worker_update[i] = REAPER + 1; dead = dead | BIT(i)
#endif
            :: else
            fi
        }
        if :: dead == 0 -> i = 0; goto end_reap :: else fi
    }
    /* Their tasks FOR UPDATE SKIP LOCKED, a batch of them. */
    atomic {
        for (i : 0 .. TASKS - 1) {
            if
#ifdef BROKEN_REAP_FOR_NO_KEY_UPDATE
            :: state[i] == running && (dead & BIT(owner[i])) != 0 && CAN_CHANGE(i) ->
                task_nokey[i] = REAPER + 1; taken = taken | BIT(i)
#else
            :: state[i] == running && (dead & BIT(owner[i])) != 0 && CAN_TAKE(i) ->
                task_update[i] = REAPER + 1; taken = taken | BIT(i)
#endif
            :: state[i] == running && (dead & BIT(owner[i])) != 0 && BAD_LUCK
            :: else
            fi
        }
    }
    /* Workers that own nothing else leave. */
    atomic {
        for (j : 0 .. WORKERS - 1) {
            owns = false;
            for (i : 0 .. TASKS - 1) {
                if
                :: state[i] == running && owner[i] == j && (taken & BIT(i)) == 0 -> owns = true
                :: else
                fi
            }
            if
#ifdef BROKEN_WORKER_LEAVES_BEFORE_ITS_RUNS
            :: (dead & BIT(j)) != 0 -> leaving = leaving | BIT(j)
#else
            :: (dead & BIT(j)) != 0 && !owns -> leaving = leaving | BIT(j)
#endif
            :: else
            fi
        }
        i = 0; j = 0; owns = false
    }
    atomic {
        if
        :: true ->
            for (i : 0 .. TASKS - 1) {
                if
                :: (taken & BIT(i)) != 0 ->
                    state[i] = ready; owner[i] = NOBODY;
#ifndef BROKEN_EPOCH_STAYS
                    epoch[i] = epoch[i] + 1
#endif
                :: else
                fi
            }
            for (i : 0 .. WORKERS - 1) {
                if :: (leaving & BIT(i)) != 0 -> registered[i] = false :: else fi
            }
        :: BAD_LUCK
        fi;
        close_reap();
        goto end_reap
    }
}

/* set_limit: claims lock nothing that it holds, and see nothing of it before its commit; so that is all there is
 * of it, however long its transaction was open. */
proctype Setter() {
    byte n, i;

end_set:
    atomic {
        sets > 0 -> sets--;
        select (n : 0 .. MOST);
        if
        :: n == 0 -> n = NONE
        :: n > 0 && limit == NONE ->
#ifndef BROKEN_REVISION_STAYS
            revision++
#endif
        :: else
        fi;
        limit = n;
        for (i : 0 .. WORKERS - 1) {
            if :: allowed[i] != 0 && allowed[i] < n -> allowed[i] = n :: else fi
        }
        n = 0; i = 0;
        goto end_set
    }
}

/* Time and death. What a dead process has begun on the server may go on there, or be undone. */
proctype Fate() {
    byte w, i;

end_fate:
    atomic {
        if
        :: lapses > 0 && leased[1] && alive[1] -> w = 1; lapses--; leased[w] = false
        :: crashes > 0 && alive[1] -> w = 1; crashes--; alive[w] = false
        :: !alive[1] && leased[1] -> leased[1] = false
#if WORKERS > 2
        :: lapses > 0 && leased[2] && alive[2] -> w = 2; lapses--; leased[w] = false
        :: crashes > 0 && alive[2] -> w = 2; crashes--; alive[w] = false
        :: !alive[2] && leased[2] -> leased[2] = false
#endif
        fi;
        if
        :: w > 0 && !alive[w] -> for (i : 0 .. TASKS - 1) { known[w].epoch[i] = 0 }
        :: else
        fi;
        w = 0; i = 0;
        goto end_fate
    }
}

/* When nobody can do anything any more, everything is done: nothing leaked, nobody waits for another. */
active proctype Rest() {
end_rest:
    timeout -> assert(!ANY(IS_READY) && !ANY(IS_RUNNING))
}

init {
    byte n;
    atomic {
        for (n : 0 .. WORKERS - 1) { run Claimer(n); run Journal(n); run Heartbeat(n) }
        for (n : 0 .. REAPERS - 1) { run Reaper(n) }
        run Setter();
        run Fate();
        n = 0
    }
}

#ifdef LIVE
#define finished (!ANY(IS_READY) && !ANY(IS_RUNNING))
ltl all_end { <> finished }
#endif
