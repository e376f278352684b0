"""The HTTP API and its page."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

import anyio
from annotated_types import Ge, Le
from anyio.to_thread import run_sync
from fastapi import FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torch import Tensor

from captioning import __version__
from captioning.data.images import image_formats
from captioning.errors import UserError, reason
from captioning.inference.captioner import Caption, Captioner, ImageError
from captioning.inference.download import download
from captioning.inference.serve.batching import Batcher, GenerationRequest
from captioning.inference.serve.limits import Limits, RequestLimiter, RequestRejected
from captioning.inference.serve.prometheus import Metrics
from captioning.models.decoding import decoding_settings

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # of all that PIL reads, what the web has
MAX_CAPTIONS = 8  # of an image; and beams
# What a stranger may ask for, within the limits that decoding has itself.
SERVER_LIMITS: dict[str, list[Ge | Le]] = {
    "max_new_tokens": [Le(512)],
    "num_beams": [Le(MAX_CAPTIONS)],
    "length_penalty": [Ge(-10), Le(10)],
    "repetition_penalty": [Ge(0.1), Le(10)],
    "no_repeat_ngram_size": [Le(32)],
    "temperature": [Ge(0.01), Le(10)],
}
DECODING_FIELDS: dict[str, Any] = {
    name: (Annotated[(kind, *limits, *SERVER_LIMITS.get(name, []))] | None, Field(None, description=description))
    for name, kind, limits, description in decoding_settings()
}
PAGE_POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"
Decoding = create_model("Decoding", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **DECODING_FIELDS)


class Settings(Decoding):  # type: ignore[misc, valid-type]
    """How images are captioned. What isn't given is as the model was tested."""

    num_captions: int = Field(1, ge=1, le=MAX_CAPTIONS, description="Captions of each image, best first.")
    prefix: str = Field("", max_length=200, description="What each caption begins with; the model continues it.")


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


class Result(BaseModel):
    """Captions of an image, best first, or why there are none."""

    captions: list[Caption] = []
    error: str | None = None


class Results(BaseModel):
    """Of each image, in order."""

    results: list[Result]


class Server:
    """A captioner with its queue; ``fetch`` gets images from URLs, where that is allowed."""

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
        self.metrics = Metrics()
        self.batcher = Batcher(
            lambda pixels, request: captioner.caption_pixels(pixels, *request), batch_size, self.metrics.observe_batch
        )
        self._fetch = fetch or (lambda url: download(url, public=True, largest=limits.body, seconds=limits.seconds))
        self._images = 0  # that are being opened, wait, or are captioned
        self._openers = anyio.CapacityLimiter(min(16, os.cpu_count() or 1))
        self._fetchers = anyio.CapacityLimiter(16)  # they wait for others

    async def caption(self, images: list[ImageIn | bytes], settings: Settings) -> Results:
        """The captions of a request's images; raises RequestRejected."""
        try:
            decoding = self.captioner.settings(**settings.model_dump(exclude_none=True, include=set(DECODING_FIELDS)))
            self.captioner.prompt(settings.prefix, decoding)
        except UserError as error:
            raise RequestRejected(422, str(error).replace("model.", "")) from error
        if len(images) > self.limits.images:
            raise RequestRejected(413, f"a request may have {self.limits.images} images (--max-images)")
        if self._images + len(images) > self.limits.queue:
            raise RequestRejected(429, "too many images wait; try again later")
        request = GenerationRequest(decoding, settings.num_captions, settings.prefix)
        self._images += len(images)
        try:
            with anyio.move_on_after(self.limits.seconds) as timeout:
                results = await asyncio.gather(*(self._result(image, request) for image in images))
        finally:
            self._images -= len(images)
        if timeout.cancelled_caught:
            raise RequestRejected(429, f"no captions within {self.limits.seconds:g} s; try again later")
        errors = [result.error for result in results if result.error is not None]
        self.metrics.images.labels("captioned").inc(len(results) - len(errors))
        self.metrics.images.labels("failed").inc(len(errors))
        if len(errors) == len(results):
            raise RequestRejected(422, "; ".join(dict.fromkeys(errors)))
        return Results(results=results)

    async def _result(self, image: ImageIn | bytes, request: GenerationRequest) -> Result:
        try:
            if isinstance(image, bytes):
                encoded = image
            elif image.data is not None:
                encoded = base64.b64decode(image.data, validate=True)
            elif self.allow_urls:
                encoded = await run_sync(self._fetch, str(image.url), limiter=self._fetchers, abandon_on_cancel=True)
            else:
                return Result(error="this server fetches no images from the web (--allow-urls)")
            with self.batcher.opening():
                pixels = await run_sync(self._open, encoded, limiter=self._openers)
        except (OSError, ValueError) as error:
            not_opened = error.reason if isinstance(error, ImageError) else "not base64"
            return Result(error=reason(error) if isinstance(error, OSError) else not_opened)
        return Result(captions=await self.batcher.caption(pixels, request))

    def _open(self, encoded: bytes) -> Tensor:
        try:
            # Not every PIL has all formats.
            image = Image.open(io.BytesIO(encoded), formats=[name for name in FORMATS if name in image_formats()])
        except Exception as error:  # of a damaged head PIL raises nearly anything
            raise ImageError(encoded, "not an image") from error
        with image:
            if image.width * image.height > self.limits.pixels:
                size = f"{image.width} x {image.height} pixels"
                raise ImageError(encoded, f"{size}; it may have {self.limits.pixels:,} (--max-megapixels)")
            return self.captioner.prepare(image)


