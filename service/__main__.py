"""`python -m service` is `speech-qc`."""

import sys

from service.cli import main

if __name__ == "__main__":
    sys.exit(main())
