package gateway

import (
	"context"
	"crypto/rand"
	rand2 "math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/access"
	"portico/internal/http1"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
)

// Paths of the scoring listener.
const (
	pathHealth    = "/"
	pathEndpoints = "/endpoints/"
)

// Serve answers one request and records it. ctx ends when the caller hangs up. When Serve returns the answer has
// been handed to the transport, the instance's slot is free again, and nothing of x is used any more.
func (g *Gateway) Serve(ctx context.Context, x *Exchange) {
	if x.Path == pathHealth && !g.asksEndpoint(x) {
		g.health(x)
		return
	}
	r := &x.record
	r.Arrival, r.Method, r.Path, r.Protocol = x.Arrival, x.Method, x.Path, x.Protocol
	r.RequestID = newRequestID()
	x.takeHeader()
	g.serve(ctx, x)
	g.buffered.Add(-x.held)
	r.Total = time.Since(r.Arrival)
	g.recorder.Record(r)
}

// newRequestID makes a random UUID (version 4).
func newRequestID() string {
	var id uuid.UUID
	rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

func (g *Gateway) serve(ctx context.Context, x *Exchange) {
	v := g.view.Load()
	if v == nil {
		x.refuse(refusalNotServing)
		return
	}
	whole, ok := route.Clean(x.Path)
	if !ok {
		x.refuse(refusalBadPath)
		return
	}
	name, ok := g.target(x, whole)
	if !ok {
		x.refuse(refusalNoRoute)
		return
	}
	endpoint := v.table.Match(name)
	if endpoint == nil {
		x.refuse(refusalNoEndpoint)
		return
	}
	x.record.Endpoint = endpoint.Name
	if refused := g.authenticate(x, endpoint); refused != nil {
		x.refuse(refused)
		return
	}
	chosen, miss := endpoint.Pick(x.pinned, rand2.Uint32())
	switch miss {
	case route.NoTraffic:
		x.refuse(refusalNoDeployment)
		return
	case route.UnknownDeployment:
		x.refuse(refusalBadDeployment)
		return
	}
	x.record.Deployment = chosen.Name
	if x.websocket {
		x.refuse(refusalWebsocket)
		return
	}
	if x.at, x.allow, ok = chosen.Admit(x.Method, x.path); !ok {
		if x.allow != nil {
			x.refuse(refusalMethod)
		} else {
			x.refuse(refusalNoPath)
		}
		return
	}
	if x.pinned == "" && x.path != route.PathSwagger {
		x.shadow = endpoint.Shadow(rand2.Uint32())
	}
	g.score(ctx, x, chosen, v)
}

// score is the part of a request that happens under its deadline.
func (g *Gateway) score(ctx context.Context, x *Exchange, r *route.Deployment, v *view) {
	deadline := x.Arrival.Add(r.Request.Timeout)
	if refused := g.readBody(ctx, x, deadline); refused != nil {
		x.refuse(refused)
		return
	}
	x.record.Upload = time.Since(x.Arrival)
	x.record.RequestBytes = int64(len(x.body))
	if x.shadow != nil {
		g.mirror(x, x.shadow, v.states[x.shadow])
	}
	x.collects(r)
	d := v.states[r]
	if c := d.cache.Load(); c != nil && mayCache(x, r) {
		g.throughCache(ctx, x, d, c, deadline)
		return
	}
	g.admit(ctx, x, d, deadline)
}

// admit waits for a place on the deployment, and goes on with it to an instance.
func (g *Gateway) admit(ctx context.Context, x *Exchange, d *deployment, deadline time.Time) {
	size := int64(len(x.body))
	if err := d.queue.Acquire(ctx, deadline, size); err != nil {
		x.record.Queue = time.Since(x.Arrival) - x.record.Upload
		x.refuse(notAdmitted(ctx, d, err))
		return
	}
	x.slot = slot{of: d, size: size}
	defer x.slot.free()
	x.call = inference.Call{
		ID: x.record.RequestID, ClientID: x.record.ClientRequestID, Method: x.Method, Path: x.at, Query: x.Query,
		Header: x.Header, Body: x.body, Deadline: deadline,
	}
	g.forward(ctx, x)
}

// target reads the endpoint's name out of the URL, and leaves in x.path what stands behind it.
func (g *Gateway) target(x *Exchange, path string) (name string, ok bool) {
	if rest, found := strings.CutPrefix(path, pathEndpoints); found {
		slash := strings.IndexByte(rest, '/')
		if slash < 0 {
			return rest, rest != ""
		}
		x.path = rest[slash:]
		return rest[:slash], slash > 0
	}
	x.path = path
	return g.named(x.Host)
}

// named reads the endpoint's name out of the name of a host.
func (g *Gateway) named(host string) (name string, ok bool) {
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 {
		host = host[:colon]
	}
	host = strings.TrimSuffix(host, ".")
	if name, ok = below(host, g.cfg.Domain); !ok {
		name, ok = below(host, g.cfg.InterceptDomain)
	}
	return name, ok
}

// asksEndpoint says whether a request for the root is one for an endpoint of its own host name. GET and HEAD ask for the
// server's health under every name, as they do in Azure.
func (g *Gateway) asksEndpoint(x *Exchange) bool {
	if x.Method == http.MethodGet || x.Method == http.MethodHead {
		return false
	}
	_, ok := g.named(x.Host)
	return ok
}

// below gives what stands in a host's name before a domain; false when it is not one of the domain's.
func below(host, domain string) (name string, ok bool) {
	n := len(host) - len(domain)
	if domain == "" || n < 2 || host[n-1] != '.' || !http1.EqualFold(host[n:], domain) {
		return "", false
	}
	return host[:n-1], true
}

// authenticate lets in who holds what the endpoint's authMode asks for, and nothing else: a key opens no endpoint that
// takes tokens, nor a token one that takes keys.
func (g *Gateway) authenticate(x *Exchange, e *route.Endpoint) *refusal {
	x.record.AuthMode = string(e.AuthMode)
	if x.authorized > 1 {
		return refusalBadHeader
	}
	credential, err := access.Bearer(x.authorization)
	if err != nil {
		return refusalBadHeader
	}
	if e.AuthMode == online.AuthKey {
		which := access.MatchKey(credential, e.Keys)
		if which < 0 {
			return refusalAccessDenied
		}
		x.record.Caller = access.KeyName(which)
		return nil
	}
	return g.authenticateToken(x, e, credential)
}

func (g *Gateway) authenticateToken(x *Exchange, e *route.Endpoint, token string) *refusal {
	if g.cfg.Tokens == nil {
		return refusalTokenDenied
	}
	claims, err := g.cfg.Tokens.Verify(token)
	if err != nil {
		return refusalTokenDenied
	}
	switch e.AuthMode {
	case online.AuthAMLToken:
		if !claims.Scoring(e.UID, e.Name) {
			return refusalTokenDenied
		}
	case online.AuthAADToken:
		if !claims.For(access.AudienceML) || claims.Managed() || !e.Admits(claims.ObjectID) {
			return refusalTokenDenied
		}
	default:
		return refusalTokenDenied
	}
	x.record.CallerID = claims.ObjectID
	return nil
}

func (g *Gateway) health(x *Exchange) {
	status, text := 200, `{"status":"ok"}`
	switch {
	case g.draining.Load():
		status, text = 503, `{"status":"draining"}`
	case g.view.Load() == nil:
		status, text = 503, `{"status":"starting"}`
	}
	if x.Method != http.MethodGet && x.Method != http.MethodHead {
		status, text = 405, `{"error":{"code":"method_not_allowed","message":"use GET"}}`
	}
	x.Begin(status, jsonHeader, int64(len(text)), false)
	if x.Method != http.MethodHead {
		_, _ = x.Write([]byte(text)) // a caller that hung up has no use for an error
	}
}

// softFailure says whether an answer with status 200 reports that the scoring script failed.
func softFailure(a *inference.Answer) bool { return strings.EqualFold(a.Get(fieldRunFailed), "true") }
