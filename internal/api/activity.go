package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

// eventPage is how many entries of the activity log one answer has, and those of the last change besides.
const eventPage = 200

// eventNames are what a $filter may compare, in lower case.
var eventNames = []string{"eventTimestamp", "resourceUri", "resourceId", "resourceGroupName", "resourceProvider",
	"resourceType", "correlationId", "caller", "status", "operationName", "levels"}

// listEvents answers with the activity log in Azure Monitor's form.
func listEvents(c *call) error {
	if !strings.EqualFold(c.r.PathValue("events"), "management") {
		return online.Errorf(online.CodeNotFound, "", "there are events of the type management only")
	}
	v := lowerNames(c.r.URL.Query())
	f, err := arm.ParseFilter(v.Get("$filter"))
	if err != nil {
		return err
	}
	since, until, err := eventSpan(f, c.api.Control.Now())
	if err != nil {
		return err
	}
	before := int64(0)
	if token := v.Get("$skiptoken"); token != "" {
		if before, err = strconv.ParseInt(token, 10, 64); err != nil || before < 1 {
			return online.Errorf(online.CodeBadArgument, "$skiptoken", "%.40q is not a token of this listing", token)
		}
	}
	members, err := eventMembers(v.Get("$select"))
	if err != nil {
		return err
	}
	subscription := c.r.PathValue("subscription")
	all, err := c.api.Control.Events(c.r.Context(), c.caller, subscription, since, until)
	if err != nil {
		return err
	}
	tenant := c.api.Control.Identities.Issuer().Tenant()
	out := []any{}
	next := ""
	ordinals := map[int64]int{}
	var last int64
	for _, a := range all {
		ordinal := ordinals[a.Revision]
		ordinals[a.Revision]++
		if before > 0 && a.Revision >= before || !f.Holds(func(cmp *arm.Comparison) bool { return eventHolds(cmp, a) }) {
			continue
		}
		if len(out) >= eventPage && a.Revision != last { // entries of one change stay together
			next = strconv.FormatInt(last, 10)
			break
		}
		last = a.Revision
		out = append(out, pickMembers(renderEvent(a, ordinal, tenant), members))
	}
	link := ""
	if next != "" {
		q := c.r.URL.Query()
		q.Del("$skipToken")
		q.Set("$skiptoken", next)
		link = c.base() + c.r.URL.EscapedPath() + "?" + q.Encode()
	}
	return c.json(http.StatusOK, arm.NewPage(out, link))
}

// eventSpan reads the bounds of time that a filter as a whole demands, and checks it.
func eventSpan(f *arm.Filter, now time.Time) (since, until time.Time, err error) {
	since, until = now.Add(-control.MaxEventSpan), time.Time{}
	for _, cmp := range f.Comparisons() {
		name, ok := oneOf(cmp.Name, eventNames)
		if !ok {
			return since, until, notOneOf("$filter", cmp.Name, eventNames)
		}
		if name != "eventTimestamp" {
			if cmp.Op != "eq" && cmp.Op != "ne" {
				return since, until, online.Errorf(online.CodeBadArgument, "$filter",
					"%s is compared with eq or ne, not %s", name, cmp.Op)
			}
			continue
		}
		at, ok := parseMoment(cmp.Value)
		if !ok {
			return since, until, badEventTime(cmp.Value)
		}
		// Bounds inside of alternatives bound nothing; the filter itself is applied to every entry.
		switch {
		case !f.Demands(cmp):
		case cmp.Op == "ge" || cmp.Op == "gt":
			since = at
		case cmp.Op == "le" || cmp.Op == "lt":
			until = at.Add(time.Millisecond)
		}
	}
	return since, until, nil
}

func badEventTime(text string) error {
	return online.Errorf(online.CodeBadArgument, "$filter", "%.60q is not a time such as 2026-11-01T00:00:00Z", text)
}

