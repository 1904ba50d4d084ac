package conformance

// row is one request and what must come back.
type row struct {
	name   string
	method string // POST
	path   string // /score
	header []string
	body   string

	status int    // 200
	want   string // body: JSON is compared as JSON, "~" begins a regular expression, "-" is not looked at
	fields map[string]string
	absent []string // fields that must not be there

	// direct: the front door answers such requests itself, so the row is not sent through it.
	direct bool
	// door: the status is the front door's own and not the model's.
	door bool
	// differs says why Portico's answer is another than the reference's; then status and want are the reference's, and
	// ours what Portico answers.
	differs string
	ours    *answer
}

type answer struct {
	status int
	want   string
}

// script is a scoring script, how it is started, and the rows that it must answer.
type script struct {
	name  string
	files map[string]string
	env   map[string]string // {dir} in a value is the folder of the files
	rows  []row

	args []string // in place of --entry_script score.py
	dir  string   // below the folder of the files, where the server is started
	// atDesk says why the script is for a server that stands alone, not for a deployment.
	atDesk string
	// inImage says why the reference's command line cannot start it, though Azure's image does.
	inImage string
	// needs is a package that the script imports. Deployments, whose environments would have to be built, do not run it.
	needs string
}

const (
	scoringFailed  = `{"message": "An unexpected error occurred in scoring script. Check the logs for more info."}`
	internalFailed = `{"message": "An unexpected internal error occurred. Check the logs for more info."}`
	uuid           = `^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`
	form           = "application/x-www-form-urlencoded"
)

var (
	jsonType = []string{"Content-Type", "application/json"}
	good     = map[string]string{"x-ms-run-function-failed": "^False$"}
	failed   = map[string]string{"x-ms-run-function-failed": "^True$", "content-type": "^application/json"}
)

