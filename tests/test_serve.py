import asyncio
import base64
import io
import json
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from chromium import Chromium
from PIL import Image
from started import started, wait_for

from captioning import Captioner
from captioning.errors import UserError
from captioning.inference.captioner import Caption
from captioning.inference.serve import LOOPBACK_NAMES, read_token, serve
from captioning.inference.serve.app import Server, make_app
from captioning.inference.serve.batching import Batcher, GenerationRequest
from captioning.inference.serve.limits import Connection, Limits
from captioning.models.decoding import Decoding

CAPTIONING = Path(sys.executable).with_name("captioning")
SHORT = {"max_new_tokens": 5, "min_new_tokens": 2}
UPLOAD, CAPTIONS = "/v1/captions/upload", "/v1/captions"


@contextmanager
def running(captioner: Captioner, *, token: str | None = None, **options) -> Iterator[httpx.Client]:
    """A server in a thread; the client knows its address."""
    limits = options.pop("limits", Limits())
    server = Server(captioner, name="a model", **{"limits": limits, "batch_size": 8, "allow_urls": False, **options})
    app = make_app(server, token=token, hosts=LOOPBACK_NAMES)
    listening = socket.create_server(("127.0.0.1", 0))
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, http=Connection, ws="none", log_level="critical"))
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
            wait_for(lambda: uvicorn_server.started)
            yield client
    finally:
        uvicorn_server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def captioner(checkpoint) -> Captioner:
    return Captioner.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def server(captioner) -> Iterator[httpx.Client]:
    with running(captioner) as client:
        yield client


