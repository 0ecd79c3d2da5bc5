"""The command line: ``rowlock …``.

What lives here: options, output, exit codes, and loading the user's module. What may not: SQL, or
anything that the client or a SQL function could not do as well. Commands are imported when they
are invoked, so that none pays for another's imports.

Where to go:

    which commands, errors, exit codes        main.py
    options that commands share               options.py
    tables and JSON                           output.py
    start, list                               runs.py
    show, history                             show.py, portrait.py (reads), tree.py (draws)
    top                                       top.py; what a look tells frames.py
    cancel, resume, retry, rewind, fork, …    control.py: a verb and an act for each
    explain, pause, limit, retain             files of their names
    queues, workers, versions                 fleet.py
    which runs a command means                selection.py
    one thing done to many, and told          carrying.py
    completion, and names for it              completion.py, names.py
    doctor                                    doctor.py; the checks are in rowlock.doctor
    migrate                                   migrate.py
    worker: the parent                        worker.py
    worker: each process, hidden              worker_process.py
    /livez and /readyz                        health.py
    dev: a Postgres of its own, and reloads   dev.py
    MODULE:APP                                loading.py
"""