// plain: run(raw_data) evaluates what it gets, so that each row says what run returns or raises.
var plain = script{
	name: "plain",
	files: map[string]string{"score.py": `
import json
from azureml_inference_server_http.api.aml_response import AMLResponse
class Odd: pass
def init(): pass
def pieces():
    yield "one "
    yield b"two"
def run(raw_data):
    if raw_data.startswith("="): return eval(raw_data[1:])
    if raw_data.startswith("!"): exec(raw_data[1:])
    return raw_data
`},
	rows: []row{
		// Routes.
		{name: "health", method: "GET", path: "/", want: "Healthy", direct: true, fields: map[string]string{
			"content-type": "^text/html", "x-request-id": uuid, "x-ms-request-id": uuid, "x-ms-server-version": `^[a-z]+/\S+$`}},
		{name: "health by HEAD", method: "HEAD", path: "/", direct: true},
		{name: "health by POST", method: "POST", path: "/", status: 405, direct: true,
			want: `{"message": "The method is not allowed for the requested URL."}`},
		{name: "no such path", method: "GET", path: "/nothing", status: 404, direct: true,
			want: `~"message": ?"The requested URL was not found on the server\.`, fields: good},
		{name: "sub path", path: "/score/more", status: 404, want: "~message", direct: true},
		{name: "PUT", method: "PUT", status: 405, direct: true, fields: good,
			want: `{"message": "The method is not allowed for the requested URL."}`},
		{name: "HEAD", method: "HEAD", status: 405, direct: true, fields: good},
		{name: "OPTIONS", method: "OPTIONS", direct: true, fields: good},

		// Input.
		{name: "body as text", body: "hello", want: `"hello"`},
		{name: "body is not parsed", body: `{"a": 1}`, header: jsonType, want: `"{\"a\": 1}"`},
		{name: "empty body", want: `""`},
		{name: "content type is ignored", body: "x", header: []string{"Content-Type", "image/png"}, want: `"x"`},
		{name: "UTF-8", body: "grüß", want: `"grüß"`},
		{name: "bad UTF-8", body: "a\xff", status: 400, fields: good,
			want: `~^\{"message": "Input cannot be decoded as UTF-8: .*invalid start byte"\}$`},
		{name: "form", body: "a=b", header: []string{"Content-Type", form}, want: `""`,
			differs: "the emptiness is an accident of a library", ours: &answer{200, `"a=b"`}},
		{name: "query", method: "GET", path: "/score?a=1&b=%5B1,2%5D&c=text&d=null&e=", want: `"{\"a\": 1, \"b\": [1, 2], \"c\": \"text\", \"d\": null, \"e\": \"\"}"`},
		{name: "repeated query", method: "GET", path: "/score?a=1&a=x", want: `"{\"a\": [1, \"x\"]}"`},
		{name: "no query", method: "GET", want: `"{}"`},

		// Output.
		{name: "dict", body: `={"a": [1, 2.5, True, None]}`, want: `{"a": [1, 2.5, true, null]}`,
			fields: map[string]string{"content-type": "^application/json$", "x-ms-run-fn-exec-ms": `^\d+\.\d{3}$`, "x-ms-run-function-failed": "^False$"}},
		{name: "list", body: "=[1]", want: "[1]"},
		{name: "tuple", body: "=(1, 2)", want: "[1, 2]"},
		{name: "number", body: "=3.5", want: "3.5"},
		{name: "bool", body: "=True", want: "true"},
		{name: "str is quoted", body: "='a'", want: `"a"`},
		{name: "json.dumps is quoted", body: "=json.dumps({'a': 1})", want: `"{\"a\": 1}"`},
		{name: "None", body: "=None", want: "{}", fields: map[string]string{"content-type": "^application/json$"}},
		{name: "NaN", body: "=float('nan')", want: "~^NaN$"},
		{name: "bytes", body: "=b'x'", status: 500, want: internalFailed, fields: good, absent: []string{"x-ms-run-fn-exec-ms"}},
		{name: "set", body: "={1}", status: 500, want: internalFailed, fields: good},
		{name: "object", body: "=Odd()", status: 500, want: internalFailed, fields: good},
		{name: "AMLResponse text", body: "=AMLResponse('hi', 200)", want: "~^hi$", fields: map[string]string{
			"content-type": "^text/html", "x-ms-run-function-failed": "^False$", "x-ms-run-fn-exec-ms": `^\d+\.\d{3}$`}},
		{name: "AMLResponse bytes", body: `=AMLResponse(b'\x00\x01', 200, {'Content-Type': 'image/png'})`, want: "~^\x00\x01$",
			fields: map[string]string{"content-type": "^image/png$"}},
		{name: "AMLResponse json_str", body: "=AMLResponse({'a': 1}, 200, json_str=True)", want: `{"a": 1}`,
			fields: map[string]string{"content-type": "^application/json$"}},
		{name: "AMLResponse None", body: "=AMLResponse(None, 200)", want: "{}", fields: map[string]string{"content-type": "^application/json$"}},
		{name: "AMLResponse repeated header", body: "=AMLResponse('x', 200, {'X-A': 'b, c'})", want: "~^x$",
			fields: map[string]string{"x-a": "^b\nc$"}},
		{name: "AMLResponse 201", body: "=AMLResponse('x', 201)", status: 201, want: "~^x$", fields: good},
		{name: "AMLResponse 204", body: "=AMLResponse(None, 204)", status: 204, fields: good},
		{name: "AMLResponse 404", body: "=AMLResponse('gone', 404)", status: 404, want: "~^gone$", fields: good},
		{name: "AMLResponse 503", body: "=AMLResponse('x', 503)", status: 503, want: "~^x$",
			fields: map[string]string{"x-ms-run-function-failed": "^True$"}},
		{name: "AMLResponse run_function_failed", body: "=AMLResponse('x', 200, run_function_failed=True)", want: "~^x$",
			fields: map[string]string{"x-ms-run-function-failed": "^True$"}},
		{name: "AMLResponse stream", body: "=AMLResponse(pieces(), 200, {'Content-Type': 'text/event-stream'})", want: "~^one two$",
			fields: map[string]string{"content-type": "^text/event-stream"}},
		{name: "AMLResponse list", body: "=AMLResponse(['a', 'b'], 200)", want: "~^ab$"},

		// Errors.
		{name: "exception", body: "!raise ValueError('secret')", status: 500, want: scoringFailed, fields: failed, absent: []string{"x-ms-run-fn-exec-ms"}},
		{name: "TimeoutError of the script", body: "!raise TimeoutError", status: 500, fields: failed,
			want: `{"message": "Scoring timeout after 3600000 ms"}`, differs: "it was not the scoring timeout",
			ours: &answer{500, scoringFailed}},
		{name: "after an exception", body: "x", want: `"x"`},
		{name: "SystemExit", body: "!raise SystemExit", status: 500, want: "~<title>Internal Server Error", differs: "one request must not unload the model for all",
			ours: &answer{500, scoringFailed}},
		{name: "KeyboardInterrupt", body: "!raise KeyboardInterrupt", status: 500, want: "~<title>Internal Server Error", differs: "likewise",
			ours: &answer{500, scoringFailed}},
		{name: "after they were raised", body: "x", want: `"x"`},

		// Identities.
		{name: "ids are made", body: "x", want: "-", fields: map[string]string{
			"x-request-id": uuid, "x-ms-request-id": uuid, "x-ms-server-version": `^[a-z]+/\S+$`}, absent: []string{"x-ms-client-request-id"}},
		{name: "given id", body: "x", want: "-", direct: true, header: []string{"x-request-id", "r-1"}, fields: map[string]string{
			"x-request-id": "^r-1$", "x-ms-request-id": "^r-1$"}},
		{name: "client id", body: "x", want: "-", header: []string{"x-ms-client-request-id", "c-1"}, fields: map[string]string{
			"x-request-id": uuid, "x-ms-request-id": "^c-1$", "x-ms-client-request-id": "^c-1$"}},
		{name: "old id", body: "x", want: "-", header: []string{"x-ms-request-id", "m-1"}, fields: map[string]string{
			"x-request-id": uuid, "x-ms-request-id": "^m-1$"}},
		{name: "old id is the client's", body: "x", want: "-", direct: true, header: []string{"x-ms-request-id", "m-1"},
			fields: map[string]string{"x-ms-client-request-id": "^m-1$"}},
		{name: "trace id", body: "x", want: "-", header: []string{"TraceId", "t-1"}, fields: map[string]string{"traceid": "^t-1$"}},
		{name: "script cannot forge ids", body: "=AMLResponse('x', 200, {'x-request-id': 'forged'})", want: "-",
			fields: map[string]string{"x-request-id": uuid}},
		{name: "id of 100", body: "x", want: "-", direct: true, header: []string{"x-request-id", hundred}},
		{name: "id of 101", body: "x", status: 431, direct: true, header: []string{"x-request-id", hundred + "0"}, fields: good,
			want: `{"message": "x-request-id must not exceed 100 characters"}`},
		{name: "client id of 101", body: "x", status: 431, direct: true, header: []string{"x-ms-client-request-id", hundred + "0"},
			fields: map[string]string{"x-request-id": uuid},
			want:   `{"message": "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters"}`},
		{name: "old id of 101", body: "x", status: 431, header: []string{"x-ms-request-id", hundred + "0"}, fields: good,
			want: `{"message": "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters"}`},

		// Description of an undecorated script.
		{name: "swagger", method: "GET", path: "/swagger.json", want: `~"swagger": ?"2\.0"`, fields: map[string]string{
			"content-type": "^application/json$", "x-ms-run-function-failed": "^False$", "x-request-id": uuid}},
		{name: "swagger example", method: "GET", path: "/swagger.json?version=2.0", want: `~"ServiceInput": ?\{"type": ?"object", ?"example": ?\{\}\}`},
		{name: "swagger 2", method: "GET", path: "/swagger.json?version=2", want: `~"swagger": ?"2\.0"`},
		{name: "swagger 3", method: "GET", path: "/swagger.json?version=3", want: `~"openapi": ?"3\.0`},
		{name: "swagger 3.0", method: "GET", path: "/swagger.json?version=3.0", want: `~"title": ?"wine"`},
		{name: "swagger 3.1", method: "GET", path: "/swagger.json?version=3.1", want: `~"openapi": ?"3\.1\.0"`},
		{name: "swagger prefix", method: "GET", path: "/swagger.json", want: `~"/api/score"`},
		{name: "swagger 4", method: "GET", path: "/swagger.json?version=4", status: 404, fields: good,
			want: `{"message": "Swagger version [4] is not valid. Supported versions: [2, 3, 3.1]."}`},
	},
	env: map[string]string{"SERVICE_NAME": "wine", "SERVICE_PATH_PREFIX": "/api/"},
}

