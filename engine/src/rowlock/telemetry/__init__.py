"""Observers of what the runtime says happened: logs, metrics, spans.

Nothing here decides anything; nothing else imports a logging or metrics library.
"""
