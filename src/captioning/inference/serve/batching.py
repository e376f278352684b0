"""Images of many requests, captioned in common batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import anyio
import torch
from torch import Tensor

from captioning.inference.captioner import Caption
from captioning.models.generation import Decoding


class GenerationRequest(NamedTuple):
    """How an image is to be captioned. Those with the same wish can be in one batch."""

    decoding: Decoding
    num_captions: int = 1
    prefix: str = ""


@dataclass(frozen=True)
class _Waiting:
    pixels: Tensor
    wish: GenerationRequest
    captions: asyncio.Future[list[Caption]]


# From pixels (batch, 3, height, width) and a wish to each image's captions.
CaptionBatch = Callable[[Tensor, GenerationRequest], list[list[Caption]]]


class Batcher:
    """Captions images one batch after another; each batch takes what has come while the one before was captioned.

    An image that comes alone is captioned at once, and the more come, the larger the batches become: those that are
    being opened are waited for, but no longer than half of what the last batch took. The image that has waited
    longest chooses the batch's wish. What nobody waits for any more is left out.

    Args:
        caption: captions a batch, in a thread of its own.
        batch_size: images at once, at most.
        observe: told the number of images and the seconds of each batch.
    """

    def __init__(self, caption: CaptionBatch, batch_size: int, observe: Callable[[int, float], None]) -> None:
        self._caption, self._batch_size, self._observe = caption, batch_size, observe
        self._waiting: deque[_Waiting] = deque()
        self._opening = 0
        self._come = asyncio.Event()
        self._last_seconds = 0.0
        self._thread = ThreadPoolExecutor(1, "model")

    async def caption(self, pixels: Tensor, wish: GenerationRequest) -> list[Caption]:
        """The captions of an image, (3, height, width), when its batch is done."""
        captions = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(pixels, wish, captions))
        self._come.set()
        result: list[Caption] = await captions
        return result

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Within, an image is being opened, which will soon come."""
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1
            self._come.set()

    @property
    def waiting(self) -> int:
        """Images that are in no batch yet."""
        return len(self._waiting)

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._come.wait()
                self._come.clear()
                await self._fill()
                batch = self._next_batch()
                if not batch:
                    continue
                self._come.set()  # there may be more
                pixels, began = torch.stack([waiting.pixels for waiting in batch]), time.perf_counter()
                try:
                    captions = await loop.run_in_executor(self._thread, self._caption, pixels, batch[0].wish)
                except Exception as error:  # whatever it is, the next batch may be another
                    for waiting in batch:
                        if not waiting.captions.done():
                            waiting.captions.set_exception(error)
                    continue
                self._last_seconds = time.perf_counter() - began
                self._observe(len(batch), self._last_seconds)
                for waiting, own in zip(batch, captions, strict=True):
                    if not waiting.captions.done():
                        waiting.captions.set_result(own)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _fill(self) -> None:
        with anyio.move_on_after(self._last_seconds / 2):
            while self._waiting and self._opening and len(self._waiting) < self._batch_size:
                await self._come.wait()
                self._come.clear()

    def _next_batch(self) -> list[_Waiting]:
        wanted = [waiting for waiting in self._waiting if not waiting.captions.done()]
        batch = [waiting for waiting in wanted if waiting.wish == wanted[0].wish][: self._batch_size]
        taken = set(map(id, batch))
        self._waiting = deque(waiting for waiting in wanted if id(waiting) not in taken)
        return batch
