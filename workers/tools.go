package workers

import (
	"embed"
	"io/fs"
)

//go:embed python/portico_tools/*.py python/portico_tools/*.txt
var tools embed.FS

// Tools is a folder with the Python package portico_tools: what `portico model` runs, and the packages that it needs.
func Tools() fs.FS {
	sub, err := fs.Sub(tools, "python")
	if err != nil {
		panic("workers: embedded tools cannot be read: " + err.Error()) // the compiler put them there
	}
	return sub
}
