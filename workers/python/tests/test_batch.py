"""Joined requests: a real worker that serves several callers with one run."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from conftest import Worker

ON = {"PORTICO_BATCHING": "true"}

SCRIPT = """
import json, time, os
from azureml_inference_server_http.api.aml_response import AMLResponse
calls = []
def init(): pass
def run_batch(items):
    calls.append(len(items))
    out = []
    for text in items:
        word, _, arg = text.partition(" ")
        if word == "raise": raise ValueError(arg)
        if word == "error": out.append(KeyError(arg)); continue
        if word == "sleep": time.sleep(float(arg))
        if word == "short": return out
        if word == "text": return "text"
        if word == "exit": raise SystemExit(3)
        if word == "calls": out.append(list(calls)); continue
        if word == "status": out.append(AMLResponse("no", int(arg), {"x-mine": "yes"})); continue
        if word == "stream": out.append(AMLResponse((f"{i}," for i in range(3)), 200)); continue
        if word == "none": out.append(AMLResponse((f"{i}," for i in range(3)), int(arg))); continue
        if word == "big": out.append("x" * int(arg)); continue
        if word == "set": out.append({1}); continue
        out.append({"got": text})
    return out
"""


def request(body: str | bytes, ident: str = "", method: str = "POST", path: str = "/score", **fields: str) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    head = {"x-portico-deadline-ms": "60000", "content-type": "application/json", "x-request-id": ident or "one"}
    head |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}content-length: {len(data)}\r\n\r\n".encode() + data


class Part:
    """The answer of one request of a batch."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        self.text = body.decode()

    @property
    def value(self) -> Any:
        return json.loads(self.text)


def parts_of(data: bytes) -> list[Part]:
    parts = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        parts.append(Part(head, rest[:length]))
        data = rest[length:]
    return parts


def ask(worker: Worker, *requests: bytes, **headers: str) -> list[Part]:
    sizes = ",".join(str(len(one)) for one in requests)
    answer = worker.ask(body=b"".join(requests), x_portico_batch=headers.pop("sizes", sizes), **headers)
    assert answer.status == 200, answer.text
    return parts_of(answer.body)


def test_every_request_gets_its_own_answer(start: Any) -> None:
    worker = start(SCRIPT, **ON).ready()
    parts = ask(worker, *(request(f"item {i}", f"id-{i}", x_ms_client_request_id=f"c-{i}") for i in range(40)))
    assert [part.value for part in parts] == [{"got": f"item {i}"} for i in range(40)]
    assert [part.headers["x-request-id"] for part in parts] == [f"id-{i}" for i in range(40)]
    assert [part.headers["x-ms-client-request-id"] for part in parts] == [f"c-{i}" for i in range(40)]
    assert {part.headers["x-ms-run-function-failed"] for part in parts} == {"False"}
    assert len({part.headers["x-ms-run-fn-exec-ms"] for part in parts}) == 1
    assert worker.ask(body="calls").text == "[40, 1]"  # alone it goes through run_batch too
    worker.wait("two runs", lambda: worker.word(5) == 2)


def test_errors_are_of_one_request(start: Any) -> None:
    worker = start(SCRIPT, **ON).ready()
    parts = ask(
        worker, request("a"), request("error no such column", "the-bad-one"), request(b"\xff"), request("status 404"),
        request("set"), request("stream"), request("b", x_portico_deadline_ms="0"), request("c", "x" * 200),
        request("d", path="/other"), request("e", method="GET"), b"nonsense", request("f")[:-1], request("z"),
    )  # fmt: skip
    assert [part.status for part in parts] == [200, 500, 400, 404, 500, 200, 503, 431, 404, 404, 400, 400, 200]
    assert parts[0].value == {"got": "a"}
    assert parts[12].value == {"got": "z"}
    assert parts[1].headers["x-ms-run-function-failed"] == "True"
    assert "Check the logs" in parts[1].value["message"]
    assert (parts[3].text, parts[3].headers["x-mine"]) == ("no", "yes")
    assert parts[5].text == "0,1,2,"
    assert parts[6].headers["x-portico-not-started"] == "deadline"
    assert "the-bad-one" in worker.log
    assert "KeyError: 'no such column'" in worker.log


def test_a_status_without_a_body_takes_nothing_of_the_next(start: Any) -> None:
    worker = start(SCRIPT, **ON).ready()
    bodies = ["none 204", "a", "none 304", "b", "status 204", "c"]
    parts = ask(worker, *(request(body) for body in bodies))
    assert [part.status for part in parts] == [204, 200, 304, 200, 204, 200]
    assert [part.headers["content-length"] for part in parts[::2]] == ["0", "0", "0"]
    assert [part.value["got"] for part in parts[1::2]] == ["a", "b", "c"]
    for status in (204, 304):  # alone, too
        answer = worker.ask(body=f"none {status}")
        assert (answer.status, answer.headers["content-length"]) == (status, "0")


def test_a_raise_costs_the_others_time_and_no_answer(start: Any) -> None:
    worker = start(SCRIPT, **ON).ready()
    parts = ask(worker, request("a"), request("raise bad input"), request("b"))
    assert [part.status for part in parts] == [200, 500, 200]
    assert [parts[0].value, parts[2].value] == [{"got": "a"}, {"got": "b"}]
    assert worker.ask(body="calls").text == "[3, 1, 1, 1, 1]"
    assert "run_batch() raised ValueError: bad input for 3 requests: each is run alone now" in worker.log
    assert worker.ask(body="raise alone").status == 500
    assert worker.ask(body="error alone").status == 500


