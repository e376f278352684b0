"""A server under many clients at once: how long they wait, which batches form, and what strangers can do to it.

    python benchmarks/serving.py                        git-tiny, random weights, 32 clients
    python benchmarks/serving.py --hostile 10000        and requests that no server should be hurt by

The server is a process of its own (`captioning serve`), the clients are another, on the same machine and cores. Each
client sends an image as soon as it has the caption of the one before. The batch's own time is that of the model for
as many images as there are clients, measured before, with nothing else at work.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import aiohttp
import httpx
import numpy as np
from measuring import architecture
from PIL import Image
from rich.console import Console
from rich.table import Table

NOT_REQUESTS = (b"\x00\x01\x02\x03\r\n\r\n", b"GET\r\n\r\n", b"POST /v1/captions HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00")
PATHS = (
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/static-offline-docs/..%2f..%2f..%2fetc/passwd",
    "//etc/passwd",
)
PRIVATE = (
    *("http://127.0.0.1:1/", "http://localhost/x.png", "http://169.254.169.254/latest/meta-data", "http://[::1]/"),
    *(
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "file:///etc/passwd",
    ),
    *(
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1/",
        "http://100.64.0.1/",
    ),
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="git-tiny", help="a choice of conf/model; its architecture is taken")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000, help="of all clients")
    parser.add_argument("--tokens", type=int, default=12, help="of each caption")
    parser.add_argument("--hostile", type=int, default=0, help="requests")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(arguments.model, Path(folder))
        length = {"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens}
        own = time_of_a_batch(Path(folder), arguments.clients, length)
        with served(Path(folder), "--allow-urls") as (address, process):
            result = asyncio.run(ask_at_once(address, arguments.clients, arguments.requests, length))
            print_waiting(arguments, result, own, histogram(address))
            if arguments.hostile:
                print_hostile(arguments.hostile, asyncio.run(attack(address, process, arguments.hostile)))


def make_checkpoint(model: str, folder: Path) -> None:
    """A model of a size, with random weights."""
    import torch

    from captioning.models.loading import init_model
    from captioning.models.processor import make_processor

    torch.manual_seed(0)
    settings = architecture(model)
    size = settings["vision_config"]["image_size"]
    processor = make_processor(["a photo of a dog"], image_size=size, max_caption_tokens=64)
    init_model(settings, processor=processor).save_pretrained(folder)
    processor.save_pretrained(folder)


def time_of_a_batch(folder: Path, images: int, length: dict[str, int]) -> tuple[float, float]:
    """Seconds of the model alone, and of opening the images, too; medians of five."""
    import torch

    from captioning import Captioner

    captioner = Captioner.from_pretrained(folder)
    files = [image(number) for number in range(images)]
    pixels = torch.stack([captioner.prepare(file) for file in files])

    def seconds(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(6):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
        return median(taken[1:])

    return (
        seconds(lambda: captioner.caption_pixels(pixels, captioner.settings(**length))),
        seconds(lambda: captioner(files, batch_size=images, **length)),
    )


def image(number: int) -> bytes:
    """A photo's worth of noise, as a JPEG file."""
    noise = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(file, "JPEG")
    return file.getvalue()


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A server's address and process."""
    command = [str(Path(sys.executable).with_name("captioning")), "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


async def ask_at_once(address: str, clients: int, requests: int, length: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of each request, by what came of it; the first ones of each client are left out."""
    files = [image(number) for number in range(16)]
    seconds: dict[str, list[float]] = {}

    async def ask(session: aiohttp.ClientSession, count: int, keep: bool) -> None:
        for number in range(count):
            form = aiohttp.FormData({name: str(value) for name, value in length.items()})
            form.add_field("images", files[number % len(files)], filename="a.jpg")
            began = time.perf_counter()
            async with session.post(f"{address}/v1/captions/upload", data=form) as answer:
                content = await answer.json()
            took = time.perf_counter() - began
            is_whole = answer.status == 200 and len(content["results"][0]["captions"]) == 1
            if keep:
                seconds.setdefault("captioned" if is_whole else str(answer.status), []).append(took)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        await asyncio.gather(*(ask(session, 4, False) for _ in range(clients)))
        await asyncio.gather(*(ask(session, requests // clients, True) for _ in range(clients)))
    return seconds


def histogram(address: str) -> dict[str, int]:
    """How many batches had how many images, by the server's own metrics."""
    said = httpx.get(f"{address}/metrics", trust_env=False).text
    bounds = re.findall(r'captioning_batch_images_bucket\{le="([^"]+)"\} ([\d.]+)', said)
    counts, before, lowest = {}, 0, 0
    for bound, below in bounds:
        if int(float(below)) > before:
            counts[f"{lowest + 1} to {float(bound):.0f}"] = int(float(below)) - before
        before, lowest = int(float(below)), int(float(bound)) if bound != "+Inf" else lowest
    return counts


def print_waiting(
    arguments: argparse.Namespace, seconds: dict[str, list[float]], own: tuple[float, float], batches: dict[str, int]
) -> None:
    """The first table."""
    of_all = [took for some in seconds.values() for took in some]
    p50, p99 = median(of_all), quantiles(of_all, n=100)[98]
    table = Table("", "", title=f"{arguments.model}, {arguments.clients} clients, {os.cpu_count()} cores")
    for name, value in {
        "what came of the requests": ", ".join(f"{len(some)} {name}" for name, some in seconds.items()),
        "images per second": f"{len(of_all) / sum(of_all) * arguments.clients:.0f}",
        "seconds of a request, p50": f"{p50:.3f}",
        "seconds of a request, p99": f"{p99:.3f}",
        f"a batch of {arguments.clients} by itself, model alone": f"{own[0]:.3f}; p99 is {p99 / own[0]:.2f} x that",
        f"a batch of {arguments.clients} by itself, from files": f"{own[1]:.3f}; p99 is {p99 / own[1]:.2f} x that",
        "batches, by their images": "\n".join(f"{name}: {count}" for name, count in batches.items()),
    }.items():
        table.add_row(name, value)
    Console(width=110).print(table)


async def attack(address: str, process: int, requests: int) -> dict[str, object]:
    """What the server answers to hostile requests, and its memory while they come."""
    chance = random.Random(0)
    counts: Counter[str] = Counter()
    memory = []
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=32), trust_env=False) as client:
        for begun in range(0, requests, 250):
            kinds = [chance.choice(KINDS) for _ in range(min(250, requests - begun))]
            answers = await asyncio.gather(*(hostile(client, address, kind, chance) for kind in kinds))
            counts.update(f"{kind}: {answer}" for kind, answer in zip(kinds, answers, strict=True))
            memory.append(resident(process))
        alive = (await client.get(f"{address}/health")).status_code
    return {"counts": counts, "memory": memory, "alive": alive}