@pytest.fixture(scope="module")
def run_server(captioner) -> Iterator[Callable[..., httpx.Client]]:
    """Start servers with options of their own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(captioner, **options))


@pytest.fixture(scope="module")
def files(images) -> list[Path]:
    return sorted(images.glob("*.png"))[:6]


def of_files(files: list[Path]) -> list:
    return [("images", (file.name, file.read_bytes(), "image/png")) for file in files]


def in_base64(files: list[Path]) -> list[dict[str, str]]:
    return [{"data": base64.b64encode(file.read_bytes()).decode()} for file in files]


def detail(answer: httpx.Response) -> str:
    return json.dumps(answer.json()["detail"])


# ------------------------------------------------------------ captions


@pytest.mark.parametrize("way", ["upload", "json"])
def test_captions_are_those_of_the_captioner(server, captioner, files, way):
    answer = (
        server.post(UPLOAD, files=of_files(files), data=SHORT)
        if way == "upload"
        else server.post(CAPTIONS, json={"images": in_base64(files), **SHORT})
    )
    assert answer.status_code == 200, answer.text
    captions = [result["captions"][0]["text"] for result in answer.json()["results"]]
    assert captions == captioner(files, **SHORT)


def test_several_captions_of_an_image_come_with_scores_best_first(server, captioner, files):
    answer = server.post(UPLOAD, files=of_files(files[:1]), data={"num_captions": 3, "num_beams": 4, **SHORT})
    expected = captioner.candidates(files[0], num_captions=3, num_beams=4, **SHORT)[0]
    (result,) = answer.json()["results"]
    assert [caption["text"] for caption in result["captions"]] == [caption.text for caption in expected]
    assert [caption["score"] for caption in result["captions"]] == pytest.approx([c.score for c in expected], abs=1e-5)


def test_an_image_that_can_not_be_opened_has_its_reason_beside_the_captions_of_others(server, files):
    images = [*in_base64(files[:1]), {"data": base64.b64encode(b"no image").decode()}, {"data": "?"}]
    results = server.post(CAPTIONS, json={"images": images, **SHORT}).json()["results"]
    assert [result["error"] for result in results] == [None, "not an image", "not base64"]
    assert [len(result["captions"]) for result in results] == [1, 0, 0]


def test_a_request_of_which_no_image_can_be_opened_is_refused(server):
    answer = server.post(UPLOAD, files=[("images", ("a.png", b"no image"))])
    assert (answer.status_code, answer.json()) == (422, {"detail": "not an image"})


def test_what_captions_is_told_without_the_folders_of_the_machine(server):
    told = server.get("/v1/model").json()
    assert (told["model"], told["device"], told["decoding"]["num_beams"]) == ("a model", "cpu", 1)
    assert (told["limits"]["images"], told["urls"]) == (32, False)


def test_many_clients_share_batches_and_each_gets_its_own_captions(run_server, captioner, files):
    client = run_server()
    expected = captioner(files, **SHORT)

    def ask(number: int) -> bool:
        file = number % len(files)
        answer = client.post(UPLOAD, files=of_files([files[file]]), data=SHORT)
        return answer.json()["results"][0]["captions"][0]["text"] == expected[file]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(96)))
    said = client.get("/metrics").text
    batches = float(re.search(r"captioning_batch_images_count ([\d.]+)", said)[1])
    assert float(re.search(r"captioning_batch_images_sum ([\d.]+)", said)[1]) == 96
    assert batches < 72


def test_different_settings_at_once_are_each_applied(server, captioner, files):
    settings = [{"prefix": "a red"}, {"num_beams": 3}, {"max_new_tokens": 2, "min_new_tokens": 2}, {}] * 4

    def ask(given: dict) -> str:
        answer = server.post(UPLOAD, files=of_files(files[:1]), data={**SHORT, **given})
        return answer.json()["results"][0]["captions"][0]["text"]

    with ThreadPoolExecutor(16) as pool:
        captions = list(pool.map(ask, settings))
    assert captions == [captioner(files[0], **{**SHORT, **given}) for given in settings]


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"num_beams": 99}, "num_beams"),
        ({"num_captions": 0}, "num_captions"),
        ({"num_baems": 2}, "num_baems"),
        ({"temperature": "hot"}, "temperature"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens=9 must be between 0 and max_new_tokens=3"),
        ({"top_p": 2}, "top_p"),
        ({"prefix": "a " * 150}, "prefix"),
    ],
)
@pytest.mark.parametrize("way", ["upload", "json"])
def test_a_wrong_setting_is_named(server, files, setting, says, way):
    answer = (
        server.post(UPLOAD, files=of_files(files[:1]), data=setting)
        if way == "upload"
        else server.post(CAPTIONS, json={"images": in_base64(files[:1]), **setting})
    )
    assert answer.status_code == 422
    assert says in detail(answer)


def test_an_image_of_too_many_pixels_is_not_decoded(run_server):
    file = io.BytesIO()
    Image.new("L", (1001, 1000)).save(file, "PNG")
    answer = run_server(limits=Limits(pixels=1_000_000)).post(UPLOAD, files=[("images", ("a.png", file.getvalue()))])
    assert answer.status_code == 422
    assert detail(answer) == '"1001 x 1000 pixels; it may have 1,000,000 (--max-megapixels)"'


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [1_001, 4_001, 100_000])
def test_a_request_that_is_too_large_is_refused(run_server, announced, size):
    content = b"x" * size if announced else iter([b"x" * 500] * (size // 500 + 1))
    answer = run_server(limits=Limits(body=1_000)).post(CAPTIONS, content=content)
    assert (answer.status_code, detail(answer)) == (413, '"a request may have 1,000 bytes (--max-megabytes)"')


def test_too_many_images_are_refused(run_server, files):
    answer = run_server(limits=Limits(images=2)).post(UPLOAD, files=of_files(files[:3]))
    assert (answer.status_code, detail(answer)) == (413, '"a request may have 2 images (--max-images)"')


def test_what_would_wait_behind_too_many_others_is_sent_away(run_server, files):
    answer = run_server(limits=Limits(queue=2)).post(UPLOAD, files=of_files(files[:3]))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_room_in_the_queue_is_given_back(run_server, files):
    client = run_server(limits=Limits(queue=2))
    for _ in range(3):
        client.post(UPLOAD, files=[("images", ("a.png", b"no image"))] * 2)
    assert client.post(UPLOAD, files=of_files(files[:2]), data=SHORT).status_code == 200


def test_what_takes_too_long_is_given_up(run_server, checkpoint, files):
    slow = Captioner.from_pretrained(checkpoint)
    caption_pixels = slow.caption_pixels
    slow.caption_pixels = lambda *given, **named: time.sleep(1) or caption_pixels(*given, **named)
    with running(slow, limits=Limits(seconds=0.3)) as client:
        answer = client.post(UPLOAD, files=of_files(files[:1]), data=SHORT)
    assert (answer.status_code, detail(answer)) == (429, '"no captions within 0.3 s; try again later"')


def test_images_of_the_web_are_not_fetched_unless_allowed(server):
    answer = server.post(CAPTIONS, json={"images": [{"url": "https://example.com/a.png"}]})
    assert (answer.status_code, detail(answer)) == (
        422,
        '"this server fetches no images from the web (--allow-urls)"',
    )


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest/", "file:///etc/hostname"]
)
def test_images_of_the_web_are_never_those_of_the_servers_own_network(run_server, url):
    answer = run_server(allow_urls=True).post(CAPTIONS, json={"images": [{"url": url}]})
    assert answer.status_code == 422
    assert "can't be" in detail(answer)


def test_an_image_of_the_web_is_captioned_where_that_is_allowed(run_server, captioner, files):
    client = run_server(allow_urls=True, fetch={"http://example.com/a.png": files[0].read_bytes()}.__getitem__)
    answer = client.post(CAPTIONS, json={"images": [{"url": "http://example.com/a.png"}], **SHORT})
    assert answer.json()["results"][0]["captions"][0]["text"] == captioner(files[0], **SHORT)


@pytest.mark.parametrize("path", [CAPTIONS, UPLOAD, "/v1/model", "/metrics"])
@pytest.mark.parametrize("given", [None, "Bearer wrong-token", "Bearer", "right-token"])
def test_without_the_token_there_is_no_answer(run_server, path, given):
    headers = {"Authorization": given} if given else {}
    answer = run_server(token="right-token").post(path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_with_the_token_there_is_one(run_server, files):
    client = run_server(token="right-token")
    headers = {"Authorization": "Bearer right-token"}
    assert client.post(UPLOAD, files=of_files(files[:1]), data=SHORT, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/health", "/docs"])
def test_what_is_no_secret_needs_no_token(run_server, path):
    assert run_server(token="right-token").get(path).status_code == 200


def test_the_page_of_another_site_can_not_ask(server, files):
    answer = server.post(UPLOAD, files=of_files(files[:1]), headers={"Origin": "http://example.com"})
    assert answer.status_code == 403


def test_a_name_that_is_not_this_machines_is_refused(server):
    assert server.get("/v1/model", headers={"Host": "example.com"}).status_code == 400


# ------------------------------------------------------------ hostile requests


def exchange(client: httpx.Client, *sent: bytes, pause: float = 0, wait: float = 30) -> bytes:
    """What the server says to some bytes until it ends the connection."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=wait) as connection:
        for part in sent:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        return answer


