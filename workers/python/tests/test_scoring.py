"""Raw requests, schemas, documents, streams, settings and hints, with none of the reference's packages installed."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import Worker

Start = Callable[..., Worker]

RAW = """
from {module}.aml_request import AMLRequest, rawhttp
from {module}.aml_response import AMLResponse
def init(): pass
@rawhttp
def run(request):
    assert isinstance(request, AMLRequest)
    return eval(request.headers.get("X-Do", "request.method"), dict(request=request))
"""


@pytest.mark.parametrize("module", ["azureml_inference_server_http.api", "azureml.contrib.services"])
def test_raw_requests(start: Start, module: str) -> None:
    worker = start(RAW.format(module=module)).ready()

    def ask(do: str, body: Any = b"", method: str = "POST", path: str = "/score", **headers: str) -> Any:
        answer = worker.ask(method, path, body, x_do=do, **headers)
        assert answer.status == 200, worker.log
        return json.loads(answer.text) if answer.text else None

    for method in ("GET", "POST", "OPTIONS"):
        assert ask("request.method", method=method) == method
    head = worker.ask("HEAD", "/score")
    assert (head.status, head.body) == (200, b"")
    assert ask("[request.path, request.args['a'], request.args.getlist('a'), request.args.get('b', type=int)]",
               path="/score?a=1&a=x%20y&b=7") == ["/score", "1", ["1", "x y"], 7]  # fmt: skip
    assert ask("[request.get_data(as_text=True), len(request.data), request.stream.read().hex()]", b"\xc3\xa4") == [
        "\u00e4", 2, "c3a4",
    ]  # fmt: skip
    kind = {"content_type": "application/json; charset=utf-8"}
    assert ask("[request.get_json(), request.json, request.is_json, request.mimetype]", b'{"a": 1}', **kind) == [
        {"a": 1}, {"a": 1}, True, "application/json",
    ]  # fmt: skip
    assert ask("[request.get_json(silent=True), request.get_json(force=True)]", b"[2]") == [None, [2]]
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert ask("[request.form['a'], request.form.getlist('b'), request.values['a']]", b"a=1&b=2&b=%20", **form) == [
        "1", ["2", " "], "1",
    ]  # fmt: skip
    assert ask("[request.cookies['k'], request.headers['X-OWN'], 'x-own' in request.headers]", x_own="v",
               cookie="k=1; l=2") == ["1", "v", True]  # fmt: skip
    assert ask("[request.user_agent.string, request.referrer, request.origin, request.content_encoding, request.url]",
               user_agent="u/1", referer="r", origin="o", content_encoding="gzip", host="h:1", path="/score?a=b") == [
        "u/1", "r", "o", "gzip", "http://h:1/score?a=b",
    ]  # fmt: skip
    assert worker.ask(body=b"{", x_do="request.get_json(force=True)").status == 500
    assert worker.ask(x_do="request.blueprint").status == 500
    assert "the request has no 'blueprint'; where the script imports flask" in worker.log


def test_raw_multipart(start: Start) -> None:
    worker = start(RAW.format(module="azureml_inference_server_http.api")).ready()
    data = b"\r\n\x00--b\r\n\n\xff"
    body = (
        b'--b\r\nContent-Disposition: form-data; name="word"\r\n\r\nhi\r\n'
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        b"%b\r\n--b--\r\n" % data
    )
    do = (
        "(lambda f: [request.form['word'], f.filename, f.content_type, f.name, f.read().hex()])(request.files['image'])"
    )
    answer = worker.ask(body=body, x_do=do, content_type="multipart/form-data; boundary=b")
    assert json.loads(answer.text) == ["hi", "a.png", "image/png", "image", data.hex()]


SCHEMA = """
import datetime
import numpy as np
import pandas as pd
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
def init(): pass
frame = pd.DataFrame({"n": [1, 2], "t": ["a", "b"]})
nested = {"inner": NumpyParameterType(np.array([1])), "list": [1]}
@input_schema("data", NumpyParameterType(np.array([[1.5, 2.0]])))
@input_schema("table", PandasParameterType(frame))
@input_schema("when", StandardPythonParameterType(datetime.date(2020, 1, 2)))
@input_schema("nest", StandardPythonParameterType(nested))
@output_schema(StandardPythonParameterType({"r": [1.0]}))
def run(data, table=None, when=None, nest=None, request_headers=None):
    return [type(data).__name__, data.shape, str(data.dtype), type(table).__name__, str(when), str(nest),
            request_headers["X-Own"]]
