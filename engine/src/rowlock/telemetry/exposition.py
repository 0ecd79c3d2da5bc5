"""Shows a page in the format that Prometheus reads, or in OpenMetrics for who asks for that.

The one module that needs prometheus_client (`pip install 'rowlock[metrics]'`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from rowlock.telemetry.families import COUNTER, FAMILIES, HISTOGRAM, Family
from rowlock.telemetry.pages import Cells, Labels, Page


class _Shown(Collector):
    def __init__(self, page: Page) -> None:
        self._page = page

    def collect(self) -> Iterator[Metric]:
        for name, family in FAMILIES.items():
            series = self._page.families.get(name)
            if series:
                yield _metric(family, series)


def _metric(family: Family, series: list[tuple[Labels, Cells]]) -> Metric:
    if family.kind == HISTOGRAM:
        bounds = [*map(floatToGoString, family.buckets), "+Inf"]
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, (total, *counts) in sorted(series):
            histogram.add_metric(
                labels, list(zip(bounds, accumulate(counts), strict=True)), sum_value=total
            )
        return histogram
    kind = CounterMetricFamily if family.kind == COUNTER else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, [value] in sorted(series):
        metric.add_metric(labels, value)
    return metric


def shown(page: Page, accept: str = "") -> tuple[str, bytes]:
    """The content type and the body, in the format that ``accept`` asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shown(page))
    encoder, content_type = choose_encoder(accept)
    return content_type, encoder(registry)