def test_whatever_a_body_is_the_answer_is_that_it_is_wrong(server):
    chance = random.Random(1)
    for _ in range(150):
        content = bytes(chance.randrange(256) for _ in range(chance.randrange(400)))
        kind = chance.choice(["application/json", "multipart/form-data; boundary=x", "image/png", "\xff", ""])
        path = chance.choice([UPLOAD, CAPTIONS])
        answer = server.post(path, content=content, headers=[(b"content-type", kind.encode("latin-1"))])
        assert 400 <= answer.status_code < 500, (content, kind, answer.text)


@pytest.mark.parametrize(
    "content",
    [
        b'{"images": [{"data": ""}], "prefix": "\\ud800"}',
        b'{"images": [{"data": ""}], "\\ud800": 1}',
        b'{"images": [{"data": "\\ud800"}]}',
        b'{"images": [{"data": ""}], "num_beams": ' + b"9" * 10_000 + b"}",
        b'{"images": [{"data": ""}], "temperature": NaN}',
        b'{"images": [{"data": ""}], "temperature": 1e999}',
        b"[" * 100_000,
        b'{"images": ' + b'{"data":' * 50_000,
        b'{"images": []}',
        b"null",
    ],
)
def test_json_that_no_program_writes_is_refused(server, content):
    answer = server.post(CAPTIONS, content=content, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static-offline-docs/..%2f..%2f..%2f..%2fetc/passwd"]
)
def test_paths_lead_to_no_files(server, path):
    answer = exchange(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert re.match(rb"HTTP/1.1 4\d\d", answer)
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * 99_999,
    ],
)
def test_what_is_no_http_is_refused(server, sent):
    assert exchange(server, sent).startswith(b"HTTP/1.1 400")


