"""The shop's own tables."""

# Fields of models have no types that pyright could know without a plugin.
# pyright: basic
from __future__ import annotations

from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    cents = models.IntegerField()
    status = models.CharField(max_length=100, default="new")


class Stock(models.Model):
    item = models.CharField(max_length=100, primary_key=True)
    pieces = models.IntegerField()
