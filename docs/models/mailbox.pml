/* mailbox: a run goes to sleep while messages arrive, as PostgreSQL's READ COMMITTED runs it.
 *
 * Steps, tables and locks as in claim.pml. Whoever sends may leave his transaction open, roll it back, or have
 * an old snapshot (REPEATABLE READ). The run wants to receive each message; it ends when it has all of them.
 * Nobody may sleep for ever while there is a message for him (promise 7), and nobody waits but senders.
 */

#ifndef SENDERS
#define SENDERS 2
#endif

#define JOURNAL (SENDERS + 1)
#define SWEEP   (SENDERS + 2)

mtype = { ready, running, waiting };

mtype state = ready;         /* rowlock.task */
bool  due;                   /* sleeps, but not for long: whoever promotes what is due wakes it */
byte  task_lock;             /* FOR UPDATE or NO KEY UPDATE: nobody here shares one */
byte  run_lock;              /* rowlock.run, FOR NO KEY UPDATE */
byte  sent;                  /* rowlock.message: committed */
byte  received;
bool  noted;                 /* rowlock.wake */
byte  tries = 2;             /* how often a sender rolls back */

/* send (deliveries.sql) */
proctype Sender(byte me) {
    bool old;                /* an old snapshot */
    bool woken, note;

    if :: old = true :: old = false fi;
begin:
    /* select … from run for no key update: waits */
#ifndef BROKEN_SENDER_WITHOUT_LOCK
    atomic { run_lock == 0 -> run_lock = me }
#endif
    /* insert into message: its own until the commit; an old snapshot sees no later sleep: noted instead */
    atomic {
        if
#ifdef BROKEN_OLD_SNAPSHOT_NOTES_NOTHING
        :: old -> goto commit
#endif
        :: old -> note = true; goto commit
        :: !old
        fi
    }
    /* update task … where state = 'waiting': a later statement; waits for who holds it, then looks again */
    atomic {
        if
        :: state != waiting
        :: state == waiting && task_lock == 0 -> task_lock = me; woken = true
        fi
    }
commit:
    atomic {
        if
        :: true -> sent++; noted = noted || note; if :: woken -> state = ready; due = false :: else fi
        :: tries > 0 -> tries--
        fi;
        if :: task_lock == me -> task_lock = 0 :: else fi;
        if :: run_lock == me -> run_lock = 0 :: else fi;
        note = false; woken = false
    }
}

/* The run, and the journal of whoever has claimed it: a receive, or a suspend. */
proctype Journal() {
    bool held, sleeps, looked;

end_claim:
    atomic { state == ready && task_lock == 0 -> state = running }
running_on:
    if
    :: received == SENDERS -> goto finished
    :: atomic { sent > received -> received++ }; goto running_on
    :: else
    fi;
#ifdef BROKEN_LOOK_IN_THE_LOCKS_STATEMENT
    looked = (sent > received);
#endif
    /* (2) the run's row, SKIP LOCKED */
    atomic {
        if
        :: run_lock == 0 -> run_lock = JOURNAL; held = true
        :: run_lock != 0
        fi
    }
    /* (3) the own task FOR UPDATE SKIP LOCKED */
    atomic {
        if
        :: task_lock == 0 -> task_lock = JOURNAL
        :: task_lock != 0 -> goto undo
        fi
    }
    /* (8) look, in a later statement; who was passed by for too long sleeps without the lock, not for long */
    atomic {
#ifndef BROKEN_LOOK_IN_THE_LOCKS_STATEMENT
        looked = (sent > received);
#endif
        if
        :: !looked -> sleeps = true
        :: looked || !held -> goto undo
        fi
    }
    atomic {
        if
        :: true ->
            state = waiting;
#ifndef BROKEN_SLEEP_WITHOUT_A_LOCK
            due = !held
#endif
        :: true -> sleeps = false
        fi;
        task_lock = 0;
        if :: run_lock == JOURNAL -> run_lock = 0 :: else fi;
        held = false; looked = false
    }
    if
    :: sleeps -> sleeps = false; goto end_claim
    :: else -> goto running_on
    fi;
undo:
    atomic {
        if :: task_lock == JOURNAL -> task_lock = 0 :: else fi;
        if :: run_lock == JOURNAL -> run_lock = 0 :: else fi;
        held = false; looked = false; sleeps = false;
        goto running_on
    }
finished:
    skip
}

/* sweep_wakes and promote_due (tend.sql): SKIP LOCKED, then a later statement, then the commit. */
proctype Tend() {
end_tend:
    if
    :: atomic { noted && task_lock == 0 -> task_lock = SWEEP };
       atomic {
           if
           :: true -> noted = false; if :: state == waiting -> state = ready; due = false :: else fi
           :: true                                      /* it was rolled back */
           fi;
           task_lock = 0
       }
    :: atomic { state == waiting && due && task_lock == 0 -> state = ready; due = false }
    fi;
    goto end_tend
}

/* When nobody can do anything any more: nobody sleeps while there is something for him. */
active proctype Rest() {
end_rest:
    timeout -> assert(!(state == waiting && sent > received))
}

init {
    byte n;
    atomic {
        for (n : 1 .. SENDERS) { run Sender(n) }
        run Journal();
        run Tend();
        n = 0
    }
}
