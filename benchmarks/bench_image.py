"""Print the sizes of images, split into base, dependencies and code.

    python benchmarks/bench_image.py speech-qc:latest speech-qc:latest-gpu [--record]

`base` is the base image plus the user account. `dependencies` and `code` are the two layers copied on top. `packed` is
the compressed size, approximately what a registry transfers.
"""

from __future__ import annotations

import argparse
import subprocess
import zlib

from recording import machine, markdown, record

MB = 1_000_000
BLOCK_BYTES = 1 << 20


def docker(*words: str) -> str:
    """Run a Docker command and return its output."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def packed_bytes(image: str) -> int:
    """Return the size of the image's archive, compressed at gzip's default level."""
    packer, total = zlib.compressobj(6), 0
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        while block := saving.stdout.read(BLOCK_BYTES):
            total += len(packer.compress(block))
    if saving.returncode != 0:
        raise RuntimeError(f"docker save {image} failed")
    return total + len(packer.flush())


def row(image: str) -> list[str]:
    """Return a table row. `docker history` lists the newest layers first: code, dependencies, then the base."""
    total = int(docker("image", "inspect", "--format={{.Size}}", image))
    layers = [int(size) for size in docker("history", "--human=false", "--format={{.Size}}", image).split()]
    code, dependencies = [size for size in layers if size > MB][:2]
    figures = (total, total - code - dependencies, dependencies, code, packed_bytes(image))
    return [image, *(f"{figure / MB:.0f}" for figure in figures)]


def main() -> None:
    """Measure, print the table, and append it to the results with --record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    about = machine()
    text = markdown(
        ["image", "MB", "base", "dependencies", "code", "packed"], [row(image) for image in arguments.images]
    )
    print(text)
    if arguments.record:
        record("images", about, text)


if __name__ == "__main__":
    main()
