"""init, run, inputs, outputs, errors and headers as scoring scripts and clients know them."""

from __future__ import annotations

import json
import re
from typing import Callable

import pytest
from conftest import Worker

Start = Callable[..., Worker]

ECHO = "def init(): pass\ndef run(raw_data): return raw_data\n"
ERROR = "An unexpected error occurred in scoring script. Check the logs for more info."
INTERNAL = "An unexpected internal error occurred. Check the logs for more info."

EVAL = "import json\ndef init(): pass\ndef run(raw_data): return eval(raw_data)\n"


def test_results(start: Start) -> None:
    worker = start(EVAL).ready()
    for expression, status, body in [
        ("{'a': [1, 2.5, True, None]}", 200, '{"a": [1, 2.5, true, null]}'),
        ("[1, 2]", 200, "[1, 2]"),
        ("(1, 2)", 200, "[1, 2]"),
        ("3", 200, "3"),
        ("True", 200, "true"),
        ("'text'", 200, '"text"'),
        ("json.dumps({'a': 1})", 200, '"{\\"a\\": 1}"'),
        ("'ä'", 200, '"\\u00e4"'),
        ("None", 200, "{}"),
        ("float('nan')", 200, "NaN"),
        ("b'bytes'", 500, json.dumps({"message": INTERNAL})),
        ("{1, 2}", 500, json.dumps({"message": INTERNAL})),
        ("1/0", 500, json.dumps({"message": ERROR})),
    ]:
        answer = worker.ask(body=expression.encode())
        assert (answer.status, answer.text) == (status, body), expression
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-ms-run-function-failed"] == str(body == json.dumps({"message": ERROR}))
        assert ("x-ms-run-fn-exec-ms" in answer.headers) == (status == 200)
    assert "ZeroDivisionError" in worker.log
    assert "run() returned bytes" in worker.log


def test_inputs(start: Start) -> None:
    worker = start(ECHO).ready()
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert worker.ask(body="a=b", **form).text == '"a=b"'
    assert worker.ask(body="").text == '""'
    assert worker.ask(body="gr\u00fc\u00df".encode()).text == json.dumps("gr\u00fc\u00df")
    bad = worker.ask(body=b"\xff\xfe")
    assert bad.status == 400 and "UTF-8" in bad.text
    got = worker.ask("GET", "/score?a=1&b=%5B1,2%5D&c=a&d=null&e=x&e=2&f=")
    assert json.loads(json.loads(got.text)) == {"a": 1, "b": [1, 2], "c": "a", "d": None, "e": ["x", 2], "f": ""}
    assert worker.ask("OPTIONS", "/score").status == 200
    head = worker.ask("HEAD", "/score")
    assert (head.status, head.body) == (405, b"")


def test_large_bodies(start: Start) -> None:
    worker = start(ECHO).ready()
    for size in (1, 65536, 65537, 1 << 20, 20 << 20):
        answer = worker.ask(body=b"x" * size)
        assert answer.status == 200 and len(answer.body) == size + 2


def test_request_headers(start: Start) -> None:
    worker = start(
        "def init(): pass\n"
        "def run(request_headers, data): return [data, request_headers['X-Own'], sorted(request_headers)]\n"
    ).ready()
    answer = json.loads(worker.ask(body="d", x_own=" v ").text)
    assert answer[:2] == ["d", "v"]
    assert "X-Own" in answer[2] and not [name for name in answer[2] if name.startswith("X-Portico")]


def test_identity_headers(start: Start) -> None:
    worker = start(ECHO).ready()
    made = worker.ask(body="x").headers
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["x-request-id"])
    assert made["x-ms-request-id"] == made["x-request-id"] and "x-ms-client-request-id" not in made
    assert made["x-ms-server-version"].startswith("portico/")
    given = worker.ask(body="x", x_request_id="r1", x_ms_client_request_id="c1", TraceId="t1").headers
    assert [given[name] for name in ("x-request-id", "x-ms-request-id", "x-ms-client-request-id", "traceid")] == [
        "r1", "c1", "c1", "t1",
    ]  # fmt: skip
    legacy = worker.ask(body="x", x_ms_request_id="m1").headers
    assert (legacy["x-ms-request-id"], legacy["x-ms-client-request-id"]) == ("m1", "m1")
    for name in ("x_request_id", "x_ms_request_id", "x_ms_client_request_id"):
        long = worker.ask(body="x", **{name: "i" * 101})
        assert long.status == 431 and ("x-request-id" in long.headers) == (name != "x_request_id")
        assert worker.ask(body="x", **{name: "i" * 100}).status == 200


