"""The program `speech-qc`, also as `python -m service`."""

import sys

from service.collecting import collect_seldom


def main() -> int:
    """Run the command of `sys.argv`; returns the exit code."""
    collect_seldom()  # before the imports, which it is for
    from service import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