def make_app(server: Server, *, token: str | None = None, hosts: list[str] | None = None) -> RequestLimiter:
    """The ASGI app: the page, the API, and their limits. ``hosts`` are the names that a request may call it by."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(server.batcher.run())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    summary = f"Captions by {server.name}"
    app = FastAPIOffline(redoc_url=None, title="captioning", version=__version__, summary=summary, lifespan=lifespan)
    responses: dict[int | str, dict[str, Any]] = {
        413: {"description": "Too large, or too many images"},
        422: {"description": "Wrong settings, or no image can be opened"},
        429: {"description": "Too much to do; try again later"},
    }

    @app.post("/v1/captions", responses=responses, tags=["captions"], summary="Caption images in JSON")
    async def caption(request: JsonRequest) -> Results:
        """Images are in the request, in base64, or on the web."""
        return await server.caption(list(request.images), request)

    @app.post("/v1/captions/upload", responses=responses, tags=["captions"], summary="Caption image files")
    async def caption_upload(request: Annotated[UploadRequest, Form(media_type="multipart/form-data")]) -> Results:
        """`curl -F images=@a.jpg -F images=@b.jpg -F num_captions=3 …`."""
        return await server.caption([await file.read() for file in request.images], request)

    @app.get("/v1/model", tags=["server"], summary="The model and its limits")
    async def model() -> dict[str, object]:
        """What a setting is by default, and what a request may be."""
        decoding, limits = asdict(server.captioner.decoding), asdict(server.limits)
        device, urls = str(server.captioner.device), server.allow_urls
        return {"model": server.name, "device": device, "decoding": decoding, "limits": limits, "urls": urls}

    @app.get("/health", tags=["server"])
    async def health() -> dict[str, str]:
        """The server is up."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, tags=["server"])
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        server.metrics.waiting.set(len(server.batcher.waiting))
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for path, name, kind in (
        ("/", "page.html", "text/html"),
        ("/page.css", "page.css", "text/css"),
        ("/page.js", "page.js", "text/javascript"),
    ):
        content = files("captioning.inference.serve").joinpath(name).read_text("utf-8")
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        page = Response(content, media_type=kind, headers={**headers, "Cache-Control": "no-cache"})
        app.add_api_route(path, lambda page=page: page, include_in_schema=False, response_class=Response)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # What was given isn't repeated: it may be megabytes, and text that UTF-8 can't hold.
        issues = [{"loc": issue["loc"], "msg": issue["msg"]} for issue in error.errors()[:20]]
        return Response(json.dumps({"detail": issues}), 422, media_type="application/json")

    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return RequestLimiter(server.metrics.counted(app), server.limits, token)