const hundred = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"

// headers: run(raw_data, request_headers).
var headers = script{
	name: "headers",
	files: map[string]string{"score.py": `
def init(): pass
def run(raw_data, request_headers):
    return [raw_data, request_headers.get("X-Own"), request_headers["Content-Type"], type(request_headers).__name__]
`},
	env: map[string]string{"SERVER_VERSION_LOG_RESPONSE_ENABLED": "false"},
	rows: []row{
		{name: "fields", body: "b", header: []string{"x-own", "v", "content-type", "text/plain"}, want: `["b", "v", "text/plain", "dict"]`,
			absent: []string{"x-ms-server-version"}},
		{name: "health", method: "GET", path: "/", want: "Healthy", direct: true, absent: []string{"x-ms-server-version"}},
	},
}

// raw: @rawhttp, under the names of the newer packages.
var raw = script{
	name: "raw",
	files: map[string]string{"score.py": `
from azureml_inference_server_http.api.aml_request import AMLRequest, rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse
def init(): pass
@rawhttp
def run(request):
    if request.args.get("fail"): raise ValueError
    return AMLResponse([request.method, request.path, request.args.get("a"), request.get_data(as_text=True),
                        request.headers.get("x-own"), request.form.get("f"), request.get_json(silent=True),
                        request.content_type, request.args.getlist("a")],
                       200, {"X-Method": request.method}, json_str=True)
`},
	rows: []row{
		{name: "POST", path: "/score?a=1&a=2", body: `{"k": 1}`, header: []string{"content-type", "application/json", "x-own", "v"},
			want: `["POST", "/score", "1", "{\"k\": 1}", "v", null, {"k": 1}, "application/json", ["1", "2"]]`, fields: good},
		{name: "GET", method: "GET", path: "/score?a=x", want: `["GET", "/score", "x", "", null, null, null, null, ["x"]]`},
		{name: "OPTIONS", method: "OPTIONS", direct: true, want: `["OPTIONS", "/score", null, "", null, null, null, null, []]`},
		{name: "HEAD", method: "HEAD", direct: true, fields: map[string]string{"x-method": "^HEAD$"}},
		{name: "PUT", method: "PUT", direct: true, status: 405, want: "~not allowed"},
		{name: "bytes that are not text", body: "\xff", want: `["POST", "/score", null, "\ufffd", null, null, null, null, []]`},
		{name: "exception", path: "/score?fail=1", status: 500, want: scoringFailed, fields: failed},
	},
}