"""


def test_schemas(start: Start) -> None:
    worker = start(SCHEMA.replace("table=None, when=None, nest=None", "table, when, nest")).ready()
    value = {"data": [[1, 2]] * 3, "table": [{"n": 1, "t": "x"}], "when": "2021-03-04",
             "nest": {"inner": [3], "list": []}, "extra": 1}  # fmt: skip
    kind = {"content_type": "application/json", "x_own": "v"}

    def ask(value: Any, **headers: str) -> tuple[int, Any]:
        answer = worker.ask(body=value if isinstance(value, bytes) else json.dumps(value), **headers)
        return answer.status, json.loads(answer.text)

    assert ask(value, **kind) == (
        200,
        ["ndarray", [3, 2], "float64", "DataFrame", "2021-03-04", "{'inner': array([3]), 'list': []}", "v"],
    )
    message = "message"
    for status, body, text in [
        (400, b"", "POST body is empty. Expecting a JSON dictionary."),
        (400, b"[1]", "POST body should be a JSON dictionary."),
        (400, b"{}", "A value is not provided for the 'data' parameter."),
    ]:
        assert ask(body, **kind) == (status, {message: text})
    status, answer = ask(b"{", **kind)
    assert status == 400 and answer[message].startswith(
        "POST body could not be decoded as JSON: Expecting property name"
    )
    assert ask(value, content_type="text/plain") == (415, {message: "Expects Content-Type to be application/json"})
    assert ask(value, content_type="application/vnd.x+json", x_own="v")[0] == 200
    for name, wrong in [("data", [1]), ("data", [[1]]), ("data", 1), ("when", "soon"), ("nest", 1), ("table", "x")]:
        assert ask({**value, name: wrong}, **kind)[0] == 500, name
    assert "while expected value is 2" in worker.log


def test_schema_defaults_and_query(start: Start) -> None:
    script = (
        "from inference_schema.schema_decorators import input_schema\n"
        "from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType as P\n"
        "def init(): pass\n@input_schema('a', P(1))\n@input_schema('b', P(1.5))\n"
        "@input_schema('c', P('x'), optional=True)\n"
        "def run(a, b=2.0, c=None): return [a, b, c]\n"
    )
    worker = start(script).ready()
    assert worker.ask("GET", "/score?a=1&b=3").text == "[1, 3, null]"
    assert worker.ask(body='{"a": 4}', content_type="application/json").text == "[4, 2.0, null]"
    assert worker.ask("GET", "/score?b=3").status == 400
    assert worker.ask("GET", "/score?a=x").status == 500


def document(worker: Worker, version: str = "") -> Any:
    answer = worker.ask("GET", "/swagger.json" + (f"?version={version}" if version else ""))
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    assert answer.headers["x-ms-run-function-failed"] == "False" and "x-request-id" in answer.headers
    return json.loads(answer.text)


def test_documents(start: Start) -> None:
    worker = start(SCHEMA, SERVICE_NAME="wine", SERVICE_VERSION="7", SERVICE_PATH_PREFIX="/api/v1/").ready()
    two = document(worker)
    assert two == document(worker, "2") == document(worker, "2.0")
    assert (two["swagger"], two["info"]["title"], two["info"]["version"]) == ("2.0", "wine", "7")
    assert list(two["paths"]) == ["/api/v1/", "/api/v1/score", "/api/v1/swagger.json"]
    taken = two["definitions"]["ServiceInput"]
    assert taken["example"] == {
        "data": [[1.5, 2.0]], "table": [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}], "when": "2020-01-02",
        "nest": {"inner": [1], "list": [1]}, "request_headers": "",
    }  # fmt: skip
    assert taken["properties"]["data"] == {
        "type": "array", "items": {"type": "array", "items": {"type": "number", "format": "double"}},
        "format": "numpy.ndarray",
    }  # fmt: skip
    assert taken["properties"]["table"]["format"] == "pandas.DataFrame:records"
    assert taken["properties"]["table"]["items"]["properties"]["n"] == {"type": "integer", "format": "int64"}
    assert two["definitions"]["ServiceOutput"]["example"] == {"r": [1.0]}
    three = document(worker, "3")
    assert three["openapi"].startswith("3.0") and three["components"]["schemas"]["ServiceInput"] == taken
    assert document(worker, "3.1")["openapi"] == "3.1.0"
    bad = worker.ask("GET", "/swagger.json?version=4")
    assert (bad.status, json.loads(bad.text)) == (
        404, {"message": "Swagger version [4] is not valid. Supported versions: [2, 3, 3.1]."},
    )  # fmt: skip
    assert worker.ask("POST", "/swagger.json").status == 405


def test_documents_without_schemas_and_of_the_user(start: Start, tmp_path: Path) -> None:
    assert document(start("def init(): pass\ndef run(d): return d\n").ready())["definitions"]["ServiceInput"] == {
        "type": "object", "example": {},
    }  # fmt: skip
    mixed = (
        "from inference_schema.schema_decorators import input_schema\n"
        "from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType as P\n"
        "import json\ndef init(): json.dump({'mine': 3}, open('swagger3.json', 'w'))\n"
        "@input_schema('a', P([1, 'x']))\ndef run(a): return a\n"
    )
    worker = start(mixed).ready()
    assert document(worker, "3") == {"mine": 3}  # written by init(), as generated driver modules do
    bad = worker.ask("GET", "/swagger.json")
    assert (bad.status, json.loads(bad.text)["message"]) == (
        404,
        "Swagger version [2] is not supported for the scoring script. Supported swagger versions: [3, 3.1].",
    )


STREAM = """
import time
from azureml_inference_server_http.api.aml_response import AMLResponse
def init(): pass
def pieces(what):
    try:
        for i in range(3):
            yield f"{i}\\n"
            if what == "slow": print("piece", i); time.sleep(30)
            if what == "raise" and i == 1: raise ValueError("torn")
    finally:
        print("closed", what)
