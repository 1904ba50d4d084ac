package onnxserve

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"

	"portico/internal/onnxrt"
)

// protocolPrefix begins the paths of the Open Inference Protocol.
const protocolPrefix = "/v2"

func isProtocol(path string) bool {
	after, ok := strings.CutPrefix(path, protocolPrefix)
	return ok && (after == "" || after[0] == '/')
}

const noSuchPath = "The protocol has no such path."

// below gives what a path asks for of the model; or says why it is none of the model's. path is what follows /v2.
func (m *Model) below(path string) (what, missing string) {
	path, ok := strings.CutPrefix(path, "/models/")
	if !ok {
		return "", noSuchPath
	}
	if strings.HasSuffix(path, "/") {
		return "", noSuchPath
	}
	name, what, _ := strings.Cut(path, "/")
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	if name != m.Name {
		return "", "There is no model " + strconv.Quote(name) + "; this is " + m.Name + "."
	}
	if version, ok := strings.CutPrefix(what, "versions/"); ok {
		if version, what, _ = strings.Cut(version, "/"); version != m.Version {
			return "", "The model has no version " + strconv.Quote(version) + "; this is " + m.Version + "."
		}
	}
	return what, ""
}

// protocol answers the Open Inference Protocol: path is what follows /v2.
func (e *Executor) protocol(r *Request, path string) Answer {
	switch path {
	case "":
		return e.told(r, `{"name":"portico","version":`+quote(Version)+`,"extensions":["binary_tensor_data"]}`)
	case "/health/live":
		return e.told(r, `{"live":true}`)
	case "/health/ready":
		return e.told(r, `{"ready":true}`)
	}
	what, missing := e.model.below(path)
	switch {
	case missing != "":
		return e.failure("error", 404, missing)
	case what == "":
		return e.told(r, string(e.model.metadata()))
	case what == "ready":
		return e.told(r, `{"name":`+quote(e.model.Name)+`,"ready":true}`)
	case what == "infer":
		return e.infer(r)
	}
	return e.failure("error", 404, noSuchPath)
}

// run is which of the ways to ask for a run of the model a request takes.
type run int

const (
	runsNothing run = iota
	runsScore
	runsInference
)

// runs says which way the request takes.
func (m *Model) runs(r *Request) run {
	if string(r.Method) != "POST" {
		return runsNothing
	}
	path := string(r.Path)
	if path == "/score" {
		return runsScore
	}
	if isProtocol(path) {
		if what, missing := m.below(path[len(protocolPrefix):]); missing == "" && what == "infer" {
			return runsInference
		}
	}
	return runsNothing
}

// Version is what the server says of itself.
var Version = "dev"

// told answers a question whose answer is known.
func (e *Executor) told(r *Request, document string) Answer {
	if string(r.Method) == "OPTIONS" {
		return e.options()
	}
	if !reads(r) {
		return e.failure("error", 405, "The method is not allowed for the requested path.")
	}
	e.out = append(e.out, document...)
	return e.answer(200, jsonKind)
}

type tensorMetadata struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

// describeProtocol is the model's metadata.
func (m *Model) describeProtocol() []byte {
	list := func(infos []onnxrt.Info) []tensorMetadata {
		out := []tensorMetadata{}
		for i := range infos {
			if t := carried(&infos[i]); t != nil {
				out = append(out, *t)
			}
		}
		return out
	}
	// Plain data always has a JSON form.
	document, _ := json.Marshal(struct {
		Name     string           `json:"name"`
		Versions []string         `json:"versions"`
		Platform string           `json:"platform"`
		Inputs   []tensorMetadata `json:"inputs"`
		Outputs  []tensorMetadata `json:"outputs"`
	}{m.Name, []string{m.Version}, "onnxruntime_onnx", list(m.inputs), list(m.outputs)})
	return document
}

// carried says how the protocol shows a value; nil: it cannot. A sequence of maps, a classifier's probabilities, is a
// table with a row for each map.
func carried(info *onnxrt.Info) *tensorMetadata {
	switch {
	case info.Kind == onnxrt.Tensor:
		shape := append([]int64{}, info.Shape...)
		return &tensorMetadata{info.Name, info.Element.Wire(), shape}
	case info.Kind == onnxrt.Sequence && info.Inner.Kind == onnxrt.Map && info.Inner.Inner.Kind == onnxrt.Tensor:
		return &tensorMetadata{info.Name, info.Inner.Inner.Element.Wire(), []int64{-1, -1}}
	}
	return nil
}
