"""The process in which grammars are built for trial: ``python -P trial_host.py grammar_source.py``, with the
kind and text of a grammar in each line.

Both are run as files, since nothing else of this package is needed here. It answers each grammar that it
could build, or refuse, with a line, and is ended by the system within one that takes too much.
"""

import contextlib
import json
import resource
import runpy
import signal
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# Processor time and memory of the system's own count: nothing in this process has to look at them.
SECONDS, BYTES = 0.5, 2**29


def main() -> None:
    """Until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    grammars = runpy.run_path(sys.argv[1])
    limits = LLParserLimits(**grammars["LIMITS"])
    # What may take for ever does not depend on the vocabulary.
    words = LLTokenizer("byte")
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        # What is wrong is for the engine to say.
        with contextlib.suppress(*grammars["WRONG"]):
            source = grammars["source_of"](*json.loads(line))
            matcher = LLMatcher(words, source, log_level=0, limits=limits)
            if not matcher.is_error():
                matcher.compute_bitmask()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