// schema: @input_schema and @output_schema with Python's own types.
var schema = script{
	name: "schema",
	files: map[string]string{"score.py": `
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
def init(): pass
@input_schema("data", StandardPythonParameterType([[1.5, 2.0]]))
@input_schema("count", StandardPythonParameterType(3))
@output_schema(StandardPythonParameterType({"sum": 1.0}))
def run(data, count=7, request_headers=None):
    return {"sum": sum(map(sum, data)), "count": count, "own": request_headers.get("X-Own")}
`},
	rows: []row{
		{name: "object", body: `{"data": [[1, 2], [3, 4]], "count": 2, "extra": 1}`, header: []string{"content-type", "application/json", "x-own", "v"},
			want: `{"sum": 10, "count": 2, "own": "v"}`, fields: good},
		{name: "default", body: `{"data": [[1]]}`, header: jsonType, want: `{"sum": 1, "count": 7, "own": null}`},
		{name: "JSON by suffix", body: `{"data": [[1]]}`, header: []string{"Content-Type", "application/problem+json; charset=utf-8"},
			want: `{"sum": 1, "count": 7, "own": null}`},
		{name: "query", method: "GET", path: "/score?data=%5B%5B1,2%5D%5D&count=1", want: `{"sum": 3, "count": 1, "own": null}`},
		{name: "not JSON by type", body: `{"data": [[1]]}`, header: []string{"Content-Type", "text/plain"}, status: 415, fields: good,
			want: `{"message": "Expects Content-Type to be application/json"}`},
		{name: "no type", body: `{"data": [[1]]}`, status: 415, want: `{"message": "Expects Content-Type to be application/json"}`},
		{name: "bad JSON", body: "{", header: jsonType, status: 400, fields: good,
			want: `{"message": "POST body could not be decoded as JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"}`},
		{name: "empty", header: jsonType, status: 400, want: `{"message": "POST body is empty. Expecting a JSON dictionary."}`},
		{name: "not an object", body: "[1]", header: jsonType, status: 400, want: `{"message": "POST body should be a JSON dictionary."}`},
		{name: "missing", body: "{}", header: jsonType, status: 400, want: `{"message": "A value is not provided for the 'data' parameter."}`},
		{name: "missing in the query", method: "GET", path: "/score?count=1", status: 400, want: `{"message": "A value is not provided for the 'data' parameter."}`},
		{name: "wrong type", body: `{"data": 1}`, header: jsonType, status: 500, want: scoringFailed, fields: failed},
		{name: "wrong scalar", body: `{"data": [[1]], "count": "x"}`, header: jsonType, status: 500, want: scoringFailed, fields: failed},
		{name: "OPTIONS", method: "OPTIONS", direct: true, fields: good},
		{name: "input described", method: "GET", path: "/swagger.json",
			want: `~"ServiceInput": ?\{"type": ?"object", ?"properties": ?\{"data": ?\{"type": ?"array", ?"items": ?\{"type": ?"array", ?"items": ?\{"type": ?"number", ?"format": ?"double"\}\}\}, ?"count": ?\{"type": ?"integer", ?"format": ?"int64"\}, ?"request_headers": ?\{\}\}, ?"example": ?\{"data": ?\[\[1\.5, ?2\.0\]\], ?"count": ?3, ?"request_headers": ?""\}\}`},
		{name: "output described", method: "GET", path: "/swagger.json?version=3",
			want: `~"ServiceOutput": ?\{"type": ?"object", ?"required": ?\["sum"\], ?"properties": ?\{"sum": ?\{"type": ?"number", ?"format": ?"double"\}\}, ?"example": ?\{"sum": ?1\.0\}\}`},
	},
}