def test_version_header_can_be_hidden(start: Start) -> None:
    worker = start(ECHO, SERVER_VERSION_LOG_RESPONSE_ENABLED="false").ready()
    assert "x-ms-server-version" not in worker.ask(body="x").headers


def test_routes(start: Start) -> None:
    worker = start(ECHO).ready()
    assert (worker.ask("GET", "/").status, worker.ask("GET", "/").text) == (200, "Healthy")
    assert worker.ask("HEAD", "/").body == b""
    assert worker.ask("POST", "/").status == 405
    for path in ("/nothing", "/score/"):
        answer = worker.ask("GET", path)
        assert answer.status == 404 and "message" in json.loads(answer.text)


RESPONSE = """
from azureml_inference_server_http.api.aml_response import AMLResponse
def init(): pass
def run(raw_data): return eval(raw_data)
"""


def test_aml_response(start: Start) -> None:
    worker = start(RESPONSE).ready()
    plain = worker.ask(body="AMLResponse('hi', 201, {'X-A': 'b, c', 'Content-Length': '9', 'X-Request-Id': 'forged'})")
    assert (plain.status, plain.text, plain.headers["x-a"]) == (201, "hi", "c")  # the last of two fields
    assert plain.headers["content-length"] == "2" and plain.headers["x-request-id"] != "forged"
    assert plain.headers["content-type"].startswith("text/html")
    assert (
        worker.ask(body="AMLResponse(b'\\x00', 200, {'Content-Type': 'image/png'})").headers["content-type"]
        == "image/png"
    )
    assert worker.ask(body="AMLResponse({'a': 1}, 200, json_str=True)").text == '{"a": 1}'
    assert worker.ask(body="AMLResponse(None, 200)").text == "{}"
    assert (
        worker.ask(body="AMLResponse('x', 200, run_function_failed=True)").headers["x-ms-run-function-failed"] == "True"
    )
    assert worker.ask(body="AMLResponse('x', 500)").headers["x-ms-run-function-failed"] == "True"
    for bad in ("AMLResponse('x', 99)", "AMLResponse('x', 200, {'X-A': 'b\\r\\nX-B: c'})",
                "AMLResponse('x', 200, {'X-A': '\\u20ac'})"):  # fmt: skip
        assert worker.ask(body=bad).status == 500, bad
    for empty in ("AMLResponse(None, 204)", "AMLResponse('x', 204)", "AMLResponse('x', 304)"):
        answer = worker.ask(body=empty)
        assert answer.status in (204, 304) and answer.body == b"", empty
    assert worker.ask(body="AMLResponse('x', 200, {'X-A': '\\u00e9'})").headers["x-a"] == "\u00e9"


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (None, 1, "the scoring script score.py does not exist in the code folder"),
        ("def run(d): pass\n", 1, "has no function init()"),
        ("def init(): pass\n", 1, "has no function run()"),
        ("def init(): pass\nrun = 3\n", 1, "has no function run()"),
        ("def init(): pass\ndef run(*args): pass\n", 1, "cannot accept positional-only"),
        ("def init(): pass\ndef run(**kw): pass\n", 1, "cannot accept positional-only"),
        ("def init(): pass\ndef run(d, /): pass\n", 1, "cannot accept positional-only"),
        ("def init(): pass\ndef run(): pass\n", 1, "must accept a parameter"),
        ("def init(): pass\ndef run(request_headers): pass\n", 1, "must accept a parameter"),
        ("def init(): pass\ndef run(a, b): pass\n", 1, "more than one input parameter (b)"),
        ("def init(): pass\nasync def run(d): pass\n", 1, "run() is a coroutine function"),
        ("async def init(): pass\ndef run(d): pass\n", 1, "init() is a coroutine function"),
        ("def init(): pass\ndef run(d): yield 1\n", 1, "run() is a generator function; it must be a plain"),
        ("def init(): yield\ndef run(d): pass\n", 1, "init() is a generator function"),
        ("class E(Exception):\n    def __str__(self): raise KeyError\ndef init(): raise E\ndef run(d): pass\n", 3,
         "init() raised E"),
        ("class E(BaseException):\n    def __str__(self): raise SystemExit\nraise E\n", 2,
         "importing score.py raised E"),
        ("def init(: pass\n", 1, "importing score.py raised SyntaxError"),
        ("import no_such_module\n", 1, "raised ModuleNotFoundError: No module named 'no_such_module'"),
        ("from azureml_inference_server_http.api.aml_request import rawhttp\n"
         "from inference_schema.schema_decorators import input_schema\n"
         "from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType as P\n"
         "def init(): pass\n@rawhttp\n@input_schema('r', P(1))\ndef run(r): pass\n", 1,
         "cannot be decorated with both @rawhttp and @input_schema"),
        ("from inference_schema.parameter_types.spark_parameter_type import SparkParameterType\n", 1,
         "needs the package inference-schema with its extra pyspark-support"),
        ("raise RuntimeError('disk\\nis gone')\n", 2, "importing score.py raised RuntimeError: disk is gone"),
        ("import sys\ndef init(): sys.exit(5)\ndef run(d): pass\n", 3, "init() raised SystemExit: 5"),
        ("def init(): raise ValueError('no such column')\ndef run(d): pass\n", 3,
         "init() raised ValueError: no such column"),
        ("def init(): raise ValueError('\\u00e4' * 5000)\ndef run(d): pass\n", 3,
         "init() raised ValueError: \u00e4\u00e4"),
    ],
)  # fmt: skip
def test_failures(start: Start, script: str | None, kind: int, reason: str) -> None:
    worker = start(script)
    assert worker.ended() == 3
    assert worker.state == 3 and worker.word(7) == kind
    assert reason in worker.failure and "\n" not in worker.failure
    assert reason[:40] in worker.log


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("def init(): pass\ndef run(d, request_headers): pass\n", "run() has the parameter request_headers"),
        ("from azureml_inference_server_http.api.aml_request import rawhttp\n"
         "def init(): pass\n@rawhttp\ndef run(r): pass\n", "run() is decorated with @rawhttp"),
        ("import sys, types\nsys.modules['flask'] = types.ModuleType('flask')\n"
         "def init(): pass\ndef run(d): pass\n", "the script imports flask"),
    ],
)  # fmt: skip
def test_headerless(start: Start, script: str, reason: str) -> None:
    worker = start(script, PORTICO_HEADERLESS="1")
    assert worker.ended() == 3
    assert worker.state == 3 and worker.word(7) == 1
    assert worker.failure.startswith(reason) and "response_cache.vary" in worker.failure


