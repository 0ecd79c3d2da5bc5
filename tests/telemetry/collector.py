"""OpenTelemetry's own collector, and what it was told."""

from __future__ import annotations

import re
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from workers.until import until

CONFIG = """\
receivers:
  otlp:
    protocols:
      http: {{endpoint: "{address}:{port}"}}
exporters:
  debug: {{verbosity: detailed}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [debug]}}
"""


class Collector:
    """A collector that writes the spans it gets to a file, in its debug exporter's own words."""

    def __init__(self, program: Path, folder: Path, address: str = "127.0.0.1") -> None:
        with socket.create_server((address, 0)) as reserved:
            self._at = (address, int(reserved.getsockname()[1]))
        self._log = folder / "collector.log"
        config = folder / "config.yaml"
        config.write_text(CONFIG.format(address=address, port=self._at[1]))
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [program, f"--config={config}"], stdout=log, stderr=subprocess.STDOUT
            )
        until(self._is_up)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        with suppress(OSError), socket.create_connection(self._at):
            return True
        return False

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://{}:{}".format(*self._at),
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    @property
    def text(self) -> str:
        return self._log.read_text()

    def spans(self) -> list[dict[str, str]]:
        """The facts of each span that was printed, by the collector's own names for them."""
        blocks = re.split(r"^Span #\d+$", self.text, flags=re.MULTILINE)[1:]
        return [dict(re.findall(r"^ {4}(\w[\w ]*?) +: (.*)$", b, re.MULTILINE)) for b in blocks]