// mixed: a sample that OpenAPI 2 cannot describe, one document of the user's own, and a driver module in front.
var mixed = script{
	name: "mixed",
	files: map[string]string{
		"score.py": `
import inner as driver_module
def init(): driver_module.init()
def run(data): raise RuntimeError("the driver's run is passed over")
`,
		"inner.py": `
from inference_schema.schema_decorators import input_schema
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
ready = []
def init(): ready.append(1)
@input_schema("data", StandardPythonParameterType([1, "x"]))
def run(data): return [data, ready]
`,
		"swagger3.1.json": `{"mine": true}`,
	},
	rows: []row{
		{name: "driver", body: `{"data": [2]}`, header: jsonType, want: "[[2], [1]]"},
		{name: "not in version 2", method: "GET", path: "/swagger.json", status: 404,
			want: `{"message": "Swagger version [2] is not supported for the scoring script. Supported swagger versions: [3, 3.1]."}`},
		{name: "own document", method: "GET", path: "/swagger.json?version=3.1", want: `{"mine": true}`},
	},
}

// timeout: settings come from config.json, and the scoring time-out ends run().
var timeout = script{
	name: "timeout",
	files: map[string]string{
		"score.py": `
import time
def init(): pass
def run(raw_data):
    if raw_data: time.sleep(float(raw_data))
    return "in time"
`,
		"config.json": `{"SCORING_TIMEOUT_MS": 300, "SERVICE_NAME": "filed", "SERVICE_VERSION": "9"}`,
	},
	rows: []row{
		{name: "in time", want: `"in time"`},
		{name: "too late", body: "30", status: 500, want: `{"message": "Scoring timeout after 300 ms"}`, fields: failed},
		{name: "afterwards", want: `"in time"`},
		{name: "settings of the file", method: "GET", path: "/swagger.json", want: `~"title": ?"filed"`},
	},
}

