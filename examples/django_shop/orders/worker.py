"""What `rowlock worker orders.worker:app` loads: Django is set up before the workflows' code is."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders.settings")
django.setup()

from orders.flows import app  # noqa: E402

__all__ = ["app"]