def test_a_body_that_comes_too_slowly_is_given_up(run_server):
    head = b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    began = time.monotonic()
    answer = exchange(run_server(limits=Limits(seconds=0.5)), head, b"x")
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
def test_a_head_that_comes_too_slowly_is_given_up(server, monkeypatch, sent):
    monkeypatch.setattr(Connection, "HEAD_SECONDS", 0.4)
    assert exchange(server, sent).startswith(b"HTTP/1.1 408")


def test_a_request_that_takes_longer_than_a_head_may_is_answered(checkpoint, files, monkeypatch):
    monkeypatch.setattr(Connection, "HEAD_SECONDS", 0.2)
    slow = Captioner.from_pretrained(checkpoint)
    caption_pixels = slow.caption_pixels
    slow.caption_pixels = lambda *given, **named: time.sleep(1) or caption_pixels(*given, **named)
    with running(slow) as client:
        assert client.post(UPLOAD, files=of_files(files[:1]), data=SHORT).status_code == 200


def test_bodies_that_fill_the_memory_together_are_refused(run_server):
    client = run_server(limits=Limits(body=1_000_000, bodies=1_500_000, seconds=20))
    head = b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address) as first:
        first.sendall(head + b"x" * 900_000)
        wait_for(lambda: client.post(CAPTIONS, content=b"x" * 900_000).status_code == 429)
    wait_for(lambda: client.post(CAPTIONS, content=b"x" * 900_000).status_code == 422)


# ------------------------------------------------------------ batches


def batched(*requests: GenerationRequest, batch_size: int = 4, fails: bool = False) -> tuple[list, list[int]]:
    """What each image gets, and the sizes of the batches; images are numbered by their only pixel."""
    sizes = []

    def caption(pixels, request):
        if fails and not sizes:
            sizes.append(0)
            raise RuntimeError("defect")
        time.sleep(0.02)
        return [[Caption(f"{int(pixel)} {request.prefix}", 0.0)] for pixel in pixels.flatten()]

    async def work():
        batcher = Batcher(caption, batch_size, lambda images, _: sizes.append(images))
        running = asyncio.create_task(batcher.run())
        given = [batcher.caption(torch.full((1, 1, 1), n), request) for n, request in enumerate(requests)]
        results = await asyncio.gather(*given, return_exceptions=True)
        running.cancel()
        return [result if isinstance(result, Exception) else result[0].text for result in results]

    return asyncio.run(work()), sizes


def test_a_batch_is_no_larger_than_it_may_be():
    captions, sizes = batched(*[GenerationRequest(Decoding())] * 10)
    assert captions == [f"{n} " for n in range(10)]
    assert sizes == [4, 4, 2]


def test_a_batch_holds_equal_requests():
    one, other = GenerationRequest(Decoding(), prefix="one"), GenerationRequest(Decoding(), prefix="other")
    captions, sizes = batched(one, other, one, other, one)
    assert captions == ["0 one", "1 other", "2 one", "3 other", "4 one"]
    assert sizes == [3, 2]


