"""Write configuration files: JSON (which every YAML reader takes) or text, for our eyes only."""

from __future__ import annotations

import json
from pathlib import Path


def write(path: Path, content: object) -> Path:
    """Write `content`, text as it is and the rest as JSON, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path
