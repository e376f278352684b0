"""The HTTP API and its page."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torch import Tensor

from captioning import __version__
from captioning.data.images import image_formats
from captioning.errors import UserError, reason
from captioning.inference.captioner import Captioner, ImageError
from captioning.inference.download import download
from captioning.inference.serve.batching import Batcher, GenerationRequest
from captioning.inference.serve.limits import Limits, RequestLimiter, RequestRejected
from captioning.inference.serve.prometheus import Metrics

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # of all that PIL reads, what the web has
MOST_CAPTIONS = 8  # of an image; and beams
PAGE_POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"


class Settings(BaseModel):
    """How images are captioned. What isn't given is as the model was tested."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    num_captions: int = Field(1, ge=1, le=MOST_CAPTIONS, description="Of each image, the likeliest first.")
    prefix: str = Field("", max_length=200, description="What every caption begins with, for the model to go on from.")
    max_new_tokens: int | None = Field(None, ge=1, le=512, description="The longest caption.")
    min_new_tokens: int | None = Field(None, ge=0, le=512, description="The shortest caption.")
    num_beams: int | None = Field(None, ge=1, le=MOST_CAPTIONS, description="1 is greedy.")
    length_penalty: float | None = Field(None, ge=-10, le=10, description="With beams: above 0 favours long captions.")
    repetition_penalty: float | None = Field(None, ge=0.1, le=10, description="1 is none.")
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=32, description="0 is none.")
    temperature: float | None = Field(None, ge=0.01, le=10, description="Draws captions at random.")
    top_p: float | None = Field(None, ge=0.01, le=1, description="Of the likeliest words, with a temperature.")

    def decoding(self) -> dict[str, Any]:
        """What was given of a :class:`captioning.models.generation.Decoding`."""
        return self.model_dump(exclude_none=True, include=set(Settings.model_fields) - {"num_captions", "prefix"})


class ImageIn(BaseModel):
    """An image: its file in base64, or where it is on the web, if the server was started with --allow-urls."""

    model_config = ConfigDict(extra="forbid")

    data: str | None = Field(None, description="The bytes of an image file in base64.")
    url: str | None = Field(None, max_length=2048, description="http or https.")

    @model_validator(mode="after")
    def _is_one(self) -> ImageIn:
        if (self.data is None) == (self.url is None):
            raise ValueError("give either data or url")
        return self


class JsonRequest(Settings):
    """Images and settings as JSON."""

    images: list[ImageIn] = Field(min_length=1)


class UploadRequest(Settings):
    """Images and settings as a form."""

    images: list[UploadFile] = Field(min_length=1, description="Image files.")


class CaptionOut(BaseModel):
    """A caption, and the mean log-probability (nats) of its tokens: at most 0, the higher the likelier."""

    text: str
    score: float


class Result(BaseModel):
    """Of one image: captions, or why there are none."""

    captions: list[CaptionOut]
    error: str | None = None


class Results(BaseModel):
    """Of each image, in order."""

    results: list[Result]


class ModelOut(BaseModel):
    """What captions here, how it does unless told otherwise, and what a request may be."""

    model: str
    device: str
    decoding: dict[str, Any]
    limits: dict[str, float]
    urls: bool