def test_a_batch_that_fails_takes_no_other_with_it():
    captions, _ = batched(*[GenerationRequest(Decoding())] * 6, fails=True)
    assert [isinstance(caption, RuntimeError) for caption in captions] == [True] * 4 + [False] * 2


def test_what_nobody_waits_for_is_not_captioned():
    async def work():
        seen = []
        batcher = Batcher(lambda pixels, _: seen.extend(pixels) or [[]] * len(pixels), 4, lambda *_: None)
        gone = asyncio.create_task(batcher.caption(torch.zeros(1), GenerationRequest(Decoding())))
        await asyncio.sleep(0)
        gone.cancel()
        running = asyncio.create_task(batcher.run())
        await batcher.caption(torch.ones(1), GenerationRequest(Decoding()))
        running.cancel()
        return [int(pixel) for pixel in seen]

    assert asyncio.run(work()) == [1]


# ------------------------------------------------------------ the command


@contextmanager
def command(checkpoint: Path, folder: Path, *options: str, **variables: str):
    """`captioning serve` as a process, and its address."""
    arguments = [str(CAPTIONING), "serve", str(checkpoint), "--port", "0", *options]
    with started(arguments, folder=folder, environments=[variables]) as (process,):
        wait_for(lambda: "http://" in process.said, of=process)
        yield process, re.search(r"http://\S+", process.said)[0]


def test_the_command_serves_with_its_token_until_a_signal_and_answers_what_is_under_way(checkpoint, tmp_path, files):
    token = "a-secret-of-mine"
    with command(checkpoint, tmp_path, CAPTIONING_TOKEN=token) as (process, address), ThreadPoolExecutor(8) as pool:
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        assert httpx.get(f"{address}/v1/model").status_code == 401
        given = {"files": of_files(files * 4), "headers": {"Authorization": f"Bearer {token}"}, "timeout": 60}
        asked = [pool.submit(httpx.post, f"{address}{UPLOAD}", **given) for _ in range(8)]
        wait_for(lambda: asked[0].done())
        process.process.send_signal(signal.SIGINT)
        assert {answer.result().status_code for answer in asked if not answer.exception()} == {200}
        assert process.ended() == 0
    assert "Traceback" not in process.said
    assert token not in process.said