// eventHolds compares one entry.
func eventHolds(cmp *arm.Comparison, a online.Activity) bool {
	id := arm.FormatID(a.Target)
	switch strings.ToLower(cmp.Name) {
	case "eventtimestamp":
		at, _ := parseMoment(cmp.Value) // was read before
		n := a.Time.Compare(at)
		return map[string]bool{"eq": n == 0, "ne": n != 0, "ge": n >= 0, "gt": n > 0, "le": n <= 0, "lt": n < 0}[cmp.Op]
	case "resourceuri", "resourceid":
		// Azure answers with everything below the resource, too.
		below := len(id) > len(cmp.Value) && strings.EqualFold(id[:len(cmp.Value)], cmp.Value) && id[len(cmp.Value)] == '/'
		return cmp.Of(id) || cmp.Op == "eq" && below
	case "resourcegroupname":
		return cmp.Of(a.Target.Workspace.ResourceGroup)
	case "resourceprovider":
		return cmp.Of(arm.Namespace)
	case "resourcetype":
		return cmp.Of(arm.TypeOf(a.Target))
	case "correlationid":
		return cmp.Of(a.RequestID)
	case "caller":
		return cmp.Of(a.Principal)
	case "status":
		return cmp.Of(a.Outcome)
	case "levels":
		return cmp.Of(eventLevel(a.Outcome))
	}
	return cmp.Of(a.Action) // operationName
}

// eventLevel is how much an outcome should worry.
func eventLevel(outcome string) string {
	switch outcome {
	case "Failed":
		return "Error"
	case "Denied":
		return "Warning"
	}
	return "Informational"
}

func renderEvent(a online.Activity, ordinal int, tenant string) arm.Event {
	id, at := arm.FormatID(a.Target), arm.FormatTime(a.Time)
	// The same entry has the same name, whenever it is read.
	name := uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "activity/%d/%d", a.Revision, ordinal)).String()
	e := arm.Event{
		Authorization: arm.EventAuthorization{Action: a.Action, Scope: id}, Caller: a.Principal,
		Category: arm.SameName("Administrative"), Claims: map[string]string{}, CorrelationID: a.RequestID, Description: a.Detail,
		EventDataID: name, EventName: arm.LocalizedName{Value: "EndRequest", LocalizedValue: "End request"}, EventTimestamp: at,
		ID: id + "/events/" + name, Level: eventLevel(a.Outcome), OperationID: a.RequestID, OperationName: arm.SameName(a.Action),
		Properties: map[string]string{}, ResourceGroupName: a.Target.Workspace.ResourceGroup, ResourceID: id,
		ResourceProviderName: arm.SameName(arm.Namespace), ResourceType: arm.SameName(arm.TypeOf(a.Target)),
		Status: arm.SameName(a.Outcome), SubStatus: arm.SameName(""), SubmissionTimestamp: at,
		SubscriptionID: a.Target.Workspace.Subscription, TenantID: tenant,
	}
	if a.ClientIP != "" {
		e.HTTPRequest = &arm.EventRequest{ClientRequestID: a.RequestID, ClientIPAddress: a.ClientIP}
	}
	if a.Detail != "" {
		e.Properties["statusMessage"] = a.Detail
	}
	return e
}

// eventMembers reads a $select; nil: all members.
func eventMembers(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	allowed := slices.Sorted(maps.Keys(membersOf(arm.Event{})))
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		name, ok := oneOf(strings.TrimSpace(part), allowed)
		if !ok {
			return nil, notOneOf("$select", strings.TrimSpace(part), allowed)
		}
		out = append(out, name)
	}
	return out, nil
}

// pickMembers keeps the named members of an entry; all for nil.
func pickMembers(e arm.Event, members []string) any {
	if members == nil {
		return e
	}
	all := membersOf(e)
	out := make(map[string]json.RawMessage, len(members))
	for _, name := range members {
		out[name] = all[name]
	}
	return out
}

// membersOf gives an entry as its JSON members.
func membersOf(e arm.Event) map[string]json.RawMessage {
	doc, _ := json.Marshal(e) // plain data always encodes
	var all map[string]json.RawMessage
	_ = json.Unmarshal(doc, &all) // what Marshal wrote can be read
	return all
}
