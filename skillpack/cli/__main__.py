"""``python -m skillpack.cli``, the command without its script."""

from __future__ import annotations

from skillpack.cli.root import main

main()
