package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
)

// How a long operation is followed. A server on the same machine often ends one within a second, so the first polls
// come fast, whatever Retry-After asks of remote clients; later ones keep to it.
const (
	firstPollDelay = 100 * time.Millisecond
	maxPollDelay   = 2 * time.Second
	pollOutage     = 60 * time.Second // how long the server may be away (a restart) before the command gives up
)

// progress tells on standard error how far a command is. It shows every stage with its time on a terminal or with
// --verbose, one line per stage otherwise, and nothing with --only-show-errors.
type progress struct {
	w        io.Writer
	terminal bool
	verbose  bool
	quiet    bool
	az       bool // warnings begin as az's
	now      func() time.Time
	live     bool // a line without its end is on the terminal
	shown    map[string]string
}

// line writes one lasting line.
func (p *progress) line(format string, args ...any) {
	if p.quiet {
		return
	}
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// warning writes a line that --only-show-errors does not hide.
func (p *progress) warning(text string) {
	p.clear()
	word := "warning: "
	if p.az {
		word = "WARNING: "
	}
	fmt.Fprintln(p.w, word+text)
}

// status replaces the last line on a terminal; elsewhere it writes nothing.
func (p *progress) status(format string, args ...any) {
	if p.quiet || !p.terminal {
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K"+format, args...)
	p.live = true
}

func (p *progress) clear() {
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.live = false
	}
}

// stages tells each stage that began or ended since the last call.
func (p *progress) stages(title string, since time.Time, stages []arm.Stage) {
	if p.shown == nil {
		p.shown = map[string]string{}
	}
	current := ""
	for _, s := range stages {
		switch s.State {
		case "InProgress":
			current = s.Name
			if s.Detail != "" {
				current += ": " + lastLine(s.Detail)
			}
			if (p.verbose || !p.terminal) && p.shown[s.Name] == "" {
				p.line("  %s ...", s.Name)
			}
		case "Succeeded", "Failed":
			if p.shown[s.Name] != s.State {
				p.line("  %-20s %-10s %s", s.Name, s.State, stageTime(s))
			}
		default:
			continue
		}
		p.shown[s.Name] = s.State
	}
	elapsed := p.now().Sub(since).Round(time.Second)
	if current == "" {
		p.status("%s ... %s", title, elapsed)
	} else {
		p.status("%s ... %s  %s", title, elapsed, current)
	}
}

func lastLine(s string) string {
	const most = 60
	lines := strings.Split(strings.TrimSpace(s), "\n")
	last := []rune(lines[len(lines)-1])
	if len(last) > most {
		last = append(last[:most], '…')
	}
	return string(last)
}

func stageTime(s arm.Stage) string {
	start, err1 := time.Parse(time.RFC3339, s.StartTime)
	end, err2 := time.Parse(time.RFC3339, s.EndTime)
	if err1 != nil || err2 != nil {
		return ""
	}
	return end.Sub(start).Round(10 * time.Millisecond).String()
}

// follow waits for the operation that a change began. title says in words what goes on, look how a person can see
// the outcome later. A change that the server ended at once returns at once.
func (c *client) follow(ctx context.Context, p *progress, started *answer, title, look string) error {
	address := started.header.Get("Azure-AsyncOperation")
	if address == "" && started.status == http.StatusAccepted {
		return fmt.Errorf("%s was accepted, but the server did not say how to follow it; see `%s`", title, look)
	}
	if address == "" {
		return nil
	}
	p.shown = nil
	since, delay := p.now(), firstPollDelay
	lastAnswer := since
	defer p.clear()
	for {
		if err := sleep(ctx, delay); err != nil {
			return goesOn(title, look)
		}
		var op arm.OperationStatus
		a, err := c.get(ctx, address, nil, &op)
		var away *unreachableError
		switch {
		case ctx.Err() != nil:
			return goesOn(title, look)
		case errors.As(err, &away) && p.now().Sub(lastAnswer) < pollOutage:
			p.status("%s ... the server does not answer; waiting for it", title)
			delay = maxPollDelay
			continue
		case err != nil && a == nil:
			return fmt.Errorf("follow the operation (it goes on; see `%s`): %w", look, err)
		case err != nil:
			return err
		}
		lastAnswer = p.now()
		var stages []arm.Stage
		if op.Properties != nil {
			stages = op.Properties.Stages
		}
		p.stages(title, since, stages)
		switch {
		case strings.EqualFold(op.Status, string(online.OperationSucceeded)):
			p.line("%s: Succeeded (%s)", title, p.now().Sub(since).Round(10*time.Millisecond))
			return nil
		case strings.EqualFold(op.Status, string(online.OperationFailed)), strings.EqualFold(op.Status,
			string(online.OperationCanceled)):
			p.line("%s: %s (%s)", title, op.Status, p.now().Sub(since).Round(10*time.Millisecond))
			return operationError(op, title)
		}
		delay = min(delay*3/2, retryAfter(a.header, maxPollDelay))
	}
}

// operationError is the cause that the server tells of a failed operation.
func operationError(op arm.OperationStatus, title string) error {
	if op.Error == nil || op.Error.Code == "" {
		return online.Errorf(online.CodeInternalServerError, "",
			"%s: the operation ended as %s and the server gave no cause", title, op.Status)
	}
	return domainError(*op.Error)
}

func goesOn(title, look string) error {
	return &interruptedError{fmt.Sprintf("stopped waiting; %s goes on at the server. See how it ends with `%s`", title,
		look)}
}
