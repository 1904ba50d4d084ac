package arm

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"portico/internal/online"
)

// PropertyPrefix begins the names of Portico's own settings of a deployment. Azure has no members for them, so they stand
// in the map of properties, which every official SDK passes on as it is.
const PropertyPrefix = "portico."

// setting is one of Portico's own settings. show gives the text that read takes, or "" for one that is not set.
type setting struct {
	name string
	read func(s *online.DeploymentSpec, text string) error
	show func(s *online.DeploymentSpec) string
}

// settings are all there are, in order of name. A new one is one row.
var settings = []setting{
	{online.PropertyBatchSize,
		func(s *online.DeploymentSpec, text string) error {
			n, err := positiveCount(text)
			batchingOf(s).MaxSize = int(min(n, math.MaxInt32))
			return err
		},
		func(s *online.DeploymentSpec) string {
			if s.Batching == nil {
				return ""
			}
			return strconv.Itoa(s.Batching.MaxSize)
		}},
	{online.PropertyBatchWait,
		func(s *online.DeploymentSpec, text string) (err error) {
			batchingOf(s).MaxWait, err = positiveDuration(text)
			return err
		},
		func(s *online.DeploymentSpec) string {
			if s.Batching == nil {
				return ""
			}
			return FormatDuration(s.Batching.MaxWait)
		}},
	{online.PropertyCommand,
		func(s *online.DeploymentSpec, text string) error {
			s.Command = text
			_, err := online.SplitCommand(text)
			return err
		},
		func(s *online.DeploymentSpec) string { return s.Command }},
	{online.PropertyCacheMaxBytes,
		func(s *online.DeploymentSpec, text string) (err error) {
			cacheOf(s).MaxBytes, err = positiveCount(text)
			return err
		},
		func(s *online.DeploymentSpec) string {
			if s.Cache == nil {
				return ""
			}
			return strconv.FormatInt(s.Cache.MaxBytes, 10)
		}},
	{online.PropertyCacheTTL,
		func(s *online.DeploymentSpec, text string) (err error) {
			cacheOf(s).TTL, err = positiveDuration(text)
			return err
		},
		func(s *online.DeploymentSpec) string {
			if s.Cache == nil {
				return ""
			}
			return FormatDuration(s.Cache.TTL)
		}},
	{online.PropertyCacheVary,
		func(s *online.DeploymentSpec, text string) error {
			cacheOf(s).Vary = nameList(text)
			return nil
		},
		func(s *online.DeploymentSpec) string {
			if s.Cache == nil {
				return ""
			}
			return strings.Join(s.Cache.Vary, ",")
		}},
}

func batchingOf(s *online.DeploymentSpec) *online.Batching {
	if s.Batching == nil {
		s.Batching = &online.Batching{}
	}
	return s.Batching
}

func cacheOf(s *online.DeploymentSpec) *online.ResponseCache {
	if s.Cache == nil {
		s.Cache = &online.ResponseCache{}
	}
	return s.Cache
}

// readSettings moves Portico's own settings from the properties of a spec to where the domain has them.
func readSettings(s *online.DeploymentSpec, faults []*online.Error) []*online.Error {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if len(name) < len(PropertyPrefix) || !strings.EqualFold(name[:len(PropertyPrefix)], PropertyPrefix) {
			continue
		}
		text := s.Properties[name]
		delete(s.Properties, name)
		target := "properties.properties." + name
		i := slices.IndexFunc(settings, func(known setting) bool { return known.name == name })
		if i < 0 {
			faults = append(faults, online.Errorf(online.CodeBadArgument, target, "%s", unknownSetting(name)))
			continue
		}
		if err := settings[i].read(s, text); err != nil {
			faults = append(faults, online.Errorf(online.CodeBadArgument, target, "%s: %w", name, err))
		}
	}
	return faults
}

// showSettings writes the settings of a spec into the properties that are answered.
func showSettings(s *online.DeploymentSpec, into map[string]string) {
	for _, known := range settings {
		if text := known.show(s); text != "" {
			into[known.name] = text
		}
	}
}

func unknownSetting(name string) string {
	known := make([]string, len(settings))
	for i := range settings {
		known[i] = settings[i].name
	}
	message := fmt.Sprintf("%.80q is none of Portico's own settings, whose names begin with %q", name, PropertyPrefix)
	if near := online.Nearest(name, known); near != "" {
		return message + "; did you mean " + near + "?"
	}
	return message + "; there are " + strings.Join(known, ", ")
}

func positiveCount(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%.40q is not a whole number above 0", text)
	}
	return n, nil
}

func positiveDuration(text string) (time.Duration, error) {
	d, err := ParseDuration(text)
	if err == nil && d <= 0 {
		err = errors.New("0 is not allowed here; leave it out instead")
	}
	return d, err
}

// nameList reads names with commas between them.
func nameList(text string) []string {
	var names []string
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}