def test_headerless_script_without_headers(start: Start) -> None:
    worker = start("def init(): pass\ndef run(d): return d\n", PORTICO_HEADERLESS="1").ready()
    assert worker.ask(body="x").text == '"x"'


def test_model_tree_is_logged(start: Start, tmp_path: object) -> None:
    import pathlib

    folder = pathlib.Path(str(tmp_path)) / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "m.pkl").write_bytes(b"")
    worker = start("def init(): raise KeyError('x')\ndef run(d): pass\n", AZUREML_MODEL_DIR=str(folder))
    assert worker.ended() == 3
    assert "sub/m.pkl" in worker.log


def test_imports_beside_the_script(start: Start, tmp_path: object) -> None:
    import pathlib

    code = pathlib.Path(str(tmp_path)) / "app"
    for place, name in [("", "at_root"), ("src", "beside"), ("extra", "in_source"), ("src", "page")]:
        (code / place).mkdir(parents=True, exist_ok=True)
        (code / place / f"{name}.py").write_text(f"NAME = {name!r}\n")
    (code / "src" / "score.py").write_text(
        "import os, at_root, beside, in_source, page\n"
        "def init(): pass\n"
        "def run(d): return [os.getcwd(), at_root.NAME, beside.NAME, in_source.NAME, page.NAME, __name__]\n"
    )
    worker = start(
        None, AML_APP_ROOT=str(code), AZUREML_ENTRY_SCRIPT="src/score.py", AZUREML_SOURCE_DIRECTORY="extra"
    ).ready()
    assert json.loads(worker.ask(body="").text) == [str(code), "at_root", "beside", "in_source", "page", "entry_module"]


def test_main_without_entry_script(start: Start) -> None:
    worker = start(None, AZUREML_ENTRY_SCRIPT="")
    assert worker.ended() == 3 and "No module named 'main'" in worker.failure


def test_driver_module(start: Start) -> None:
    script = (
        "import types\ndriver_module = types.ModuleType('inner')\n"
        "def inner(data): return 'inner ' + data\ndriver_module.run = inner\n"
        "def init(): print('outer init')\ndef run(d): return 'outer'\n"
    )
    worker = start(script).ready()
    assert worker.ask(body="x").text == '"inner x"' and "outer init" in worker.log
