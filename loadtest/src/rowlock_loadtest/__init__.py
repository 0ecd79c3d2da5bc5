"""Load tests of Rowlock: what it costs and how fast it is, on a database of the tests' own.

Uses Rowlock's public face alone: the client, the commands, the views.
"""