@pytest.mark.parametrize(("body", "said"), [
    ("short", "run_batch() returned 1 results for 3 requests: they all fail"),
    ("text", "run_batch() returned str, not a list: they all fail"),
    ("exit", "run_batch() raised SystemExit for 3 requests"),
])  # fmt: skip
def test_what_breaks_the_contract_fails_them_all(start: Any, body: str, said: str) -> None:
    worker = start(SCRIPT, **ON).ready()
    parts = ask(worker, request("a"), request(body), request("b"))
    assert [part.status for part in parts] == [500, 500, 500]
    assert said in worker.log
    assert ask(worker, request("a"), request("b"))[1].value == {"got": "b"}


def test_answers_are_bounded_together(start: Any) -> None:
    worker = start(SCRIPT, **ON).ready()
    parts = ask(worker, *(request(f"big {30 << 20}") for _ in range(3)), request("a"))
    assert [part.status for part in parts] == [200, 200, 500, 200]
    assert "more than 67108864 bytes together" in worker.log


def test_joint_requests_that_make_no_sense(start: Any) -> None:
    worker = start(SCRIPT, **ON).ready()
    one = request("a")
    for sizes in ("", "x", "-1", f"{len(one) + 1}", f"{len(one) - 1}", ",", ",".join(["1"] * 257)):
        assert worker.ask(body=one, x_portico_batch=sizes).status == 400, sizes
    assert worker.ask(body=one, x_portico_batch=str(len(one)), x_portico_number="0").status == 400
    assert ask(worker, one)[0].value == {"got": "a"}


def test_a_batch_is_canceled_as_one(start: Any) -> None:
    worker = start(SCRIPT, **ON).ready()
    number = worker.next_number()
    connection = worker.connect()
    requests = [request("a"), request("sleep 60")]
    sizes = ",".join(str(len(one)) for one in requests)
    fields = {"x-portico-number": str(number), "x-portico-batch": sizes}
    connection.request("POST", "/score", b"".join(requests), fields)
    worker.wait("running", lambda: worker.word(1) == number)
    began = time.monotonic()
    worker.cancel(number)
    parts = parts_of(connection.getresponse().read())
    connection.close()
    assert time.monotonic() - began < 30
    assert [(part.status, part.value) for part in parts] == [(503, {"message": "canceled"})] * 2
    assert ask(worker, request("a"), request("b"))[0].status == 200


def test_a_withdrawn_batch_is_not_run(start: Any) -> None:
    worker = start(SCRIPT, **ON).ready()
    worker.set_word((2048 + 8 * 7) // 8, 7)
    one = request("a")
    answer = worker.ask(body=one, x_portico_batch=str(len(one)), x_portico_number="7")
    assert answer.headers["x-portico-not-started"] == "withdrawn"


def test_the_time_limit_of_a_script_is_the_batchs(start: Any) -> None:
    worker = start(SCRIPT, SCORING_TIMEOUT_MS="100", **ON).ready()
    parts = ask(worker, request("a"), request("sleep 60"))
    assert {part.text for part in parts} == {'{"message": "Scoring timeout after 100 ms"}'}


def test_headers_of_every_request(start: Any) -> None:
    script = """
def init(): pass
def run_batch(items, request_headers):
    return [(text, headers["X-Who"]) for text, headers in zip(items, request_headers)]
"""
    worker = start(script, **ON).ready()
    parts = ask(worker, request("a", x_who="ann"), request("b", x_who="bob"))
    assert [part.value for part in parts] == [["a", "ann"], ["b", "bob"]]
    assert worker.ask(body="c", x_who="cid").text == '["c", "cid"]'


@pytest.mark.parametrize(("script", "said"), [
    ("def init(): pass\ndef run(d): return d\n", "has no function run_batch(), which batching needs"),
    ("def run_batch(d): return d\n", "has no function init()"),
    ("def init(): pass\nasync def run_batch(d): return d\n", "run_batch() is a coroutine function"),
    ("def init(): pass\ndef run_batch(d): yield d\n", "run_batch() is a generator function"),
    ("async def init(): pass\ndef run_batch(d): return d\n", "init() is a coroutine function"),
    ("def init(): pass\ndef run_batch(*, d): return d\n", "run_batch() must take one parameter"),
    ("def init(): pass\ndef run_batch(a, b): return a\n", "run_batch() must take one parameter"),
    ("from azureml_inference_server_http.api.aml_request import rawhttp\ndef init(): pass\n@rawhttp\n"
     "def run_batch(d): return d\n", "a script that uses @rawhttp cannot be batched"),
    ("from inference_schema.schema_decorators import input_schema\n"
     "from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType as S\n"
     "def init(): pass\n@input_schema('d', S([1]))\ndef run_batch(d): return d\n", "cannot be decorated with @input"),
])  # fmt: skip
def test_scripts_that_cannot_be_batched(start: Any, script: str, said: str) -> None:
    worker = start(script, **ON)
    assert worker.ended() == 3
    assert said in worker.failure


def test_without_batching_run_batch_is_nobodys_business(start: Any) -> None:
    worker = start("def init(): pass\ndef run(d): return 'run ' + d\ndef run_batch(items): return items\n").ready()
    assert worker.ask(body="a").text == '"run a"'
    one = request("b")
    assert worker.ask(body="c", x_portico_batch=str(len(one))).text == '"run c"'  # a field like any other


def test_answers_that_are_given_again_depend_on_no_header(start: Any) -> None:
    script = "def init(): pass\ndef run_batch(items, request_headers): return items\n"
    worker = start(script, PORTICO_HEADERLESS="true", **ON)
    assert worker.ended() == 3
    assert "run_batch() has the parameter request_headers" in worker.failure
    assert start(SCRIPT, PORTICO_HEADERLESS="true", **ON).ready()
