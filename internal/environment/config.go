package environment

import (
	"fmt"
	"path/filepath"
	"time"
)

// PythonPolicy says what happens when the asked minor version of Python is not on this machine.
type PythonPolicy string

// The policies.
const (
	PolicyNearest PythonPolicy = "nearest" // the nearest minor version of the same major, with a warning
	PolicyStrict  PythonPolicy = "strict"  // an error
)

// Limits of builds, with their defaults.
const (
	DefaultBuildTimeout = 30 * time.Minute
	DefaultPullTimeout  = 20 * time.Minute
	DefaultMaxBuilds    = 2       // builds that run at once; more wait
	DefaultMaxBytes     = 8 << 30 // bytes of one environment, its temporary files included; of one image
	MaxSpecBytes        = 1 << 20 // bytes of a conda file or a requirements text
	MaxDependencies     = 2000    // packages that one spec may name
)

// Config says where and how environments are built. Dir and Runner are required.
type Config struct {
	Dir    string // <data>/environments, absolute; created when missing
	Runner Runner

	PythonPolicy PythonPolicy // default PolicyNearest
	// Pythons are interpreters to use besides those found on PATH, in pyenv's and in uv's directories. They come
	// first: when a spec has no wish, the first of them that is new enough is taken.
	Pythons []string
	// OnlyPythons turns the search off: Pythons is all there is.
	OnlyPythons bool

	// Uv and Conda are the programs to use: empty means the first found on PATH (conda: micromamba, mamba, conda,
	// in this order), "never" means not to use any.
	Uv, Conda string
	// Podman is the program that keeps images: empty means the one on PATH, "never" that images are not run.
	Podman string
	// NeverPull asks no registry: images are those that podman has.
	NeverPull bool
	// AuthFile holds what podman shows to registries, in the form of its --authfile. It is read at each pull. Empty: podman's
	// own, which REGISTRY_AUTH_FILE may name.
	AuthFile string

	BuildTimeout time.Duration // of one build, its wait for a slot not counted
	PullTimeout  time.Duration // of one pull of an image, its wait for a turn not counted
	MaxBuilds    int
	MaxBytes     int64

	// MaxImageBytes bounds what a registry delivers of one image, and its file system.
	MaxImageBytes int64
	// NoCache gives each build an empty download cache. The cache is shared otherwise: see docs/environments.md.
	NoCache bool

	// Getenv looks up one of the server's environment variables; default os.LookupEnv. Only names of the allow-list
	// and those that tell where interpreters are (PATH, HOME, PYENV_ROOT, UV_PYTHON_INSTALL_DIR) are asked for.
	Getenv func(string) (string, bool)
}

func (c *Config) check() error {
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("the environments directory %q is not an absolute path", c.Dir)
	}
	if c.Runner == nil {
		return fmt.Errorf("environments need a runner")
	}
	switch c.PythonPolicy {
	case "":
		c.PythonPolicy = PolicyNearest
	case PolicyNearest, PolicyStrict:
	default:
		return fmt.Errorf("python version policy %q is not known: use %q or %q", c.PythonPolicy, PolicyNearest, PolicyStrict)
	}
	if c.BuildTimeout <= 0 {
		c.BuildTimeout = DefaultBuildTimeout
	}
	if c.PullTimeout <= 0 {
		c.PullTimeout = DefaultPullTimeout
	}
	if c.AuthFile != "" {
		if !filepath.IsAbs(c.AuthFile) {
			return fmt.Errorf("the file of credentials for registries %q is not an absolute path", c.AuthFile)
		}
		if _, err := readAuth(c.AuthFile); err != nil {
			return err
		}
	}
	if c.MaxBuilds <= 0 {
		c.MaxBuilds = DefaultMaxBuilds
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.MaxImageBytes <= 0 {
		c.MaxImageBytes = DefaultMaxBytes
	}
	return nil
}
