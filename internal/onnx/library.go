package onnx

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// LibraryVersion is the version of ONNX Runtime that models are run with.
const LibraryVersion = "1.32.0"

// Command is what installs the library.
const Command = "portico runtime install onnx"

// Worker is the file name of the program that serves ONNX models; it lies beside `portico`.
const Worker = "portico-onnx"

// build is the library for one platform: where it comes from, and what it must be.
type build struct {
	platform string // the package's tag
	sha256   string // of the library
	file     string // its name
}

// The digests are those of the library in the packages of LibraryVersion; it is the same in those for every Python.
var builds = map[string]build{
	"linux/amd64":  {"manylinux_2_28_x86_64", "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f", "libonnxruntime.so"},
	"linux/arm64":  {"manylinux_2_28_aarch64", "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a", "libonnxruntime.so"},
	"darwin/arm64": {"macosx_14_0_arm64", "fa585fabbea65b823b9a8f7e27d46aee3989d1be7e36b528203d3a1fd613aae7", "libonnxruntime.dylib"},
}

// Bounds of an installation.
const (
	maxLibraryBytes = 256 << 20
	downloadTime    = 10 * time.Minute
)

// pythonTag is the Python whose package is asked for; any has the same library.
const pythonTag = "312"

func here() (build, error) {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	b, ok := builds[platform]
	if !ok {
		return build{}, fmt.Errorf("ONNX Runtime %s does not exist for %s", LibraryVersion, platform)
	}
	return b, nil
}

// dir is where the library lies in a data directory.
func dir(dataDir string) string { return filepath.Join(dataDir, "runtime", "onnx", LibraryVersion) }

// verified remembers files whose digest was right: reading one takes a while.
var verified sync.Map // of identity

type identity struct {
	path string
	size int64
	time time.Time
}

// ErrMissing says that the library is not installed.
var ErrMissing = errors.New("ONNX Runtime is not installed in the data directory")

// Library is the path of the library in a data directory. ErrMissing: it is not installed. Another error says what is
// wrong with it. No error holds a path: callers of a server see them.
func Library(dataDir string) (string, error) {
	b, err := here()
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir(dataDir), b.file)
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w; install it with: %s", ErrMissing, Command)
	}
	if err != nil {
		return "", fmt.Errorf("look for ONNX Runtime: %w", errors.Unwrap(err))
	}
	id := identity{file, info.Size(), info.ModTime()}
	if _, known := verified.Load(id); known {
		return file, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("look for ONNX Runtime: %w", errors.Unwrap(err))
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read ONNX Runtime: %w", errors.Unwrap(err))
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != b.sha256 {
		return "", fmt.Errorf("what is installed is not ONNX Runtime %s: its SHA-256 is %s; install it again with: %s",
			LibraryVersion, sum, Command)
	}
	verified.Store(id, true)
	return file, nil
}

// Install puts the library into a data directory. from is the library, or a Python package that holds it; without it
// the package is asked of python's pip, which prints to progress. A library whose digest is not the pinned one is refused.
func Install(ctx context.Context, dataDir, from, python string, progress io.Writer) (string, error) {
	b, err := here()
	if err != nil {
		return "", err
	}
	to := dir(dataDir)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", fmt.Errorf("install ONNX Runtime: %w", err)
	}
	staging, err := os.MkdirTemp(filepath.Dir(to), ".staging-")
	if err != nil {
		return "", fmt.Errorf("install ONNX Runtime: %w", err)
	}
	defer func() { _ = os.RemoveAll(staging) }() // what is left of it
	if from == "" {
		if from, err = download(ctx, b, python, staging, progress); err != nil {
			return "", err
		}
	}
	if err := b.extract(from, filepath.Join(staging, b.file)); err != nil {
		return "", fmt.Errorf("install ONNX Runtime %s from %s: %w", LibraryVersion, from, err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", fmt.Errorf("install ONNX Runtime: %w", err)
	}
	// A library that is in use goes on: its name alone is replaced.
	if err := os.Rename(filepath.Join(staging, b.file), filepath.Join(to, b.file)); err != nil {
		return "", fmt.Errorf("install ONNX Runtime: %w", err)
	}
	return filepath.Join(to, b.file), nil
}

// download lets pip fetch the package.
func download(ctx context.Context, b build, python, to string, progress io.Writer) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
		"--disable-pip-version-check", "--platform", b.platform, "--python-version", pythonTag, "--implementation", "cp",
		"--abi", "cp"+pythonTag, "--dest", to, "onnxruntime=="+LibraryVersion)
	cmd.Stdout, cmd.Stderr = progress, progress
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ask pip for ONNX Runtime: %w; on a machine without network give --from FILE: the library, "+
			"or the package onnxruntime %s for %s", err, LibraryVersion, b.platform)
	}
	wheels, err := filepath.Glob(filepath.Join(to, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return "", errors.New("ask pip for ONNX Runtime: it left no package")
	}
	return wheels[0], nil
}

// extract copies the library out of a package, or as it is, and compares its digest.
func (b build) extract(from, to string) (err error) {
	source, err := b.open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(source, maxLibraryBytes+1))
	// Workers run as users of their own, so the umask must not decide who reads it.
	if err := errors.Join(err, f.Chmod(0o444), f.Sync(), f.Close()); err != nil {
		return err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); n > maxLibraryBytes || sum != b.sha256 {
		return fmt.Errorf("the library's SHA-256 is %s, not %s", sum, b.sha256)
	}
	return nil
}

// open opens the library, or the one in a package.
func (b build) open(from string) (io.ReadCloser, error) {
	if !strings.EqualFold(filepath.Ext(from), ".whl") {
		return os.Open(from)
	}
	wheel, err := zip.OpenReader(from)
	if err != nil {
		return nil, err
	}
	for _, f := range wheel.File {
		if name := path.Base(f.Name); !strings.HasPrefix(name, "libonnxruntime.") {
			continue
		}
		member, err := f.Open()
		if err != nil {
			return nil, errors.Join(err, wheel.Close())
		}
		return &packed{member, wheel}, nil
	}
	return nil, errors.Join(errors.New("the package holds no libonnxruntime"), wheel.Close())
}

// packed is a file of a package.
type packed struct {
	io.ReadCloser
	wheel io.Closer
}

// Close closes both.
func (p *packed) Close() error { return errors.Join(p.ReadCloser.Close(), p.wheel.Close()) }
