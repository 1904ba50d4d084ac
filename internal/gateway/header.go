package gateway

import (
	"strings"

	"portico/internal/http1"
	"portico/internal/inference"
)

// Names of header fields, as they are sent.
const (
	fieldDeployment   = "azureml-model-deployment"
	fieldSession      = "azureml-model-session"
	fieldModelStatus  = "ms-azureml-model-error-statuscode"
	fieldModelReason  = "ms-azureml-model-error-reason"
	fieldModelTime    = "ms-azureml-model-time"
	fieldRequestID    = "x-request-id"
	fieldClientID     = "x-ms-client-request-id"
	fieldRunFailed    = "x-ms-run-function-failed"
	fieldRunTime      = "x-ms-run-fn-exec-ms" // of the worker, as the next two
	fieldLegacyID     = "x-ms-request-id"
	fieldTrace        = "traceid"
	fieldCache        = "x-portico-cache"
	fieldPlatform     = "ms-azureml-"
	fieldWorker       = "x-portico-"
	serverName        = "portico"
	clientIDMaxLength = 40 // of Azure's front door, which keeps the first 40
	legacyIDMaxLength = 100
)

// help is Azure's guide to the status codes, which are the same here. Azure appends its address to the body, which
// breaks JSON; a Link field does not.
const help = `<https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints` +
	`#http-status-codes>; rel="help"`

// takeHeader reads the fields that are meant for the front door and leaves in x.Header those that go to the
// instance: no credential, nothing that concerns one connection only, nothing that a caller could pass off as ours.
func (x *Exchange) takeHeader() {
	named := ""
	kept := x.Header[:0]
	for _, f := range x.Header {
		switch {
		case http1.EqualFold(f.Name, "authorization"):
			x.authorization = f.Value
			x.authorized++
		case http1.EqualFold(f.Name, fieldDeployment):
			x.pinned = strings.TrimSpace(f.Value)
		case http1.EqualFold(f.Name, fieldClientID):
			x.record.ClientRequestID = cleanID(f.Value)
		case http1.EqualFold(f.Name, "connection"):
			named = join(named, f.Value)
		case http1.EqualFold(f.Name, "upgrade"):
			// Another protocol may be offered in vain (RFC 9110 section 7.8), as clients do that would like HTTP/2. Who
			// asks for a WebSocket can do nothing with an ordinary answer.
			x.websocket = x.websocket || hasPrefixFold(f.Value, "websocket")
		case dropped(f.Name), http1.EqualFold(f.Name, "host"), http1.EqualFold(f.Name, "expect"), http1.EqualFold(f.Name, "content-length"):
		default:
			if http1.EqualFold(f.Name, "user-agent") {
				x.record.UserAgent = f.Value
			}
			kept = append(kept, f)
		}
	}
	clear(x.Header[len(kept):])
	x.Header = withoutNamed(kept, named)
}

// appendAnswer adds the fields of an instance's answer that the caller may see.
func appendAnswer(to, from []inference.Field) []inference.Field {
	named := ""
	start := len(to)
	for _, f := range from {
		switch {
		case http1.EqualFold(f.Name, "connection"):
			named = join(named, f.Value)
		case dropped(f.Name), http1.EqualFold(f.Name, "content-length"), http1.EqualFold(f.Name, "server"), http1.EqualFold(f.Name, "date"),
			http1.EqualFold(f.Name, fieldClientID), http1.EqualFold(f.Name, fieldDeployment), http1.EqualFold(f.Name, fieldSession),
			hasPrefixFold(f.Name, fieldPlatform):
		default:
			to = append(to, f)
		}
	}
	return to[:start+len(withoutNamed(to[start:], named))]
}

// dropped says whether a field stops here in both directions: hop-by-hop (RFC 9110 section 7.6.1), or one that
// only Portico itself may set.
func dropped(name string) bool {
	stops := ""
	switch len(name) {
	case 2:
		stops = "te"
	case 7:
		return http1.EqualFold(name, "trailer") || http1.EqualFold(name, "upgrade")
	case 10:
		stops = "keep-alive"
	case 12:
		stops = fieldRequestID
	case 16:
		stops = "proxy-connection"
	case 17:
		stops = "transfer-encoding"
	case 18:
		stops = "proxy-authenticate"
	case 19:
		stops = "proxy-authorization"
	}
	return stops != "" && http1.EqualFold(name, stops) || hasPrefixFold(name, fieldWorker)
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "," + b
}

// withoutNamed removes the fields that a Connection field lists.
func withoutNamed(fields []inference.Field, named string) []inference.Field {
	for len(named) > 0 {
		var name string
		name, named, _ = strings.Cut(named, ",")
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		kept := fields[:0]
		for _, f := range fields {
			if !strings.EqualFold(f.Name, name) {
				kept = append(kept, f)
			}
		}
		clear(fields[len(kept):])
		fields = kept
	}
	return fields
}

// cleanID gives what Azure accepts of a client request id: letters, digits, '_' and '-', the first 40. One with
// other characters is ignored as a whole.
func cleanID(s string) string {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '-' {
			return ""
		}
	}
	return s[:min(len(s), clientIDMaxLength)]
}

func hasPrefixFold(s, lower string) bool {
	return len(s) >= len(lower) && http1.EqualFold(s[:len(lower)], lower)
}