def test_a_port_that_is_taken_is_named_with_the_way_out(checkpoint):
    options = {"limits": Limits(), "batch_size": 1, "allow_urls": False, "token": None, "device": "cpu"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as error:
            serve(str(checkpoint), host="127.0.0.1", port=port, **options)
    assert str(error.value) == f"--host 127.0.0.1 --port {port}: Address already in use; --port 0 takes a free one"


@pytest.mark.parametrize("content", ["short", "two\nlines-of-it", "sécret-secret"])
def test_a_token_that_no_header_can_hold_is_refused(tmp_path, content):
    (tmp_path / "token").write_text(content)
    with pytest.raises(UserError, match="token: a token is one line of 8 or more letters, digits and signs"):
        read_token(tmp_path / "token")


def test_the_api_is_described_without_another_server(server):
    paths = server.get("/openapi.json").json()["paths"]
    assert {CAPTIONS, UPLOAD, "/v1/model", "/health", "/metrics"} <= set(paths)
    assert "//" not in re.sub(
        r"<!--.*?-->|//.*`Swagger.*", "", server.get("/docs").text.replace("/static-offline-docs/", "")
    )


# ------------------------------------------------------------ the page


def with_file(file: Path, event: str) -> str:
    """JavaScript that drops or pastes an image, as a user's browser tells the page of it."""
    data = base64.b64encode(file.read_bytes()).decode()
    holder = {"drop": "dataTransfer", "paste": "clipboardData"}[event]
    kind = {"drop": "DragEvent", "paste": "ClipboardEvent"}[event]
    return f"""(() => {{
        const bytes = Uint8Array.from(atob("{data}"), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "{file.name}", {{ type: "image/png" }}));
        document.body.dispatchEvent(new {kind}("{event}", {{ {holder}: transfer, bubbles: true, cancelable: true }}));
    }})()"""


def captions_shown(browser: Chromium, images: int = 1) -> list[list[str]]:
    browser.wait(f"document.querySelectorAll('.card:not(.waiting)').length === {images}")
    texts = "[...card.querySelectorAll('.text')].map((text) => text.textContent)"
    return browser.value(f"[...document.querySelectorAll('.card')].map((card) => {texts})")


def opened(browser: Chromium, client: httpx.Client) -> Chromium:
    browser.open(f"{client.base_url}")
    browser.wait("document.getElementById('model').textContent === 'a model'")
    return browser


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_an_image_that_is_dropped_or_pasted_is_captioned_with_a_score(browser, server, captioner, files, event):
    opened(browser, server).value(with_file(files[0], event))
    assert captions_shown(browser) == [[captioner(files[0])]]
    score = float(browser.value("document.querySelector('.score').textContent"))
    assert score == pytest.approx(captioner.candidates(files[0])[0][0].score, abs=0.006)


def test_several_images_that_are_chosen_are_captioned(browser, server, captioner, files):
    opened(browser, server)
    node = browser.do("Runtime.evaluate", expression="document.getElementById('files')")["result"]["objectId"]
    browser.do("DOM.setFileInputFiles", objectId=node, files=[str(file) for file in files[:3]])
    assert captions_shown(browser, 3) == [[caption] for caption in reversed(captioner(files[:3]))]


def test_settings_apply_when_images_are_captioned_again(browser, server, captioner, files):
    opened(browser, server).value(with_file(files[0], "drop"))
    captions_shown(browser)
    browser.value(
        """(() => {
            const form = document.getElementById("settings");
            form.num_captions.value = 2; form.max_new_tokens.value = 4; form.prefix.value = "a red";
            document.getElementById("again").click();
        })()"""
    )
    browser.wait("document.querySelectorAll('.text').length === 2")
    expected = captioner.candidates(files[0], num_captions=2, max_new_tokens=4, prefix="a red")[0]
    assert captions_shown(browser) == [[caption.text for caption in expected]]


def test_what_is_no_image_says_so_in_its_card(browser, server, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    opened(browser, server).value(with_file(tmp_path / "broken.png", "drop"))
    browser.wait("document.querySelector('.card .error:not([hidden])')?.textContent === 'not an image'")


def test_a_token_that_is_asked_for_can_be_given(browser, run_server, captioner, files):
    client = run_server(token="right-token")
    browser.open(f"{client.base_url}")
    browser.wait("!document.getElementById('locked').hidden")
    browser.value(
        """(() => {
            const field = document.getElementById("token");
            field.value = "right-token"; field.dispatchEvent(new Event("change"));
        })()"""
    )
    browser.wait("document.getElementById('model').textContent === 'a model'")
    browser.value(with_file(files[0], "drop"))
    assert captions_shown(browser) == [[captioner(files[0])]]


def test_the_address_of_an_image_can_be_given_where_the_server_fetches_it(browser, run_server, captioner, files):
    client = run_server(allow_urls=True, fetch=lambda _: files[0].read_bytes())
    opened(browser, client).value(
        """(() => {
            document.getElementById("url").value = "https://example.com/a.png";
            document.querySelector("#address button").click();
        })()"""
    )
    assert captions_shown(browser) == [[captioner(files[0])]]


def test_the_page_asks_nobody_but_its_server_and_complains_of_nothing(browser, server, files):
    opened(browser, server).value(with_file(files[0], "drop"))
    captions_shown(browser)
    asked = [m["params"]["request"]["url"] for m in browser.messages if m["method"] == "Network.requestWillBeSent"]
    assert {url.split(":")[0] for url in asked} <= {"http", "blob", "data"}
    assert all(url.startswith((str(server.base_url), "blob:", "data:")) for url in asked)
    complaints = [m for m in browser.messages if m["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert [complaint["params"] for complaint in complaints] == []
