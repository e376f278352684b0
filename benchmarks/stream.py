"""What streaming tar shards costs: rows per second, and whether memory stays flat however many rows there are.

    python benchmarks/stream.py [--rows 1000000] [--workers 0 2]

Writes WebDataset shards of 10,000 rows and of so many, each row a small JPEG (about 1.5 KB) with a caption, into a
temporary folder (about 3.5 GB for a million rows, since a tar pads each member to 512 bytes), streams each of them once
through a DataLoader, images decoded, and prints a table. Each line of it is measured in a process of its own. Memory
is the most that the process had, and the most that one of its workers had, imports and all. The last column is how fast
rows are passed over when a training is resumed: read, but not decoded.

Of a million rows, 100 shards are copies of one; the ids of their rows differ all the same.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captioning.data.dataset import Sample
    from captioning.data.rows import Row

SHARD = 10_000  # rows
BATCH = 32
SIDE = 64  # of the images, in pixels
FEW = 10_000  # rows to compare with


def write_shards(folder: Path, rows: int) -> None:
    """So many rows in shards, of which all are copies of the first."""
    import numpy as np
    from PIL import Image

    images = []
    for seed in range(1000):
        noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
        images.append(file.getvalue())
    first = folder / "000000.tar"
    with tarfile.open(first, "w") as tar:
        for row in range(min(SHARD, rows)):
            for suffix, content in (("jpg", images[row % 1000]), ("txt", b"an image of eight by eight colors")):
                member = tarfile.TarInfo(f"{row:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for number in range(1, rows // SHARD):
        shutil.copyfile(first, folder / f"{number:06d}.tar")


def make_sample(row: Row, seed: int) -> Sample:
    """The decoded image and its caption."""
    import numpy as np
    import torch

    from captioning.data.dataset import Sample
    from captioning.data.images import decode, read_bytes

    pixels = torch.from_numpy(np.array(decode(read_bytes(row["image"])))).permute(2, 0, 1)
    captions = row["captions"]
    return Sample(
        row=0, id=row["id"], pixels=pixels, captions=captions, references=captions, seed=seed, is_padding=False
    )


def peak(who: int) -> float:
    """The most memory that this process, or one of those that it has waited for, has had so far, in MB."""
    return resource.getrusage(who).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(folder: str, rows: int, workers: int) -> dict[str, float]:
    """Stream all rows once, then pass over them as a resumed training does."""
    from captioning.data.sources.tars import tar_shards
    from captioning.data.stream import Reader, StreamDataset, StreamLoader

    shards = tar_shards(folder)
    dataset = StreamDataset(shards, make_sample, batch_size=BATCH)
    batches = StreamLoader(dataset, epoch_batches=rows, num_workers=workers, collate_fn=len)
    start = perf_counter()
    seen = sum(itertools.islice(batches, rows // BATCH))
    seconds = perf_counter() - start
    del batches  # ends its workers, whose memory is known then
    memory = {"process": peak(resource.RUSAGE_SELF), "worker": peak(resource.RUSAGE_CHILDREN) if workers else 0.0}
    passed = min(rows, 100_000) - 1
    start = perf_counter()
    next(Reader(shards).rows(passed))
    return {"rows": seen / seconds, **memory, "passed": passed / (perf_counter() - start)}


def main() -> None:
    """Write the shards, and measure each arm in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--arm", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        folder, rows, workers = options.arm
        print(json.dumps(measure(folder, int(rows), int(workers))))
        return
    print(
        f"{'rows':>9} {'workers':>8} {'rows/s':>8} {'memory':>9} {'of a worker':>12} {'passed over/s':>14}", flush=True
    )
    for rows in (FEW, options.rows):
        with tempfile.TemporaryDirectory() as folder:
            write_shards(Path(folder), rows)
            for workers in options.workers:
                command = [sys.executable, __file__, "--arm", folder, str(rows), str(workers)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
                found = json.loads(done.stdout)
                print(
                    f"{rows:>9,} {workers:>8} {found['rows']:>8,.0f} {found['process']:>6,.0f} MB "
                    f"{found['worker']:>9,.0f} MB {found['passed']:>14,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
