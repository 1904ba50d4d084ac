package host

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"portico/internal/online"
)

// The protocol: a client connects, sends one request as a line of JSON and reads answers, one a line. Most
// verbs have one answer; list and watch have many; attach holds its connection, which is how the supervisor
// knows that a client lives, and the client that the supervisor does.
const protocolVersion = 1

// Bounds of the protocol.
const (
	maxMessageBytes = 4 << 20          // one request or answer; an environment may hold 2 MiB
	messageTimeout  = 10 * time.Second // to read a request whole, or to write one answer
)

type verb string

const (
	verbAttach   verb = "attach"
	verbStart    verb = "start"
	verbSignal   verb = "signal"
	verbList     verb = "list"
	verbWatch    verb = "watch"
	verbListen   verb = "listen"
	verbUnlisten verb = "unlisten"
	verbSocket   verb = "socket"
	verbForget   verb = "forget"
	verbShutdown verb = "shutdown"
)

// request is one question. Which fields matter depends on the verb.
type request struct {
	Verb    verb           `json:"verb"`
	Spec    *wireSpec      `json:"spec,omitempty"`
	ID      string         `json:"id,omitempty"`
	Signal  syscall.Signal `json:"signal,omitempty"`
	Group   bool           `json:"group,omitempty"`
	Name    string         `json:"name,omitempty"`
	Network string         `json:"network,omitempty"`
	Address string         `json:"address,omitempty"`
	Grace   time.Duration  `json:"grace_ns,omitempty"`
}

// answer is one line back. An answer without any field is a plain success.
type answer struct {
	Error   *wireError `json:"error,omitempty"`
	Info    *Info      `json:"info,omitempty"`
	Process *Process   `json:"process,omitempty"`
	Event   *Event     `json:"event,omitempty"`
}

// wireSpec is a ProcessSpec whose environment is readable. It exists on the socket and in memory only.
type wireSpec struct {
	ID     string            `json:"id"`
	Labels map[string]string `json:"labels,omitempty"`
	Argv   []string          `json:"argv"`
	Env    map[string]string `json:"env,omitempty"`
	Dir    string            `json:"dir,omitempty"`
	User   User              `json:"user"`
	Limits Limits            `json:"limits,omitzero"`
	View   []View            `json:"view,omitempty"`
	Socket string            `json:"socket,omitempty"`
	Page   string            `json:"page,omitempty"`
	Log    LogSpec           `json:"log,omitzero"`
	Forks  *ForkSpec         `json:"forks,omitempty"`
	From   string            `json:"from,omitempty"`
	Root   *Root             `json:"root,omitempty"`
}

func toWire(s ProcessSpec) *wireSpec {
	w := &wireSpec{
		ID: s.ID, Labels: s.Labels, Argv: s.Argv, Dir: s.Dir, User: s.User, Limits: s.Limits, View: s.View,
		Socket: s.Socket, Page: s.Page, Log: s.Log, Forks: s.Forks, From: s.From, Root: s.Root, Env: make(map[string]string, len(s.Env)),
	}
	for k, v := range s.Env {
		w.Env[k] = v.Reveal()
	}
	return w
}

func (w *wireSpec) spec() ProcessSpec {
	s := ProcessSpec{
		ID: w.ID, Labels: w.Labels, Argv: w.Argv, Dir: w.Dir, User: w.User, Limits: w.Limits, View: w.View,
		Socket: w.Socket, Page: w.Page, Log: w.Log, Forks: w.Forks, From: w.From, Root: w.Root,
		Env: make(map[string]online.Secret, len(w.Env)),
	}
	for k, v := range w.Env {
		s.Env[k] = online.Secret(v)
	}
	if s.User == "" {
		s.User = UserSeparate
	}
	return s
}

// wireError carries one of the package's errors across the socket.
type wireError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

var wireCodes = []struct {
	code string
	err  error
}{
	{"fork_server", ErrForkServer}, // first: it is one of the next, and may wrap another
	{"fork", ErrFork},              // it may wrap another
	{"start", ErrStart},            // so may this
	{"not_found", ErrNotFound},
	{"bad_request", ErrBadRequest},
	{"address", ErrAddress},
	{"limit", ErrLimit},
	{"draining", ErrDraining},
	{"internal", ErrInternal}, // last: what any other error becomes
}

func toWireError(err error) *wireError {
	for _, c := range wireCodes {
		if errors.Is(err, c.err) {
			return &wireError{Code: c.code, Message: strings.TrimPrefix(err.Error(), c.err.Error()+": ")}
		}
	}
	return &wireError{Code: wireCodes[len(wireCodes)-1].code, Message: err.Error()}
}

func (w *wireError) err() error {
	for _, c := range wireCodes {
		if w.Code == c.code {
			return fmt.Errorf("%w: %s", c.err, w.Message)
		}
	}
	return fmt.Errorf("%w: %s: %s", ErrInternal, w.Code, w.Message)
}

var errMessageTooLong = fmt.Errorf("%w: message is longer than %d bytes", ErrBadRequest, maxMessageBytes)

// readMessage reads one line into v.
func readMessage(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxMessageBytes {
			return errMessageTooLong
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("read message: %w", err)
		}
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: message is not the JSON that was expected: %w", ErrBadRequest, err)
	}
	return nil
}

// writeMessage writes v as one line, with rights (an ancillary message) when there is one.
func writeMessage(conn *net.UnixConn, v any, rights []byte) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(line) >= maxMessageBytes {
		return errMessageTooLong
	}
	line = append(line, '\n')
	if err := conn.SetWriteDeadline(time.Now().Add(messageTimeout)); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	if len(rights) > 0 {
		n, _, err := conn.WriteMsgUnix(line, rights, nil)
		if err != nil {
			return fmt.Errorf("write message: %w", err)
		}
		if line = line[n:]; len(line) == 0 {
			return nil // an empty write would fail where the reader is content and gone
		}
	}
	if _, err := conn.Write(line); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}
