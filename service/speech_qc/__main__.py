"""The entry point of `speech-qc` and of `python -m speech_qc`."""

import sys

from speech_qc.gc_tuning import raise_gc_thresholds


def main() -> int:
    """Run the command of `sys.argv`; returns the exit code."""
    raise_gc_thresholds()  # before the imports, which create many objects
    from speech_qc.audio.native_stderr import keep_stderr
    from speech_qc.cli.main import main as run

    keep_stderr()
    return run()


if __name__ == "__main__":
    sys.exit(main())
