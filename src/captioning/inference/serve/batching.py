"""Images of many requests, captioned in common batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import anyio
import torch
from torch import Tensor

from captioning.models.decoding import Decoding

if TYPE_CHECKING:
    from captioning.inference.captioner import Caption


class GenerationRequest(NamedTuple):
    """How an image is to be captioned; images with equal requests can be in one batch."""

    decoding: Decoding
    num_captions: int = 1
    prefix: str = ""


class _Waiting(NamedTuple):
    pixels: Tensor
    request: GenerationRequest
    captions: asyncio.Future[list[Caption]]


# From pixels (batch, 3, height, width) and their request to each image's captions.
CaptionBatch = Callable[[Tensor, GenerationRequest], "list[list[Caption]]"]


class Batcher:
    """Captions images one batch after another; each batch takes what arrived while the one before was captioned.

    Images that are being opened are waited for, but no longer than half of what the last batch took. The image that has
    waited longest chooses the batch's request. What nobody waits for any more is left out.

    ``caption`` runs in a thread of its own; ``observe`` gets the number of images and the seconds of each batch.
    """

    def __init__(self, caption: CaptionBatch, batch_size: int, observe: Callable[[int, float], None]) -> None:
        self._caption, self._batch_size, self._observe = caption, batch_size, observe
        self.waiting: deque[_Waiting] = deque()  # in no batch yet
        self._opening = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")

    async def caption(self, pixels: Tensor, request: GenerationRequest) -> list[Caption]:
        """The captions of an image, (3, height, width), when its batch is done."""
        captions = asyncio.get_running_loop().create_future()
        self.waiting.append(_Waiting(pixels, request, captions))
        self._arrived.set()
        result: list[Caption] = await captions
        return result

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Within, an image is being opened, which will soon arrive."""
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1
            self._arrived.set()

    async def run(self) -> None:
        """Work until cancelled."""
        loop, seconds = asyncio.get_running_loop(), 0.0
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                with anyio.move_on_after(seconds / 2):
                    while self.waiting and self._opening and len(self.waiting) < self._batch_size:
                        await self._arrived.wait()
                        self._arrived.clear()
                wanted = [waiting for waiting in self.waiting if not waiting.captions.done()]
                batch = [waiting for waiting in wanted if waiting.request == wanted[0].request][: self._batch_size]
                taken = {id(waiting) for waiting in batch}
                self.waiting = deque(waiting for waiting in wanted if id(waiting) not in taken)
                if not batch:
                    continue
                self._arrived.set()  # there may be more
                pixels, began = torch.stack([waiting.pixels for waiting in batch]), time.perf_counter()
                try:
                    captions = await loop.run_in_executor(self._thread, self._caption, pixels, batch[0].request)
                except Exception as error:  # whatever it is, the next batch may be another
                    for waiting in batch:
                        if not waiting.captions.done():
                            waiting.captions.set_exception(error)
                    continue
                seconds = time.perf_counter() - began
                self._observe(len(batch), seconds)
                for waiting, own in zip(batch, captions, strict=True):
                    if not waiting.captions.done():
                        waiting.captions.set_result(own)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)
