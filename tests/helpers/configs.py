"""What the folder of configs holds."""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"
AGENTS = sorted(path.stem for path in (CONF / "agent").glob("*.yaml") if path.stem != "custom")
