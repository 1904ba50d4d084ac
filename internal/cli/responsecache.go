package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/online"
)

// cacheFile is the response cache of a deployment. On the wire it stands in the map of properties.
type cacheFile struct {
	TTL      *int     `json:"ttl,omitempty"`       // seconds
	MaxBytes *int     `json:"max_bytes,omitempty"` // of all kept answers
	Vary     []string `json:"vary,omitempty"`      // header fields that answers depend on
}

// mergeInto adds the settings to the other properties of a deployment.
func (c *cacheFile) mergeInto(properties *map[string]string) error {
	if c == nil {
		return nil
	}
	if c.TTL == nil {
		return usagef("response_cache needs ttl: for how many seconds an answer is given again")
	}
	own := map[string]string{online.PropertyCacheTTL: arm.FormatDuration(time.Duration(*c.TTL) * time.Second)}
	if c.MaxBytes != nil {
		own[online.PropertyCacheMaxBytes] = strconv.Itoa(*c.MaxBytes)
	}
	if len(c.Vary) > 0 {
		own[online.PropertyCacheVary] = strings.Join(c.Vary, ",")
	}
	return addSettings(properties, "response_cache", own)
}

// cacheFromProperties takes the settings out of the properties that the server shows.
func cacheFromProperties(shown map[string]string) *cacheFile {
	var c *cacheFile
	take := func(name string) string {
		text, ok := shown[name]
		if ok && c == nil {
			c = &cacheFile{}
		}
		delete(shown, name)
		return text
	}
	if d, err := arm.ParseDuration(take(online.PropertyCacheTTL)); err == nil {
		c.TTL = inSeconds((*arm.Duration)(&d))
	}
	if n, err := strconv.Atoi(take(online.PropertyCacheMaxBytes)); err == nil {
		c.MaxBytes = &n
	}
	if vary := take(online.PropertyCacheVary); vary != "" {
		c.Vary = strings.Split(vary, ",")
	}
	return c
}

func (a *App) deploymentPurge(g *globalFlags) *cobra.Command {
	var d deploymentName
	c := &cobra.Command{
		Use: "purge-cache", Short: "Forget the answers that a deployment's response cache keeps", Args: cobra.NoArgs,
		Example: "  portico ml online-deployment purge-cache -n blue -e iris",
	}
	d.bind(a, c, g)
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := d.complete(s); err != nil {
			return err
		}
		var purged arm.Purged
		if err := s.client.post(ctx, s.deploymentPath(d.endpoint, d.name)+"/purgeCache", nil, &purged); err != nil {
			return err
		}
		return s.printer.print(purged, []column{{"Entries", "entries"}, {"Bytes", "bytes"}})
	})
	return c
}
