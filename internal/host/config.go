package host

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Defaults of a supervisor.
const (
	DefaultOrphanTimeout = 10 * time.Minute
	DefaultGrace         = 10 * time.Second
	DefaultUserFirst     = 60000
	DefaultUserLast      = 64999
)

// Config is what a supervisor is started with.
type Config struct {
	DataDir       string
	OrphanTimeout time.Duration // without a client for this long it drains and ends; 0: DefaultOrphanTimeout
	Grace         time.Duration // between SIGTERM and SIGKILL when it drains on its own; 0: DefaultGrace
	// UserFirst to UserLast are the user ids that separate processes get when the supervisor is root. No account
	// of the machine may lie in the range. Both 0: DefaultUserFirst to DefaultUserLast.
	UserFirst, UserLast int
	Logger              *slog.Logger

	// Executable is the program that EnsureRunning starts as `Executable Arguments()...`; empty: this program.
	Executable string
}

func (c *Config) setDefaults() error {
	if c.OrphanTimeout == 0 {
		c.OrphanTimeout = DefaultOrphanTimeout
	}
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.UserFirst == 0 && c.UserLast == 0 {
		c.UserFirst, c.UserLast = DefaultUserFirst, DefaultUserLast
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.DataDir == "":
		return fmt.Errorf("%w: no data directory", ErrBadRequest)
	case c.UserFirst < 1000 || c.UserLast < c.UserFirst || c.UserLast > 1<<30:
		return fmt.Errorf("%w: user ids %d-%d: use a range between 1000 and %d", ErrBadRequest, c.UserFirst, c.UserLast, 1<<30)
	case c.OrphanTimeout < 0 || c.Grace < 0:
		return fmt.Errorf("%w: a time is negative", ErrBadRequest)
	}
	return nil
}

// Arguments are those of the command `portico host` that stand for this configuration:
//
//	host --data-dir DIR --orphan-timeout 10m0s --grace 10s --user-ids 60000-64999
func (c Config) Arguments() []string {
	args := []string{"host", "--data-dir", c.DataDir}
	if c.OrphanTimeout != 0 {
		args = append(args, "--orphan-timeout", c.OrphanTimeout.String())
	}
	if c.Grace != 0 {
		args = append(args, "--grace", c.Grace.String())
	}
	if c.UserFirst != 0 || c.UserLast != 0 {
		args = append(args, "--user-ids", fmt.Sprintf("%d-%d", c.UserFirst, c.UserLast))
	}
	return args
}

// ParseUserIDs reads the range of --user-ids: "60000-64999".
func ParseUserIDs(text string) (first, last int, err error) {
	a, b, ok := strings.Cut(text, "-")
	if ok {
		if first, err = strconv.Atoi(a); err == nil {
			last, err = strconv.Atoi(b)
		}
	}
	if !ok || err != nil || last < first {
		return 0, 0, fmt.Errorf("%w: user ids %.40q: write FIRST-LAST, such as %d-%d", ErrBadRequest, text,
			DefaultUserFirst, DefaultUserLast)
	}
	return first, last, nil
}
