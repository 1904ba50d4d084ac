package online

import (
	"slices"
	"strings"
	"time"
)

// ResponseCache asks the gateway to keep answers of a deployment and to give them again to equal requests. It is Portico's own:
// Azure has nothing like it.
type ResponseCache struct {
	TTL      time.Duration `json:"ttl"`            // how long an answer is given again
	MaxBytes int64         `json:"maxBytes"`       // of all answers kept for the deployment
	Vary     []string      `json:"vary,omitempty"` // lower-case names of the header fields that answers depend on, in order of name
}

// Names of the response cache's settings on the wire.
const (
	PropertyCacheTTL      = "portico.response-cache.ttl"
	PropertyCacheMaxBytes = "portico.response-cache.max-bytes"
	PropertyCacheVary     = "portico.response-cache.vary"
)

// Bounds and defaults of a response cache.
const (
	MinCacheTTL          = time.Second
	MaxCacheTTL          = 24 * time.Hour
	MinCacheBytes        = 64 << 10
	MaxCacheBytes        = 1 << 30
	DefaultCacheBytes    = 16 << 20
	MaxCacheVary         = 16 // names
	maxCacheVaryNameSize = 64
)

// Same says whether two caches give the same answers again. Either may be nil.
func (c *ResponseCache) Same(o *ResponseCache) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.TTL == o.TTL && c.MaxBytes == o.MaxBytes && slices.Equal(c.Vary, o.Vary)
}

func (c *ResponseCache) fill() {
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultCacheBytes
	}
	for i, name := range c.Vary {
		c.Vary[i] = strings.ToLower(strings.TrimSpace(name))
	}
	slices.Sort(c.Vary)
	c.Vary = slices.Compact(c.Vary)
}

// Fields that say nothing about an answer, with the reason: they hold a credential, or end at the gateway.
var notVaried = map[string]string{
	"authorization": "holds the caller's credential, which no script sees", "proxy-authorization": "holds a credential, which no script sees",
	"proxy-authenticate": "", "connection": "", "keep-alive": "", "proxy-connection": "", "te": "", "trailer": "", "transfer-encoding": "",
	"upgrade": "", "host": "", "expect": "", "content-length": "", "x-request-id": "", "x-ms-client-request-id": "",
	"azureml-model-deployment": "",
}

func (c *ResponseCache) validate() []*Error {
	var faults []*Error
	add := func(property, format string, args ...any) {
		faults = append(faults, Errorf(CodeBadArgument, "properties.properties."+property, format, args...))
	}
	switch {
	case c.TTL == 0:
		add(PropertyCacheTTL, "a response cache needs a ttl: how long an answer is given again")
	case c.TTL < MinCacheTTL || c.TTL > MaxCacheTTL:
		add(PropertyCacheTTL, "ttl %s of the response cache is not between %s and %s", c.TTL, MinCacheTTL, MaxCacheTTL)
	}
	if c.MaxBytes < MinCacheBytes || c.MaxBytes > MaxCacheBytes {
		add(PropertyCacheMaxBytes, "max bytes %d of the response cache is not between %d and %d", c.MaxBytes, MinCacheBytes, MaxCacheBytes)
	}
	if len(c.Vary) > MaxCacheVary {
		add(PropertyCacheVary, "vary names %d header fields; at most %d are allowed", len(c.Vary), MaxCacheVary)
	}
	for _, name := range c.Vary {
		why, ends := notVaried[name]
		switch {
		case !isFieldName(name):
			add(PropertyCacheVary, "vary: %.80q is not the name of a header field", name)
		case why != "":
			add(PropertyCacheVary, "vary: %s %s; leave it out", name, why)
		case ends || strings.HasPrefix(name, "x-portico-"):
			add(PropertyCacheVary, "vary: %s ends at the gateway and never reaches a script; leave it out", name)
		}
	}
	return faults
}

// isFieldName says whether a lower-case text is a token of RFC 9110 of bearable length.
func isFieldName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != "" && s != "*" && len(s) <= maxCacheVaryNameSize
}