def first(): raise ValueError("at once"); yield b""
def run(what):
    source = first() if what == "first" else iter(()) if what == "none" else pieces(what)
    return AMLResponse(source, 200, {"Content-Type": "text/event-stream"})
"""


def test_streams(start: Start) -> None:
    worker = start(STREAM).ready()
    good = worker.ask(body="good")
    assert (good.status, good.body) == (200, b"0\n1\n2\n")
    assert good.headers["transfer-encoding"] == "chunked" and good.headers["content-type"] == "text/event-stream"
    assert worker.ask(body="none").body == b""
    assert worker.ask(body="first").status == 500  # nothing was sent yet, so the failure can be told
    with pytest.raises(Exception, match="IncompleteRead|closed|reset"):
        worker.ask(body="raise")
    worker.wait("told", lambda: "closed raise" in worker.log and "torn" in worker.log)
    assert worker.ask(body="good").body == b"0\n1\n2\n"


def test_stream_is_canceled(start: Start) -> None:
    worker = start(STREAM).ready()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(worker.path)
        sock.sendall(b"POST /score HTTP/1.1\r\nx-portico-number: 7\r\ncontent-length: 4\r\n\r\nslow")
        worker.wait("sent a piece", lambda: "piece 0" in worker.log)
        assert b"2\r\n0\n\r\n" in sock.recv(65536)
        assert worker.word(1) == 7
        worker.wait("canceled", lambda: worker.cancel(7) or worker.word(1) == 0)
    assert "closed slow" in worker.log
    assert worker.ask(body="good", x_portico_number="8").status == 200


def test_cors(start: Start) -> None:
    echo = "def init(): pass\ndef run(d): return d\n"
    worker = start(echo, AML_CORS_ORIGINS="https://a.example, .*\\.b\\.example$").ready()
    for origin, allowed in [("https://a.example", True), ("https://x.b.example", True), ("https://c.example", False)]:
        answer = worker.ask(body="x", origin=origin)
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed, origin
        assert answer.headers["vary"] == "Origin"
    before = worker.ask("OPTIONS", origin="https://a.example", access_control_request_method="POST",
                        access_control_request_headers="x-a, authorization").headers  # fmt: skip
    assert before["access-control-allow-methods"] == "GET, POST"
    assert before["access-control-allow-headers"] == "x-a, authorization"
    anyone = start(echo, AML_CORS_ORIGINS="*").ready()
    assert anyone.ask(body="x", origin="https://c.example").headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in start(echo).ready().ask(body="x", origin="https://c.example").headers


def test_settings_file(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(
        json.dumps({"SCORING_TIMEOUT_MS": 100, "SERVICE_NAME": "filed", "SERVICE_VERSION": "1", "other": 2})
    )
    script = "import time\ndef init(): pass\ndef run(d): time.sleep(30)\n"
    worker = start(script, AZUREML_CONFIG_FILE=str(file), SERVICE_VERSION="2").ready()
    assert worker.ask(body="x").text == '{"message": "Scoring timeout after 100 ms"}'
    info = document(worker)["info"]
    assert (info["title"], info["version"]) == ("filed", "2")  # the environment is above the file
    assert "settings that this server does not know: other" in worker.log


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"SCORING_TIMEOUT_MS": "soon"}', "the setting SCORING_TIMEOUT_MS is 'soon', which is not a positive number"),
        ("{", "cannot be read"),
        ("[]", "does not hold a JSON object"),
    ],
)
def test_settings_refused(start: Start, tmp_path: Path, content: str, reason: str) -> None:
    code = tmp_path / "app"
    code.mkdir()
    (code / "config.json").write_text(content)
    (code / "score.py").write_text("def init(): pass\ndef run(d): pass\n")
    worker = start(None, AML_APP_ROOT=str(code))
    assert worker.ended() == 3 and reason in worker.failure and "init() runs" not in worker.log


def test_logging_file(start: Start, tmp_path: Path) -> None:
    code = tmp_path / "app"
    code.mkdir()
    (code / "logging.json").write_text(json.dumps({
        "version": 1,
        "formatters": {"f": {"class": "azureml_inference_server_http.log_config.AMLLogFormatter",
                             "format": "own %(name)s %(message)s"}},
        "handlers": {"h": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "f"}},
        "loggers": {"mine": {"level": "INFO", "handlers": ["h"], "propagate": False}},
    }))  # fmt: skip
    (code / "score.py").write_text(
        "import logging\ndef init(): logging.getLogger('mine').info('up')\ndef run(d): pass\n"
    )
    log = start(None, AML_APP_ROOT=str(code)).ready().log
    assert "own mine up" in log.splitlines() and "init() has returned" in log


def test_debug_answers_have_the_traceback(start: Start) -> None:
    worker = start("def init(): pass\ndef run(d): return 1 / 0\n", PORTICO_WORKER_DEBUG="true").ready()
    answer = json.loads(worker.ask(body="x").text)
    assert answer["traceback"][-1].startswith("ZeroDivisionError") and "score.py" in answer["traceback"][1]


@pytest.mark.parametrize(
    ("body", "line", "hint"),
    [
        ("    return json.dumps([1])\n", 4, "returns text that is JSON already"),
        ("    result = model.predict(d)\n    return result\n", 5, "returns a numpy array"),
        (
            "    try:\n        return f(d)\n    except Exception as e:\n        return {'error': str(e)}\n",
            6,
            "status 200",
        ),
        ("    p = model.predict(d)\n    return {'result': [p], 'n': 1}\n", 5, "a numpy array inside its result"),
        ("    return {'result': model.predict(d).tolist()}\n", 0, ""),
        ("    try:\n        return f(d)\n    except Exception as e:\n        raise\n", 0, ""),
        ("    try:\n        return f(d)\n    except KeyError as e:\n        return {}\n", 0, ""),
        ("    try:\n        return f(d)\n    except Exception as e:\n        return AMLResponse(str(e), 500)\n", 0, ""),
        ("    result = model.predict(d)\n    result = result.tolist()\n    return result\n", 0, ""),
    ],
)
def test_hints(start: Start, body: str, line: int, hint: str) -> None:
    log = start("import json\ndef init(): pass\ndef run(d):\n" + body).ready().log
    if hint:
        assert f"azmlinfsrv.hint - line {line}: " in log and hint in log
    else:
        assert "azmlinfsrv.hint" not in log


def test_results_with_parts_that_are_not_json(start: Start) -> None:
    script = "import numpy, pandas\ndef init(): pass\ndef run(d): return eval(d)\n"
    worker = start(script).ready()
    for result, way in (
        ("{'a': numpy.arange(3)}", "put part.tolist() into it"),
        ("[numpy.float32(1)]", "put part.tolist() into it"),
        ("[numpy.bool_(True)]", "put part.tolist() into it"),
        ("[pandas.Series([1])]", "put part.tolist() into it"),
        ("{'a': pandas.DataFrame()}", 'put part.to_dict(orient="records") into it'),
    ):
        assert worker.ask(body=result).status == 500
        worker.wait(way, lambda way=way: f"not JSON; {way}: " in worker.log.splitlines()[-1])  # type: ignore[misc]
