"""``python -m weft`` is the command line."""

import sys

try:
    from weft.cli.main import main
except KeyboardInterrupt:
    # Ctrl-C before any verb could answer for it.
    sys.stderr.write("weft: Interrupted; run the same command again to continue.\n")
    sys.exit(130)

main()
