// Package environment turns an online.EnvironmentSpec (a conda file, a pip requirements text, or the name of a
// curated environment) into a Python environment on this machine, and keeps it for every later deployment with the
// same content.
//
// An OCI image becomes a root file system here, fetched and kept by podman and unpacked once.
//
// It owns the directory <data>/environments: one directory per content id with the virtual environment, the list of
// what was installed and a record whose presence means "complete". It decides which interpreter serves a wish, which
// tool installs, what a conda package is called on the Python index, and what a build may see of the server's
// environment variables.
//
// It never runs anything of an image. It never installs an interpreter or a system package, never runs a build step except through its Runner, never
// gives a build more than the variables of an allow-list, and never changes an environment that is complete. It does
// not know who uses an environment: Remove is the decision of its caller.
package environment
