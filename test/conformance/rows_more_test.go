package conformance

// legacy: the import names of the older packages.
var legacy = script{
	name: "legacy",
	files: map[string]string{"score.py": `
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
def init(): pass
@rawhttp
def run(request):
    if request.method == "GET":
        return AMLResponse("no " + request.args.get("a", "argument"), 400)
    return AMLResponse(request.get_data(False).decode().upper(), 200)
`},
	rows: []row{
		{name: "POST", body: "loud", want: "~^LOUD$", fields: good},
		{name: "GET", method: "GET", path: "/score?a=b", status: 400, want: "~^no b$"},
	},
}

// documents: the user's own documents in versions 2 and 3; 3.1 is generated.
var documents = script{
	name: "documents",
	files: map[string]string{
		"score.py":      "def init(): pass\ndef run(raw_data): return raw_data\n",
		"swagger2.json": `{"swagger": "2.0", "mine": 2}`, "swagger3.json": `{"openapi": "3.0.3", "mine": 3}`,
	},
	rows: []row{
		{name: "version 2", method: "GET", path: "/swagger.json", want: `{"swagger": "2.0", "mine": 2}`},
		{name: "version 3", method: "GET", path: "/swagger.json?version=3", want: `{"openapi": "3.0.3", "mine": 3}`},
		{name: "generated", method: "GET", path: "/swagger.json?version=3.1", want: `~"openapi": ?"3\.1\.0"`},
	},
}

// named: the user's own document under the name without a version, which is that of version 2.
var named = script{
	name: "named",
	files: map[string]string{
		"score.py": "def init(): pass\ndef run(raw_data): return raw_data\n", "swagger.json": `{"swagger": "2.0", "mine": 0}`,
	},
	rows: []row{
		{name: "version 2", method: "GET", path: "/swagger.json", want: `{"swagger": "2.0", "mine": 0}`},
		{name: "generated", method: "GET", path: "/swagger.json?version=3", want: `~"openapi": ?"3\.0`},
	},
}

// variables: code folder and script are named by the environment.
var variables = script{
	name:  "variables",
	files: map[string]string{"code/deep/own.py": "def init(): pass\ndef run(raw_data): return 'own'\n", "elsewhere/x": ""},
	env:   map[string]string{"AML_APP_ROOT": "{dir}/code", "AZUREML_ENTRY_SCRIPT": "deep/own.py"},
	args:  []string{}, dir: "elsewhere",
	atDesk:  "a deployment sets these variables itself",
	inImage: "it wants --entry_script",
	rows:    []row{{name: "script", want: `"own"`}},
}

// unnamed: nothing names a script, which is main.py then.
var unnamed = script{
	name:   "unnamed",
	files:  map[string]string{"main.py": "def init(): pass\ndef run(raw_data): return 'main'\n", "own.json": `{"SERVICE_NAME": "main"}`},
	args:   []string{"--config_file", "own.json"},
	atDesk: "a deployment with code names its script",
	rows:   []row{{name: "script", want: `"main"`}},
}

// arrays: what is of numpy cannot be sent.
var arrays = script{
	name: "arrays", needs: "numpy",
	files: map[string]string{"score.py": "import numpy\ndef init(): pass\ndef run(raw_data): return numpy.array([1.5])\n"},
	rows:  []row{{name: "ndarray", body: "x", status: 500, want: internalFailed, fields: good}},
}

// flask: an answer of Flask is sent as it is.
var flask = script{
	name: "flask", needs: "flask",
	files: map[string]string{"score.py": `
import flask
def init(): pass
def run(raw_data):
    return flask.Response(raw_data, int(raw_data), {"X-Own": "v"}, content_type="text/csv")
`},
	rows: []row{
		{name: "as it is", body: "201", status: 201, want: "~^201$", fields: map[string]string{"content-type": "^text/csv", "x-own": "^v$"}},
		{name: "failed", body: "503", status: 503, want: "~^503$", fields: map[string]string{"x-ms-run-function-failed": "^True$"}},
	},
}
