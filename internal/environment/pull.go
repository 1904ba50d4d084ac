package environment

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"portico/internal/online"
)

// Bounds of pulls.
const (
	maxPulls       = 2       // that run at once; more wait
	maxAuthBytes   = 1 << 20 // of a file of credentials
	minSecretBytes = 4       // shorter ones are words like any other, and hidden from nobody
)

const authVariable = "REGISTRY_AUTH_FILE"

var errPullTooLong = errors.New("the pull took too long")

// fetch finds the image of an environment version. One that has its digest is looked for in podman's store only. Otherwise
// the registry is asked what the name means now.
func (b *Builder) fetch(ctx context.Context, key string, want resolved, out *stepOutput, log *buildLog) (*inspected, error) {
	name := want.Reference
	if want.Digest != "" {
		name = strings.TrimPrefix(want.Digest, "sha256:")
	}
	name, pinned := withoutTag(name)
	found, err := b.podman.inspect(ctx, name, out)
	switch {
	case err != nil:
		return nil, err
	case want.Digest != "" && found == nil:
		return nil, badImage("%s, from which this version of the environment was built, is no longer in podman's store; "+
			"load it again, or register the next version of the environment", want.Digest)
	case found != nil && (want.Digest != "" || pinned || b.cfg.NeverPull || !hasRegistry(name)):
		return found, nil
	case b.cfg.NeverPull:
		return nil, badImage("%s is not in podman's store, and this server does not pull (its setting images is local); podman pull or podman load brings it there", name)
	case strings.HasPrefix(name, "localhost/"): // what podman calls the images that were built here
		return nil, badImage("%s is not in podman's store; podman build or podman load brings it there", name)
	}
	var exit *ExitError
	err = b.pull(ctx, key, name, out, log)
	if errors.As(err, &exit) && found != nil {
		// One that was built or loaded here need not be in its registry, and a registry need not always answer.
		log.say("note", fmt.Sprintf("%s was not pulled; the image of this name that podman has is taken, sha256:%s", name, found.ID))
		return found, nil
	}
	if errors.As(err, &exit) {
		return nil, online.Errorf(online.CodeImageBuildFailure, "", "%s could not be pulled (podman: %w). Last lines:\n%s\n"+
			"Credentials for registries, and plain HTTP, are set on the server (docs/custom-servers.md, Registries)", name, exit, out.end())
	}
	if err != nil {
		return nil, err
	}
	if found, err = b.podman.inspect(ctx, name, out); found == nil && err == nil {
		err = badImage("%s was pulled and is not in podman's store", name)
	}
	return found, err
}

// withoutTag is a reference as podman takes it: beside a digest, which decides, it wants no tag.
func withoutTag(reference string) (name string, pinned bool) {
	name, digest, pinned := strings.Cut(reference, "@")
	if !pinned {
		return reference, false
	}
	if slash, colon := strings.LastIndex(name, "/"), strings.LastIndex(name, ":"); colon > slash {
		name = name[:colon]
	}
	return name + "@" + digest, true
}

// hasRegistry says that a name begins with the host of a registry. Without one, an image that is here may be anybody's.
func hasRegistry(name string) bool {
	host, _, below := strings.Cut(name, "/")
	return below && strings.ContainsAny(host, ".:")
}

// pull brings an image into podman's store, which keeps none before it has all of it, under the digests that it should have.
func (b *Builder) pull(ctx context.Context, key, name string, out *stepOutput, log *buildLog) error {
	lock, err := waitLock(ctx, b.lockPath(key), func() { log.say("queue", "another process is pulling this image") })
	if err != nil {
		return err
	}
	defer lock.release()
	select {
	case b.pulls <- struct{}{}:
	default:
		log.say("queue", fmt.Sprintf("%d images are being pulled; this one waits", maxPulls))
		select {
		case b.pulls <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer func() { <-b.pulls }()
	// What podman downloads lies here first. When it is ended it leaves that behind.
	work := b.workPath(key)
	defer func() {
		if err := removeTree(work); err != nil {
			b.log.Warn("work directory of a pull was not removed", "environment", key, "error", err)
		}
	}()
	if err := errors.Join(removeTree(work), os.Mkdir(work, 0o700)); err != nil {
		return fmt.Errorf("prepare the pull: %w", err)
	}
	ctx, stop := context.WithTimeoutCause(ctx, b.cfg.PullTimeout, errPullTooLong)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watchSize(ctx, cancel, b.cfg.MaxImageBytes, work)
	}()
	log.say("podman", "pulling "+name)
	// With the transport said, no name is taken for a file of this machine.
	err = b.podman.with("TMPDIR", work).run(ctx, io.Discard, out, "pull", "--", "docker://"+name)
	cause := context.Cause(ctx)
	cancel(nil)
	<-watched
	switch {
	case errors.Is(cause, errPullTooLong):
		return badImage("its registry did not deliver %s within %s (image_pull_timeout)", name, b.cfg.PullTimeout)
	case errors.Is(cause, errTooBig):
		return imageTooBig(b.cfg.MaxImageBytes)
	}
	return err
}

// authFiles are those that podman reads, the places of containers-auth.json(5) included.
func authFiles(cfg Config) []string {
	if cfg.AuthFile != "" {
		return []string{cfg.AuthFile}
	}
	if path, _ := cfg.Getenv(authVariable); path != "" {
		return []string{path}
	}
	out := []string{fmt.Sprintf("/run/containers/%d/auth.json", os.Getuid())}
	for _, place := range []struct{ variable, below string }{
		{"XDG_RUNTIME_DIR", "containers/auth.json"}, {"XDG_CONFIG_HOME", "containers/auth.json"}, {"HOME", ".config/containers/auth.json"},
		{"DOCKER_CONFIG", "config.json"}, {"HOME", ".docker/config.json"},
	} {
		if dir, _ := cfg.Getenv(place.variable); dir != "" {
			out = append(out, filepath.Join(dir, place.below))
		}
	}
	return out
}

// secrets are the words of those files that no log may hold, should a registry repeat them.
func (p podman) secrets() []string {
	var out []string
	for _, path := range p.auth {
		found, err := readAuth(path)
		if err != nil {
			continue // podman itself will say so, if it needs the file
		}
		out = append(out, found...)
	}
	return out
}

// readAuth reads the secrets of a file of credentials. Its errors hold nothing of it.
func readAuth(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the file of credentials for registries: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAuthBytes))
	if err != nil {
		return nil, fmt.Errorf("the file of credentials for registries: %w", err)
	}
	var file struct {
		Auths map[string]struct{ Auth, Password, IdentityToken, RegistryToken string } `json:"auths"`
	}
	if json.Unmarshal(text, &file) != nil {
		return nil, fmt.Errorf(`the file of credentials for registries, %s, is not JSON as podman login writes it ({"auths": {...}})`, path)
	}
	var out []string
	add := func(secret string) {
		if len(secret) >= minSecretBytes {
			out = append(out, secret)
		}
	}
	for _, e := range file.Auths {
		add(e.Auth)
		if pair, err := base64.StdEncoding.DecodeString(e.Auth); err == nil {
			_, password, _ := strings.Cut(strings.TrimRight(string(pair), "\x00"), ":")
			add(password)
		}
		add(e.Password)
		add(e.IdentityToken)
		add(e.RegistryToken)
	}
	return out, nil
}
