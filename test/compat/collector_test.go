package compat

import "testing"

// TestDataCollector has the SDK turn data collection on, in Python and in YAML, and azure-storage-blob read what came.
func TestDataCollector(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	start(t, "--location", "eastus").script("newest", intercepted, "collector.py", "https://{account}.blob.core.windows.net")
}
