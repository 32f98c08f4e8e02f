"""Where the checkout is, and the real data beside it, which a test does without if it is absent."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