// cors: AML_CORS_ORIGINS. Browsers' preflight requests do not pass the front door.
var cors = script{
	name:  "cors",
	files: map[string]string{"score.py": "def init(): pass\ndef run(raw_data): return raw_data\n"},
	env:   map[string]string{"AML_CORS_ORIGINS": "https://a.example, https://b.example"},
	rows: []row{
		{name: "allowed", body: "x", header: []string{"Origin", "https://b.example"}, want: `"x"`, direct: true,
			fields: map[string]string{"access-control-allow-origin": "^https://b.example$", "vary": "Origin"}},
		{name: "not allowed", body: "x", header: []string{"Origin", "https://c.example"}, want: `"x"`, direct: true,
			absent: []string{"access-control-allow-origin"}},
		{name: "preflight", method: "OPTIONS", direct: true, header: []string{"Origin", "https://a.example",
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-a"},
			fields: map[string]string{"access-control-allow-origin": "^https://a.example$", "access-control-allow-methods": "^GET, POST$",
				"access-control-allow-headers": "^x-a$"}},
	},
}

var scripts = []script{plain, headers, raw, legacy, schema, mixed, documents, named, timeout, cors, variables, unnamed, arrays, flask}

// refusal is a script that must not come up, and what the log says of it.
type refusal struct {
	script string
	log    []string
}

// refused must not come up: exit status 3.
var refused = map[string]refusal{
	"no init":             {script: "def run(d): return d\n"},
	"no run":              {script: "def init(): pass\n"},
	"any arguments":       {script: "def init(): pass\ndef run(*args): return 1\n"},
	"any named arguments": {script: "def init(): pass\ndef run(**kwargs): return 1\n"},
	"positional only":     {script: "def init(): pass\ndef run(d, /): return 1\n"},
	"no argument":         {script: "def init(): pass\ndef run(): return 1\n"},
	"only headers":        {script: "def init(): pass\ndef run(request_headers): return 1\n"},
	"import fails":        {script: "import no_such_module\n", log: []string{"Traceback (most recent call last)", "no_such_module"}},
	"syntax":              {script: "def init(: pass\n"},
	"init raises": {script: "def init(): raise ValueError('too bad')\ndef run(d): return d\n",
		log: []string{"Traceback (most recent call last)", "ValueError: too bad", "weights.bin"}},
	"init exits":            {script: "import sys\ndef init(): sys.exit(0)\ndef run(d): return d\n"},
	"rawhttp and schema":    {script: bothDecorators},
	"exits while importing": {script: "import sys\nsys.exit(0)\n"},
}

const bothDecorators = `
from azureml_inference_server_http.api.aml_request import rawhttp
from inference_schema.schema_decorators import input_schema
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
def init(): pass
@rawhttp
@input_schema("d", StandardPythonParameterType(1))
def run(d): return d
`
