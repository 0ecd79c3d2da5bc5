"""The shop's own tables."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    cents = models.IntegerField()
    status = models.CharField(max_length=100, default="new")


class Stock(models.Model):
    item = models.CharField(max_length=100, primary_key=True)
    pieces = models.IntegerField()
