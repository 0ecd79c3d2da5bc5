"""What to do when a connection fails over its encryption: libpq says what is wrong, seldom more.

Pure: its words in, advice out. Everything about TLS is said in the database's URL and passes
through to libpq; nothing is added, and nothing is ever tried with less.
"""

from __future__ import annotations

_ADVICE = {
    "certificate verify failed": "The server's certificate has expired, or was not signed by an "
    "authority that sslrootcert names: set sslrootcert=FILE to the certificate of the authority "
    "that signed it. Don't lower sslmode: anybody could be the server then",
    "does not match host name": "Use a host name that is in the server's certificate (with "
    "hostaddr=ADDRESS if that name leads elsewhere), or give the server a certificate with this "
    "name",
    "root certificate file": "Set sslrootcert=FILE to the certificate of the authority that "
    "signed the server's, or sslrootcert=system for the authorities that this machine trusts",
    "server does not support SSL": "sslmode demands TLS: switch it on in the server (ssl = on)",
    "no encryption": "The server demands TLS: set sslmode=verify-full and sslrootcert=FILE",
    "requires a valid client certificate": "The server wants a certificate from us: set "
    "sslcert=FILE and sslkey=FILE",
    "alert unknown ca": "The server does not know the authority that signed our sslcert",
    "certificate authentication failed": "The name in our sslcert is not the user's",
}


def advice(message: str) -> str | None:
    """What to change, where libpq's message is about TLS."""
    return next((advice for words, advice in _ADVICE.items() if words in message), None)
