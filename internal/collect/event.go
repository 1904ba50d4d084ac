package collect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// typePrefix begins the type of every event; the name of its collection follows.
const typePrefix = "azureml.inference."

// event is one line: a CloudEvent in the JSON form, with the attributes that Azure's data collector adds.
type event struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	DataContentType string          `json:"datacontenttype,omitempty"`
	Time            string          `json:"time"`
	Data            json.RawMessage `json:"data,omitempty"`
	DataRef         string          `json:"dataref,omitempty"` // azureml://... of the blob beside that holds the data
	CorrelationID   string          `json:"correlationid,omitempty"`
	XRequestID      string          `json:"xrequestid,omitempty"`
	ModelVersion    string          `json:"modelversion,omitempty"`
	CollectDataType string          `json:"collectdatatype,omitempty"`
	Agent           string          `json:"agent,omitempty"`
	ContentRange    string          `json:"contentrange,omitempty"` // which bytes of the content are here
	Path            string          `json:"path,omitempty"`
	Method          string          `json:"method,omitempty"`
	DataInBlob      string          `json:"datainblob,omitempty"`

	content []byte            // what Data or the blob beside is made of
	size    int64             // of the whole content, of which content may be the beginning
	more    map[string]string // attributes that user code added
}

const typeJSON = "application/json"

// place fills Data, or gives the content that is to become a blob of its own: what is not text cannot stand in a line,
// and what is long would make lines that no reader expects.
func (e *event) place() (beside []byte) {
	n := int64(len(e.content))
	if e.size > 0 {
		e.ContentRange = fmt.Sprintf("bytes 0-%d/%d", max(n-1, 0), e.size)
	}
	switch {
	case n == 0:
		return nil
	case n > MaxLineBytes:
		return e.content
	case n == e.size && json.Valid(e.content):
		var line bytes.Buffer
		if json.Compact(&line, e.content) == nil {
			e.Data, e.DataContentType = line.Bytes(), typeJSON // whatever the sender called it
			return nil
		}
	}
	text := e.content
	if n < e.size { // the cut may have gone through a character
		for range utf8.UTFMax - 1 {
			if r, size := utf8.DecodeLastRune(text); r != utf8.RuneError || size != 1 {
				break
			}
			text = text[:len(text)-1]
		}
	}
	if !utf8.Valid(text) {
		return e.content
	}
	e.Data, _ = json.Marshal(string(text)) // of valid text
	if kind, _, _ := strings.Cut(e.DataContentType, ";"); kind == "" || strings.HasSuffix(strings.TrimSpace(kind), "json") {
		e.DataContentType = "text/plain" // a reader must not take the text for a JSON value
	}
	return nil
}

// line renders the event. Attributes that user code added come last and replace none.
func (e *event) line() ([]byte, error) {
	doc, err := json.Marshal(e)
	if err != nil || len(e.more) == 0 {
		return doc, err
	}
	var known map[string]json.RawMessage
	if err := json.Unmarshal(doc, &known); err != nil {
		return nil, err
	}
	doc = doc[:len(doc)-1]
	for _, name := range slices.Sorted(maps.Keys(e.more)) {
		if _, taken := known[name]; taken || name == "data" {
			continue
		}
		value, err := json.Marshal(e.more[name])
		if err != nil {
			return nil, err
		}
		doc = fmt.Appendf(doc, ",%q:%s", name, value)
	}
	return append(doc, '}'), nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
