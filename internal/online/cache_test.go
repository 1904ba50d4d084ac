package online

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestResponseCacheOfACustomServer: who wrote it must say by which headers it answers.
func TestResponseCacheOfACustomServer(t *testing.T) {
	for vary, want := range map[string]bool{"": true, "accept": false} {
		s := DeploymentSpec{Runtime: RuntimeServer, Cache: &ResponseCache{TTL: time.Minute, Vary: strings.Fields(vary)}}
		s.Default()
		found := slices.ContainsFunc(s.Validate(Catalogue{}), func(e *Error) bool {
			return e.Target == "properties.properties."+PropertyCacheVary
		})
		if found != want {
			t.Errorf("vary %q: refused %v", vary, found)
		}
	}
}

func TestResponseCache(t *testing.T) {
	c := ResponseCache{TTL: time.Minute, Vary: []string{" X-Tenant", "accept-language", "x-tenant"}}
	c.fill()
	if faults := c.validate(); len(faults) > 0 || c.MaxBytes != DefaultCacheBytes || !slices.Equal(c.Vary, []string{"accept-language", "x-tenant"}) {
		t.Errorf("%+v: %v", c, faults)
	}
	for want, bad := range map[string]ResponseCache{
		"needs a ttl":              {},
		"ttl 1ms":                  {TTL: time.Millisecond},
		"ttl 25h0m0s":              {TTL: 25 * time.Hour},
		"max bytes 1 ":             {TTL: time.Minute, MaxBytes: 1},
		"credential":               {TTL: time.Minute, Vary: []string{"Authorization"}},
		"never reaches a script":   {TTL: time.Minute, Vary: []string{"x-portico-deadline-ms"}},
		"at most 16":               {TTL: time.Minute, Vary: strings.Split("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", ",")},
		`"*" is not the name of a`: {TTL: time.Minute, Vary: []string{"*"}},
		`"a b" is not the name`:    {TTL: time.Minute, Vary: []string{"a b"}},
	} {
		bad.fill()
		faults := bad.validate()
		if len(faults) != 1 || !strings.Contains(faults[0].Message, want) || !strings.HasPrefix(faults[0].Target, "properties.properties.portico.response-cache.") {
			t.Errorf("%s: %v", want, faults)
		}
	}
}
