"""The long run: prints counts; the exit code is 1 if anything failed.

python -m tests.fuzz --recordings 10000 --media 1000 --captures 2000 --conversations 1000
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fuzz_run import run  # noqa: E402  # on the path added above
from fuzz_talk import run_conversations  # noqa: E402

MOST_GROWTH_BYTES = 64 * 2**20


def main() -> int:
    """Run recordings and conversations."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--recordings", type=int, default=10_000)
    options.add_argument("--media", type=int, default=1_000, help="recordings that FFmpeg decodes")
    options.add_argument("--captures", type=int, default=2_000, help="packet captures")
    options.add_argument("--conversations", type=int, default=1_000)
    options.add_argument("--first", type=int, default=0, help="number of the first broken recording")
    chosen = options.parse_args()
    logging.disable(logging.CRITICAL)
    failed = False
    for count, kind in ((chosen.recordings, "recordings"), (chosen.media, "media"), (chosen.captures, "captures")):
        if not count:
            continue
        tally = run(count, first=chosen.first, kind=kind)
        failed |= bool(tally.bad) or tally.growth_bytes > MOST_GROWTH_BYTES
        sys.stdout.write("\n".join(tally.lines()) + "\n")
        for (name, status), number in sorted(tally.by_format.items()):
            sys.stdout.write(f"  {name:16} {status} {number:6}\n")
        sys.stdout.flush()
    codes = run_conversations(chosen.conversations)
    sys.stdout.write(f"{sum(codes.values())} conversations: {dict(sorted(codes.items(), key=str))}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
