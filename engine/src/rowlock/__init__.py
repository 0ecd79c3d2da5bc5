"""Rowlock: durable workflows written as plain Python functions on nothing but PostgreSQL."""
