package onnxserve

import (
	"encoding/json"
	"net/url"

	"portico/internal/onnxrt"
)

// The versions of the description, with the values of the query that ask for each.
var swaggerVersions = map[string]int{"2": 0, "2.0": 0, "3": 1, "3.0": 1, "3.1": 2}

func (e *Executor) swagger(r *Request) Answer {
	if !reads(r) {
		return e.message(405, notAllowed)
	}
	asked := "2"
	if query, err := url.ParseQuery(string(r.Query)); err == nil && query.Has("version") {
		asked = query.Get("version")
	}
	version, ok := swaggerVersions[asked]
	if !ok {
		return e.message(404, "Swagger version ["+asked+"] is not valid. Supported versions: [2, 3, 3.1].")
	}
	e.out = append(e.out, e.model.documents[version]()...)
	return e.answer(200, jsonKind)
}

type object = map[string]any

// describe makes the description in the version with this index.
func (m *Model) describe(version int) []byte {
	refs := "#/definitions/"
	if version > 0 {
		refs = "#/components/schemas/"
	}
	to := func(name string) object { return object{"$ref": refs + name} }
	answers := func(description string, schema object) object {
		if version == 0 {
			return object{"description": description, "schema": schema}
		}
		return object{"description": description, "content": object{jsonKind: object{"schema": schema}}}
	}
	bad := answers("The service could not do what was asked.", to("ErrorResponse"))
	operation := func(id, description string, good object) object {
		return object{"operationId": id, "description": description, "responses": object{"200": good, "default": bad}}
	}
	health := operation("ServiceHealthCheck", "Look whether the service is up.", answers("The service is up.", object{"type": "string"}))
	score := operation("RunMLService", "Run the model on the input.", answers("The outputs.", to("ServiceOutput")))
	score["security"] = []object{{"Bearer": []string{}}}
	document := operation("GetSwaggerSpec", "Describe the service.", answers("This document.", object{"type": "object"}))
	if version == 0 {
		score["parameters"] = []object{{"name": "serviceInputPayload", "in": "body", "required": true, "schema": to("ServiceInput")}}
	} else {
		score["requestBody"] = object{"required": true, "content": object{jsonKind: object{"schema": to("ServiceInput")}}}
	}
	schemas := object{
		"ServiceInput": m.inputSchema(), "ServiceOutput": m.outputSchema(),
		"ErrorResponse": object{"type": "object", "properties": object{"message": object{"type": "string"}}},
	}
	bearer := object{"Bearer": object{"type": "apiKey", "name": "Authorization", "in": "header",
		"description": "For example: Bearer abc123"}}
	doc := object{
		"info":  object{"title": m.Name, "version": m.Version, "description": "The ONNX model " + m.Name + "."},
		"paths": object{"/": object{"get": health}, "/score": object{"post": score}, "/swagger.json": object{"get": document}},
	}
	if version == 0 {
		doc["swagger"], doc["schemes"] = "2.0", []string{"https"}
		doc["consumes"], doc["produces"] = []string{jsonKind}, []string{jsonKind}
		doc["definitions"], doc["securityDefinitions"] = schemas, bearer
	} else {
		doc["openapi"] = [...]string{1: "3.0.3", 2: "3.1.0"}[version]
		doc["components"] = object{"schemas": schemas, "securitySchemes": bearer}
	}
	text, _ := json.Marshal(doc) // plain data always has a JSON form
	return text
}

func (m *Model) inputSchema() object {
	inputs := m.inputs
	data := object{}
	if len(inputs) == 1 {
		data = valueSchema(&inputs[0])
	} else {
		members, required := object{}, []string{}
		for i := range inputs {
			members[inputs[i].Name] = valueSchema(&inputs[i])
			required = append(required, inputs[i].Name)
		}
		data["type"], data["properties"], data["required"] = "object", members, required
	}
	return object{"type": "object", "required": []string{"input_data"}, "properties": object{"input_data": data}}
}

func (m *Model) outputSchema() object {
	outputs := m.outputs
	if len(outputs) == 1 {
		return valueSchema(&outputs[0])
	}
	members := object{}
	for i := range outputs {
		members[outputs[i].Name] = valueSchema(&outputs[i])
	}
	return object{"type": "object", "properties": members}
}

// valueSchema describes a value as nested lists.
func valueSchema(info *onnxrt.Info) object {
	switch info.Kind {
	case onnxrt.Sequence:
		return object{"type": "array", "items": valueSchema(info.Inner)}
	case onnxrt.Map:
		return object{"type": "object", "additionalProperties": valueSchema(info.Inner)}
	}
	schema := elementSchema(info.Element)
	if !info.Ranked && info.Name != "" {
		return object{"description": info.Element.String() + " of any shape"}
	}
	for range info.Shape {
		schema = object{"type": "array", "items": schema}
	}
	if info.Name != "" {
		schema["description"] = info.Name + ": " + info.Element.String() + " " + shapeText(info.Shape, info.Symbols)
	}
	return schema
}

func elementSchema(e onnxrt.Element) object {
	switch e {
	case onnxrt.Bool:
		return object{"type": "boolean"}
	case onnxrt.String:
		return object{"type": "string"}
	case onnxrt.Float64:
		return object{"type": "number", "format": "double"}
	case onnxrt.Float32, onnxrt.Float16, onnxrt.BFloat16:
		return object{"type": "number", "format": "float"}
	case onnxrt.Int64:
		return object{"type": "integer", "format": "int64"}
	}
	return object{"type": "integer", "format": "int32"}
}