KINDS = (
    "body",
    "settings",
    "multipart",
    "huge image",
    "large body",
    "path",
    "private address",
    "no HTTP",
    "half a body",
)


async def hostile(client: httpx.AsyncClient, address: str, kind: str, chance: random.Random) -> str:
    """The status of an answer."""
    host, port = address.removeprefix("http://").split(":")
    match kind:
        case "body":
            content = bytes(chance.randrange(256) for _ in range(chance.randrange(2000)))
            answer = await client.post(
                f"{address}/v1/captions", content=content, headers={"content-type": "application/json"}
            )
        case "settings":
            value = chance.choice([-1, 10**400, "x", None, [], {}, "\ud800", True, 1e308, "9" * 10_000])
            name = chance.choice(
                ["num_beams", "num_captions", "temperature", "prefix", "images", "\ud800", "max_new_tokens"]
            )
            content = json.dumps({"images": [{"data": ""}], name: value}).encode()
            answer = await client.post(
                f"{address}/v1/captions", content=content, headers={"content-type": "application/json"}
            )
        case "multipart":
            content = b"--x\r\nContent-Disposition: form-data; name=" + bytes(chance.randrange(256) for _ in range(300))
            kind_of = chance.choice(
                ["multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary=\xff"]
            )
            headers = [(b"content-type", kind_of.encode("latin-1"))]
            answer = await client.post(f"{address}/v1/captions/upload", content=content, headers=headers)
        case "huge image":
            data = base64.b64encode(bomb(chance.choice([20_000, 60_000]))).decode()
            answer = await client.post(f"{address}/v1/captions", json={"images": [{"data": data}]})
        case "large body":
            answer = await client.post(
                f"{address}/v1/captions", content=bytes(20_000_001 + chance.randrange(1_000_000))
            )
        case "private address":
            answer = await client.post(f"{address}/v1/captions", json={"images": [{"url": chance.choice(PRIVATE)}]})
        case "path":
            head = f"GET {chance.choice(PATHS)} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            return await raw(host, int(port), head)
        case "no HTTP":
            return await raw(host, int(port), chance.choice(NOT_REQUESTS))
        case _:
            head = f"POST /v1/captions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\nhalf".encode()
            return await raw(host, int(port), head, half_close=True)
    return str(answer.status_code)


async def raw(host: str, port: int, sent: bytes, *, half_close: bool = False) -> str:
    """The status of the answer to some bytes; `ended` where the connection ends without one."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(sent)
        if half_close:
            writer.write_eof()
        line = await asyncio.wait_for(reader.readline(), 30)
        return line.split()[1].decode() if line.startswith(b"HTTP/") else "ended"
    except ConnectionError:
        return "ended"
    finally:
        writer.close()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it is so large."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    return int(re.findall(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())[0]) * 1024


def print_hostile(requests: int, result: dict) -> None:
    """The second table."""
    table = Table(
        "hostile requests", "answers", title=f"{requests} hostile requests; afterwards /health says {result['alive']}"
    )
    for kind in KINDS:
        answers = {
            name.split(": ")[1]: count for name, count in result["counts"].items() if name.startswith(f"{kind}: ")
        }
        table.add_row(kind, ", ".join(f"{answer}: {count}" for answer, count in sorted(answers.items())))
    Console(width=130).print(table)
    memory = [size / 1e6 for size in result["memory"]]
    quarter = max(1, len(memory) // 4)
    print("memory, MB, in quarters:", *(f"{max(memory[i : i + quarter]):.0f}" for i in range(0, len(memory), quarter)))


if __name__ == "__main__":
    main()
