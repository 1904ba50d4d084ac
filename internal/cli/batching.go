package cli

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
)

// batchingFile is the batching of a deployment. On the wire it stands in the map of properties.
type batchingFile struct {
	MaxSize   *int `json:"max_size,omitempty"`
	MaxWaitMS *int `json:"max_wait_ms,omitempty"`
}

// mergeInto adds the settings to the other properties of a deployment.
func (b *batchingFile) mergeInto(properties *map[string]string) error {
	if b == nil {
		return nil
	}
	if b.MaxSize == nil {
		return usagef("batching needs max_size: the most requests of one batch")
	}
	own := map[string]string{online.PropertyBatchSize: strconv.Itoa(*b.MaxSize)}
	if b.MaxWaitMS != nil {
		own[online.PropertyBatchWait] = arm.FormatDuration(time.Duration(*b.MaxWaitMS) * time.Millisecond)
	}
	return addSettings(properties, "batching", own)
}

// batchingFromProperties takes the settings out of the properties that the server shows.
func batchingFromProperties(shown map[string]string) *batchingFile {
	size, err := strconv.Atoi(shown[online.PropertyBatchSize])
	if err != nil {
		return nil
	}
	b := &batchingFile{MaxSize: &size}
	if d, err := arm.ParseDuration(shown[online.PropertyBatchWait]); err == nil {
		b.MaxWaitMS = inMilliseconds((*arm.Duration)(&d))
	}
	delete(shown, online.PropertyBatchSize)
	delete(shown, online.PropertyBatchWait)
	return b
}

// addSettings adds what a key of a file stands for to the other properties. One that is given twice is refused, not
// guessed.
func addSettings(properties *map[string]string, key string, own map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if _, twice := (*properties)[name]; twice {
			return usagef("properties: %s is set by %s too; keep one of them", name, key)
		}
	}
	all := orEmpty(maps.Clone(*properties))
	maps.Copy(all, own)
	*properties = all
	return nil
}
