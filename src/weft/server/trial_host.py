"""The process in which grammars are built for trial: ``python -P trial_host.py LIMITS``, a grammar a line.

Run as a file, since it needs the compiler alone, and none of this package. It answers each grammar that it
could build, or refuse, with a line, and is ended by the system within one that takes too much.
"""

import json
import resource
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
    limits = LLParserLimits(**json.loads(sys.argv[1]))
    # What may take for ever does not depend on the vocabulary.
    words = LLTokenizer("byte")
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        matcher = LLMatcher(words, json.loads(line), log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
