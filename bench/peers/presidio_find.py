"""Find personal data with Presidio: texts as a JSON list on stdin, spans and seconds as JSON on stdout.

Run in the peer's environment with the package's source on the path, because this is the same Finder that
the extra gives: all English pattern recognisers, words as their own lemmas, no model of names.
"""

from __future__ import annotations

import json
import sys
import time

from weft.data.personal.presidio import PresidioFinder


def main() -> None:
    """One processor second count a call, after a text that loads what loads late."""
    request = json.load(sys.stdin)
    finder = PresidioFinder(min_score=request["min_score"])
    finder.find(["Call 415-555-2671."])
    began = time.process_time()
    spans = finder.find(request["texts"])
    json.dump({"seconds": time.process_time() - began, "spans": spans}, sys.stdout)


if __name__ == "__main__":
    main()