class Server:
    """A captioner with its queue.

    Args:
        captioner: captions.
        name: of the model.
        limits: that are kept.
        batch_size: images that the model sees at once, at most.
        allow_urls: fetch images that requests name by public addresses.
        fetch: how that is done.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        name: str,
        limits: Limits,
        batch_size: int,
        allow_urls: bool,
        fetch: Callable[[str], bytes] | None = None,
    ) -> None:
        self.captioner, self.name, self.limits, self.allow_urls = captioner, name, limits, allow_urls
        self.metrics = Metrics(CollectorRegistry())
        self.batcher = Batcher(self._caption_batch, batch_size, self.metrics.observe_batch)
        self._fetch = fetch or (lambda url: download(url, public=True, largest=limits.body, seconds=limits.seconds))
        self._images = 0  # that are being opened, wait, or are captioned
        self._openers = anyio.CapacityLimiter(min(16, os.cpu_count() or 1))
        self._fetchers = anyio.CapacityLimiter(16)  # they wait for others

    async def caption(self, images: list[ImageIn | bytes], settings: Settings) -> Results:
        """The captions of a request's images.

        Raises:
            RequestRejected: there are too many, none can be opened, a setting is wrong, or it takes too long.
        """
        try:
            decoding = self.captioner.settings(**settings.decoding())
            self.captioner.prompt(settings.prefix, decoding)
        except UserError as error:
            raise RequestRejected(422, str(error).replace("model.", "")) from error
        if len(images) > self.limits.images:
            raise RequestRejected(413, f"a request may have {self.limits.images} images (--max-images)")
        if self._images + len(images) > self.limits.queue:
            raise RequestRejected(429, "too many images wait; try again later")
        wish = GenerationRequest(decoding, settings.num_captions, settings.prefix)
        self._images += len(images)
        try:
            with anyio.fail_after(self.limits.seconds):
                results = await asyncio.gather(*(self._result(image, wish) for image in images))
        except TimeoutError:
            raise RequestRejected(429, f"no captions within {self.limits.seconds:g} s; try again later") from None
        finally:
            self._images -= len(images)
        failed = sum(result.error is not None for result in results)
        self.metrics.count(captioned=len(results) - failed, failed=failed)
        if failed == len(results):
            raise RequestRejected(422, "; ".join(dict.fromkeys(str(result.error) for result in results)))
        return Results(results=results)

    async def _result(self, image: ImageIn | bytes, wish: GenerationRequest) -> Result:
        try:
            encoded = image if isinstance(image, bytes) else await self._content(image)
            with self.batcher.opening():
                pixels = await run_sync(self._open, encoded, limiter=self._openers)
        except ImageError as error:
            return Result(captions=[], error=error.reason)
        captions = await self.batcher.caption(pixels, wish)
        return Result(captions=[CaptionOut(text=caption.text, score=caption.score) for caption in captions])

    async def _content(self, image: ImageIn) -> bytes:
        if image.data is not None:
            try:
                return base64.b64decode(image.data, validate=True)
            except (binascii.Error, ValueError) as error:
                raise ImageError("data", "not base64") from error
        if not self.allow_urls:
            raise ImageError("url", "this server fetches no images from the web (--allow-urls)")
        try:
            return await run_sync(self._fetch, str(image.url), limiter=self._fetchers, abandon_on_cancel=True)
        except OSError as error:
            raise ImageError("url", reason(error)) from error

    def _open(self, encoded: bytes) -> Tensor:
        try:
            image = Image.open(io.BytesIO(encoded), formats=_formats())
        except Exception as error:  # of a damaged head PIL raises nearly anything
            raise ImageError(encoded, "not an image") from error
        with image:
            if image.width * image.height > self.limits.pixels:
                size = f"{image.width} x {image.height} pixels"
                raise ImageError(encoded, f"{size}; it may have {self.limits.pixels:,} (--max-megapixels)")
            return self.captioner.prepare(image)

    def _caption_batch(self, pixels: Tensor, wish: GenerationRequest) -> Any:
        return self.captioner.caption_pixels(pixels, wish.decoding, num_captions=wish.num_captions, prefix=wish.prefix)


def make_app(server: Server, *, token: str | None = None, hosts: list[str] | None = None) -> RequestLimiter:
    """The ASGI app: the page, the API, and what guards them.

    Args:
        server: answers.
        token: that requests must bring, unless they ask for what is nobody's secret.
        hosts: names that a request may call this server by; by default any.
    """

    @asynccontextmanager
    async def working(_: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(server.batcher.run())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    app = FastAPIOffline(
        redoc_url=None,
        title="captioning",
        version=__version__,
        summary=f"Captions by {server.name}",
        lifespan=working,
    )
    _add_api(app, server)
    _add_page(app)
    app.add_exception_handler(RequestRejected, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return RequestLimiter(server.metrics.timed(app), server.limits, token)


def _add_api(app: FastAPI, server: Server) -> None:
    mistakes: dict[int | str, dict[str, Any]] = {
        413: {"description": "Too large, or too many images"},
        422: {"description": "Wrong settings, or no image can be opened"},
        429: {"description": "Too much to do; try again later"},
    }

    @app.post("/v1/captions", responses=mistakes)
    async def caption(request: JsonRequest) -> Results:
        """Caption images that are in the request, in base64, or on the web."""
        return await server.caption(list(request.images), request)

    @app.post("/v1/captions/upload", responses=mistakes)
    async def caption_upload(request: Annotated[UploadRequest, Form(media_type="multipart/form-data")]) -> Results:
        """Caption image files: `curl -F images=@a.jpg -F images=@b.jpg -F num_captions=3 …`."""
        return await server.caption([await file.read() for file in request.images], request)

    @app.get("/v1/model")
    async def model() -> ModelOut:
        """What captions here."""
        return ModelOut(
            model=server.name,
            device=str(server.captioner.device),
            decoding=asdict(server.captioner.decoding),
            limits=asdict(server.limits),
            urls=server.allow_urls,
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server is there."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        server.metrics.waiting.set(server.batcher.waiting)
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    for path, name, kind in (
        ("/", "page.html", "text/html"),
        ("/page.css", "page.css", "text/css"),
        ("/page.js", "page.js", "text/javascript"),
    ):
        content = files("captioning.inference.serve").joinpath(name).read_text("utf-8")
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        page = Response(content, media_type=kind, headers={**headers, "Cache-Control": "no-cache"})
        app.add_api_route(path, lambda page=page: page, include_in_schema=False, response_class=Response)


def _formats() -> list[str]:
    return [name for name in FORMATS if name in image_formats()]  # a PIL may lack one


async def _refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, RequestRejected)
    headers = {"Retry-After": "1"} if refused.status == 429 else {}
    return _json({"detail": str(refused)}, refused.status, headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # What was given isn't repeated: it may be megabytes, and text that UTF-8 can't have.
    problems = [{"loc": problem["loc"], "msg": problem["msg"]} for problem in error.errors()[:20]]
    return _json({"detail": problems}, 422)


def _json(content: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(content), status, headers, media_type="application/json")
