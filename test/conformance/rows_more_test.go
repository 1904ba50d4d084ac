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
