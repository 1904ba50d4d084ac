package api

import (
	"net"
	"net/http"
	"strconv"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

func (a *API) routePortico() {
	a.route("/portico/v1/config", methods{"GET": func(c *call) error { return c.json(http.StatusOK, a.Settings()) }})
}

// defaultActivities is how many entries of the activity log are listed.
const defaultActivities = 100

func getMetrics(c *call) error {
	since, err := c.moment("since")
	if err != nil {
		return err
	}
	until, err := c.moment("until")
	if err != nil {
		return err
	}
	answer, err := c.api.Control.GetMetrics(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"),
		control.MetricsQuery{Deployment: c.r.URL.Query().Get("deployment"), Since: since, Until: until})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, answer)
}

func listActivities(c *call) error {
	since, err := c.moment("since")
	if err != nil {
		return err
	}
	until, err := c.moment("until")
	if err != nil {
		return err
	}
	limit := defaultActivities
	if text := c.r.URL.Query().Get("$top"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil {
			return online.Errorf(online.CodeBadArgument, "$top", "%.40q is not a number of entries", text)
		}
	}
	all, err := c.api.Control.ListActivities(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"), since,
		until, limit)
	if err != nil {
		return err
	}
	out := make([]arm.Activity, 0, len(all))
	for _, entry := range all {
		out = append(out, arm.NewActivity(entry))
	}
	return c.json(http.StatusOK, arm.NewPage(out, ""))
}

// routeHealth registers what can be asked without a token.
func (a *API) routeHealth() {
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	a.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.Ready(); err != nil {
			say(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
			return
		}
		say(w, http.StatusOK, "ok")
	})
	a.mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(callKey{}).(*call)
		if !direct(r) {
			if _, err := a.Access.Verify(r.Header.Get("Authorization")); err != nil {
				c.unauthorized(err)
				return
			}
		}
		a.Metrics.ServeHTTP(c.w, r)
	})
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

// direct says whether a request comes from this machine itself and not through a proxy on it.
func direct(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	ip := net.ParseIP(remoteIP(r))
	return ip != nil && ip.IsLoopback()
}
