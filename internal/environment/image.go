package environment

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portico/internal/durable"
	"portico/internal/online"
)

// Image is the file system of an OCI image on this machine, and what the image says of how its program is started. It does
// not change any more, whatever becomes of the image in podman.
type Image struct {
	ID     string `json:"-"`      // content id: equal ids are interchangeable
	Tree   string `json:"-"`      // its root directory, absolute; all in it belongs to the server's user
	Digest string `json:"digest"` // of the image's configuration, "sha256:..."
	// What the configuration says.
	Entrypoint []string `json:"entrypoint,omitempty"`
	Command    []string `json:"command,omitempty"`
	Env        []string `json:"env,omitempty"`        // "NAME=value"
	Dir        string   `json:"dir,omitempty"`        // working directory
	StopSignal int      `json:"stopSignal,omitempty"` // 0: none is named
	UID        int      `json:"uid"`
	GID        int      `json:"gid"`
	Home       string   `json:"home"`
}

const (
	engineImage = "image"
	// MaxReference bounds the name of an image.
	MaxReference = 512
)

var (
	imageIDRule   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	referenceRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

func isImage(id string) bool { return strings.HasPrefix(id, engineImage+"-") }

// CheckImage says why a text can be no image's name.
func CheckImage(reference string) error {
	if len(reference) > MaxReference || !referenceRule.MatchString(reference) {
		return badSpec("image", "%.80q is not the name of an image, such as docker.io/tensorflow/serving:2.16.1", reference)
	}
	return nil
}

// Images says why images cannot be run here, as far as this package knows; nil: they can.
func (b *Builder) Images() error {
	switch {
	case b.podman.path == "":
		return errors.New("podman, which fetches and keeps images, was not found on the server's PATH; install it (apt install podman) and start the server again")
	case os.Geteuid() != 0:
		return errors.New("the server does not run as root, which it takes to give an image's program a root file system of its own")
	}
	return nil
}

// resolved is what an environment version's image was when it was built first. A tag that moves does not change it.
type resolved struct {
	Version   string `json:"version"`
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
}

// EnsureImage gives the file system of an image, fetching and unpacking it when there is none. version names the
// environment version that asks: it keeps the image that it got first. What Ensure says of callers, progress and errors
// holds here.
func (b *Builder) EnsureImage(ctx context.Context, version, reference string, progress io.Writer) (Image, error) {
	if err := CheckImage(reference); err != nil {
		return Image{}, err
	}
	if err := b.Images(); err != nil {
		return Image{}, online.Errorf(online.CodeNotImplemented, "", "the image cannot be run on this machine: %w", err)
	}
	if progress == nil {
		progress = io.Discard
	}
	want := resolved{Version: version, Reference: reference}
	file := b.resolvedFile(want)
	key := engineImage + "-" + filepath.Base(file)[:24]
	f, err := b.join(key, func(ctx context.Context, log *buildLog) (*record, error) {
		ctx, stop := context.WithTimeoutCause(ctx, b.cfg.BuildTimeout, errTooLong)
		defer stop()
		r, err := b.image(ctx, key, want, file, log)
		if errors.Is(context.Cause(ctx), errTooLong) {
			err = online.Errorf(online.CodeImageBuildFailure, "", "the image was not fetched and unpacked within %s (build timeout)", b.cfg.BuildTimeout)
			log.say("failed", err.Error())
			return nil, err
		}
		if err != nil {
			return nil, b.failure(ctx, err, log)
		}
		log.say("image", fmt.Sprintf("%s is ready: %s, %d MiB", r.ID, r.Image.Digest, r.Bytes>>20))
		return r, nil
	})
	if err != nil {
		return Image{}, err
	}
	defer b.leave(key, f)
	r, err := follow(ctx, f, progress)
	if err != nil {
		return Image{}, err
	}
	out := *r.Image
	out.ID, out.Tree = r.ID, filepath.Join(b.cfg.Dir, r.ID, treeDir)
	return out, nil
}

func (b *Builder) resolvedFile(r resolved) string {
	sum := sha256.Sum256([]byte(r.Version + "\n" + r.Reference))
	return filepath.Join(b.cfg.Dir, imagesDir, hex.EncodeToString(sum[:])+".json")
}

// image finds the image of an environment version, and gives it unpacked.
func (b *Builder) image(ctx context.Context, key string, want resolved, file string, log *buildLog) (*record, error) {
	if text, err := os.ReadFile(file); err == nil {
		if err := json.Unmarshal(text, &want); err != nil {
			return nil, fmt.Errorf("read what image an environment was built from: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what image an environment was built from: %w", err)
	}
	known := want.Digest
	if known != "" {
		if r, err := b.complete(imageID(known)); r != nil || err != nil {
			return r, err
		}
	}
	out := &stepOutput{log: log, stage: "podman"}
	found, err := b.fetch(ctx, key, want, out, log)
	if err != nil {
		return nil, podmanError(ctx, err, out.end())
	}
	want.Digest = "sha256:" + found.ID
	id := imageID(want.Digest)
	r, err := b.locked(ctx, id, log, func(int) (*record, error) { return b.unpack(ctx, id, want, found, out, log) })
	if err != nil {
		return nil, podmanError(ctx, err, out.end())
	}
	if known == "" {
		text, _ := json.Marshal(want) // of texts
		if err := durable.Replace(file, text, fileMode); err != nil {
			return nil, fmt.Errorf("remember the image: %w", err)
		}
	}
	return r, nil
}

func imageID(digest string) string {
	return engineImage + "-" + strings.TrimPrefix(digest, "sha256:")[:24]
}

// podmanError says what podman said.
func podmanError(ctx context.Context, err error, tail string) error {
	var exit *ExitError
	if _, told := online.AsError(err); told || ctx.Err() != nil || !errors.As(err, &exit) {
		return err
	}
	return online.Errorf(online.CodeImageBuildFailure, "", "podman failed (%w). Last lines:\n%s", exit, tail)
}

// unpack makes the tree of an image. It is complete when its record is written.
func (b *Builder) unpack(ctx context.Context, id string, want resolved, found *inspected, out *stepOutput, log *buildLog) (*record, error) {
	start := time.Now()
	if found.Size > b.cfg.MaxImageBytes {
		return nil, imageTooBig(b.cfg.MaxImageBytes)
	}
	if err := b.discard(id); err != nil { // one whose tree is gone
		return nil, err
	}
	dir := filepath.Join(b.cfg.Dir, id)
	tree := filepath.Join(dir, treeDir)
	// The tree holds what its own users may not read. Whoever runs it is shown it by the host.
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("prepare the image: %w", err)
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return nil, fmt.Errorf("prepare the image: %w", err)
	}
	log.say("image", fmt.Sprintf("unpacking %s, %s", want.Reference, want.Digest))
	r := &record{
		ID: id, Builder: builderVersion, Created: start.UTC().Truncate(time.Second), Source: "image " + want.Reference,
		Engine: engineImage, Tool: "podman",
	}
	sum := sha256.Sum256([]byte(b.cfg.Dir))
	container := fmt.Sprintf("portico-%s-%s", hex.EncodeToString(sum[:4]), id)
	err := b.podman.export(ctx, found.ID, container, out, func(archive io.Reader) (err error) {
		r.Bytes, err = extract(archive, tree, b.cfg.MaxImageBytes)
		return err
	})
	if err != nil {
		return nil, err
	}
	if r.Image, err = imageOf(found, tree); err != nil {
		return nil, err
	}
	lock := fmt.Sprintf("# image %s\n# %s\n", want.Reference, want.Digest)
	if err := durable.Replace(filepath.Join(dir, lockFile), []byte(lock), fileMode); err != nil {
		return nil, fmt.Errorf("write %s: %w", lockFile, err)
	}
	r.Seconds = time.Since(start).Seconds()
	return r, b.writeRecord(r)
}

// imageOf is what an image's configuration says, with the names of its user looked up in its tree.
func imageOf(found *inspected, tree string) (*Image, error) {
	c := &found.Config
	out := &Image{
		Digest: "sha256:" + found.ID, Entrypoint: c.Entrypoint, Command: c.Cmd, Env: c.Env, Dir: c.WorkingDir,
		Home: "/",
	}
	var err error
	if out.StopSignal, err = stopSignal(c.StopSignal); err != nil {
		return nil, err
	}
	if out.Dir == "" {
		out.Dir = "/"
	}
	if out.Dir = filepath.Clean(out.Dir); !filepath.IsAbs(out.Dir) {
		return nil, badImage("its working directory %.80q is not absolute", c.WorkingDir)
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, fmt.Errorf("look at the image: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only read through
	user, group, _ := strings.Cut(c.User, ":")
	if user == "" {
		user = "0"
	}
	entry, err := account(root, "etc/passwd", user)
	if err != nil {
		return nil, err
	}
	if out.UID, err = accountID(user, entry, 2); err != nil {
		return nil, badImage("its user %.80q is not in its /etc/passwd", user)
	}
	if len(entry) > 5 && filepath.IsAbs(entry[5]) {
		out.Home = filepath.Clean(entry[5])
	}
	switch {
	case group != "":
		entry, err := account(root, "etc/group", group)
		if err != nil {
			return nil, err
		}
		if out.GID, err = accountID(group, entry, 2); err != nil {
			return nil, badImage("its group %.80q is not in its /etc/group", group)
		}
	case len(entry) > 3:
		if out.GID, err = accountID("", entry, 3); err != nil {
			return nil, badImage("its user %.80q has no group in its /etc/passwd", user)
		}
	}
	return out, nil
}

// stopSignal reads the signal that ends the image's program: by name, with or without SIG, or by number.
func stopSignal(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= maxStopSignal {
		return n, nil
	}
	name := strings.ToUpper(text)
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return int(n), nil
	}
	return 0, badImage("its stop signal %.20q is not known", text)
}

const maxStopSignal = 31

// account finds the line of a name or number in a file of accounts; nil: there is none.
func account(root *os.Root, file, name string) ([]string, error) {
	f, err := openIn(root, file)
	if err != nil {
		return nil, nil //nolint:nilerr // an image need not have any, and one that leads out of the tree is as good as none
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxAccountBytes))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) > 2 && (fields[0] == name || fields[2] == name) {
			return fields, nil
		}
	}
	if err := lines.Err(); err != nil {
		return nil, badImage("its /%s cannot be read: %w", file, err)
	}
	return nil, nil
}

const (
	maxAccountBytes = 1 << 20
	maxLinks        = 40 // on the way to one file
)

// openIn opens a file of a tree as a program in it would: an absolute link begins at the tree's root, and none leads out.
func openIn(root *os.Root, name string) (*os.File, error) {
	at, rest, links := "", strings.Split(name, "/"), 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		next := path.Join("/", at, part)[1:]
		to, err := root.Readlink(next)
		if err != nil || part == ".." { // it is no link, or it is not there: opening it will tell
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		if path.IsAbs(to) {
			at = ""
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return root.Open(at)
}

// accountID reads a number out of a line, or, without one, is the number that was asked for.
func accountID(asked string, entry []string, field int) (int, error) {
	if entry != nil {
		asked = entry[field]
	}
	n, err := strconv.ParseUint(asked, 10, 31)
	return int(n), err
}
