// Package registry runs a real registry of images for tests: Debian's docker-registry behind a listener of the test's own,
// where the test sees what is asked and can answer in the registry's place. It never asks the registry anything itself.
package registry
