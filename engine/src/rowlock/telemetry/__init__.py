"""Observers of what the runtime says happened: logs now; metrics and spans have their place here.

Nothing here decides anything; nothing else imports a logging or metrics library.
"""
