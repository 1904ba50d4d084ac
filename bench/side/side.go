package side

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Side is one server that is measured.
type Side struct {
	Name   string
	URL    string
	Header http.Header
	Body   []byte // of each request
	Want   []byte // its answer to Body, taken before the measurement
	Stop   func() error
	mark   string // in the command line of each process of the server that is no child of root
	root   int    // its first process
}

// JSON is the header of a request with a JSON body.
func JSON() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// Of makes a Side of a process; it has no name, address or answer yet.
func Of(p *Process) Side { return Side{Header: JSON(), Stop: p.Stop, root: p.PID()} }

// Ready asks until the server answers with status 200, then keeps the answer, which must have right's approval.
func (s *Side) Ready(ctx context.Context, p *Process, right func(got any) bool) error {
	var last error
	err := p.Wait(ctx, s.Name+" starts", func() bool {
		last = s.sample(ctx, right)
		return last == nil || errors.Is(last, errWrong)
	})
	return errors.Join(err, last)
}

var errWrong = errors.New("a wrong answer")

func (s *Side) sample(ctx context.Context, right func(got any) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(s.Body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header = s.Header.Clone()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", s.Name, err)
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(resp.Body); err != nil {
		return fmt.Errorf("ask %s: %w", s.Name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: status %d, %.300q", s.Name, resp.StatusCode, answer.String())
	}
	var got any
	if err := json.Unmarshal(answer.Bytes(), &got); err != nil || !right(got) {
		return fmt.Errorf("ask %s: %w: %.300q", s.Name, errWrong, answer.String())
	}
	s.Want = answer.Bytes()
	return nil
}

// Equals approves an answer that is the same JSON as want.
func Equals(want string) func(any) bool {
	var value any
	if err := json.Unmarshal([]byte(want), &value); err != nil {
		panic("side: Equals of what is not JSON: " + strings.TrimSpace(want))
	}
	return func(got any) bool { return fmt.Sprint(got) == fmt.Sprint(value) }
}
