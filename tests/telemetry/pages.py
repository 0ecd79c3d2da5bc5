"""Read a page of metrics as Prometheus does: over HTTP, parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

from cli.running import eventually


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer."""

    code: int
    content_type: str
    text: str

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples with these labels; None when there is no such sample."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None

    def names(self) -> set[str]:
        return {family.name for family in text_string_to_metric_families(self.text)}


def scrape(port: int, path: str = "/metrics", accept: str = "") -> Scrape:
    """Ask for a page; code 0 when nobody answers."""
    request = Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urlopen(request, timeout=20) as answer:
            return Scrape(answer.status, answer.headers["Content-Type"], answer.read().decode())
    except HTTPError as error:
        with error:
            return Scrape(error.code, error.headers["Content-Type"], error.read().decode())
    except OSError:
        return Scrape(0, "", "")


def page_when(port: int, condition: Callable[[Scrape], bool]) -> Scrape:
    """Wait for the first page that fits."""

    def look() -> Scrape | None:
        page = scrape(port)
        return page if page.code == 200 and condition(page) else None

    page = eventually(look)
    assert page is not None
    return page
